"""`zoetrope size`: sums that can be checked by hand, and the command around them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from zoetrope_bench.noop_repository import write_noop_repository
from zoetrope_bench.overhead import SVD_XT
from zoetrope_server import sizing
from zoetrope_server.doctor.traffic import largest
from zoetrope_server.sizing import Load, quantities, shared_memory
from zoetrope_server.sizing_command import size

MIB = 1 << 20
MANIFEST = replace(SVD_XT, decode_chunk_size=7, max_batch_size=4)
app = typer.Typer()
app.command()(size)


def numbers(manifest=MANIFEST, native=(), **load):
    found = quantities(manifest, Load(**{"max_active": 2, "max_waiting": 6, **load}), native)
    return {each.name: each.value for each in found}


def test_shared_memory_is_the_sum():
    unet = 4 * (2 * 25 * 4 * 72 * 128 + 1 + 2 * 4 * 72 * 128 + 2 * 1024 + 3 + 2 * 25)
    decoder = 7 * 4 * 72 * 128 * 4 + 7 * 576 * 1024 * 3 + 1
    encoder = 4 * (3 * 576 * 1024 + 4 * 72 * 128)
    clip = 4 * (3 * 224 * 224 + 1024)
    frames = 25 * 576 * 1024 * 3
    each = 2 * (unet + decoder + encoder + clip) + frames
    total = 1.25 * (9 * MIB + 2 * each + 8 * 2 * 28 * MIB)
    value = numbers()["shm_bytes"]
    assert total <= value < total + MIB and value % MIB == 0
    found = shared_memory(largest(MANIFEST), Load(max_active=2, max_waiting=6))
    assert found.sum.endswith(f"= {value // MIB} MiB")


def test_the_processes_are_those_of_the_repository():
    config = Path(__file__).parents[2] / "model_repository" / "image_to_video_unary" / "config.pbtxt"
    assert f"count: {sizing.UNARY_PROCESSES} kind" in config.read_text()


def test_more_of_anything_takes_more():
    least = numbers()["shm_bytes"]
    assert numbers(max_active=3)["shm_bytes"] > least
    assert numbers(max_waiting=7)["shm_bytes"] > least
    assert numbers(replace(MANIFEST, decode_chunk_size=14))["shm_bytes"] > least
    assert numbers(replace(MANIFEST, sizes=((64, 96), (576, 1024))))["shm_bytes"] == least


def test_pools_are_for_tritons_own_backends():
    assert numbers()["pinned_pool_bytes"] == numbers()["cuda_pool_bytes"] == 0
    stages = largest(MANIFEST).stages
    found = numbers(native=("unet", "vae_decoder"))
    assert 0 <= found["cuda_pool_bytes"] - (4 * stages["unet"] + stages["vae_decoder"]) < MIB
    assert found["pinned_pool_bytes"] == found["cuda_pool_bytes"]


def test_times_only_where_a_call_was_measured():
    assert not [name for name in numbers() if name.endswith("_s")]
    found = numbers(call_s=0.5, rest_s=1.2, pre_stop_s=15)
    assert sizing.MOST_CALLS == 399
    assert found["longest_video_s"] == 201  # 399 x 0.5 + 1.2 = 200.7
    assert found["grace_period_s"] == 8 * 201
    assert found["termination_grace_period_s"] == 15 + 8 * 201 + 15
    assert numbers(call_s=0.5, calls=25)["longest_video_s"] == 13


@pytest.fixture
def repository(tmp_path):
    return write_noop_repository(tmp_path / "repository", MANIFEST)


def test_the_command(repository, monkeypatch):
    monkeypatch.setenv("ZOETROPE_MAX_WAITING", "6")
    ran = CliRunner().invoke(app, [str(repository), "--max-active", "2", "--call-s", "0.8", "--json"])
    assert ran.exit_code == 0, ran.output
    assert {each["name"]: each["value"] for each in json.loads(ran.output)} == numbers(call_s=0.8)
    plain = CliRunner().invoke(app, [str(repository), "--max-active", "2"]).output
    assert str(numbers()["shm_bytes"]) in plain and "streamed frames" in " ".join(plain.split())


def test_a_stage_of_tritons_own_backend_is_found(repository):
    config = repository / "unet" / "config.pbtxt"
    config.write_text(config.read_text().replace('backend: "python"', 'backend: "tensorrt"'))
    ran = CliRunner().invoke(app, [str(repository), "--json"])
    found = {each["name"]: each["value"] for each in json.loads(ran.output)}
    assert found["cuda_pool_bytes"] == numbers(native=("unet",))["cuda_pool_bytes"] > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["none"], "is not a folder"),
        ([".", "--max-active", "2"], "holds no model"),
    ],
)
def test_what_cannot_be_sized_is_said(tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    ran = CliRunner().invoke(app, words)
    assert ran.exit_code == 1 and said in ran.output and "Traceback" not in ran.output


@pytest.mark.parametrize("text", ["{", json.dumps(replace(MANIFEST, sizes=()).to_dict())])
def test_a_broken_manifest_is_said(repository, text):
    (repository / "zoetrope.json").write_text(text)
    ran = CliRunner().invoke(app, [str(repository)])
    assert ran.exit_code == 1 and ran.output.startswith("zoetrope size: ")
