"""Requests do not disturb each other, and a stage that fails ends only what it must."""

import re
import shutil
import time

import numpy as np
import pytest
from rawtriton import PHOTO, counts, streamed, together

from zoetrope_bench.server import serving
from zoetrope_client import Client
from zoetrope_core.errors import StageFailed
from zoetrope_core.specs import STAGES

pytestmark = pytest.mark.e2e
FAILING = """
from pathlib import Path

from zoetrope_bench.noop import NoopStage


class TritonPythonModel(NoopStage):
    def execute(self, requests):
        if Path(__file__).with_name("broken").exists():
            raise RuntimeError("the engine is broken")
        return super().execute(requests)
"""


def test_with_batches_of_one_company_changes_not_a_bit(repository, tmp_path):
    single = tmp_path / "repository"
    shutil.copytree(repository, single)
    config = single / "unet" / "config.pbtxt"
    config.write_text(re.sub(r"max_batch_size: \d+", "max_batch_size: 1", config.read_text()))
    with serving(single, tmp_path / "log") as server, Client(server.url) as client:
        alone = streamed(client, seed=20, num_inference_steps=4)
        before = counts(server)
        shared = together(server.url, 4, seed=20, num_inference_steps=4)
        inferences, executions = (now - then for now, then in zip(counts(server), before, strict=True))
    assert inferences == executions == 16
    np.testing.assert_array_equal(alone, shared[0])


def test_a_stage_that_raises_ends_the_stream_at_once(noop_repository, tmp_path):
    breakable = tmp_path / "repository"
    shutil.copytree(noop_repository, breakable)
    for stage in STAGES:
        (breakable / stage / "1" / "model.py").write_text(FAILING)
    with serving(breakable, tmp_path / "log") as server, Client(server.url) as client:
        for stage in STAGES:
            mark = breakable / stage / "1" / "broken"
            mark.touch()
            for _ in range(2):
                began = time.monotonic()
                with pytest.raises(StageFailed, match="the engine is broken") as caught:
                    client.generate(PHOTO, num_inference_steps=2)
                assert caught.value.details["stage"] == stage and time.monotonic() - began < 10
            mark.unlink()
            assert client.generate(PHOTO, num_inference_steps=2).data
