"""Skips: in CI each needs a reason that is listed here, elsewhere the summary names what was missing."""

import re

import pytest

ALLOWED = (
    r"needs an NVIDIA GPU",
    r"kubectl is (not installed|too old)",  # Debian's is too old for the manifests
    r"the server extra",  # in the environment of the client alone
)
"""Reasons, as regular expressions, for which CI may skip a test."""


class Skips:
    """Collects why tests and modules were skipped; `strict` fails the run for a reason that is not listed."""

    def __init__(self, *, strict):
        self._strict, self._reasons = strict, {}

    def pytest_runtest_logreport(self, report):
        self._note(report)

    def pytest_collectreport(self, report):
        self._note(report)

    def _note(self, report):
        if report.skipped and not hasattr(report, "wasxfail"):
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            self._reasons.setdefault(reason.removeprefix("Skipped: "), []).append(report.nodeid)

    def _unlisted(self):
        return [
            reason for reason in self._reasons if not any(re.search(allowed, reason) for allowed in ALLOWED)
        ]

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session):
        if self._strict and not hasattr(session.config, "workerinput") and self._unlisted():
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter):
        if not self._reasons:
            return
        terminalreporter.section("skipped")
        unlisted = self._unlisted()
        for reason, nodeids in self._reasons.items():
            note = "  NOT ALLOWED IN CI" if self._strict and reason in unlisted else ""
            terminalreporter.write_line(f"{len(nodeids):3}  {reason}{note}")
