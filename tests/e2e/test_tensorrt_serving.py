"""TensorRT engines in the real Triton, on the stand-in: videos through gRPC, and what goes wrong."""

import io
import os
from concurrent.futures import ThreadPoolExecutor

import av
import pytest
from evidence import ran
from fakes import png
from stand_in import fixtures
from stand_in.repositories import on_stand_in

pytest.importorskip("torch")
pytest.importorskip("tensorrt_rtx")

from zoetrope_bench.server import ServerFailed, serving  # noqa: E402
from zoetrope_client import Client  # noqa: E402
from zoetrope_core.errors import StageFailed  # noqa: E402
from zoetrope_core.specs import STAGES  # noqa: E402

exported = fixtures.exported

pytestmark = pytest.mark.e2e
ASKED = {"num_inference_steps": 2, "seed": 3, "format": "gif"}


@pytest.fixture(scope="module")
def warm(exported, tmp_path_factory):
    """A server that has warmed up all shapes."""
    folder = tmp_path_factory.mktemp("serving")
    repository = on_stand_in(exported, folder / "repository")
    with serving(repository, folder / "log") as running:
        yield running


@pytest.fixture
def client(warm):
    with Client(warm.url) as connected:
        yield connected


def frames(video):
    with av.open(io.BytesIO(video.data)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize("guidance", [3.0, 1.0])
@pytest.mark.parametrize("size", [(16, 24), (24, 16)])
def test_videos_of_two_sizes_with_and_without_guidance(client, size, guidance):
    """Five frames in chunks of three, so that the last has two. Without guidance a step has one row."""
    height, width = size
    video = client.generate(png(), width=width, height=height, max_guidance_scale=guidance, **ASKED)
    pictures = frames(video)
    assert [each.shape[:2] for each in pictures] == [size] * 5
    ran("stand-in", engine="tensorrt", precision="fp16", stages=STAGES)


def test_videos_of_one_execution_are_what_each_is_alone(client):
    alone = client.generate(png(), **ASKED)
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: client.generate(png(), **ASKED), range(2)))
    for video in both:
        differences = [
            abs(one.astype(int) - other).mean()
            for one, other in zip(frames(alone), frames(video), strict=True)
        ]
        assert max(differences) < 4.0, "levels of 255"


def test_the_warm_up_recorded_its_graphs(warm):
    text = warm.log.read_text()
    assert "no CUDA graph" not in text and "Traceback" not in text


def test_a_stage_whose_engine_fails_ends_the_request_with_its_name(exported, tmp_path):
    """Once; the next request is served. The VAE encoder's warm-up replays the graphs of two sizes."""
    repository = on_stand_in(exported, tmp_path / "repository", only="vae_encoder")
    environment = {**os.environ, "STAND_IN_FAULT": "graph:3"}
    with (
        serving(repository, tmp_path / "log", environment=environment) as running,
        Client(running.url) as client,
    ):
        with pytest.raises(StageFailed, match="vae_encoder.*CUDA: out of memory"):
            client.generate(png(), **ASKED)
        assert client.generate(png(), **ASKED).data


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"STAND_IN_GPU": "NVIDIA L4,8.9"}, "target is sm90, here sm89"),
        pytest.param(
            {"STAND_IN_MEMORY": "100000"}, "bytes, 100000 are free", marks=pytest.mark.full, id="memory"
        ),
    ],
)
def test_a_server_whose_engines_do_not_run_here_does_not_start(exported, tmp_path, environment, said):
    repository = on_stand_in(exported, tmp_path / "repository")
    with (
        pytest.raises(ServerFailed, match=said),
        serving(repository, tmp_path / "log", environment={**os.environ, **environment}),
    ):
        pass
