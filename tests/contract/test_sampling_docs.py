"""docs/sampling.md shows what was measured, and names what there is."""

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")

from zoetrope_bench import samplers  # noqa: E402
from zoetrope_core.sampling import SAMPLERS  # noqa: E402

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "sampling.md").read_text()


def rows(name):
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())["details"]["rows"]


def test_the_table_of_samplers_is_what_was_measured():
    measured = [samplers.line(row) for row in rows("samplers")]
    assert measured == re.findall(r"^\| (?:euler|heun|dpmpp).*$", PAGE, re.MULTILINE)
    assert [row["request"] for row in rows("samplers")] == list(samplers.REQUESTS)


def test_the_table_of_batches_is_what_was_measured():
    for row in rows("batching"):
        gains = " | ".join(f"{gain:.2f}x" for gain in row["gains"].values())
        assert f"| {row['size']} | {gains} | {row['largest_worthwhile']} |" in PAGE


def test_every_sampler_is_described():
    assert re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE) == ["sampler", *SAMPLERS]
