"""The python backend's pages in /dev/shm: a name that is ours, and their removal, even after a crash.

Triton removes its pages when it exits in order and leaves them, megabytes each, when it is killed. So every
server gives its pages a prefix of its own and holds a lock on a file with that prefix; the kernel lets go of
the lock when the process dies in whatever way. Whoever gets the lock of another prefix knows that its server
is gone. Process ids would not do: containers of one pod may share /dev/shm and not the ids.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import secrets
import stat
from pathlib import Path

from zoetrope_server.launcher.errors import LaunchError

_logger = logging.getLogger(__name__)
SHM = Path("/dev/shm")
_GUARDED = "triton_python_backend_shm_region_"
"""Triton lets no client register pages whose names begin so."""
_LOCK = ".lock"
_LOCK_NAME = re.compile(rf"({_GUARDED})?zoetrope-[0-9a-f]{{12}}-\.lock")
"""The names of our locks, those of the release before too: anybody may make files in /dev/shm."""


class ShmClaim:
    """A prefix in /dev/shm that belongs to this process until `release` or its death."""

    def __init__(self, folder: Path = SHM) -> None:
        """Removes what dead servers have left, then claims a new prefix.

        Raises:
            LaunchError: the folder cannot be written.
        """
        sweep(folder)
        self.prefix = f"{_GUARDED}zoetrope-{secrets.token_hex(6)}-"
        self.lock_path = folder / (self.prefix + _LOCK)
        self._folder = folder
        try:
            self._lock: int | None = _create_locked(self.lock_path)
        except OSError as error:
            raise LaunchError(f"Triton's python backend needs to write {folder}: {error}") from error

    def clear(self) -> int:
        """Removes the pages, keeps the claim; returns how many there were. Only when no process uses them."""
        return remove_pages(self._folder, self.prefix)

    def release(self) -> None:
        """Removes everything with the prefix and gives it up."""
        self.clear()
        self.lock_path.unlink(missing_ok=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def sweep(folder: Path = SHM) -> list[str]:
    """Removes the pages of this user's servers that died without doing so; returns their prefixes."""
    swept = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if _LOCK_NAME.fullmatch(path.name) is None:
            continue
        with contextlib.suppress(OSError):
            lock = _locked(path)
            if lock is None:
                continue
            prefix = path.name.removesuffix(_LOCK)
            remove_pages(folder, prefix)
            path.unlink(missing_ok=True)
            os.close(lock)
            swept.append(prefix)
    if swept:
        _logger.info("removed the shared memory of %d dead servers", len(swept))
    return swept


def remove_pages(folder: Path, prefix: str) -> int:
    """Removes the files whose names begin with the prefix, except the lock; returns how many."""
    pages = [
        path for path in folder.iterdir() if path.name.startswith(prefix) and path.name != prefix + _LOCK
    ]
    for path in pages:
        path.unlink(missing_ok=True)
    return len(pages)


def _create_locked(path: Path) -> int:
    """A descriptor that holds the lock of a new file; the file has its name only once it is locked.

    Otherwise a sweep between the two could take it for the lock of a dead server.
    """
    nameless = path.with_name("." + path.name)
    descriptor = os.open(nameless, os.O_RDWR | os.O_CLOEXEC | os.O_CREAT | os.O_EXCL, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    nameless.rename(path)
    return descriptor


def _locked(path: Path) -> int | None:
    """A descriptor that holds the exclusive lock on the file; None when it is not ours or still held."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
    except BlockingIOError:
        pass
    os.close(descriptor)
    return None
