"""The user's cache folder, from which native code is loaded: nobody else may have written there."""

from __future__ import annotations

import os
import stat
from pathlib import Path

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def cache_dir() -> Path:
    """The user's cache folder of Zoetrope: `$XDG_CACHE_HOME/zoetrope`."""
    configured = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(configured) if os.path.isabs(configured) else Path(os.path.expanduser("~/.cache"))
    return base / "zoetrope"


def make_private(folder: Path) -> bool:
    """Makes a folder (mode 0700); whether nobody but this user and root can have put anything into it.

    Raises:
        OSError: it cannot be made.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    real = folder.resolve()
    return not real.stat().st_mode & _OTHERS_WRITE and all(map(_is_safe, (real, *real.parents)))


def _is_safe(folder: Path) -> bool:
    """Whether others neither own it nor can rename what lies in it, as they cannot in a sticky one (/tmp)."""
    status = folder.stat()
    shared = status.st_mode & _OTHERS_WRITE and not status.st_mode & stat.S_ISVTX
    return status.st_uid in (0, os.geteuid()) and not shared
