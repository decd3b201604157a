"""`zoetrope serve`: one tritonserver under supervision.

Triton told to exit fails the BLS calls of running videos, and Triton with a dead stage process calls itself
ready while requests hang. So the supervisor takes the signals, drains through the orchestrator's control
socket first, watches every process, and answers the probes.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path

from zoetrope_server.launcher.control import ControlClient
from zoetrope_server.launcher.errors import ControlError, LaunchError
from zoetrope_server.launcher.health import Health, HealthServer, Phase
from zoetrope_server.launcher.parity import check_parity
from zoetrope_server.launcher.ports import address
from zoetrope_server.launcher.process import TritonProcess, adopt_orphans, raise_open_files
from zoetrope_server.launcher.pulse import Pulse
from zoetrope_server.launcher.settings import ServeSettings
from zoetrope_server.launcher.watch import ProcessWatch, Watched
from zoetrope_server.launcher.workspace import Workspace, check_repository

_logger = logging.getLogger(__name__)
_LAST_PROBES_S = 0.3
"""How long probes still learn why the server ends after a process died; streams are broken before that."""
_TICK_S = 0.1
_FAIL_TIMEOUT_S = 0.5
_ERRORS_OUT_S = 1.0
_EXIT_S = 10.0
"""How long an idle Triton may take to unload; an orderly one needs a little more than 5 s."""


class ExitCode(IntEnum):
    """How a supervisor ended."""

    OK = 0
    LAUNCH_FAILED = 1
    PROCESS_LOST = 3
    GRACE_EXCEEDED = 4
    FORCED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """Where a ready server answers, each `host:port`, and its process ids; `http` is None when it is off."""

    grpc: str
    http: str | None
    metrics: str
    health: str
    pid: int
    triton_pid: int

    def to_json(self) -> str:
        """One line for standard output."""
        return json.dumps({name: getattr(self, name) for name in self.__slots__})


class RestartBudget:
    """Allows a number of restarts within a sliding window; a crash loop ends instead of going on for good."""

    def __init__(
        self, limit: int = 5, window_s: float = 60.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Takes how many restarts, within how many seconds, by which clock."""
        self._limit, self._window_s, self._clock = limit, window_s, clock
        self._restarts: deque[float] = deque()

    def take(self) -> bool:
        """Whether one more restart is allowed; it counts when it is."""
        now = self._clock()
        while self._restarts and now - self._restarts[0] >= self._window_s:
            self._restarts.popleft()
        if len(self._restarts) >= self._limit:
            return False
        self._restarts.append(now)
        return True


