"""Decoding in worker processes that can be killed, so that an image hurts no one but its sender."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias, TypeVar

from zoetrope_core.errors import InvalidImage, MediaFailed, ZoetropeError
from zoetrope_server.media import answers
from zoetrope_server.media.answers import Pixels
from zoetrope_server.media.decode import ImageLimits, check_bytes, refusal
from zoetrope_server.media.worker import PIXELS, SIZE

logger = logging.getLogger(__name__)

T = TypeVar("T")
_Read: TypeAlias = Callable[[dict[str, Any], list[int], ImageLimits], T]

_SHUT_DOWN = "image decoding has been shut down"
_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 5.0
_DECODE_IMAGE = "zoetrope_server.media.decode:decode_image"
# What a worker is told of the environment; above all, no credentials.
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "HOME", "TMPDIR", "PYTHONHOME", "VIRTUAL_ENV")
# One arena and one BLAS thread: threads' reserved address space would count against the memory limit.
_SETTINGS = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}


class DecodeWorkers:
    """A few decode workers for one event loop; a failed one is replaced and fails only its own image."""

    def __init__(
        self, limits: ImageLimits | None = None, *, workers: int = 2, function: str = _DECODE_IMAGE
    ) -> None:
        """Start the workers without waiting for them.

        Args:
            limits: what one image may cost.
            workers: how many images are decoded at the same time; further ones wait.
            function: "module:name" of what decodes, with the signature of `decode_image`.

        Raises:
            MediaFailed: no Python interpreter was found for the workers, or none could be started.
        """
        if workers < 1:
            raise ValueError(f"workers must be at least 1, not {workers}")
        self._limits = limits or ImageLimits()
        self._workers = [_Worker(function, self._limits) for _ in range(workers)]
        self._free: asyncio.LifoQueue[_Worker] = asyncio.LifoQueue()
        try:
            for worker in self._workers:
                worker.start()
                self._free.put_nowait(worker)
        except BaseException:
            self.close()
            raise

    async def decode(self, data: bytes) -> Pixels:
        """Decode an image; waits for a free worker first. Cancelling it kills the work.

        Args:
            data: the encoded image.

        Returns:
            u8 [H, W, 3], sRGB.

        Raises:
            InvalidImage: the image is no good, breaks a limit, or takes its worker down.
            MediaFailed: there is no working worker, or the workers are closed.
        """
        return await self._work(PIXELS, data, answers.pixels)

    async def measure(self, data: bytes) -> tuple[int, int]:
        """The (H, W) that `decode` would give, most often from the header alone; raises as `decode`."""
        return await self._work(SIZE, data, answers.size)

    async def _work(self, task: bytes, data: bytes, read: _Read[T]) -> T:
        """Has a free worker do the task, and reads its answer."""
        check_bytes(data, self._limits)
        worker = await self._free.get()
        try:
            return await worker.work(task, data, read)
        finally:
            self._free.put_nowait(worker)

    def close(self) -> None:
        """Kill the workers and wait for their end; images being decoded end as MediaFailed."""
        for worker in self._workers:
            worker.close()


@dataclass(slots=True, kw_only=True)
class _Running:
    """A process, this end of its socket, and whether it has said that it is ready."""

    process: subprocess.Popen[bytes]
    channel: socket.socket
    ready: bool = False


class _Worker:
    """One place in the pool: the process that holds it now, and its replacement after a failure."""

    def __init__(self, function: str, limits: ImageLimits) -> None:
        self._function = function
        self._limits = limits
        self._running: _Running | None = None
        self._busy = False
        self._closed = False

    def start(self) -> _Running:
        """The process, started when none is running; does not wait until it is ready."""
        if self._closed:
            raise MediaFailed(_SHUT_DOWN)
        if self._running is not None and self._running.process.poll() is None:
            return self._running
        self.kill()
        self._running = _start(self._function, self._limits)
        return self._running

    def kill(self) -> None:
        """End the process now, whatever it does, and forget it."""
        running, self._running = self._running, None
        if running is not None:
            running.process.kill()
            running.channel.close()
            # Freeing a large address space takes a while, which is no reason to stop the event loop.
            threading.Thread(target=running.process.wait, name="decode-worker-reaper", daemon=True).start()

    def close(self) -> None:
        """End the process for good and wait for it. A `work` that awaits it closes the socket itself."""
        self._closed = True
        running = self._running
        if running is None:
            return
        if self._busy:
            running.process.kill()
        else:
            self.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.process.wait(_STOP_TIMEOUT_S)

    async def work(self, task: bytes, data: bytes, read: _Read[T]) -> T:
        """Have an image decoded or measured; see `DecodeWorkers`."""
        self._busy = True
        try:
            return await self._exchange(await self._await_ready(), task, data, read)
        finally:
            self._busy = False
            if self._closed:
                self.kill()

    async def _await_ready(self) -> _Running:
        """The process, once it has imported what it needs. Raises MediaFailed when it never does."""
        running = self.start()
        if running.ready:
            return running
        try:
            await _receive(running.channel, _START_TIMEOUT_S)
        except (OSError, EOFError) as error:
            self.kill()
            raise MediaFailed(
                _SHUT_DOWN if self._closed else "an image decoder could not be started"
            ) from error
        running.ready = True
        return running

    async def _exchange(self, running: _Running, task: bytes, data: bytes, read: _Read[T]) -> T:
        """Send an image and await the answer; anything but a proper one costs the process its life."""
        intact = False
        try:
            _send(running.channel, task, data)
            message, descriptors = await _receive(running.channel, self._limits.timeout_s)
            answer = read(json.loads(message), descriptors, self._limits)
            intact = True
            return answer
        except InvalidImage:
            intact = True
            raise
        except TimeoutError:
            raise refusal(f"decoding the image took longer than {self._limits.timeout_s:g} s") from None
        except (OSError, EOFError, ValueError, LookupError, TypeError) as error:
            raise self._lost(error) from error
        finally:
            if not intact:
                self._replace()

    def _lost(self, error: Exception) -> ZoetropeError:
        if self._closed:
            return MediaFailed(_SHUT_DOWN)
        logger.warning("a decode worker was lost: %r", error)
        return refusal("the image crashed the decoder")

    def _replace(self) -> None:
        self.kill()
        with contextlib.suppress(MediaFailed):  # the next image tries again, and is told if that fails
            self.start()


def _send(channel: socket.socket, task: bytes, data: bytes) -> None:
    """Hand a task and a copy of the data over, in a memfd."""
    descriptor = os.memfd_create("image", os.MFD_CLOEXEC)
    with open(descriptor, "r+b", buffering=0) as file:
        view = memoryview(data)
        while view:
            view = view[file.write(view) :]
        file.seek(0)
        socket.send_fds(channel, [task], [descriptor])


async def _receive(channel: socket.socket, timeout_s: float) -> tuple[bytes, list[int]]:
    """The next message. Raises TimeoutError, or EOFError when the process has ended."""
    loop = asyncio.get_running_loop()
    arrived: asyncio.Future[None] = loop.create_future()
    loop.add_reader(channel, _settle, arrived)
    try:
        # A loop that was blocked past the deadline finds timer and answer together: look for the answer.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await arrived
    finally:
        loop.remove_reader(channel)
    try:
        message, descriptors, _, _ = socket.recv_fds(channel, 2**16, 1, socket.MSG_CMSG_CLOEXEC)
    except BlockingIOError:
        raise TimeoutError from None
    if not message:
        raise EOFError("the process has ended")
    return message, list(descriptors)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _start(function: str, limits: ImageLimits) -> _Running:
    command = [_python(), "-P", "-m", "zoetrope_server.media.worker"]
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    environment |= _SETTINGS | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    with theirs:
        try:
            process = subprocess.Popen(
                [*command, str(theirs.fileno()), function, json.dumps(asdict(limits))],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=environment,
            )
        except OSError as error:
            ours.close()
            raise MediaFailed(f"an image decoder could not be started: {error}") from error
    return _Running(process=process, channel=ours)


def _python() -> str:
    """An interpreter of this version; inside a Triton stub `sys.executable` may be anything."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    folders = (os.path.join(prefix, "bin") for prefix in (sys.prefix, sys.exec_prefix, sys.base_prefix))
    found = shutil.which(name, path=os.pathsep.join(folders)) or shutil.which(name)
    if found is None:
        raise MediaFailed(f"no {name} was found for the image decoders, under {sys.prefix} or on PATH")
    return found
