"""Starts Triton, watches it and its stage processes, and ends it without hurting a running video."""

from zoetrope_server.launcher.errors import ControlError, LaunchError
from zoetrope_server.launcher.installation import TritonInstallation, find_installation
from zoetrope_server.launcher.settings import ServeSettings
from zoetrope_server.launcher.supervisor import Endpoints, ExitCode, Supervisor

__all__ = [
    "ControlError",
    "Endpoints",
    "ExitCode",
    "LaunchError",
    "ServeSettings",
    "Supervisor",
    "TritonInstallation",
    "find_installation",
]
