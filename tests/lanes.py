"""How tests are spread over workers: one worker a file, and one worker for each server that tests share."""

import pytest

SHARED = ("server", "timed_server", "single_server", "roomy_server", "sized_server", "bench")
"""Fixtures that are dear and live for the whole run: the tests that use one of them share a worker."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Groups tests for `--dist loadgroup`."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            shared = next((name for name in SHARED if name in item.fixturenames), None)
            item.add_marker(pytest.mark.xdist_group(shared or item.nodeid.partition("::")[0]))
