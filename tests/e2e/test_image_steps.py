"""What the Dockerfile does, done without docker: its RUN steps below a folder, then its ENTRYPOINT.

Only the base image is not the real one: the Triton of the wheel stands in, laid out as the container's. That
old one needs numpy 1, and TensorRT's packages are left out.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from contextlib import contextmanager
from pathlib import Path

import dockerfile
import pytest

from zoetrope_client import Client
from zoetrope_server.launcher.installation import find_installation
from zoetrope_server.launcher.python import PythonFacts, tag

pytestmark = [pytest.mark.e2e, pytest.mark.full]
_, STAGES = dockerfile.read()
ARGUMENTS = {"SERVE_EXTRAS": "serve"}
PORTS = {f"ZOETROPE_{name}_PORT": "0" for name in ("GRPC", "HTTP", "METRICS", "HEALTH")}
HEALTH_PORT = "8003"
PHOTO = str(dockerfile.ROOT / "demo" / "photo.jpg")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder after the RUN steps of the stages `wheel` and `runtime`."""
    folder = tmp_path_factory.mktemp("image")
    constraint = folder / "numpy.txt"
    constraint.write_text("numpy<2\n")
    dockerfile.copy_context(folder / "src")
    run_stage("wheel", folder, folder / "src")
    run_stage("runtime", folder, folder, PIP_CONSTRAINT=str(constraint))
    return folder


def run_stage(name, root, directory, **environment):
    """Runs the steps of a stage with its default build arguments, but for those of this test."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    arguments = {**STAGES[name].arguments(), **ARGUMENTS}
    steps = STAGES[name].values("RUN")
    assert steps
    for step in steps:
        ran = dockerfile.run(step, root, arguments, directory, PATH=path, **environment)
        assert ran.returncode == 0, f"{step}\n{ran.stdout[-1000:]}\n{ran.stderr[-3000:]}"


def test_wheel(root):
    (wheel,) = (root / "dist").iterdir()
    folders = {Path(name).parts[0] for name in zipfile.ZipFile(wheel).namelist()}
    packages = {f"zoetrope_{name}" for name in ("core", "server", "client", "export", "bench")}
    assert {folder for folder in folders if not folder.endswith(".dist-info")} == packages
    assert "zoetrope_export/model_repository/image_to_video/config.pbtxt" in zipfile.ZipFile(wheel).namelist()


def test_environment(root):
    python = str(root / "opt" / "zoetrope" / "bin" / "python")
    pip = [sys.executable, "-m", "pip", "--python", python]
    installed = json.loads(subprocess.check_output([*pip, "list", "--format=json"], text=True))
    names = {package["name"] for package in installed}
    assert {"zoetrope", "numpy", "av", "openvino"} <= names
    assert not names & {"torch", "diffusers", "nvidia-pytriton", "pip", "setuptools", "pytest"}
    assert subprocess.run([*pip, "check"], capture_output=True, timeout=120).returncode == 0


def test_the_build_fails_with_torch(root):
    (check,) = STAGES["serve"].values("RUN")
    assert dockerfile.run(check, root, {}).returncode == 0
    (site,) = (root / "opt" / "zoetrope" / "lib").glob("python3.*/site-packages")
    module = site / "torch.py"
    module.write_text("")
    try:
        ran = dockerfile.run(check, root, {})
    finally:
        module.unlink()
    assert ran.returncode != 0 and "torch is installed" in ran.stderr


def test_folders_of_the_export_image(root):
    (step,) = [step for step in STAGES["export"].values("RUN") if "pip" not in step]
    assert dockerfile.run(step, root, {}).returncode == 0
    assert {oct((root / name).stat().st_mode & 0o7777) for name in ("cache", "models")} == {"0o1777"}


def container(root):
    """The environment of a container: a Triton below /opt/tritonserver, and the ENV of the serve image."""
    embedded = find_installation(environ={"PATH": ""})
    triton, python = root / "opt" / "tritonserver", PythonFacts.current()
    shutil.copytree(embedded.backend_source, triton)
    stub = Path(tag(python.version)) / "triton_python_backend_stub"
    shutil.copy2(triton / "python_backend_stubs" / stub, triton / "backends" / "python")
    (triton / "TRITON_VERSION").write_text(f"{tag(embedded.version)}.0\n")
    environment = STAGES["serve"].pairs("ENV")
    base = f"{triton / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin"
    ours = environment["PATH"].removesuffix("${PATH}")
    environment["PATH"] = dockerfile.moved(ours, root) + base
    libraries = os.pathsep.join(map(str, embedded.library_dirs))
    return {**environment, **PORTS, "LD_LIBRARY_PATH": libraries}


@contextmanager
def started(command, environment, log):
    """A command's process and the first line that it prints; in the end it gets the image's stop signal."""
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            command, cwd=log.parent, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True
        ) as process,
    ):
        try:
            line = process.stdout.readline()
            assert line, log.read_text()[-3000:]
            yield process, json.loads(line)
            process.send_signal(getattr(signal, STAGES["serve"].last("STOPSIGNAL")))
            process.wait(90)
        finally:
            process.kill()


def test_the_entry_point_serves(root, repository, tmp_path):
    environment = container(root)
    command = STAGES["serve"].exec_form("ENTRYPOINT")
    program = shutil.which(command[0], path=environment["PATH"])
    assert program == str(root / "opt" / "zoetrope" / "bin" / "zoetrope")
    probe = STAGES["serve"].exec_form("HEALTHCHECK")
    with started([program, *command[1:], str(repository)], environment, tmp_path / "log") as (server, told):
        triton = Path(f"/proc/{told['triton_pid']}/exe").resolve()
        assert triton == root / "opt" / "tritonserver" / "bin" / "tritonserver"
        probe[-1] = probe[-1].replace(HEALTH_PORT, told["health"].rpartition(":")[2])
        assert subprocess.run(probe, env=environment, timeout=30).returncode == 0
        # Reached at another address than the one that is printed: it listens on all of them.
        with Client(told["grpc"].replace("127.0.0.1", "127.0.0.2")) as client:
            video = client.generate(PHOTO, seed=1, num_inference_steps=2)
        video.save(tmp_path / "video.mp4")
        assert b"ftyp" in (tmp_path / "video.mp4").read_bytes()[:12]
    assert server.returncode == 0
    failed = subprocess.run(probe, env=environment, timeout=30, stderr=subprocess.DEVNULL)
    assert failed.returncode != 0
