"""How tests are spread over workers, and how those that measure time get the machine alone."""

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

import pytest

SHARED = ("server", "timed_server", "single_server", "roomy_server", "sized_server")
"""Fixtures that are expensive and live for the whole run: the tests that use one of them share a worker."""
FIRST = ("parity", "e2e", "unit", "contract", "glue")
"""The order of the directories: long groups first, short ones fill the gaps at the end."""
SERIAL = "serial"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Groups tests by the server that they share, else by file; `serial` comes last.

    With ZOETROPE_TEST_SHARE=N every Nth test runs.
    """
    share = int(os.environ.get("ZOETROPE_TEST_SHARE", "1"))
    chosen = items[::share]
    config.hook.pytest_deselected(items=[item for number, item in enumerate(items) if number % share])
    items[:] = sorted(chosen, key=_rank)
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))


def _rank(item):
    return item.get_closest_marker(SERIAL) is not None, FIRST.index(item.nodeid.split("/")[1])


def _group(item):
    if item.get_closest_marker(SERIAL):
        return SERIAL
    if case := getattr(item.module, "CASE", None) or _parameters(item).get("case"):
        return f"case {case}"
    shared = next((name for name in SHARED if name in item.fixturenames), None)
    return shared or item.nodeid.partition("::")[0]


def _parameters(item):
    return item.callspec.params if hasattr(item, "callspec") else {}


class Turnstile:
    """Lets the tests of all workers run beside each other, and a `serial` one without them.

    The door stays shut while a serial test waits for the room to become empty, or it might wait forever.
    """

    def __init__(self, run):
        self._directory = directory = Path(tempfile.gettempdir(), f"zoetrope-tests-{os.getuid()}-{run}")
        directory.mkdir(exist_ok=True)
        self._door, self._room = ((directory / name).open("w") for name in ("door", "room"))
        self._alone = False

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item, nextitem):
        """Waits for the other workers, before the test's timeout begins to count."""
        serial = item.get_closest_marker(SERIAL) is not None
        if not self._alone:
            self._enter(fcntl.LOCK_EX if serial else fcntl.LOCK_SH)
        self._alone = serial
        try:
            return (yield)
        finally:
            if not serial or nextitem is None or not nextitem.get_closest_marker(SERIAL):
                fcntl.flock(self._room, fcntl.LOCK_UN)
                self._alone = False

    def pytest_sessionfinish(self):
        """Removes the files; the other workers keep those that they have opened."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def _enter(self, how):
        fcntl.flock(self._door, how)
        fcntl.flock(self._room, how)
        fcntl.flock(self._door, fcntl.LOCK_UN)
