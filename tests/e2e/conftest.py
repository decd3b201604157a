"""Real servers: the embedded Triton over real sockets."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from zoetrope_bench.noop_repository import write_noop_repository
from zoetrope_bench.overhead import SVD_XT
from zoetrope_bench.server import serving
from zoetrope_client import Client

NOOP = replace(
    SVD_XT, sizes=((64, 96),), num_frames=(6,), decode_chunk_size=4, embedding_dim=8, max_batch_size=4
)
"""The facts of a repository whose stages compute nothing: servers that start in seconds."""


@pytest.fixture(scope="session")
def repository(tmp_path_factory):
    """A repository with the engines of a tiny random checkpoint: OpenVINO, FP32, batches of up to 4.

    ZOETROPE_TEST_REPOSITORY names one that was exported before, which saves the export.
    """
    if given := os.environ.get("ZOETROPE_TEST_REPOSITORY"):
        return Path(given)
    folder = tmp_path_factory.mktemp("tiny")
    checkpoint, target = str(folder / "checkpoint"), folder / "repository"
    zoetrope("checkpoint", "random", "--like", "tiny", "--out", checkpoint)
    shape = ("--size", "64x96", "--frames", "6", "--decode-chunk", "4", "--max-batch", "4")
    zoetrope(
        "export", checkpoint, "--engine", "openvino", "--precision", "fp32", *shape, "--out", str(target)
    )
    return target


@pytest.fixture(scope="session")
def sized_repository(tmp_path_factory):
    """A repository of ONNX Runtime that serves what lies between two sizes and two frame counts."""
    folder = tmp_path_factory.mktemp("sizes")
    checkpoint, target = str(folder / "checkpoint"), folder / "repository"
    zoetrope("checkpoint", "random", "--like", "tiny", "--out", checkpoint)
    shapes = ("--size", "64x96", "--size", "96x64", "--frames", "6", "--frames", "4")
    trained = ("--trained-size", "64x96", "--out", str(target))
    zoetrope("export", checkpoint, "--engine", "onnxruntime", *shapes, *trained)
    return target


def zoetrope(*arguments):
    """Runs a `zoetrope` command as a user does."""
    command = [str(Path(sys.executable).parent / "zoetrope"), *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert ran.returncode == 0, ran.stderr[-3000:]


@pytest.fixture(scope="session")
def server(repository, tmp_path_factory):
    """A server of that repository."""
    with serving(repository, tmp_path_factory.mktemp("server") / "log") as running:
        yield running


@pytest.fixture
def client(server):
    """A client of that server."""
    with Client(server.url) as connected:
        yield connected


@pytest.fixture(scope="session")
def noop_repository(tmp_path_factory):
    """A repository whose stages compute nothing."""
    return write_noop_repository(tmp_path_factory.mktemp("noop") / "repository", NOOP)


@pytest.fixture(scope="session")
def noop_manifest():
    """The facts of a repository whose stages compute nothing, for tests that write their own."""
    return NOOP
