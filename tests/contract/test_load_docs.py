"""docs/load-testing.md: its table holds the figures of the kept result, its sample sizes are the code's."""

import json
import re
import statistics
from pathlib import Path

from zoetrope_bench.load.slo import name
from zoetrope_bench.load.statistics import LEVELS, needed

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "load-testing.md").read_text()
FIELDS = ("per_s", "mean", "p50", "p95", "first", "last")


def test_the_tools_are_compared_by_the_kept_result():
    kept = json.loads((ROOT / "benchmarks" / "results" / "tools.json").read_text())["details"]["by round"]
    rows = dict(re.findall(r"^\| ((?:open|closed), [^|]+?) \| (.+) \|$", PAGE, re.MULTILINE))
    assert rows.keys() == kept.keys()
    for title, rounds in kept.items():
        medians = []
        for field in FIELDS:
            values = [outcome[field] for outcome in rounds if outcome[field] is not None]
            medians.append(f"{statistics.median(values):.3f}" if values else "-")
        assert rows[title].split(" | ") == medians, title


def test_the_sample_sizes_are_those_of_the_intervals():
    rows = dict(re.findall(r"^\| (p\d+) \| (\d+) \|", PAGE, re.MULTILINE))
    assert rows == {name(level): str(needed(level)) for level in LEVELS}
