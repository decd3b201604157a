"""Budgets of CPU time per test: over budget is reported, more than `LIMIT` times over fails."""

import os
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
BUDGETS = {"unit": 1.0, "contract": 2.0, "glue": 2.0, "parity": 10.0, "e2e": 8.0}
"""Seconds of CPU, of the test's process and of the child processes that it waited for, by directory."""
LIMIT = 3
EXCEPTIONS = {
    "tests/unit/test_bench_": (6, "real runs of the benches, in processes of their own that import torch"),
    "tests/unit/test_export_commands.py": (9, "real exports: trace, build, compare and compile"),
    "tests/unit/test_export_half.py": (2, "graphs of all stages, twice"),
    "tests/unit/test_media_workers.py": (4, "decoders that spin until their limit of 2 s"),
    "tests/unit/test_repository_key.py": (3, "builds a wheel; exports once"),
    "tests/parity/test_demo_checkpoint.py": (30, "14 frames of 192x128 in diffusers, FP32, eager"),
}
"""Tests by the start of their node id, with a budget of their own and the reason for it."""

_COST = pytest.StashKey[float]()


def budget(nodeid):
    """The seconds of CPU that a test may take."""
    for start, (seconds, _) in EXCEPTIONS.items():
        if nodeid.startswith(start):
            return seconds
    return BUDGETS[nodeid.split("/")[1]]


def _cpu():
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Measures the CPU time of a test, without that of its fixtures."""
    before = _cpu()
    try:
        return (yield)
    finally:
        item.stash[_COST] = _cpu() - before
        item.user_properties.append(("cpu_s", round(item.stash[_COST], 2)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Notes the CPU time of a test, and fails one that took several times its budget."""
    report = yield
    if call.when == "call":
        cost, allowed = item.stash.get(_COST, 0.0), budget(item.nodeid)
        full = item.get_closest_marker("full") is not None
        if report.passed and cost > LIMIT * allowed and not full:
            report.outcome = "failed"
            report.longrepr = (
                f"{cost:.1f} s of CPU, the budget is {allowed:g} s: make it cheaper, share what it sets up, "
                "mark it `full`, or name it with its reason in tests/budgets.py"
            )
    return report


def report_costs(terminalreporter):
    """Lists what took more than its budget, the dearest first."""
    over = []
    for reports in terminalreporter.stats.values():
        for report in reports:
            cost = dict(getattr(report, "user_properties", ())).get("cpu_s", 0.0)
            nodeid = getattr(report, "nodeid", "").partition("@")[0]
            if getattr(report, "when", "") == "call" and cost > budget(nodeid):
                over.append((cost, nodeid))
    if over:
        terminalreporter.section("more CPU than budgeted")
        for cost, nodeid in sorted(over, reverse=True):
            terminalreporter.write_line(f"{cost:6.1f} s of {budget(nodeid):g} s  {nodeid}")
