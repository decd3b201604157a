"""Fixtures for all tests."""

import pytest

from zoetrope_server.engines.gpu import detect_gpu


def pytest_runtest_setup(item):
    """Without a GPU there is nothing to run an engine on."""
    if item.get_closest_marker("gpu") and detect_gpu() is None:
        pytest.skip("needs an NVIDIA GPU, and nvidia-smi finds none")
