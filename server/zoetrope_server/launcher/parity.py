"""What the exporter found when it compared the engines of a repository with the checkpoint."""

from __future__ import annotations

import json
import logging
from enum import StrEnum
from pathlib import Path

from zoetrope_server.launcher.errors import LaunchError

FILE_NAME = "parity.json"
"""The exporter's report; a repository that was put together by hand has none."""

_logger = logging.getLogger(__name__)


class Verdict(StrEnum):
    """What the report of an export says."""

    PASSED = "passed"
    DRIFT_ALLOWED = "drift allowed"
    ABSENT = "absent"


def verdict(repository: Path) -> Verdict:
    """What the parity report of a model repository says.

    Args:
        repository: the model repository.

    Raises:
        LaunchError: the engines failed and drift was not allowed, or the report cannot be read.
    """
    path = repository / FILE_NAME
    try:
        report = json.loads(path.read_text())
    except FileNotFoundError:
        return Verdict.ABSENT
    except (OSError, ValueError) as error:
        raise LaunchError(f"{path} cannot be read: {error}; export again") from error
    if not isinstance(report, dict):
        raise LaunchError(f"{path} is no report of an export; export again")
    if report.get("passed") is True:
        return Verdict.PASSED
    if report.get("drift_allowed") is not True:
        raise LaunchError(f"the engines of {repository} failed the parity gate: export again")
    return Verdict.DRIFT_ALLOWED


def check_parity(repository: Path) -> None:
    """Refuses engines that do not compute what the checkpoint computes; see `verdict`.

    Raises:
        LaunchError: the report of the export says so, and drift was not allowed.
    """
    if verdict(repository) is Verdict.DRIFT_ALLOWED:
        _logger.warning("the engines of %s failed the parity gate; the export allowed it", repository)
