"""What `zoetrope doctor` says of a model repository, with repositories on disk that are whole or damaged."""

import json
import math
import os
from dataclasses import replace

import numpy as np
import pytest
from engine_keys import KEY

from zoetrope_bench.overhead import SVD_XT
from zoetrope_core.specs import STAGES, UNET
from zoetrope_export.onnx_graphs import FILE_NAME, WEIGHTS_NAME
from zoetrope_export.repository import stage_directory, write_layout
from zoetrope_server.batching import example_inputs
from zoetrope_server.doctor import libraries, repository, stage_files, traffic
from zoetrope_server.doctor.findings import Level
from zoetrope_server.doctor.libraries import Library
from zoetrope_server.engines import onnxruntime as onnxruntime_engine
from zoetrope_server.engines import openvino as openvino_engine
from zoetrope_server.engines import tensorrt
from zoetrope_server.engines.gpu import Gpu
from zoetrope_server.engines.inductor import instructions_digest
from zoetrope_server.engines.sidecar import Sidecar, sidecar_path

H200 = Gpu(name="NVIDIA H200", target="sm90", driver="570.1", memory=143 << 30, free=140 << 30)
WHOLE = {module: Library(module=module, version="11.4.0.13") for module in libraries.needed()}
HERE = repository.Here(
    libraries=WHOLE, gpu=None, cpu_flags=("sse",), free_shm=1 << 34, max_active=4, triton=None
)
MANIFEST = replace(SVD_XT, engine="openvino", precision="fp32")
DATA = '<layer><data offset="{}" size="{}"/></layer>'
GRAPH = f"<net><layers>{DATA.format(0, 4)}{DATA.format(4, 8)}</layers></net>"


def written(folder, manifest=MANIFEST):
    """A repository that `examine` finds nothing wrong with; its engines are files of the right form."""
    folder.mkdir()
    write_layout(folder, manifest)
    for stage in STAGES.values():
        (stage_directory(folder, stage.name) / "model.xml").write_text(GRAPH)
        (stage_directory(folder, stage.name) / "model.bin").write_bytes(bytes(12))
    (folder / "parity.json").write_text('{"passed": true}')
    return folder


@pytest.fixture
def whole(tmp_path):
    return written(tmp_path / "repository")


def wrong(folder, here=HERE, level=Level.ERROR):
    return {each.name: each.found for each in repository.examine(folder, here) if each.level is level}


def test_a_whole_repository(whole):
    assert {each.level for each in repository.examine(whole, HERE)} == {Level.OK}


def test_it_need_not_be_absolute(whole, monkeypatch):
    monkeypatch.chdir(whole.parent)
    assert wrong(whole.relative_to(whole.parent)) == {}


def test_no_repository(tmp_path):
    assert wrong(tmp_path / "nowhere") == {"repository": f"{tmp_path}/nowhere is not a folder"}
    assert "holds no model" in wrong(tmp_path)["repository"]


def test_one_engine_file_is_missing(whole):
    (whole / "unet" / "1" / "model.bin").unlink()
    assert list(wrong(whole)) == ["stage unet"]
    assert "unet/1/model.bin: No such file" in wrong(whole)["stage unet"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("model.bin", bytes(11), "11 bytes, 12 are used"),
        ("model.bin", b"", "is empty"),
        ("model.xml", b"<net><layers>", "model.xml is damaged"),
        ("model.xml", b'<net><data offset="a" size="1"/></net>', "model.xml is damaged"),
    ],
)
def test_an_engine_file_is_damaged(whole, name, content, said):
    (whole / "vae_decoder" / "1" / name).write_bytes(content)
    assert list(wrong(whole)) == ["stage vae_decoder"]
    assert said in wrong(whole)["stage vae_decoder"]


def test_the_files_are_those_of_the_engines():
    assert stage_files.GRAPH_FILES["openvino"][0] == openvino_engine.FILE_NAME
    assert stage_files.GRAPH_FILES["onnxruntime"] == (onnxruntime_engine.FILE_NAME,) == (FILE_NAME,)


