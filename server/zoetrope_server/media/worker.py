"""A decode worker: the process that touches hostile images. `DecodeWorkers` starts it and speaks to it.

The protocol, over a SOCK_SEQPACKET pair whose descriptor is the first argument:

- worker to parent, once: `{}`, ready.
- parent to worker: `PIXELS` or `SIZE`, with a memfd that holds the encoded image.
- worker to parent: `{"shape": [H, W, 3]}` with a sealable memfd of u8 pixels, or `{"size": [H, W]}`, or
  `{"error": message, "details": {...}}`.

memfds, because a container's /dev/shm may be 64 MiB and a name there outlives a killed process.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import logging
import math
import os
import resource
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from zoetrope_core.errors import InvalidImage
from zoetrope_server.media.decode import ImageLimits, measure_image, refusal

logger = logging.getLogger(__name__)

PIXELS, SIZE = b"pixels", b"size"

Pixels: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]
Decode: TypeAlias = Callable[[bytes, ImageLimits], Pixels]


def main(descriptor: str, function: str, limits: str) -> None:
    """Serve images until the parent closes its end.

    Args:
        descriptor: number of the socket's descriptor.
        function: "module:name" of a `decode_image`.
        limits: the fields of `ImageLimits`, as JSON.
    """
    for ignored in (signal.SIGINT, signal.SIGTERM):  # meant for the parent, which may want to drain first
        signal.signal(ignored, signal.SIG_IGN)
    channel = socket.socket(fileno=int(descriptor))
    threading.Thread(target=_die_with_parent, args=(channel.fileno(),), daemon=True).start()
    module, _, name = function.partition(":")
    decode: Decode = getattr(importlib.import_module(module), name)
    bounds = ImageLimits(**json.loads(limits))
    _limit_resources(bounds)
    with contextlib.suppress(ConnectionError):  # the parent has gone
        channel.send(b"{}")
        while _serve(channel, decode, bounds):
            pass


def _die_with_parent(descriptor: int) -> None:
    """End the process when the other end of the socket is closed, also in the middle of an image."""
    poll = select.poll()
    poll.register(descriptor, 0)  # a hang-up is reported without being asked for
    poll.poll()
    os._exit(0)


def _limit_resources(limits: ImageLimits) -> None:
    """Bound the address space beyond what is in use now, and the size of files; no core dumps."""
    with open("/proc/self/statm") as statm:
        used = int(statm.read().split()[0]) * resource.getpagesize()
    _lower(resource.RLIMIT_AS, used + limits.memory_bytes)
    _lower(resource.RLIMIT_FSIZE, limits.max_pixels * 3)
    _lower(resource.RLIMIT_CORE, 0)


def _lower(limit: int, value: int) -> None:
    """Set the soft limit to a value, or to the hard limit where that is lower."""
    hard = resource.getrlimit(limit)[1]
    resource.setrlimit(limit, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _serve(channel: socket.socket, decode: Decode, limits: ImageLimits) -> bool:
    """Decode or measure one image; False when the parent has gone."""
    message, descriptors, _, _ = socket.recv_fds(channel, 64, 1, socket.MSG_CMSG_CLOEXEC)
    if not message:
        return False
    # The parent's clock is the real limit. This one ends a worker whose parent was killed while the decoder
    # holds the interpreter lock, so that `_die_with_parent` cannot run.
    _lower(resource.RLIMIT_CPU, math.ceil(time.process_time() + 2 * limits.timeout_s) + 1)
    try:
        with open(descriptors[0], "rb") as file:
            data = file.read()
        if message == SIZE:
            channel.send(json.dumps({"size": measure_image(data, limits)}).encode())
        else:
            _send_pixels(channel, decode(data, limits))
    except Exception as error:
        refused = _as_refusal(error)
        channel.send(json.dumps({"error": refused.message, "details": refused.details}).encode())
        gc.collect()  # a traceback may hold the pixels of what was refused
    return True


def _as_refusal(error: Exception) -> InvalidImage:
    if isinstance(error, InvalidImage):
        return error
    if isinstance(error, MemoryError):
        return refusal("decoding the image needs more memory than is allowed")
    logger.error("decoding failed in an unforeseen way", exc_info=error)
    return refusal("the image cannot be decoded")


def _send_pixels(channel: socket.socket, pixels: Pixels) -> None:
    descriptor = os.memfd_create("pixels", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(descriptor, "wb", buffering=0) as file:
        view = np.ascontiguousarray(pixels).data.cast("B")
        while view:
            view = view[file.write(view) :]
        header = json.dumps({"shape": pixels.shape}).encode()
        socket.send_fds(channel, [header], [descriptor])


if __name__ == "__main__":
    main(*sys.argv[1:])
