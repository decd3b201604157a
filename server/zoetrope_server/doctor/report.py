"""Findings as a table or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from zoetrope_server.doctor.findings import Finding, Level, errors

_STYLES = {Level.OK: "green", Level.NOTE: "cyan", Level.WARNING: "yellow", Level.ERROR: "bold red"}


def show(findings: Sequence[Finding], subject: str, console: Console) -> None:
    """Prints the findings with their advice, and the verdict on the subject as the last line."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        text = Text(finding.found)
        if finding.advice:
            text.append(f"\n-> {finding.advice}", style="bold")
        table.add_row(finding.name, Text(finding.level, style=_STYLES[finding.level]), text)
    console.print(table)
    console.print(verdict(findings, subject), soft_wrap=True, markup=False, highlight=False)


def plain(findings: Sequence[Finding], subject: str) -> str:
    """A line for each error and the verdict: for logs and pods' states, where a table is cut off."""
    lines = [f"{wrong.name}: {wrong.found}; {wrong.advice}" for wrong in errors(findings)]
    return "\n".join([*lines, verdict(findings, subject)])


def to_json(findings: Sequence[Finding]) -> str:
    """The findings as a JSON list."""
    return json.dumps([asdict(finding) for finding in findings], indent=2)


def verdict(findings: Sequence[Finding], subject: str) -> str:
    """One line: whether the subject can be served, and what prevents it."""
    wrong = errors(findings)
    if wrong:
        return f"{subject} cannot be served here: {', '.join(finding.name for finding in wrong)}"
    warned = [finding.name for finding in findings if finding.level is Level.WARNING]
    return f"{subject} can be served here" + (f"; look at: {', '.join(warned)}" if warned else "")
