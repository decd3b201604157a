"""Who may reach which Triton: old ones die of a single request and stay on loopback."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from zoetrope_server.launcher.errors import LaunchError
from zoetrope_server.launcher.installation import TritonInstallation, Version
from zoetrope_server.launcher.ports import is_loopback
from zoetrope_server.launcher.python import tag

_logger = logging.getLogger(__name__)
OLDEST_EXPOSED: Version = (2, 70)
"""The oldest Triton for other addresses than loopback.

Before 2.58 deeply nested JSON kills it, before 2.59 a body in a million chunks and nothing bounds a body,
before 2.60 clients register the python backend's own shared memory, before 2.70 paths leave the repository.
"""
FLAG = "--expose-vulnerable-triton"
EMBEDDED_RISK = (
    "a single request with deeply nested JSON, very small chunks or a class_count on a BYTES output ends it, "
    "and every video with it"
)
"""What the embedded Triton dies of; there is no newer wheel."""
CLOSED = ("shared-memory", "model-repository", "trace", "logging")
"""Triton's categories that no client needs."""
LOOPBACK_ONLY = ("statistics", "model-config")
"""Its categories that load generators on the same machine ask for."""


def vulnerable(installation: TritonInstallation) -> bool:
    """Whether a client of this Triton can end it."""
    return installation.embedded or installation.version < OLDEST_EXPOSED


def check_exposure(installation: TritonInstallation, hosts: Iterable[str], *, accepted: bool) -> None:
    """Lets an old Triton listen on loopback alone, unless the risk is accepted.

    Args:
        installation: the Triton that will run.
        hosts: the numeric addresses that it will listen on.
        accepted: whether `--expose-vulnerable-triton` was given.

    Raises:
        LaunchError: the Triton is too old for one of the addresses.
    """
    exposed = [host for host in hosts if not is_loopback(host)]
    if not exposed or not vulnerable(installation):
        return
    version = tag(installation.version)
    if accepted:
        _logger.warning("Triton %s listens on %s: a single request can end it", version, exposed[0])
        return
    if installation.embedded:
        found = f"the embedded Triton {version} may listen on loopback only, not on {exposed[0]}"
        why = EMBEDDED_RISK
    else:
        found = f"Triton {version} (or of unknown version) may listen on loopback only, not on {exposed[0]}"
        why = f"releases before {tag(OLDEST_EXPOSED)} have holes that a single request opens"
    raise LaunchError(f"{found} ({why}): run a current Triton container, or accept the risk with {FLAG}")


def closed_categories(host: str, *, open_statistics: bool) -> tuple[str, ...]:
    """The categories of Triton's protocols that need its secret at an address."""
    return CLOSED if open_statistics or is_loopback(host) else CLOSED + LOOPBACK_ONLY
