"""A stage that loses its GPU, or hangs, ends its requests with `stage_lost` and the server with them."""

import contextlib
import shutil
import time
import urllib.error
import urllib.request

import pytest
from rawtriton import PHOTO

from zoetrope_bench.server import serving
from zoetrope_client import Client
from zoetrope_core.errors import StageLost

pytestmark = pytest.mark.e2e
STAGE = """
import time

from zoetrope_bench.noop import NoopEngine, NoopStage


class Engine(NoopEngine):
    calls = 0

    def run(self, inputs):
        self.calls += 1
        if self.calls > {good}:
            {fault}
        return super().run(inputs)


class TritonPythonModel(NoopStage):
    def open(self, directory, stage, manifest):
        return Engine(stage, manifest)
"""
WARM_UP = 5
"""The calls of a UNet's warm-up with batches of up to four."""
START_TIMEOUT_S = 8


def server_with(fault, noop_repository, tmp_path):
    """A server whose UNet fails in the second step of the first request."""
    broken = tmp_path / "repository"
    shutil.copytree(noop_repository, broken)
    (broken / "unet" / "1" / "model.py").write_text(STAGE.format(good=WARM_UP + 1, fault=fault))
    return serving(broken, tmp_path / "log", "--start-timeout-s", str(START_TIMEOUT_S))


def alive(server):
    """Whether `/livez` answers with 200."""
    with contextlib.suppress(OSError, urllib.error.URLError):
        return urllib.request.urlopen(f"http://{server.ports['health']}/livez", timeout=2).status == 200
    return False


@pytest.mark.parametrize(
    ("fault", "reason", "seconds"),
    [
        ('raise RuntimeError("CUDA error: an illegal memory access was encountered")', "unet", 5),
        ("time.sleep(3600)", "unet has not answered", START_TIMEOUT_S + 5),
    ],
    ids=["sticky error", "hang"],
)
def test_the_request_ends_with_stage_lost_and_the_server_ends(
    fault, reason, seconds, noop_repository, tmp_path
):
    with server_with(fault, noop_repository, tmp_path) as server, Client(server.url) as client:
        client.health()
        assert alive(server)
        began = time.monotonic()
        with pytest.raises(StageLost, match=reason):
            client.generate(PHOTO, num_inference_steps=5)
        assert time.monotonic() - began < seconds
        assert server.process.wait(10) == 3, "as after any lost process"
        assert not alive(server)
