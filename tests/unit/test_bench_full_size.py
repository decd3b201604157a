"""The benchmark of full-size builds: what it refuses, and processes that do not come back."""

import os
from concurrent.futures.process import BrokenProcessPool

import pytest
import typer
from typer.testing import CliRunner

pytest.importorskip("torch")

from zoetrope_bench.full_size import full_size, in_own_process  # noqa: E402

app = typer.Typer()
app.command()(full_size)


@pytest.mark.parametrize(
    ("options", "message"),
    [(("--stage", "magic"), "magic: one of image_encoder"), (("--like", "huge"), "huge: one of svd, svd-xt")],
)
def test_what_it_does_not_know_is_refused_before_anything_is_written(options, message, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_is_none_is_said_in_one_line(tmp_path):
    result = CliRunner().invoke(app, ["--checkpoint", str(tmp_path), "--stage", "unet"])
    assert result.exit_code == 1
    assert "is no diffusers checkpoint" in " ".join(result.output.split())


def test_a_process_that_is_killed_ends_the_run():
    """As the kernel does when memory runs out."""
    with pytest.raises(BrokenProcessPool):
        in_own_process(os._exit, 9)
