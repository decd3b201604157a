"""`make gpu` rehearsed on the CPU at toy sizes: on a GPU the only new thing is the GPU."""

import json
from pathlib import Path

import pytest

from zoetrope_bench.gpu import run
from zoetrope_bench.gpu.parts import PARTS, file_name

pytestmark = pytest.mark.e2e
STAND_IN = Path(__file__).parents[1] / "stand_in" / "modules"


def rehearse(parts, out, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(STAND_IN))
    code = run.main(["--toy", "--parts", parts, "--out", str(out), "--budget-s", "1200"])
    bodies = [json.loads((out / file_name(letter)).read_text()) for letter in parts.split(",")]
    said = [
        (body["part"], entry) for body in bodies for entry in body["steps"] + body["checks"]
        if entry.get("status", "done") != "done" or not entry.get("passed", True)
    ]  # fmt: skip
    assert (code, said) == (0, [])
    return bodies


def test_the_cuda_calls_are_rehearsed_without_a_gpu(tmp_path, monkeypatch):
    bodies = rehearse("b", tmp_path, monkeypatch)
    assert all(body["toy"] and not body["details"]["paths"] for body in bodies), "no claim of a GPU"


@pytest.mark.full
@pytest.mark.timeout(1500)
def test_the_whole_run_is_rehearsed_without_a_gpu(tmp_path, monkeypatch):
    rehearse(",".join(PARTS), tmp_path, monkeypatch)