def test_weights_beside_an_onnx_graph(tmp_path):
    onnx = pytest.importorskip("onnx")
    tensors = [onnx.numpy_helper.from_array(np.ones(2000, np.float32), name) for name in "ab"]
    info = onnx.helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, [2000])
    model = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [info], tensors))
    directory = tmp_path / "unet" / "1"
    directory.mkdir(parents=True)
    onnx.save(model, directory / FILE_NAME, save_as_external_data=True, location=WEIGHTS_NAME)
    manifest = replace(MANIFEST, engine="onnxruntime")
    assert stage_files.stage(tmp_path, UNET, manifest, WHOLE, None).level is Level.OK
    (directory / WEIGHTS_NAME).unlink()
    found = stage_files.stage(tmp_path, UNET, manifest, WHOLE, None)
    assert (found.level, f"in {WEIGHTS_NAME}, and" in found.found) == (Level.ERROR, True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 99}, "not a manifest of version 1"),
        ({"engine": "abacus"}, "abacus fp32 is not supported here; supported: onnxruntime fp32"),
        ({"precision": "fp8"}, "openvino fp8 is not supported"),
        ({"sizes": []}, "it lists no size"),
    ],
)
def test_the_manifest(whole, change, said):
    file = whole / "zoetrope.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    assert list(wrong(whole)) == ["manifest"]
    assert said in wrong(whole)["manifest"]


@pytest.mark.parametrize(
    ("report", "level"),
    [
        ('{"passed": false}', "error"),
        ('{"passed": false, "drift_allowed": true}', "warning"),
        ("[]", "error"),
        ("{", "error"),
        (None, "note"),
    ],
)
def test_parity(whole, report, level):
    file = whole / "parity.json"
    file.unlink() if report is None else file.write_text(report)
    found = repository.parity(whole)
    assert found.level == level
    assert "export again" in found.advice


def test_an_entry_model_is_missing(whole):
    (whole / "image_to_video" / "1" / "model.py").unlink()
    assert wrong(whole) == {"models": "missing: image_to_video/1/model.py"}


def test_the_second_decoder_is_missing(whole):
    manifest = whole / "zoetrope.json"
    facts = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**facts, "fp32_decoder": True}))
    assert "the model vae_decoder_fp32 has no configuration" in wrong(whole)["repository"]


def test_a_stage_has_no_configuration(whole):
    (whole / "unet" / "config.pbtxt").unlink()
    assert "the model unet has no configuration" in wrong(whole)["repository"]


def test_files_that_cannot_be_read(whole):
    found = repository.readable(whole, lambda path, mode: path.name != "unet" or not mode & os.X_OK)
    assert found.level is Level.ERROR
    assert f"such as {whole}/unet" in found.found
    assert found.advice == f"chmod -R a+rX {whole}"


def test_a_library_that_only_this_repository_needs(whole):
    broken = {**WHOLE, "openvino": Library(module="openvino", problem="ImportError: no")}
    assert wrong(whole, replace(HERE, libraries=broken)) == {
        "engine of the repository": "openvino: ImportError: no"
    }


@pytest.mark.parametrize(
    ("flags", "level"),
    [(("sse", "amx_bf16"), "ok"), (("avx512_bf16",), "ok"), (("avx512f",), "warning"), ((), "note")],
)
def test_bf16_on_a_cpu(flags, level):
    assert repository.precision(replace(MANIFEST, precision="bf16"), flags).level == level
    assert repository.precision(MANIFEST, flags).level is Level.OK


def test_a_repository_that_cannot_be_written(whole):
    found = repository.compiled(whole, MANIFEST, lambda path, mode: path.parent.name != "unet")
    assert (found.level, str(whole / "unet" / "1") in found.found) == (Level.NOTE, True)


def test_the_traffic_is_that_of_the_stages():
    found = traffic.largest(MANIFEST)
    for stage in STAGES.values():
        inputs = sum(array.nbytes for array in example_inputs(stage, MANIFEST).values())
        assert found.stages[stage.name] > inputs
    height, width = MANIFEST.sizes[0]
    chunk, latents = MANIFEST.decode_chunk_size, math.prod(MANIFEST.latent_size((height, width)))
    assert found.stages["vae_decoder"] == chunk * (height * width * 3 + 4 * 4 * latents) + 1
    larger = replace(
        MANIFEST, sizes=(*MANIFEST.sizes, (2 * height, width)), frame_range=(1, 2 * max(MANIFEST.num_frames))
    )
    assert traffic.largest(larger).stages["unet"] > 3.9 * found.stages["unet"]


