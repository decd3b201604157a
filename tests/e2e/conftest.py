"""Real servers: the embedded Triton over real sockets."""

from dataclasses import replace

import artifacts
import pytest
from timed_repository import write_timed_repository

from zoetrope_bench.noop_repository import write_noop_repository
from zoetrope_bench.overhead import SVD_XT
from zoetrope_bench.server import serving
from zoetrope_client import Client
from zoetrope_export.architectures import ARCHITECTURES

NOOP = replace(
    SVD_XT, sizes=((64, 96),), num_frames=(6,), decode_chunk_size=4, embedding_dim=8, max_batch_size=4
)
"""The facts of a repository whose stages compute nothing: servers that start in seconds."""


@pytest.fixture(scope="session")
def repository(tmp_path_factory):
    """A repository with the engines of a tiny random checkpoint: OpenVINO, FP32, batches of up to 4."""
    return artifacts.repository(
        artifacts.checkpoint(ARCHITECTURES["tiny"]),
        engine="openvino",
        sizes=((64, 96),),
        frames=(6,),
        chunk=4,
        max_batch=4,
    )


@pytest.fixture(scope="session")
def sized_repository(tmp_path_factory):
    """A repository of ONNX Runtime that serves what lies between two sizes and two frame counts."""
    return artifacts.repository(
        artifacts.checkpoint(ARCHITECTURES["tiny"]),
        engine="onnxruntime",
        sizes=((64, 96), (96, 64)),
        frames=(6, 4),
        trained_size=(64, 96),
    )


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


STEP_SECONDS = 0.05


@pytest.fixture(scope="session")
def timed_repository(tmp_path_factory, noop_manifest):
    """A repository whose denoising step takes `STEP_SECONDS`."""
    path = tmp_path_factory.mktemp("timed") / "repository"
    return write_timed_repository(path, noop_manifest, step_seconds=STEP_SECONDS)


@pytest.fixture(scope="session")
def timed_server(timed_repository, tmp_path_factory):
    """A step takes a known time; two requests run and two wait."""
    log = tmp_path_factory.mktemp("timed-server") / "log"
    with serving(timed_repository, log, "--max-active", "2", "--max-waiting", "2") as running:
        yield running


@pytest.fixture(scope="session")
def single_server(timed_repository, tmp_path_factory):
    """A step takes a known time; one request runs and one waits."""
    log = tmp_path_factory.mktemp("single-server") / "log"
    with serving(timed_repository, log, "--max-active", "1", "--max-waiting", "1") as running:
        yield running


@pytest.fixture(scope="session")
def roomy_server(noop_repository, tmp_path_factory):
    """Stages that compute nothing, and room for many requests."""
    log = tmp_path_factory.mktemp("roomy-server") / "log"
    with serving(noop_repository, log, "--max-active", "8", "--max-waiting", "64") as running:
        yield running


@pytest.fixture(scope="session")
def sized_server(sized_repository, tmp_path_factory):
    """A server of what lies between two sizes and two frame counts."""
    with serving(sized_repository, tmp_path_factory.mktemp("sized-server") / "log") as running:
        yield running
