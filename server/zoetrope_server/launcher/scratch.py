"""The scratch directories that Triton's python backend leaves in /tmp when it is killed.

Their names are drawn by the backend, in a place that no flag changes; an orderly exit removes them.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

TMP = Path("/tmp")
_PREFIX = "python_env_"


class ScratchDirs:
    """Those of a Triton that starts after this object is made."""

    def __init__(self, folder: Path = TMP) -> None:
        """Remembers which are there already."""
        self._folder = folder
        self._before = _ours(folder)
        self._new: set[Path] | None = None

    def note(self) -> None:
        """Takes what is new for Triton's, once it is ready."""
        self._new = _ours(self._folder) - self._before

    def remove(self) -> None:
        """Removes what is empty of it, once Triton is gone; one that was never ready counts until now."""
        if self._new is None:
            self.note()
        for path in self._new or ():
            with contextlib.suppress(OSError):
                path.rmdir()


def _ours(folder: Path) -> set[Path]:
    """The directories of that name that belong to this user."""
    found = set()
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                status = entry.stat(follow_symlinks=False)
                own = status.st_uid == os.geteuid() and stat.S_ISDIR(status.st_mode)
                if own and entry.name.startswith(_PREFIX):
                    found.add(Path(entry.path))
    return found
