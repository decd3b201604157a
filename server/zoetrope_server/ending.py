"""The end of a process that cannot go on; its supervisor, or the container, starts another."""

from __future__ import annotations

import logging
import os
from typing import NoReturn

EXIT_CODE = 70
"""EX_SOFTWARE of sysexits.h."""

_logger = logging.getLogger(__name__)


def end_process(reason: str) -> NoReturn:
    """Ends this process at once, without waiting for anything that may hang.

    Triton's python backend turns an exception into an answer and keeps the process; a process that is gone is
    what `zoetrope serve` watches for, and what makes recent Tritons unready.
    """
    _logger.critical("%s; this process ends", reason)
    logging.shutdown()
    os._exit(EXIT_CODE)