def test_room_for_requests(whole):
    needs = traffic.largest(MANIFEST)
    all_of_them = 4 * (needs.tensors + needs.picture)
    for free, level in (
        (all_of_them, "ok"),
        (all_of_them - 1, "warning"),
        (needs.tensors, "warning"),
        (needs.tensors - 1, "error"),
    ):
        found = traffic.room(MANIFEST, free=free, max_active=4)
        assert found.level == level
        assert bool(found.advice) == (level != "ok")
    assert "unet" in found.found and f"= {needs.tensors / 2**20:.1f} MiB" in found.found
    assert list(wrong(whole, replace(HERE, free_shm=1 << 20))) == ["room for requests"]


def built(directory, key):
    """An engine file with its sidecar in the version folder of a stage."""
    directory.mkdir(parents=True)
    file = directory / key.file_name()
    file.write_bytes(b"engine" * 1000)
    Sidecar.of(file, key, 1.0).save(file)
    return file


@pytest.fixture
def on_h200(monkeypatch):
    monkeypatch.setattr(tensorrt, "detect_gpu", lambda: H200)


def tensorrt_stage(folder, version="11.4.0.13", gpu=H200):
    served = replace(MANIFEST, engine="tensorrt", precision="fp16")
    modules = {**WHOLE, "tensorrt": Library(module="tensorrt", version=version)}
    return stage_files.stage(folder, UNET, served, modules, gpu)


def test_a_tensorrt_engine(tmp_path, on_h200):
    file = built(tmp_path / "unet" / "1", KEY)
    assert tensorrt_stage(tmp_path).level is Level.OK
    assert "library version is 11.4.0.13, here 11.5" in tensorrt_stage(tmp_path, version="11.5").found
    newer = tensorrt_stage(tmp_path, gpu=replace(H200, driver="580"))
    assert (newer.level, newer.found.endswith("timed on driver 570.1, here 580")) == (Level.WARNING, True)
    file.write_bytes(b"engine" * 999)
    damaged = tensorrt_stage(tmp_path)
    assert damaged.found == f"{file.name} is damaged: 5994 bytes, built with 6000"
    assert damaged.advice == "build it again with `zoetrope export` on this machine"
    file.write_bytes(b"Engine" * 1000)
    assert "checksum" in tensorrt_stage(tmp_path).found


def test_a_damaged_sidecar(tmp_path, on_h200):
    file = built(tmp_path / "unet" / "1", KEY)
    sidecar_path(file).write_text("{")
    found = tensorrt_stage(tmp_path)
    assert (found.level, "is no sidecar of an engine" in found.found) == (Level.ERROR, True)


def test_a_tensorrt_engine_without_a_gpu(tmp_path, monkeypatch):
    built(tmp_path / "unet" / "1", KEY)
    monkeypatch.setattr(tensorrt, "detect_gpu", lambda: None)
    found = tensorrt_stage(tmp_path, gpu=None)
    assert (found.level, "needs a GPU (sm90)" in found.found) == (Level.ERROR, True)


@pytest.mark.parametrize(
    ("target", "gpu", "level"),
    [
        (f"cpu-avx512-{instructions_digest()}", None, "ok"),
        ("cpu-avx512-00000000", None, "error"),
        ("sm90", H200, "ok"),
        ("sm89", H200, "error"),
        ("sm90", None, "error"),
    ],
)
def test_an_inductor_package(tmp_path, target, gpu, level):
    key = replace(KEY, library="torch", library_version="2.13.0", target=target, gpu="", driver="")
    built(tmp_path / "unet" / "1", key)
    served = replace(MANIFEST, engine="aot-inductor", precision="fp16")
    modules = {**WHOLE, "torch": Library(module="torch", version="2.13.0")}
    assert stage_files.stage(tmp_path, UNET, served, modules, gpu).level == level
    modules["torch"] = Library(module="torch", version="2.14.0")
    assert "here 2.14.0" in stage_files.stage(tmp_path, UNET, served, modules, gpu).found
