"""Outlives the server by a moment to bury what a killed server leaves: tritonserver, stubs, pages, folder.

As a script (`python -I -S undertaker.py LOCK GROUP FOLDER`, standard library only) it blocks on the server's
lock in /dev/shm. The kernel releases the lock when the server dies, also by SIGKILL; then the process group
of tritonserver is killed and the pages and the runtime folder are removed. An orderly server dismisses it.

PR_SET_PDEATHSIG would not do: it reaches tritonserver alone. Its stubs end by themselves only once somebody
has reaped it (tried with 2.51: within 0.1 s; while it is a zombie, not within 90 s), and the pages stay.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path


class Undertaker:
    """The process that waits for the death of this one."""

    def __init__(self, lock: Path, group: int, folder: Path) -> None:
        """Starts it.

        Args:
            lock: the locked file of the server's `ShmClaim`.
            group: process group of tritonserver.
            folder: runtime folder to remove.
        """
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(lock), str(group), str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

    def dismiss(self) -> None:
        """Ends it without any burial."""
        self._process.kill()
        self._process.wait()


def main(lock: Path, group: int, folder: Path) -> None:
    """Blocks until the lock is free, then kills the group and removes what is left."""
    # Without the file another server has swept already, and the processes may still be there.
    with contextlib.suppress(FileNotFoundError):
        fcntl.flock(os.open(lock, os.O_RDWR | os.O_NOFOLLOW), fcntl.LOCK_EX)
    # Short: what is killed writes no more pages, and its zombies wait for an init that may take seconds.
    kill_group(group, patience_s=0.5)
    for page in lock.parent.iterdir():
        if page.name.startswith(lock.name.removesuffix(".lock")):
            page.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def kill_group(group: int, patience_s: float) -> bool:
    """Kills a process group and reaps its members that are children of this process; whether all are gone."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-group, os.WNOHANG)[0]:
                pass
        try:
            os.killpg(group, signal.SIGKILL)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    return False


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
