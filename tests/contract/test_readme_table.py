"""The README's table of speed is what was measured."""

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

from zoetrope_bench.readme_table import section  # noqa: E402

ROOT = Path(__file__).parents[2]


def test_the_table_is_written_from_the_report():
    report = json.loads((ROOT / "benchmarks" / "results" / "side_by_side.json").read_text())
    text = (ROOT / "README.md").read_text()
    _, _, rest = text.partition("<!-- side-by-side -->\n")
    written, _, _ = rest.partition("<!-- /side-by-side -->")
    assert written == section(report)
