"""Hooks and fixtures of all tests: lanes, budgets, skips."""

import os
import signal

import hypothesis
import pytest
from budgets import pytest_runtest_call, pytest_runtest_makereport, report_costs
from lanes import Turnstile, pytest_collection_modifyitems
from skips import Skips

__all__ = ["pytest_collection_modifyitems", "pytest_runtest_call", "pytest_runtest_makereport"]


def pytest_configure(config):
    """Makes the suite independent of how it was started.

    A shell starts background jobs with SIGINT ignored, `nohup` ignores SIGHUP, and their children inherit
    that: tests of Ctrl-C and of a closing terminal would wait forever. A proxy would get the requests to
    servers on the loopback.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of each worker; small networks gain nothing from more
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)  # ignored here still, and the default in its children
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = "127.0.0.1,localhost,::1"
    if worker := getattr(config, "workerinput", None):
        config.pluginmanager.register(Turnstile(worker["testrunuid"]), "turnstile")
    hypothesis.settings.register_profile("suite", deadline=None)  # tests/budgets.py counts CPU time instead
    hypothesis.settings.load_profile("suite")
    config.pluginmanager.register(Skips(strict=bool(os.environ.get("CI"))), "skips")


def pytest_runtest_setup(item):
    """Skips what needs a GPU where there is none."""
    if item.get_closest_marker("gpu"):
        from zoetrope_server.engines.gpu import detect_gpu

        if detect_gpu() is None:
            pytest.skip("needs an NVIDIA GPU, and nvidia-smi finds none")


def pytest_terminal_summary(terminalreporter):
    """Lists the tests that cost more than their budget."""
    report_costs(terminalreporter)


@pytest.fixture(scope="module")
def one_thread():
    """Small networks gain nothing from a second thread, and lose all when another process has its core."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
