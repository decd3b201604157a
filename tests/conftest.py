"""Fixtures for all tests."""

import pytest


def pytest_runtest_setup(item):
    """Without a GPU there is nothing to run an engine on."""
    if item.get_closest_marker("gpu") is None:
        return
    from zoetrope_server.engines.gpu import detect_gpu  # which a client-only environment does not have

    if detect_gpu() is None:
        pytest.skip("needs an NVIDIA GPU, and nvidia-smi finds none")


@pytest.fixture(scope="module")
def one_thread():
    """Small networks gain nothing from a second thread, and lose all when another process has its core."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
