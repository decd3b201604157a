"""The Dockerfile: linted, and held against what the server and the package really have."""

import platform
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import dockerfile
import pytest

from zoetrope_server.launcher import ServeSettings
from zoetrope_server.launcher.health import Health, HealthServer, Phase
from zoetrope_server.launcher.ports import choose_ports

ROOT = dockerfile.ROOT
SETTINGS, STAGES = dockerfile.read()
TARGETS = ("serve", "export")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DEFAULTS = {name: field.default for name, field in ServeSettings.model_fields.items()}
PAGES = [(ROOT / name).read_text() for name in ("README.md", "docs/docker.md")]


def hadolint(path):
    binary = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert binary, "pip install -e '.[dev]'"
    return subprocess.run([binary, str(path)], capture_output=True, text=True, timeout=60)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="hadolint has a wheel for x86-64 alone")
def test_hadolint_has_nothing_to_say(tmp_path):
    ran = hadolint(ROOT / "Dockerfile")
    assert ran.returncode == 0, ran.stdout
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM debian:latest\nRUN cd / && pip install numpy\n")
    assert hadolint(bad).returncode != 0


def test_only_a_pinned_triton_is_pulled():
    pulled = {stage.base for stage in STAGES.values()} - set(STAGES)
    assert pulled == {"nvcr.io/nvidia/tritonserver:${TRITON_RELEASE}-py3"}
    assert tuple(map(int, SETTINGS["TRITON_RELEASE"].split("."))) >= (26, 10)


def test_a_build_without_a_target_makes_the_server():
    assert list(STAGES)[-1] == "serve"


@pytest.mark.parametrize("target", TARGETS)
def test_targets_do_not_run_as_root(target):
    user, group = STAGES[target].last("USER").split(":")
    assert int(user) > 0 and int(group) > 0
    names = [name for name, _ in STAGES[target].instructions]
    assert "RUN" not in names[names.index("USER") :]


@pytest.mark.parametrize("target", TARGETS)
def test_entry_point_is_a_command(target):
    program, command = STAGES[target].exec_form("ENTRYPOINT")
    assert program in PROJECT["scripts"]
    assert command in {entry.name for entry in entry_points(group="zoetrope.commands")}
    assert command == target
    assert STAGES[target].exec_form("CMD")
    assert STAGES[target].last("STOPSIGNAL") == "SIGTERM"


@pytest.mark.parametrize("target", TARGETS)
def test_labels(target):
    stage = STAGES[target]
    names = ("title", "description", "licenses", "version", "revision", "source", "base.name")
    labels = stage.pairs("LABEL")
    assert set(labels) == {f"org.opencontainers.image.{name}" for name in names}
    assert labels["org.opencontainers.image.licenses"] == PROJECT["license"]
    assert stage.arguments()["VERSION"] == PROJECT["version"]
    used = set(re.findall(r"\$\{(\w+)\}", " ".join(labels.values())))
    assert used <= {value.partition("=")[0] for value in stage.values("ARG")}


def test_ports_are_those_of_the_server():
    ports = {DEFAULTS[f"{name}_port"] for name in ("grpc", "metrics", "health")}
    assert set(map(int, STAGES["serve"].last("EXPOSE").split())) == ports


