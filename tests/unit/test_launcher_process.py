"""TritonProcess over small scripts that stand in for tritonserver."""

import io
import os
import resource
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest
from waiting import wait_until

from zoetrope_server.launcher.errors import LaunchError
from zoetrope_server.launcher.ports import choose_ports
from zoetrope_server.launcher.process import (
    TritonProcess,
    adopt_orphans,
    failure_reason,
    raise_open_files,
)
from zoetrope_server.launcher.readiness import accepts
from zoetrope_server.launcher.scratch import ScratchDirs

READY = """
import socket, sys, time
held = socket.create_server(("127.0.0.1", int(sys.argv[1])))
time.sleep(60)
"""
STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
PARENT = "import subprocess, time; subprocess.Popen(['sleep', '60']); print('up', flush=True); time.sleep(60)"


@pytest.fixture
def start(tmp_path):
    """Starts a Python script as if it were tritonserver."""
    started = []
    port = choose_ports("127.0.0.1", {"grpc": 0})["grpc"]

    def start(script, log=None):
        command = [sys.executable, "-c", script, str(port), str(tmp_path)]
        ready = partial(accepts, "127.0.0.1", port)
        started.append(TritonProcess(command, os.environ, ready, log or io.BytesIO()))
        return started[-1]

    yield start
    for process in started:
        process.kill()


def test_ready_then_stopped(start):
    triton = start(READY)
    assert triton.wait_ready(20)
    assert triton.is_ready()
    triton.stop(10)
    assert triton.exit_code() is not None
    assert not triton.is_ready()


def test_a_death_before_readiness_is_told_at_once(start):
    triton = start("import sys; print('error: creating server: Internal - no models'); sys.exit(3)")
    began = time.monotonic()
    with pytest.raises(LaunchError, match="ended with code 3 .*: error: creating server: Internal") as caught:
        triton.wait_ready(60)
    assert time.monotonic() - began < 10
    assert caught.value.details["exit_code"] == 3
    assert caught.value.details["log"] == ["error: creating server: Internal - no models"]


def test_a_silent_server_is_given_up(start):
    triton = start("print('loading', flush=True); import time; time.sleep(60)")
    wait_until(triton.log_tail)
    with pytest.raises(LaunchError, match=r"not ready after 0.3 s") as caught:
        triton.wait_ready(0.3)
    assert caught.value.details["log"] == ["loading"]


def test_the_wait_can_be_interrupted(start):
    assert start("import time; time.sleep(60)").wait_ready(60, lambda: True) is False


def test_a_binary_that_is_not_there():
    with pytest.raises(LaunchError, match="cannot execute /nowhere/tritonserver"):
        TritonProcess(["/nowhere/tritonserver"], {}, lambda: False)


def test_an_orderly_exit_is_told_from_a_kill(start):
    polite = start(
        "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(0)); print('up', flush=True)\n"
        "time.sleep(60)"
    )
    wait_until(polite.log_tail)
    assert polite.stop(10) is True
    stubborn = start(STUBBORN)
    wait_until(stubborn.log_tail)
    assert stubborn.stop(0.2) is False
    assert stubborn.exit_code() == -9


def test_a_stop_can_be_cut_short(start):
    triton = start(STUBBORN)
    wait_until(triton.log_tail)
    began = time.monotonic()
    assert triton.stop(60, lambda: True) is False
    assert time.monotonic() - began < 5


def test_a_kill_takes_the_whole_group_and_may_be_repeated(start):
    adopt_orphans()
    triton = start(PARENT)
    wait_until(triton.log_tail)
    (child,) = psutil.Process(triton.pid).children()
    triton.kill()
    assert not child.is_running()
    triton.kill()


def test_the_log_is_forwarded_and_only_its_end_is_kept(start):
    log = io.BytesIO()
    triton = start("for i in range(1000): print('line', i)", log)
    wait_until(lambda: triton.exit_code() is not None)
    triton.kill()
    assert log.getvalue().count(b"\n") == 1000
    assert triton.log_tail(2) == ["line 998", "line 999"]
    assert len(triton.log_tail(10_000)) == 200


def test_a_closed_log_does_not_block_triton(start):
    log = io.BytesIO()
    log.close()
    triton = start("print('x' * 1_000_000)", log)
    wait_until(lambda: triton.exit_code() is not None)


def test_a_long_line_is_cut(start):
    log = io.BytesIO()
    triton = start("print('x' * 1_000_000); print('after')", log)
    wait_until(lambda: triton.exit_code() is not None)
    triton.kill()
    long, after = log.getvalue().splitlines()
    assert len(long) < 20_000 and long.endswith(b"bytes more)") and after == b"after"
    assert max(map(len, triton.log_tail())) <= 1024


PAGES = """
import os, sys, pathlib
for name, mode in (("plain", None), ("page", 0o644), ("program", 0o755)):
    descriptor = os.open(os.path.join(sys.argv[2], name), os.O_CREAT | os.O_RDWR, 0o644)
    if mode is not None:
        os.fchmod(descriptor, mode)
"""


def test_what_triton_writes_is_for_its_user_alone(start, tmp_path):
    """Its backend makes pages as the second of these."""
    triton = start(PAGES)
    wait_until(lambda: triton.exit_code() == 0)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"plain": 0o600, "page": 0o600, "program": 0o755}


SCRATCH = "import tempfile, time; print(tempfile.mkdtemp(prefix='python_env_', dir='/tmp'), flush=True)\n"


def test_the_scratch_directory_of_a_killed_triton_is_removed(start):
    triton = start(SCRATCH + "time.sleep(60)")
    wait_until(triton.log_tail)
    (path,) = triton.log_tail()
    assert Path(path).is_dir()
    triton.kill()
    assert not Path(path).exists()


def test_scratch_directories_of_others_and_full_ones_stay(tmp_path):
    (tmp_path / "python_env_before").mkdir()
    scratch = ScratchDirs(tmp_path)
    for name in ("python_env_full", "python_env_empty", "else"):
        (tmp_path / name).mkdir()
    (tmp_path / "python_env_full" / "file").touch()
    (tmp_path / "python_env_link").symlink_to(tmp_path / "else")
    scratch.note()
    (tmp_path / "python_env_later").mkdir()
    scratch.remove()
    left = {path.name.removeprefix("python_env_") for path in tmp_path.iterdir()}
    assert left == {"before", "full", "later", "link", "else"}
    ScratchDirs(tmp_path / "missing").remove()


def test_open_files_are_raised_to_the_hard_limit():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        assert raise_open_files() == (256, before[1])
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([], "it said nothing"),
        (["", "first", "last", ""], "last"),
        (
            [
                'E1121 02:15:06.132443 12654 server.cc:241] "CudaDriverHelper has not been initialized."',
                "E1121 02:15 12 x.cc:6] \"failed to load 'unet' version 1: Internal: boom\\n\\nAt:\\n  x\"",
                "error: creating server: Internal - failed to load all models",
            ],
            "failed to load 'unet' version 1: Internal: boom At: x",
        ),
        (
            [
                'E1121 02:15:06.132443 12654 server.cc:241] "CudaDriverHelper has not been initialized."',
                'E1121 02:15:06.4 12 main.cc:1] "failed to start GRPC service: Unavailable - address in use"',
            ],
            "failed to start GRPC service: Unavailable - address in use",
        ),
    ],
)
def test_failure_reason(lines, reason):
    assert failure_reason(lines) == reason
