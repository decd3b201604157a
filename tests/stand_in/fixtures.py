"""Fixtures of the stand-in for a GPU: import the names that a test file uses."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from stand_in.repositories import MODULES

OURS = ("stand_in_device", "tensorrt", "cuda")
SIZES = ("16x24", "24x16")


def forget():
    """Lets the next import find another GPU."""
    for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
        del sys.modules[name]


@pytest.fixture
def stand_in(monkeypatch):
    """A fresh GPU in this process; the value is the device."""
    forget()
    monkeypatch.syspath_prepend(MODULES)
    import stand_in_device

    yield stand_in_device.device
    forget()


@pytest.fixture(scope="session")
def exported():
    """A repository by `zoetrope export --engine tensorrt` of a small checkpoint, kept in the tests' store.

    ZOETROPE_STAND_IN_REPOSITORY names one that was exported before.
    """
    if given := os.environ.get("ZOETROPE_STAND_IN_REPOSITORY"):
        return Path(given)
    import artifacts
    import typer
    from small_checkpoints import SMALLEST
    from typer.testing import CliRunner

    from zoetrope_export import commands

    app = typer.Typer()
    app.command()(commands.export)
    one_level = replace(SMALLEST, num_frames=5, unet_channels=(64,), unet_heads=(2,))
    words = [artifacts.checkpoint(one_level), "--engine", "tensorrt", "--precision", "fp16"]
    words += ["--size", SIZES[0], "--size", SIZES[1], "--decode-chunk", "3", "--max-batch", "2"]

    def export(*more):
        result = CliRunner().invoke(app, [str(word) for word in (*words, *more)])
        assert result.exit_code == 0, result.output
        return result.output

    forget()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(MODULES)
        key = export("--out", artifacts.store() / "unused", "--print-key").split()[-1]
        made = artifacts.stored(
            f"stand-in-{key}", lambda path: export("--out", path, "--cache", path.with_name("cache"))
        )
    forget()
    return made