def test_published_ports_are_for_this_machine():
    """A port that docker publishes without an address is open to the network, past most firewalls."""
    pages = [path.read_text() for path in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"))]
    published = [port for page in pages for port in re.findall(r"(?<!\S)(?:-p|--publish)[ =](\S*:\d+)", page)]
    assert published
    assert [port for port in published if not port.startswith("127.0.0.1:")] == []
    known = {DEFAULTS[f"{name}_port"] for name in ("grpc", "metrics", "health")}
    assert {int(port.rpartition(":")[2]) for port in published} <= known


@pytest.mark.parametrize("target", TARGETS)
def test_environment_is_settings_of_the_server(target):
    names = {
        name.removeprefix("ZOETROPE_").lower() for name in STAGES[target].pairs("ENV") if "ZOETROPE" in name
    }
    assert names == {"host"} <= set(DEFAULTS)


def test_healthcheck_asks_the_supervisor():
    command = STAGES["serve"].exec_form("HEALTHCHECK")
    assert f":{DEFAULTS['health_port']}/" in command[-1]
    assert f"--start-period={DEFAULTS['start_timeout_s']:g}s " in STAGES["serve"].last("HEALTHCHECK")
    port = choose_ports("127.0.0.1", {"health": 0})["health"]
    command[-1] = command[-1].replace(str(DEFAULTS["health_port"]), str(port))
    health = Health(phase=Phase.READY)
    with HealthServer("127.0.0.1", port, lambda: health):
        assert subprocess.run(command, timeout=30).returncode == 0
        health = Health(phase=Phase.DRAINING, reason="the server is shutting down")
        assert subprocess.run(command, timeout=30, stderr=subprocess.DEVNULL).returncode != 0


def test_steps_leave_no_cache_of_pip_and_add_nothing():
    for stage in STAGES.values():
        assert not stage.values("ADD")
        for step in stage.values("RUN"):
            kept_outside = "--mount=type=cache,target=/root/.cache/pip" in step
            assert kept_outside or "pip" not in step


def test_steps_stay_in_their_folders(tmp_path):
    for stage in STAGES.values():
        for step in stage.values("RUN"):
            dockerfile.moved(re.sub(r"--mount=\S+", "", step), tmp_path)
    assert dockerfile.moved("ls /dist/*.whl", "/r") == "ls /r/dist/*.whl"
    with pytest.raises(AssertionError, match="would touch /etc/passwd"):
        dockerfile.moved("cat /etc/passwd", tmp_path)


def test_context_is_what_the_wheel_is_made_of():
    hatch = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    folders = {*hatch["packages"], *hatch["force-include"]}
    files = {PROJECT["readme"], *PROJECT["license-files"], "pyproject.toml"}
    sent = list(map(str, dockerfile.context()))
    for folder in folders:
        assert any(path.startswith(folder + "/") for path in sent), folder
    assert files <= set(sent)
    rest = [path for path in sent if path not in files and not path.startswith(tuple(folders))]
    assert rest == []
    for stage in STAGES.values():
        assert all(value == ". ." for value in stage.values("COPY"))


def test_ignoring():
    patterns = ["*", "!core", "!benchmarks/zoetrope_bench", "**/__pycache__"]
    kept = {"core/a.py", "benchmarks/zoetrope_bench/b.py"}
    out = {"demo/a.py", "benchmarks/results/c.json", "core/x/__pycache__/a.pyc", ".git/config", "corex"}
    assert {path for path in kept | out if not dockerfile.ignored(Path(path), patterns)} == kept


def packages(extra):
    """The names of what an extra installs, through the extras that it names."""
    names = set()
    for requirement in PROJECT["optional-dependencies"][extra]:
        name, inner = re.match(r"([\w-]+)(?:\[([\w,]+)\])?", requirement).groups()
        names |= set().union(*map(packages, inner.split(","))) if name == PROJECT["name"] else {name}
    return names


def test_extras_of_the_images():
    extras = STAGES["runtime"].arguments()["SERVE_EXTRAS"]
    assert extras == STAGES["export"].arguments()["SERVE_EXTRAS"]
    serving = set().union(*map(packages, extras.split(",")))
    assert "tensorrt" in serving and "openvino" in serving
    # onnxruntime and onnxruntime-gpu are the same folder in two packages.
    assert not serving & {"torch", "diffusers", "transformers", "nvidia-pytriton", "onnxruntime-gpu"}
    assert packages("server") == packages("serve") | {"nvidia-pytriton", "numpy"}
    assert {"torch", "diffusers"} <= packages("export")
    assert not serving & {"numpy"}, "the container's Triton decides which numpy it takes"


def test_documented_commands_are_those_of_the_file():
    arguments = set(SETTINGS) | {
        value.partition("=")[0] for stage in STAGES.values() for value in stage.values("ARG")
    }
    text = "\n".join(PAGES)
    documented = set(re.findall(r"--build-arg (\w+)=", text))
    assert documented and documented <= arguments
    assert {"VERSION", "REVISION", "SOURCE", "SERVE_EXTRAS", "TENSORRT_VERSION"} <= arguments
    targets = set(re.findall(r"--target (\w+)", text))
    assert targets == {"export"} <= set(STAGES)
