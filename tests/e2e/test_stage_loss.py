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
LEAST_S = 2.0
"""Less than in earnest: how long a stage may be silent whose steps take milliseconds."""


def server_with(fault, noop_repository, tmp_path):
    """A server whose UNet fails in the fourth step of the first request: two are measured by then."""
    broken = tmp_path / "repository"
    shutil.copytree(noop_repository, broken)
    (broken / "unet" / "1" / "model.py").write_text(STAGE.format(good=WARM_UP + 3, fault=fault))
    entry = broken / "image_to_video" / "1" / "model.py"
    less = f"from zoetrope_server import watchdog\n\nwatchdog.LEAST_S = {LEAST_S}\n"
    entry.write_text(f"{entry.read_text()}\n{less}")
    return serving(broken, tmp_path / "log", "--no-restart")


def alive(server):
    """Whether `/livez` answers with 200."""
    with contextlib.suppress(OSError, urllib.error.URLError):
        return urllib.request.urlopen(f"http://{server.ports['health']}/livez", timeout=2).status == 200
    return False


@pytest.mark.parametrize(
    ("fault", "reason", "seconds"),
    [
        ('raise RuntimeError("CUDA error: an illegal memory access was encountered")', "unet", 8),
        ("time.sleep(3600)", "unet has not answered", LEAST_S + 8),
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
            client.generate(PHOTO, num_inference_steps=6)
        assert time.monotonic() - began < seconds
        assert server.process.wait(10) == 3, "as after any lost process"
        assert not alive(server)
