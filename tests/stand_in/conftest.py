"""The stand-in for a GPU: within this process, and for Triton's processes."""

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
def exported(tmp_path_factory):
    """A repository by `zoetrope export --engine tensorrt` of a small checkpoint, and what it printed.

    ZOETROPE_STAND_IN_REPOSITORY names one that was exported before, which saves the export.
    """
    if given := os.environ.get("ZOETROPE_STAND_IN_REPOSITORY"):
        return Path(given), ""
    import typer
    from small_checkpoints import SMALLEST
    from typer.testing import CliRunner

    from zoetrope_export import commands
    from zoetrope_export.random_checkpoint import write_random_checkpoint

    app = typer.Typer()
    app.command()(commands.export)
    folder = tmp_path_factory.mktemp("tensorrt")
    write_random_checkpoint(replace(SMALLEST, num_frames=5), folder / "checkpoint")
    words = [folder / "checkpoint", "--engine", "tensorrt", "--precision", "fp16", "--decode-chunk", "3"]
    words += ["--size", SIZES[0], "--size", SIZES[1], "--max-batch", "2"]
    words += ["--cache", folder / "cache", "--out", folder / "repository"]
    forget()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(MODULES)
        result = CliRunner().invoke(app, [str(word) for word in words])
    forget()
    assert result.exit_code == 0, result.output
    return folder / "repository", result.output
