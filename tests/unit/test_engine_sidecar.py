"""Engine files are proved whole and at home before use; all else is refused with its reason."""

import json
import sys
from dataclasses import fields, replace
from types import SimpleNamespace

import pytest
from engine_keys import KEY, OTHER

from zoetrope_server.engines import EngineError, gpu
from zoetrope_server.engines.sidecar import EngineKey, Sidecar, find_engine, sidecar_path, verify

HERE = {"stage": "unet", "library": "tensorrt", "library_version": "11.4.0.13", "target": "sm90"}


@pytest.fixture
def engine(tmp_path):
    file = tmp_path / KEY.file_name()
    file.write_bytes(b"engine" * 1000)
    Sidecar.of(file, KEY, 1.5).save(file)
    return file


def edited(engine, **changes):
    path = sidecar_path(engine)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_the_name_says_what_it_is():
    assert KEY.file_name() == f"unet-fp16-sm90-trt11.4-{KEY.digest()[:8]}.plan"
    rtx = replace(KEY, library="tensorrt_rtx", library_version="1.7.1.116", target="sm89")
    assert rtx.file_name().startswith("unet-fp16-sm89-trtrtx1.7-")
    torch = replace(KEY, library="torch", library_version="2.13.0+cpu", target="cpu").file_name()
    assert torch.startswith("unet-fp16-cpu-torch2.13-") and torch.endswith(".pt2")


def test_every_part_of_the_key_changes_it():
    assert set(OTHER) == {field.name for field in fields(EngineKey)}
    digests = {replace(KEY, **{name: value}).digest() for name, value in OTHER.items()}
    assert len(digests | {KEY.digest()}) == len(OTHER) + 1


def test_a_whole_engine_at_home_is_accepted(engine):
    sidecar = verify(engine, HERE)
    assert sidecar.key == KEY
    assert (sidecar.size, sidecar.build_seconds) == (6000, 1.5)
    assert find_engine(engine.parent, "unet") == engine
    assert sorted(path.name for path in engine.parent.iterdir()) == [engine.name, f"{engine.name}.json"]


@pytest.mark.parametrize("name", HERE)
def test_a_foreign_engine_is_refused_with_what_differs(engine, name):
    with pytest.raises(EngineError) as caught:
        verify(engine, {**HERE, name: OTHER[name]})
    message = str(caught.value)
    assert f"{name.replace('_', ' ')} is {HERE[name]}, here {OTHER[name]}" in message
    assert "zoetrope export" in message
    assert message.count(" is ") == 1


def test_all_that_differs_is_said_at_once(engine):
    with pytest.raises(EngineError, match="target is sm90, here none; gpu is NVIDIA H200, here NVIDIA L4"):
        verify(engine, {"target": "", "gpu": "NVIDIA L4", "stage": "unet"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-1], "5999 bytes, built with 6000"),
        (lambda data: b"", "0 bytes"),
        (lambda data: data[:3000] + b"X" + data[3001:], "checksum"),
    ],
    ids=["truncated", "empty", "altered"],
)
def test_a_damaged_engine_is_refused(engine, damage, message):
    engine.write_bytes(damage(engine.read_bytes()))
    with pytest.raises(EngineError, match=message):
        verify(engine, HERE)


def test_a_missing_engine_or_sidecar_is_refused(engine):
    content = engine.read_bytes()
    engine.unlink()
    with pytest.raises(EngineError, match="only its sidecar"):
        verify(engine, HERE)
    engine.write_bytes(content)
    sidecar_path(engine).unlink()
    with pytest.raises(EngineError, match="no readable sidecar"):
        verify(engine, HERE)
    with pytest.raises(EngineError, match="no engine of unet"):
        find_engine(engine.parent, "unet")


@pytest.mark.parametrize("text", ["", "[]", "7", "{}", '{"version": 1}', '{"version": 1, "key": {}}'])
def test_what_is_no_sidecar_is_refused(engine, text):
    sidecar_path(engine).write_text(text)
    with pytest.raises(EngineError, match="is no sidecar"):
        verify(engine, HERE)


def test_a_sidecar_of_another_version_is_refused(engine):
    edited(engine, version=2)
    with pytest.raises(EngineError, match="has version 2, this release reads 1"):
        verify(engine, HERE)


