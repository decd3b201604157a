"""Pages in /dev/shm and the undertaker, with a folder of the test's own and real processes."""

import os
import signal
import subprocess
import sys
import time

import pytest
from waiting import wait_until

from zoetrope_server.launcher.errors import LaunchError
from zoetrope_server.launcher.shm import ShmClaim, sweep
from zoetrope_server.launcher.undertaker import Undertaker, kill_group

HOLDER = """
import sys, time, pathlib
from zoetrope_server.launcher.errors import LaunchError
from zoetrope_server.launcher.shm import ShmClaim
claim = ShmClaim(pathlib.Path(sys.argv[1]))
pathlib.Path(sys.argv[1], claim.prefix + "page").touch()
print(claim.prefix, flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds a claim with one page."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    with process:
        process.prefix = process.stdout.readline().strip()
        yield process
        process.kill()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_claim_leaves_nothing(tmp_path):
    (tmp_path / "foreign").touch()
    claim = ShmClaim(tmp_path)
    (tmp_path / (claim.prefix + "a")).touch()
    (tmp_path / (claim.prefix + "b")).touch()
    assert claim.clear() == 2
    assert names(tmp_path) == sorted(["foreign", claim.lock_path.name])
    (tmp_path / (claim.prefix + "c")).touch()
    claim.release()
    claim.release()
    assert names(tmp_path) == ["foreign"]


def test_claims_differ(tmp_path):
    first, second = ShmClaim(tmp_path), ShmClaim(tmp_path)
    assert first.prefix != second.prefix
    first.release()
    second.release()


def test_the_living_are_left_alone_and_the_dead_are_swept(tmp_path, holder):
    assert sweep(tmp_path) == []
    assert holder.prefix + "page" in names(tmp_path)
    holder.kill()
    holder.wait()
    assert sweep(tmp_path) == [holder.prefix]
    assert names(tmp_path) == []


def test_a_lock_that_somebody_else_made_up_removes_nothing(tmp_path, holder):
    """Anybody may make files in /dev/shm: with wildcards in their names, as links, as pipes."""
    claim = ShmClaim(tmp_path)
    (tmp_path / (claim.prefix + "page")).touch()
    foreign = [
        "zoetrope-*-.lock",
        "zoetrope-[0-9a-f]*-.lock",
        "triton_python_backend_shm_region_zoetrope-*-.lock",
    ]
    for name in [*foreign, "zoetrope-.lock", "zoetrope-0123456789ab-.lock.lock"]:
        (tmp_path / name).touch(0o666)
    (tmp_path / "victim").touch()
    (tmp_path / "zoetrope-0123456789ab-.lock").symlink_to(tmp_path / "victim")
    os.mkfifo(tmp_path / "zoetrope-0123456789ac-.lock")
    before = names(tmp_path)
    assert sweep(tmp_path) == []
    assert names(tmp_path) == before
    claim.release()
    assert holder.prefix + "page" in names(tmp_path)


def test_a_lock_of_another_user_is_left_alone(tmp_path, monkeypatch):
    (tmp_path / "zoetrope-0123456789ab-.lock").touch()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert sweep(tmp_path) == []
    monkeypatch.undo()
    assert sweep(tmp_path) == ["zoetrope-0123456789ab-"], "the release before named them so"


def test_names_begin_as_those_that_triton_guards(tmp_path):
    claim = ShmClaim(tmp_path)
    assert claim.prefix.startswith("triton_python_backend_shm_region_zoetrope-")
    claim.release()


def test_a_folder_that_cannot_be_written(tmp_path):
    with pytest.raises(LaunchError, match="needs to write .*/missing"):
        ShmClaim(tmp_path / "missing")


def test_a_new_claim_sweeps(tmp_path, holder):
    holder.kill()
    holder.wait()
    claim = ShmClaim(tmp_path)
    assert names(tmp_path) == [claim.lock_path.name]
    claim.release()


def sleeper():
    return subprocess.Popen(["sleep", "60"], start_new_session=True)


def test_the_undertaker_buries_a_killed_server(tmp_path, holder):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "control.sock").touch()
    with sleeper() as triton:
        undertaker = Undertaker(tmp_path / f"{holder.prefix}.lock", triton.pid, tmp_path / "run")
        time.sleep(0.3)
        assert triton.poll() is None
        holder.kill()
        assert triton.wait(10) == -signal.SIGKILL
        wait_until(lambda: names(tmp_path) == [])
        undertaker.dismiss()


def test_a_dismissed_undertaker_buries_nobody(tmp_path, holder):
    with sleeper() as triton:
        undertaker = Undertaker(tmp_path / f"{holder.prefix}.lock", triton.pid, tmp_path / "run")
        undertaker.dismiss()
        holder.kill()
        holder.wait()
        time.sleep(0.2)
        assert triton.poll() is None
        assert f"{holder.prefix}.lock" in names(tmp_path)
        triton.kill()


def test_an_undertaker_without_a_lock_file_still_kills(tmp_path):
    with sleeper() as triton:
        undertaker = Undertaker(tmp_path / "gone.lock", triton.pid, tmp_path / "run")
        assert triton.wait(10) == -signal.SIGKILL
        undertaker.dismiss()


def test_kill_group_reaps_its_own_children():
    process = sleeper()
    group = process.pid
    assert kill_group(group, patience_s=5)
    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)
    process.returncode = -signal.SIGKILL  # reaped by kill_group
