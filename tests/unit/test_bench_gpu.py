"""`make gpu`: its parts, their time, and what they write."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from zoetrope_bench.gpu import environment, record, run, wheels
from zoetrope_bench.gpu.parts import BUDGET_S, PARTS, file_name, limit_s

ROOT = Path(__file__).parents[2]


def written(folder, part):
    return json.loads((folder / file_name(part)).read_text())


def kept(tmp_path, limit_s=60.0):
    return record.Record(tmp_path / "part.json", {"part": "x"}, limit_s=limit_s)


def body_of(tmp_path):
    return json.loads((tmp_path / "part.json").read_text())


def test_all_parts_together_take_six_minutes_and_none_starves():
    assert BUDGET_S == 360
    left, spent, letters = BUDGET_S, 0.0, list(PARTS)
    for number, letter in enumerate(letters):
        allowed = limit_s(letter, letters[number + 1 :], left)
        assert allowed == pytest.approx(PARTS[letter].limit_s)
        left, spent = left - allowed, spent + allowed
    assert spent == pytest.approx(BUDGET_S)
    assert limit_s("g", [], 200.0) == 200.0, "what the parts before it have left is for the last"


def test_a_part_writes_what_it_found_as_it_goes(tmp_path):
    seen = []

    def first():
        part.add("time", 1.23456789, "ms")
        part.check("is right", True, 0.01)
        seen.append(body_of(tmp_path))

    part = kept(tmp_path)
    assert part.run([("first", first), ("second", lambda: None)], lambda: False)
    assert seen[0]["figures"] == [{"step": "first", "name": "time", "measured": 1.2346, "unit": "ms"}]
    assert [entry["status"] for entry in seen[0]["steps"]] == ["running", "not run"]
    body = body_of(tmp_path)
    assert body["status"] == "done" and [entry["status"] for entry in body["steps"]] == ["done", "done"]


def fail():
    raise RuntimeError("CUDA error: out of memory")


def test_an_error_ends_its_step_alone_and_a_lost_device_all(tmp_path):
    for lost, expected in ((False, ["failed", "done"]), (True, ["failed", "not run"])):
        part = kept(tmp_path)
        assert not part.run([("first", fail), ("second", lambda: None)], lambda lost=lost: lost)
        steps = body_of(tmp_path)["steps"]
        assert [entry["status"] for entry in steps] == expected
        assert "out of memory" in steps[0]["error"]
    assert steps[1]["reason"] == "the device was lost in first"


def test_a_check_that_fails_fails_the_part(tmp_path):
    part = kept(tmp_path)
    assert not part.run([("first", lambda: part.check("is right", False, 7))], lambda: False)
    assert body_of(tmp_path)["status"] == "failed"


def test_steps_for_which_no_time_is_left_are_said_to_have_not_run(tmp_path):
    def over():
        raise record.OutOfTime("over")

    for steps in ([("first", over), ("second", lambda: None)], [("first", lambda: None)]):
        part = kept(tmp_path, limit_s=60.0 if len(steps) > 1 else 0.0)
        assert not part.run(steps, lambda: False)
        assert body_of(tmp_path)["steps"][-1] == {
            "name": steps[-1][0], "status": "not run", "reason": "the time is over"
        }  # fmt: skip


SLEEPER = """
import signal
import sys
import time
from pathlib import Path

from zoetrope_bench.gpu import record

signal.signal(signal.SIGALRM, signal.SIG_IGN)
part = record.Record(Path(sys.argv[1]), {}, limit_s=60.0)
part.run([("compile", lambda: time.sleep(60)), ("measure", lambda: None)], lambda: False)
"""


def test_a_part_that_does_not_end_is_killed_and_its_file_completed(tmp_path, monkeypatch):
    """Some libraries sleep through a signal."""
    file = tmp_path / file_name("a")
    script = tmp_path / "python"
    source = tmp_path / "sleeper.py"
    source.write_text(SLEEPER)
    script.write_text(f"#!/bin/sh\nexec {sys.executable} {source} {file}\n")
    script.chmod(0o700)
    monkeypatch.setattr(run, "_GRACE_S", 0.0)
    monkeypatch.setattr(run.environment, "prepare", lambda scratch, wheels: (script, {}))
    began = time.monotonic()
    assert run.main(["--parts", "a", "--out", str(tmp_path), "--budget-s", "3"]) == 1
    assert time.monotonic() - began < 20
    body = written(tmp_path, "a")
    assert body["status"] == "failed" and "killed after 3 s" in body["error"]
    assert [entry["status"] for entry in body["steps"]] == ["failed", "not run"]


def test_a_part_whose_process_dies_is_a_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(run.environment, "prepare", lambda scratch, wheels: (Path("/bin/false"), {}))
    assert run.main(["--parts", "d", "--out", str(tmp_path)]) == 1
    assert "ended with code 1" in written(tmp_path, "d")["error"]


@pytest.mark.parametrize("letters", ["z", "a,z", ""])
def test_unknown_parts_are_refused(letters, tmp_path):
    with pytest.raises(SystemExit):
        run.main(["--parts", letters, "--out", str(tmp_path)])


def test_the_wheels_come_in_packs_that_can_be_carried():
    needed = {letter for pack in wheels.packs().values() for letter in pack["parts"].split()}
    assert needed <= set(PARTS)
    for pack in wheels.packs().values():
        assert sum(each["bytes"] for each in pack["wheels"]) <= wheels.MOST_BYTES
    command = wheels.fetch_command(["diffusers==0.42.1"], Path("out"))
    assert command[-1] == "diffusers==0.42.1" and "--no-deps" in command and "3.12" in command


def test_an_environment_has_the_source_tree_and_all_that_the_machine_has(tmp_path):
    python, variables = environment.prepare(tmp_path, tmp_path / "no wheels")
    code = "import numpy, zoetrope_bench, sys; print(zoetrope_bench.__file__, sys.prefix)"
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [python, "-c", code], capture_output=True, text=True, env=clean | variables, cwd="/", check=True
    )
    file, prefix = done.stdout.split()
    assert Path(file).is_relative_to(ROOT) and Path(prefix) == tmp_path / "environment"
