"""A decoder that overflows, with one at FP32 beside it: the video comes, and is the FP32 decoder's."""

import shutil
from dataclasses import replace

import artifacts
import numpy as np
import pytest
from rawtriton import PHOTO, streamed
from small_checkpoints import SMALLEST

from zoetrope_bench.server import serving
from zoetrope_client import Client
from zoetrope_core.errors import NonFinite
from zoetrope_core.specs import VAE_DECODER, VAE_DECODER_FP32
from zoetrope_export.checkpoint import open_checkpoint
from zoetrope_export.engines import build_engine
from zoetrope_export.exporting import Plan, export_repository
from zoetrope_export.onnx_graphs import trace_symbols
from zoetrope_export.repository import stage_directory
from zoetrope_export.stage_modules import stage_module

pytestmark = pytest.mark.e2e
ASKED = {"seed": 3, "num_inference_steps": 2}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A checkpoint, and a repository of it in BF16 with the second decoder."""
    folder = tmp_path_factory.mktemp("fp32-decoder")
    repository = folder / "repository"
    opened = open_checkpoint(artifacts.checkpoint(SMALLEST, seed=1))
    manifest = opened.manifest(
        engine="openvino",
        precision="bf16",
        sizes=((32, 48),),
        num_frames=(4,),
        decode_chunk_size=2,
        max_batch_size=1,
        fp32_decoder=True,
    )
    plan = Plan(checkpoint=opened, manifest=manifest, out=repository, warm_up=False, verify=False)
    report = export_repository(replace(plan, allow_drift=True))
    assert [each.precision for each in report.stages] == ["fp32", "fp32", "bf16", "bf16", "fp32"]
    return opened, repository


@pytest.fixture
def overflowing(exported, tmp_path):
    """The repository with weights in its first decoder that overflow in any precision."""
    checkpoint, repository = exported
    shutil.copytree(repository, tmp_path / "repository")
    module = stage_module(checkpoint, VAE_DECODER.name)
    module.decoder.conv_in.weight.data *= 1e38
    directory = stage_directory(tmp_path / "repository", VAE_DECODER.name)
    build_engine(module, VAE_DECODER, trace_symbols(checkpoint), directory, engine="openvino")
    return tmp_path / "repository"


def frames_of(repository, log):
    with serving(repository, log) as server, Client(server.url) as client:
        return streamed(client, **ASKED)


def test_what_overflows_is_decoded_at_fp32(exported, overflowing, tmp_path):
    whole = frames_of(exported[1], tmp_path / "whole.log")
    log = tmp_path / "overflowing.log"
    rescued = frames_of(overflowing, log)
    assert rescued.shape == whole.shape == (4, 32, 48, 3)
    assert np.abs(rescued.astype(float) - whole).mean() < 3  # BF16 and FP32 of one decoder
    assert log.read_text().count("decoding 2 at FP32") == 2


def test_without_that_decoder_the_stage_is_named(overflowing, tmp_path):
    facts = overflowing / "zoetrope.json"
    facts.write_text(facts.read_text().replace('"fp32_decoder": true', '"fp32_decoder": false'))
    shutil.rmtree(overflowing / VAE_DECODER_FP32.name)
    with (
        serving(overflowing, tmp_path / "log") as server,
        Client(server.url) as client,
        pytest.raises(NonFinite) as caught,
    ):
        client.generate(PHOTO, **ASKED)
    assert caught.value.details["stage"] == "vae_decoder"
    assert caught.value.status == "INTERNAL"
