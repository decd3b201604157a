"""What one server holds for its whole life, whatever happens to tritonserver: ports, folder, pages, log."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from zoetrope_server.launcher.control import ControlClient
from zoetrope_server.launcher.errors import LaunchError
from zoetrope_server.launcher.exposure import check_exposure
from zoetrope_server.launcher.flags import (
    HttpEndpoint,
    TritonOptions,
    triton_command,
    triton_environment,
)
from zoetrope_server.launcher.installation import assemble_backends, find_installation
from zoetrope_server.launcher.ports import choose_ports
from zoetrope_server.launcher.process import TritonProcess
from zoetrope_server.launcher.python import PythonFacts
from zoetrope_server.launcher.readiness import GrpcHealth, TlsHealth, accepts
from zoetrope_server.launcher.settings import ServeSettings
from zoetrope_server.launcher.shm import SHM, ShmClaim
from zoetrope_server.launcher.undertaker import Undertaker
from zoetrope_server.launcher.view import show

_logger = logging.getLogger(__name__)
ENOUGH_SHM = 512 << 20
"""Shared memory, in bytes, that is enough for most repositories."""
_CONTROL_SOCKET = "control.sock"
_VIEW = "repository"
_LONGEST_SOCKET_PATH = 107  # sun_path has 108 bytes with the closing zero
_ROOM = len("/zoetrope-12345678/" + _CONTROL_SOCKET)
GPU_DEVICES = ("/dev/nvidiactl", "/dev/dxg")
"""What is there on a machine with an NVIDIA GPU and its driver."""


class Workspace:
    """A context manager; leaving it leaves nothing behind."""

    def __init__(self, settings: ServeSettings, repository: Path) -> None:
        """Finds Triton and takes everything; see `check_repository` for the repository.

        Raises:
            LaunchError: something is missing, taken or unusable; the message says what.
        """
        self._python = PythonFacts.current()
        self._installation = find_installation(self._python)
        self._settings = settings
        self._stack = ExitStack()
        self.hosts = settings.hosts()
        accepted = settings.expose_vulnerable_triton
        check_exposure(self._installation, self.hosts.values(), accepted=accepted)
        self.ports = choose_ports(self.hosts, settings.ports())
        with self._stack:
            self._log = self._open_log()
            self._folder = make_runtime_dir()
            self._stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
            _warn_about_little_shm()
            self._claim = ShmClaim()
            self._stack.callback(self._claim.release)
            self._backends = assemble_backends(self._installation, self._python, self._folder)
            self._repository = repository
            self.options = self._options(repository)
            self.control = ControlClient(path=self._folder / _CONTROL_SOCKET)
            self._stack = self._stack.pop_all()

    @property
    def restarts(self) -> bool:
        """Whether Triton is started again after a process died."""
        given = self._settings.restart
        return self._installation.embedded if given is None else given

    @contextmanager
    def triton(self) -> Iterator[TritonProcess]:
        """A tritonserver that is starting; killed, with all that belongs to it, when the block is left."""
        shown = show(self._repository, self._folder / _VIEW, self._settings)
        options = replace(self.options, repository=shown, secret=secrets.token_hex(32))
        process = TritonProcess(
            triton_command(self._installation, options, self._backends),
            self._environment(),
            self._is_ready,
            self._log,
        )
        try:
            undertaker = Undertaker(self._claim.lock_path, process.pid, self._folder)
            try:
                yield process
            finally:
                process.kill()
                undertaker.dismiss()
        finally:
            process.kill()
            self._claim.clear()
            self.control.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _is_ready(self) -> bool:
        host, port = self.hosts["grpc"], self.ports["grpc"]
        if self.options.grpc_tls is None:
            serves = GrpcHealth(host=host, port=port)()
        else:
            serves = TlsHealth(host=host, port=port, control=self.control)()
        # The metrics port opens last, a moment after Triton calls itself ready.
        return serves and accepts(self.hosts["metrics"], self.ports["metrics"])

    def _options(self, repository: Path) -> TritonOptions:
        age = self._settings.grpc_connection_age_s
        http = self.ports.get("http")
        return TritonOptions(
            repository=repository,
            shm_prefix=self._claim.prefix,
            secret="",  # a new one at each start of Triton
            host=self.hosts["grpc"],
            grpc_port=self.ports["grpc"],
            http=None if http is None else HttpEndpoint(host=self.hosts["http"], port=http),
            metrics_port=self.ports["metrics"],
            open_statistics=self._settings.open_statistics,
            exit_timeout_s=max(1, round(self._settings.grace_period_s)),
            model_load_threads=self._settings.model_load_threads,
            gpu_metrics=any(map(os.path.exists, GPU_DEVICES)),
            log_verbose=self._settings.log_verbose,
            trace_url=self._settings.trace_url,
            trace_rate=self._settings.trace_rate,
            grpc_tls=self._settings.grpc_tls(),
            pinned_pool_bytes=self._settings.pinned_pool_bytes,
            cuda_pool_bytes=self._settings.cuda_pool_bytes,
            grpc_connection_age_ms=None if age is None else round(age * 1000),
        )

    def _environment(self) -> dict[str, str]:
        extra = {"ZOETROPE_CONTROL_SOCKET": str(self.control.path)}
        extra |= self._settings.orchestrator_environment()
        return triton_environment(self._installation, self._python.executable, os.environ, extra)

    def _open_log(self) -> BinaryIO | None:
        path = self._settings.log_file
        if path is None:
            return None
        try:
            return self._stack.enter_context(path.open("ab"))
        except OSError as error:
            raise LaunchError(f"cannot write the log file: {error}") from error


def _warn_about_little_shm() -> None:
    """Containers get 64 MB of it by default, and a full one kills stage processes with SIGBUS."""
    total = shutil.disk_usage(SHM).total if SHM.is_dir() else 0
    if total < ENOUGH_SHM:
        _logger.warning(
            "%s has only %d MB, and all tensors travel through it: give a container at least %d MB "
            "(docker run --shm-size, or an emptyDir of medium Memory)",
            SHM,
            total >> 20,
            ENOUGH_SHM >> 20,
        )


def check_repository(path: Path) -> Path:
    """The model repository as an absolute path.

    Raises:
        LaunchError: it does not exist or holds no model.
    """
    if not path.is_dir():
        raise LaunchError(f"{path} is not a folder: give the model repository that `zoetrope export` wrote")
    if not any(path.glob("*/config.pbtxt")):
        raise LaunchError(
            f"{path} holds no model (no */config.pbtxt): give a repository `zoetrope export` wrote"
        )
    return path.resolve()


def make_runtime_dir(candidates: list[str] | None = None) -> Path:
    """Makes a folder (mode 0700) for the control socket, in the first place with a short enough path.

    Raises:
        LaunchError: no place is writable and short enough.
    """
    places = candidates or [os.environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir(), "/tmp"]
    for place in places:
        fits = len(os.fsencode(place)) + _ROOM <= _LONGEST_SOCKET_PATH
        if os.path.isabs(place) and fits and os.access(place, os.W_OK | os.X_OK):
            return Path(tempfile.mkdtemp(prefix="zoetrope-", dir=place))
    raise LaunchError(f"no folder for the control socket: none of {places} is writable and short enough")
