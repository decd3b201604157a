"""docs/engines.md speaks of the engines and options that exist."""

import re
from pathlib import Path

import pytest
import typer

commands = pytest.importorskip("zoetrope_export.commands")

from zoetrope_server.engines import ENGINES  # noqa: E402

PAGE = (Path(__file__).parents[2] / "docs" / "engines.md").read_text()


def options(function):
    app = typer.Typer()
    app.command()(function)
    return {
        name for each in typer.main.get_command(app).params for name in (*each.opts, *each.secondary_opts)
    }


def test_options_exist():
    known = options(commands.export) | options(commands.random)
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE))
    assert {"--profile", "--compute-capability", "--workspace", "--cache", "--force", "--host"} <= named
    assert named <= known


def test_all_engines_are_in_the_table():
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| ([^|]*) \|", PAGE, re.MULTILINE))
    precisions = {name: tuple(re.findall(r"`(\w+)`", text)) for name, text in rows.items() if name in ENGINES}
    assert {name: set(kinds) for name, kinds in precisions.items()} == {
        name: set(kinds) for name, kinds in ENGINES.items()
    }
