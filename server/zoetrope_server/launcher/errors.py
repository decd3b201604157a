"""What can go wrong before and around Triton."""

from __future__ import annotations

from zoetrope_core.errors import ZoetropeError


class LaunchError(ZoetropeError):
    """Triton cannot be found, started or kept; the message says what to do. Details: `log`, `exit_code`."""

    code = "launch_failed"


class ControlError(LaunchError):
    """The orchestrator's control socket is not there, does not answer or answers nonsense."""

    code = "control_failed"