def test_an_edited_key_is_refused(engine):
    """Such as a hand that makes an engine of another GPU look like one of this."""
    key = json.loads(sidecar_path(engine).read_text())["key"]
    edited(engine, key={**key, "target": "sm100"})
    with pytest.raises(EngineError, match="does not belong to"):
        verify(engine, {**HERE, "target": "sm100"})
    edited(engine, key={**key, "colour": "red"})
    with pytest.raises(EngineError, match="colour"):
        verify(engine, HERE)


def test_a_renamed_engine_is_refused(engine):
    other = engine.with_name("unet-fp16-sm90-trt11.4-00000000.plan")
    sidecar_path(engine).rename(sidecar_path(other))
    with pytest.raises(EngineError, match="does not belong to"):
        verify(engine.rename(other), HERE)


def test_several_engines_are_refused(engine):
    second = engine.with_name(replace(KEY, driver="1").file_name())
    second.write_bytes(b"")
    Sidecar.of(second, replace(KEY, driver="1"), 0.0).save(second)
    with pytest.raises(EngineError, match="several engines of unet"):
        find_engine(engine.parent, "unet")


def test_other_json_files_are_no_engines(engine):
    (engine.parent / "unet-notes.json").write_text("{}")
    assert find_engine(engine.parent, "unet") == engine


def test_a_gpu_as_its_driver_describes_it():
    found = gpu.parse_gpu("NVIDIA H200, 9.0, 570.133.20, 143771, 143000\nNVIDIA L4, 8.9, 570.1, 1, 1\n")
    assert found == gpu.Gpu(
        name="NVIDIA H200",
        target="sm90",
        driver="570.133.20",
        memory=143771 << 20,
        free=143000 << 20,
    )


@pytest.mark.parametrize("table", ["", "No devices were found\n", "A, [N/A], 5, 6, 7", "A, 9.0, 1"])
def test_no_gpu(table):
    assert gpu.parse_gpu(table) is None


def test_a_gpu_that_shares_the_machine_s_memory_is_one():
    """DGX Spark, and slices of a GPU: `[N/A]` was read as no GPU at all."""
    found = gpu.parse_gpu("NVIDIA GB10, 12.1, 580.95, [N/A], [N/A]\n")
    assert (found.target, found.memory, found.free) == ("sm121", None, None)


def test_cuda_s_first_device_goes_before_the_tool_s(tmp_path, monkeypatch):
    """CUDA counts the fastest first and honours CUDA_VISIBLE_DEVICES; `nvidia-smi` does neither."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA L4, 8.9, 570.1, 100, 99'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    device = SimpleNamespace(name=b"NVIDIA H200\0\0", major=9, minor=0)
    cuda = SimpleNamespace(
        cudaError_t=SimpleNamespace(cudaSuccess=0),
        cudaGetDeviceCount=lambda: (0, 2),
        cudaGetDeviceProperties=lambda number: (0, device),
        cudaMemGetInfo=lambda: (0, 5, 7),
    )
    monkeypatch.setitem(sys.modules, gpu.CUDA_RUNTIME, cuda)
    for name in ("cuda", "cuda.bindings"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(__path__=[]))
    found = gpu.detect_gpu()
    assert (found.name, found.target, found.free, found.memory) == ("NVIDIA H200", "sm90", 5, 7)
    cuda.cudaGetDeviceCount = lambda: (35, None)  # an old driver: its own tool still names the GPU
    assert gpu.detect_gpu().name == "NVIDIA L4"


def test_the_driver_s_version_is_the_kernel_s(tmp_path):
    file = tmp_path / "version"
    file.write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Tue Jul 1\nGCC version: 12.2.0\n"
    )
    assert gpu.kernel_driver(file) == "580.65.06"
    file.write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build\n")
    assert gpu.kernel_driver(file) == "580.95.05"
    assert gpu.kernel_driver(tmp_path / "missing") == ""


def test_a_driver_that_does_not_answer_is_no_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu.detect_gpu() is None
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nexit 9\n")
    tool.chmod(0o755)
    assert gpu.detect_gpu() is None
    tool.write_text("#!/bin/sh\necho 'NVIDIA L4, 8.9, 570.1, 100, 99'\n")
    assert gpu.detect_gpu().target == "sm89"
