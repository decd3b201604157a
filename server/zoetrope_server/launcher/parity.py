"""What the exporter found when it compared the engines of a repository with the checkpoint."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from zoetrope_server.launcher.errors import LaunchError

FILE_NAME = "parity.json"
"""The exporter's report; a repository that was put together by hand has none."""

_logger = logging.getLogger(__name__)


def check_parity(repository: Path) -> None:
    """Refuses engines that do not compute what the checkpoint computes.

    Args:
        repository: the model repository.

    Raises:
        LaunchError: the report of the export says so, and drift was not allowed.
    """
    try:
        report = json.loads((repository / FILE_NAME).read_text())
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise LaunchError(f"{repository / FILE_NAME} cannot be read: {error}; export again") from error
    if not isinstance(report, dict):
        raise LaunchError(f"{repository / FILE_NAME} is no report of an export; export again")
    if report.get("passed") is True:
        return
    if report.get("drift_allowed") is not True:
        raise LaunchError(f"the engines of {repository} failed the parity gate: export again")
    _logger.warning("the engines of %s failed the parity gate; the export allowed it", repository)
