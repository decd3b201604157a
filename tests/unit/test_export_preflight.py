"""A build that cannot end well is refused before it begins."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

import artifacts  # noqa: E402

from zoetrope_core.specs import ALL_STAGES  # noqa: E402
from zoetrope_export import inductor_build, preflight, stage_builds  # noqa: E402
from zoetrope_export.architectures import Architecture  # noqa: E402
from zoetrope_export.checkpoint import open_checkpoint  # noqa: E402
from zoetrope_export.errors import ExportError  # noqa: E402
from zoetrope_export.preflight import Need, check, estimate, stage_weights  # noqa: E402
from zoetrope_export.random_checkpoint import random_unet  # noqa: E402
from zoetrope_export.stage_modules import stage_module  # noqa: E402
from zoetrope_server.engines.gpu import Gpu  # noqa: E402

GIB = 1 << 30
SMALL = Architecture(
    unet_channels=(32, 64), unet_heads=(1, 2), vae_channels=(32, 32), clip_width=32, clip_layers=1
)
GPU = Gpu(name="NVIDIA L4", target="sm89", driver="1", memory=24 * GIB, free=22 * GIB)


@pytest.fixture(scope="module")
def checkpoint():
    return open_checkpoint(artifacts.checkpoint(SMALL))


@pytest.fixture
def manifest(checkpoint):
    return checkpoint.manifest(
        engine="tensorrt-rtx",
        precision="fp16",
        sizes=((576, 1024),),
        num_frames=(25,),
        decode_chunk_size=7,
        max_batch_size=1,
    )


@pytest.fixture
def svd_xt(monkeypatch):
    """The weights of SVD-XT, without the weights."""
    counts = {"image_encoder": 632_000_000, "vae_encoder": 98_000_000, "unet": 1_520_000_000}
    monkeypatch.setattr(preflight, "stage_weights", lambda _: {**counts, "vae_decoder": 98_000_000})


def wanted(needs):
    return {need.resource.split(" of ")[0]: need.wanted / GIB for need in needs}


def test_weights_are_counted_without_loading_them(checkpoint):
    counts = stage_weights(checkpoint)
    assert list(counts) == list(ALL_STAGES)
    for name in ("unet", "image_encoder"):
        module = stage_module(checkpoint, name)
        stored = sum(parameter.numel() for parameter in module.parameters())
        # The rewritten UNet has lost the queries and keys of its cross-attention.
        assert stored <= counts[name] < 1.5 * stored
    assert counts["unet"] == sum(parameter.numel() for parameter in random_unet(SMALL).parameters())


def test_a_component_in_both_precisions_is_counted_once(checkpoint, tmp_path):
    before = stage_weights(checkpoint)
    plain = checkpoint.directory / "unet" / "diffusion_pytorch_model.safetensors"
    half = plain.with_name("diffusion_pytorch_model.fp16.safetensors")
    half.write_bytes(plain.read_bytes())
    try:
        assert stage_weights(checkpoint) == before
    finally:
        half.unlink()


def test_svd_xt_needs_what_was_measured(checkpoint, manifest, svd_xt, tmp_path):
    """11 GB were seen in the builder of its UNet, whose module of 3 GB is in memory too."""
    needs = wanted(estimate(checkpoint, manifest, out=tmp_path, cache=tmp_path, gpu=None))
    assert set(needs) == {"disk", "memory"}
    assert 12 < needs["memory"] < 15
    assert 9 < needs["disk"] < 15


def gpu_need(checkpoint, manifest, tmp_path):
    return estimate(checkpoint, manifest, out=tmp_path, cache=tmp_path, gpu=GPU)[-1]


def test_gpu_memory_grows_with_what_is_computed_at_once(checkpoint, manifest, svd_xt, tmp_path):
    base = gpu_need(checkpoint, manifest, tmp_path)
    assert base.resource == "memory of NVIDIA L4"
    assert base.available == 22 * GIB
    for larger in (
        replace(manifest, max_batch_size=4),
        replace(manifest, decode_chunk_size=25),
        replace(manifest, sizes=((576, 1024), (1152, 2048))),
    ):
        assert gpu_need(checkpoint, larger, tmp_path).wanted > base.wanted + GIB


def test_the_cache_may_lie_on_another_disk(checkpoint, manifest, tmp_path, monkeypatch):
    assert len(estimate(checkpoint, manifest, out=tmp_path, cache=tmp_path / "new", gpu=None)) == 2
    monkeypatch.setattr(preflight, "_device", lambda folder: hash(folder))
    needs = estimate(checkpoint, manifest, out=tmp_path / "o", cache=tmp_path / "c", gpu=None)
    assert [need.resource for need in needs[:2]] == [f"disk of {tmp_path / 'c'}", f"disk of {tmp_path / 'o'}"]


NEEDS = [
    Need(resource="disk of /x", wanted=10 * GIB, available=3 * GIB, advice="choose another --out"),
    Need(resource="memory", wanted=4 * GIB, available=16 * GIB, advice="use a larger machine"),
    Need(resource="memory of NVIDIA L4", wanted=30 * GIB, available=22 * GIB, advice="a smaller --size"),
]


def test_what_is_short_is_refused_with_what_to_do():
    with pytest.raises(ExportError) as caught:
        check(NEEDS, force=False)
    message = str(caught.value)
    assert "disk of /x: about 10.0 GiB needed, 3.0 GiB free (choose another --out)" in message
    assert "memory of NVIDIA L4: about 30.0 GiB needed, 22.0 GiB free (a smaller --size)" in message
    assert "larger machine" not in message
    assert "--force" in message


def test_force_builds_anyway_and_says_so(caplog):
    check(NEEDS, force=True)
    assert "building although" in caplog.text
    caplog.clear()
    check(NEEDS[1:2], force=True)
    check(NEEDS[1:2], force=False)
    assert caplog.text == ""


def test_the_limit_of_a_container_counts(monkeypatch):
    monkeypatch.setattr(preflight.psutil, "virtual_memory", lambda: SimpleNamespace(available=9 * GIB))
    figures = {"memory.max": 5 * GIB, "memory.current": 4 * GIB}
    monkeypatch.setattr(preflight, "_cgroup", figures.get)
    assert preflight.available_memory() == GIB
    monkeypatch.setattr(preflight, "_cgroup", {"memory.max": None, "memory.current": 1}.get)
    assert preflight.available_memory() == 9 * GIB


def test_figures_of_a_control_group(tmp_path):
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("4096\n")
    assert preflight._cgroup("memory.max", tmp_path) is None
    assert preflight._cgroup("memory.current", tmp_path) == 4096
    assert preflight._cgroup("memory.high", tmp_path) is None


def test_a_damaged_checkpoint_is_said(checkpoint, tmp_path):
    file = Path(tmp_path) / "unet.safetensors"
    file.write_bytes(b"none")
    with pytest.raises(ExportError, match=r"unet\.safetensors cannot be read"):
        preflight._count(file)


@pytest.mark.parametrize(
    ("engine", "precision", "refused"),
    [
        ("tensorrt", "fp32", True),
        ("onnxruntime", "fp32", True),
        ("tensorrt", "bf16", False),
        ("tensorrt", "fp16", False),
        ("openvino", "fp32", False),
    ],
)
def test_scores_that_no_memory_holds_are_refused(checkpoint, manifest, tmp_path, engine, precision, refused):
    """85 GB for one video of SVD-XT: the way out of FP16's range is BF16, not FP32."""
    facts = replace(manifest, engine=engine, precision=precision)
    needs = estimate(checkpoint, facts, out=tmp_path, cache=tmp_path, gpu=GPU)
    (scores,) = [need for need in needs if "scores of" in need.resource] or [None]
    assert (scores is not None) is refused
    if scores is not None:
        tokens = 576 * 1024 // checkpoint.vae_scale_factor**2
        assert scores.wanted == 2 * 25 * tokens**2 * 4
        assert scores.wanted > scores.available
        assert ("bf16" if engine == "tensorrt" else "openvino") in scores.advice


def test_small_scores_are_not_refused(checkpoint, manifest, tmp_path):
    facts = replace(manifest, engine="onnxruntime", precision="fp32", sizes=((64, 96),))
    check(estimate(checkpoint, facts, out=tmp_path, cache=tmp_path, gpu=None), force=False)


@pytest.mark.parametrize(("device", "asked"), [("cuda", True), ("cpu", False)])
def test_aot_inductor_on_a_gpu_needs_its_memory_too(checkpoint, manifest, monkeypatch, device, asked):
    monkeypatch.setattr(inductor_build, "device", lambda: device)
    monkeypatch.setattr(stage_builds, "detect_gpu", lambda: GPU)
    said = []
    monkeypatch.setattr(preflight, "check", lambda needs, force: said.extend(needs))
    facts = replace(manifest, engine="aot-inductor", precision="fp16" if asked else "fp32")
    builder = stage_builds.StageBuilder(checkpoint, facts, stage_builds.BuildOptions(), stage_builds.Silent())
    builder.check_resources(checkpoint.directory)
    assert any("NVIDIA L4" in need.resource for need in said) is asked
