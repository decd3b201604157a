"""docs/engines.md speaks of the engines and options that exist."""

import json
import re
from pathlib import Path

import pytest
import typer

commands = pytest.importorskip("zoetrope_export.commands")

from zoetrope_bench.stage_report import lines  # noqa: E402
from zoetrope_bench.stages import stages  # noqa: E402
from zoetrope_core.specs import STAGES  # noqa: E402
from zoetrope_server.engines import ENGINES  # noqa: E402

ROOT = Path(__file__).parents[2]
PAGE = (Path(__file__).parents[2] / "docs" / "engines.md").read_text()


def options(function):
    app = typer.Typer()
    app.command()(function)
    return {
        name for each in typer.main.get_command(app).params for name in (*each.opts, *each.secondary_opts)
    }


def test_options_exist():
    known = options(commands.export) | options(commands.random) | options(stages)
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", PAGE))
    assert {"--profile", "--compute-capability", "--workspace", "--cache", "--force", "--host"} <= named
    assert named <= known


def test_all_engines_are_in_the_table():
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| ([^|]*) \|", PAGE, re.MULTILINE))
    precisions = {name: tuple(re.findall(r"`(\w+)`", text)) for name, text in rows.items() if name in ENGINES}
    assert {name: set(kinds) for name, kinds in precisions.items()} == {
        name: set(kinds) for name, kinds in ENGINES.items()
    }


def test_the_table_of_stages_is_what_was_measured():
    saved = json.loads((ROOT / "benchmarks" / "results" / "stages.json").read_text())
    rows = lines(saved["details"]["rows"])
    assert len(rows) == 12 and rows == re.findall(r"^\| (?:image|vae|unet)\w* \|.*$", PAGE, re.MULTILINE)
    for precision, rate in saved["details"]["peak_tflops"].items():
        assert f"{precision} {rate:.3g} TFLOP/s" in PAGE


def test_the_table_of_the_full_size_is_what_was_measured():
    saved = json.loads((ROOT / "benchmarks" / "results" / "full_size.json").read_text())
    assert list(saved["details"]) == list(STAGES)
    for name, each in saved["details"].items():
        seconds = " | ".join(f"{each[key]:.1f}" for key in ("load_s", "export_s", "build_s", "build_gib"))
        assert f"| {name}, full size | {seconds} | {each['engine_gib']:.2f} |" in PAGE


def test_the_table_of_optimization_levels_is_what_was_measured():
    saved = json.loads((ROOT / "benchmarks" / "results" / "build_levels.json").read_text())
    for each in saved["details"]["levels"]:
        row = f"| level {each['level']} | {each['seconds']:.1f} | {each['peak_mib']:.0f} |"
        assert f"{row} {each['engine_mib']:.1f} |" in PAGE