class Supervisor:
    """Runs Triton over one model repository until it is told to stop or a process is lost."""

    def __init__(
        self, settings: ServeSettings, repository: Path, announce: Callable[[Endpoints], None]
    ) -> None:
        """Takes the settings and what to call, once, when the server is ready for the first time.

        Raises:
            LaunchError: the repository does not exist, is empty, or its engines failed the parity gate.
        """
        self._settings = settings
        self._repository = check_repository(repository)
        check_parity(self._repository)
        self._announce: Callable[[Endpoints], None] | None = announce
        self._budget = RestartBudget()
        self._health = Health(phase=Phase.STARTING, reason="the models are loading")
        self._probed: tuple[TritonProcess, ProcessWatch, Pulse] | None = None
        self._stops = 0
        self._restarts = False

    def request_stop(self) -> None:
        """Starts to drain; called again, ends at once. For signal handlers: it only counts."""
        self._stops += 1

    def request_drain(self) -> None:
        """Starts to drain, and no more when called again: a terminal that closes may say so twice."""
        self._stops = max(self._stops, 1)

    def health(self) -> Health:
        """What the probes are told now; asks Triton and looks at every process."""
        current, probed = self._health, self._probed
        if current.phase not in (Phase.READY, Phase.DRAINING) or probed is None:
            return current
        triton, watch, pulse = probed
        silent_s = pulse.silent_s()
        if silent_s > self._settings.stall_timeout_s:
            reason = f"the orchestrator's event loop has not run for {silent_s:.0f} s"
            return Health(phase=Phase.FAILED, reason=reason)
        if current.phase is Phase.DRAINING:
            return current
        lost = watch.first_dead()
        if lost is not None:
            return replace(current, reason=f"{lost} died")
        return current if triton.is_ready() else replace(current, reason="Triton does not answer as ready")

    def run(self) -> ExitCode:
        """Serves until the end; nothing is left running or lying about afterwards.

        Raises:
            LaunchError: Triton could not be started the first time.
        """
        adopt_orphans()
        _logger.debug("open files: %d, raised to %d", *raise_open_files())
        with Workspace(self._settings, self._repository) as workspace:
            self._restarts = workspace.restarts
            self._warn()
            probes = HealthServer(workspace.hosts["health"], workspace.ports["health"], self.health)
            with probes:
                code = self._run_once(workspace)
                while code is ExitCode.PROCESS_LOST and self._may_restart():
                    code = self._run_again(workspace)
                if code is ExitCode.PROCESS_LOST:
                    time.sleep(_LAST_PROBES_S)
                return code

    def _warn(self) -> None:
        for deprecation in self._settings.deprecations():
            _logger.warning("%s", deprecation)
        if self._settings.serves_http:
            _logger.warning(
                "Triton's HTTP is on: plain text, and nothing ends a connection that stays silent"
            )

    def _run_again(self, workspace: Workspace) -> ExitCode:
        try:
            return self._run_once(workspace)
        except LaunchError as error:
            _logger.error("restart failed: %s", error)
            return ExitCode.PROCESS_LOST

    def _may_restart(self) -> bool:
        if not self._restarts or self._stops:
            return False
        if self._budget.take():
            _logger.warning("starting Triton again")
            return True
        self._health = Health(phase=Phase.FAILED, reason="too many restarts")
        _logger.error("too many restarts within a minute; giving up")
        return False

    def _run_once(self, workspace: Workspace) -> ExitCode:
        """One life of tritonserver, from its start to its end."""
        with workspace.triton() as triton:
            if not triton.wait_ready(self._settings.start_timeout_s, lambda: self._stops > 0):
                return ExitCode.OK
            with ProcessWatch(triton.pid) as watch, Pulse(workspace.control) as pulse:
                self._probed = (triton, watch, pulse)
                self._become_ready(workspace, triton, watch)
                try:
                    return self._supervise(workspace.control, triton, watch)
                finally:
                    self._probed = None

    def _become_ready(self, workspace: Workspace, triton: TritonProcess, watch: ProcessWatch) -> None:
        self._health = Health(phase=Phase.READY)
        _logger.info("ready; watching %s", ", ".join(map(str, watch.processes)))
        if self._announce is not None:
            self._announce(_endpoints(workspace.hosts, workspace.ports, triton.pid))
            self._announce = None

    def _supervise(self, control: ControlClient, triton: TritonProcess, watch: ProcessWatch) -> ExitCode:
        while not self._stops:
            lost = watch.first_dead(_TICK_S)
            if lost is not None:
                return self._lose(control, triton, lost)
        return self._drain(control, triton, watch)

    def _lose(self, control: ControlClient, triton: TritonProcess, lost: Watched) -> ExitCode:
        """Ends every stream soon after a process died: with the reason if possible, else by breaking it."""
        again = self._restarts and not self._stops
        reason = f"{lost} died"
        self._health = Health(phase=Phase.RESTARTING if again else Phase.FAILED, reason=reason)
        _logger.error("%s", reason)
        if not lost.is_triton and control.exists():
            _fail_requests(replace(control, timeout_s=_FAIL_TIMEOUT_S), reason)
        triton.kill()
        return ExitCode.PROCESS_LOST

    def _drain(self, control: ControlClient, triton: TritonProcess, watch: ProcessWatch) -> ExitCode:
        """Refuses new work, waits for the old, then ends Triton."""
        self._health = Health(phase=Phase.DRAINING, reason="the server is shutting down")
        grace_s = self._settings.grace_period_s
        _logger.info("draining for at most %g s", grace_s)
        if control.exists():
            code = self._wait_until_idle(control, triton, watch, grace_s)
            if code is not ExitCode.PROCESS_LOST:
                # A client that keeps an idle stream open keeps Triton from unloading (seen in 2.51), so the
                # patience is short, and a kill hurts nobody.
                triton.stop(_EXIT_S, self._forced)
        else:
            exited = triton.stop(max(grace_s, _EXIT_S), self._forced)
            code = ExitCode.OK if exited else ExitCode.GRACE_EXCEEDED
        return ExitCode.FORCED if self._forced() else code

    def _wait_until_idle(
        self, control: ControlClient, triton: TritonProcess, watch: ProcessWatch, grace_s: float
    ) -> ExitCode:
        deadline = time.monotonic() + grace_s
        while not _drained(control):
            lost = watch.first_dead(_TICK_S)
            if lost is not None:
                return self._lose(control, triton, lost)
            if self._forced():
                return ExitCode.FORCED
            if time.monotonic() > deadline:
                _logger.warning("the grace period is over; requests are still running")
                _fail_requests(control, "the server shut down before the video was done")
                return ExitCode.GRACE_EXCEEDED
        return ExitCode.OK

    def _forced(self) -> bool:
        return self._stops > 1


def _drained(control: ControlClient) -> bool:
    """Asks for the drain each time: it may be asked twice, and the first may have met a busy orchestrator."""
    try:
        control.drain()
        return control.status().idle
    except ControlError as error:
        _logger.warning("%s", error)
        return False


def _fail_requests(control: ControlClient, reason: str) -> None:
    """Has the requests end with an error, and gives the errors a moment to reach their clients."""
    deadline = time.monotonic() + _ERRORS_OUT_S
    try:
        control.fail(reason)
        while time.monotonic() < deadline and not control.status().idle:
            time.sleep(_TICK_S / 2)
        time.sleep(_TICK_S)
    except ControlError as error:
        _logger.warning("the running requests could not be told: %s", error)


def _endpoints(hosts: Mapping[str, str], ports: Mapping[str, int], triton: int) -> Endpoints:
    answers = {name: address(hosts[name], port) for name, port in ports.items()}
    return Endpoints(
        grpc=answers["grpc"],
        http=answers.get("http"),
        metrics=answers["metrics"],
        health=answers["health"],
        pid=os.getpid(),
        triton_pid=triton,
    )
