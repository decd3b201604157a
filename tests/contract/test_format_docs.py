"""docs/formats.md shows the formats that exist and the figures that were measured."""

import json
import re
from pathlib import Path

import pytest

from zoetrope_core.formats import FORMATS

formats = pytest.importorskip("zoetrope_bench.formats")

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "formats.md").read_text()


def test_all_formats_and_codecs_are_in_the_table():
    rows = re.findall(r"^\| `(\w+)` \| (?:`(\w+)`)?[^|]*\| (\.[.\w]+)[^|]*\| (yes|no) \|", PAGE, re.MULTILINE)
    assert rows == [
        (name, codec, row.suffixes[0], "yes" if row.streams else "no")
        for name, row in FORMATS.items()
        for codec in row.codecs or ("",)
    ]


def test_the_figures_are_those_of_the_report():
    report = json.loads((ROOT / "benchmarks" / "results" / "formats.json").read_text())
    shown = re.search(r"<!-- formats -->\n(.*?)\n<!-- /formats -->", PAGE, re.DOTALL)
    assert shown[1] == formats.table(report["details"]["rows"])
    measured = {(row["format"], row["codec"]) for row in report["details"]["rows"]}
    assert measured == {(name, codec) for name, row in FORMATS.items() for codec in row.codecs or (None,)}
