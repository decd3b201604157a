"""What `zoetrope doctor` says of stages that Triton's own backends host."""

import json
import logging
from dataclasses import replace

import pytest
from engine_keys import KEY
from typer import Typer
from typer.testing import CliRunner

from zoetrope_bench.overhead import SVD_XT
from zoetrope_core.specs import STAGES, UNET
from zoetrope_export.onnx_graphs import FILE_NAME
from zoetrope_export.repository import make_native, stage_directory, write_layout
from zoetrope_server.doctor import command, libraries, repository, stage_files
from zoetrope_server.doctor.findings import Level
from zoetrope_server.doctor.libraries import Library
from zoetrope_server.engines import stage_precision, tensorrt
from zoetrope_server.engines.gpu import Gpu
from zoetrope_server.engines.sidecar import Sidecar, sidecar_path
from zoetrope_server.launcher.installation import TritonInstallation

H200 = Gpu(name="NVIDIA H200", target="sm90", driver="570.1", memory=143 << 30, free=140 << 30)
L4 = replace(H200, name="NVIDIA L4", target="sm89")
UNKNOWN = {module: Library(module=module, problem="not here") for module in libraries.needed()}
"""Triton brings the library of its backend: Python's does not matter."""


def written(folder, engine, precision):
    """A repository of native stages, as the export writes it; its engines are files of the right form."""
    folder.mkdir()
    manifest = replace(SVD_XT, engine=engine, precision=precision)
    write_layout(folder, manifest)
    for stage in STAGES.values():
        directory = stage_directory(folder, stage.name)
        if engine == "onnxruntime":
            (directory / FILE_NAME).write_bytes(b"graph" * 100)
        else:
            key = replace(KEY, stage=stage.name, precision=stage_precision(stage, precision, engine))
            file = directory / key.file_name()
            file.write_bytes(b"engine" * 1000)
            Sidecar.of(file, key, 1.0).save(file)
        make_native(folder, stage, manifest)
    (folder / "parity.json").write_text('{"passed": true}')
    return folder


@pytest.fixture
def plans(tmp_path):
    return written(tmp_path / "plans", "tensorrt", "fp16")


@pytest.fixture
def graphs(tmp_path):
    return written(tmp_path / "graphs", "onnxruntime", "fp32")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """This machine with a GPU (None for none) and a Triton that has both backends."""
    for backend in ("tensorrt", "onnxruntime"):
        (tmp_path / "backends" / backend).mkdir(parents=True)
    triton = TritonInstallation(
        binary=tmp_path,
        backend_source=tmp_path / "backends",
        library_dirs=(),
        version=(2, 60),
        embedded=False,
    )

    def machine(gpu):
        monkeypatch.setattr(tensorrt, "detect_gpu", lambda: gpu)
        return repository.Here(
            libraries=UNKNOWN, gpu=gpu, cpu_flags=("sse",), free_shm=1 << 34, max_active=4, triton=triton
        )

    return machine


def found(folder, machine, level=Level.ERROR):
    return {each.name: each.found for each in repository.examine(folder, machine) if each.level is level}


def plan_of(folder):
    (file,) = (folder / "unet" / "1").glob("*.plan")
    return file


def test_whole_repositories(plans, graphs, here):
    assert stage_files.native_backend(plans, UNET) == "tensorrt"
    for folder, gpu in ((plans, H200), (graphs, None)):
        assert {each.level for each in repository.examine(folder, here(gpu))} == {Level.OK}
    assert found(plans, here(H200), Level.OK)["stage unet"] == (
        f"{plan_of(plans).name} is whole and made for this place; hosted by Triton's tensorrt backend"
    )


def test_a_plan_of_another_gpu(plans, here):
    said = found(plans, here(L4))
    assert list(said) == [f"stage {stage}" for stage in STAGES]
    assert "target is sm90, here sm89; gpu is NVIDIA H200, here NVIDIA L4" in said["stage unet"]


def test_a_plan_without_a_gpu(plans, here):
    assert "needs a GPU (sm90), and there is none here" in found(plans, here(None))["stage unet"]


def test_a_plan_of_another_driver(plans, here):
    said = found(plans, here(replace(H200, driver="580")), Level.WARNING)
    assert said["stage unet"].endswith("timed on driver 570.1, here 580")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda file: file.write_bytes(b"engine" * 999), "is damaged: 5994 bytes, built with 6000"),
        (lambda file: file.write_bytes(b"Engine" * 1000), "its checksum is not the one of the build"),
        (lambda file: file.unlink(), "only its sidecar"),
        (lambda file: sidecar_path(file).unlink(), "no engine of unet in"),
        (lambda file: sidecar_path(file).write_text("{"), "is no sidecar of an engine"),
    ],
    ids=["cut off", "one byte", "missing", "no sidecar", "damaged sidecar"],
)
def test_a_damaged_plan(plans, here, damage, said):
    damage(plan_of(plans))
    wrong = found(plans, here(H200))
    assert list(wrong) == ["stage unet"]
    assert said in wrong["stage unet"]


def test_a_plan_that_triton_does_not_open(plans, here):
    config = plans / "unet" / "config.pbtxt"
    config.write_text(config.read_text().replace(plan_of(plans).name, "older.plan"))
    assert found(plans, here(H200)) == {
        "stage unet": f"Triton opens older.plan of unet, and the engine is {plan_of(plans).name}"
    }


@pytest.mark.parametrize(("content", "said"), [(None, "No such file"), (b"", "is empty")])
def test_a_damaged_graph(graphs, here, content, said):
    file = graphs / "unet" / "1" / FILE_NAME
    file.unlink() if content is None else file.write_bytes(content)
    wrong = found(graphs, here(None))
    assert list(wrong) == ["stage unet"]
    assert said in wrong["stage unet"]


def test_the_backend_is_missing(plans, here):
    machine = here(H200)
    folder = machine.triton.backend_source
    (folder / "tensorrt").rmdir()
    lost = f"needs Triton's tensorrt backend, and {folder} has none"
    assert found(plans, machine)["stage unet"] == lost
    embedded = replace(machine.triton, embedded=True, backend_source=folder.parent)
    assert found(plans, replace(machine, triton=embedded))["stage unet"] == lost
    unknown = replace(machine, triton=None)
    assert list(found(plans, unknown, Level.NOTE)) == [f"stage {stage}" for stage in STAGES]
    plan_of(plans).unlink()
    assert list(found(plans, unknown)) == ["stage unet"]


def test_a_backend_that_no_export_writes(graphs, here):
    config = graphs / "unet" / "config.pbtxt"
    config.write_text(config.read_text().replace('"onnxruntime"', '"pytorch"'))
    machine = here(None)
    (machine.triton.backend_source / "pytorch").mkdir()
    assert found(graphs, machine) == {}
    assert "its engine was not looked at" in found(graphs, machine, Level.NOTE)["stage unet"]


@pytest.fixture
def own_log_level():
    """The command silences the log of its process."""
    logger = logging.getLogger("zoetrope_server")
    before = logger.level
    yield
    logger.setLevel(before)


def test_the_command_refuses_it(plans, own_log_level):
    """As the init container asks, whatever Triton and GPU are here: the engine is not whole."""
    plan_of(plans).write_bytes(b"engine" * 999)
    app = Typer()
    app.command()(command.doctor)
    ran = CliRunner().invoke(app, [str(plans), "--json"])
    assert ran.exit_code == 1
    (stage,) = (each for each in json.loads(ran.stdout) if each["name"] == "stage unet")
    assert stage["level"] == "error" and stage["found"].startswith(plan_of(plans).name)
