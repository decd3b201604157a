"""The process watch over a real parent with children named like stubs."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from zoetrope_server.launcher.watch import ProcessWatch

# Reaps nothing, as tritonserver does not.
PARENT = """
import subprocess, sys, time
for model in ("unet", "vae_decoder"):
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", f"/models/{model}/1/model.py"])
print("up", flush=True)
time.sleep(60)
"""


@pytest.fixture
def parent():
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    with process:
        process.stdout.readline()
        yield process
        os.killpg(process.pid, signal.SIGKILL)


def test_all_live(parent):
    with ProcessWatch(parent.pid) as watch:
        assert sorted(process.name for process in watch.processes) == ["tritonserver", "unet", "vae_decoder"]
        assert watch.first_dead() is None
        began = time.monotonic()
        assert watch.first_dead(0.2) is None
        assert time.monotonic() - began >= 0.19


def test_a_dead_stage_is_seen_at_once_and_named(parent):
    with ProcessWatch(parent.pid) as watch:
        victim = next(process for process in watch.processes if process.name == "unet")
        os.kill(victim.pid, signal.SIGKILL)
        began = time.monotonic()
        dead = watch.first_dead(5)
        assert time.monotonic() - began < 1
        assert dead == victim
        assert str(dead) == f"stage process unet (pid {victim.pid})"
        assert not dead.is_triton
        assert watch.first_dead() == victim


def test_tritonserver_comes_first(parent):
    with ProcessWatch(parent.pid) as watch:
        for process in watch.processes:
            os.kill(process.pid, signal.SIGKILL)
        parent.wait()
        dead = watch.first_dead(5)
        assert dead.is_triton
        assert str(dead) == f"tritonserver (pid {parent.pid})"


def test_a_stage_that_died_before_the_watch_is_seen(parent):
    child = psutil.Process(parent.pid).children()[0]
    child.kill()
    with ProcessWatch(parent.pid) as watch:
        assert watch.first_dead(5).pid == child.pid


def test_a_triton_that_is_already_gone(parent):
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    )
    with ProcessWatch(int(gone.stdout)) as watch:
        assert watch.first_dead().is_triton


def test_no_descriptor_is_left_open(parent):
    before = psutil.Process().num_fds()
    with ProcessWatch(parent.pid):
        assert psutil.Process().num_fds() == before + 3
    assert psutil.Process().num_fds() == before
