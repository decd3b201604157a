"""What `zoetrope doctor` says of a machine: each check meets the real condition where one can be made."""

import resource
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from zoetrope_server.doctor import libraries, machine
from zoetrope_server.doctor.findings import Finding, Level, refused
from zoetrope_server.doctor.libraries import Library
from zoetrope_server.engines import ENGINES
from zoetrope_server.engines.gpu import Gpu
from zoetrope_server.launcher.errors import LaunchError
from zoetrope_server.launcher.installation import TritonInstallation, wheel_root, wheel_version
from zoetrope_server.launcher.python import PythonFacts
from zoetrope_server.launcher.settings import ServeSettings

MIB = 1 << 20
H200 = Gpu(name="NVIDIA H200", target="sm90", driver="570.1", memory=143 << 30, free=140 << 30)
WHOLE = {module: Library(module=module, version="1.2") for module in libraries.needed()}


def levels(findings):
    return {finding.name: str(finding.level) for finding in findings}


def test_this_machine_hosts_the_embedded_triton():
    found = machine.embedded_triton(wheel_root(), PythonFacts.current(), wheel_version())
    assert levels(found) == dict.fromkeys(("python", "libpython", "triton", "numpy"), "ok")


@pytest.mark.parametrize(
    ("change", "name", "advice"),
    [
        ({"numpy": "2.1.0"}, "numpy", "pip install 'numpy<2', or run in a current Triton container"),
        ({"numpy": None}, "numpy", "pip install 'numpy<2'"),
        ({"library_dirs": ()}, "libpython", "install it (Debian: apt install libpython3.11), use a Python"),
        ({"version": (3, 3)}, "triton", "use one of those versions, or run in a Triton container"),
    ],
)
def test_one_thing_wrong_with_python_is_one_error(change, name, advice):
    python = replace(PythonFacts.current(), version=(3, 11))
    found = machine.embedded_triton(wheel_root(), replace(python, **change), wheel_version())
    (wrong,) = [finding for finding in found if finding.level is Level.ERROR]
    assert wrong.name == name
    assert wrong.advice.startswith(advice)
    assert ": " not in wrong.found.partition("(")[0]


def test_no_triton_at_all():
    found = machine.embedded_triton(None, PythonFacts.current(), None)
    assert levels(found) == {"python": "ok", "triton": "error"}
    assert "zoetrope[server]" in found[-1].advice


def test_a_binary_that_cannot_be_executed(tmp_path):
    found = machine.embedded_triton(tmp_path, PythonFacts.current(), "0.7.0")
    assert f"{tmp_path}/tritonserver/bin/tritonserver cannot be executed" in [each.found for each in found]


@pytest.mark.parametrize(
    ("version", "backend", "level"),
    [((2, 60), True, "ok"), ((2, 40), True, "warning"), ((2, 60), False, "error")],
)
def test_a_triton_on_path(tmp_path, version, backend, level):
    binary = tmp_path / "bin" / "tritonserver"
    for file in (binary, tmp_path / "backends" / "python" / "libtriton_python.so"):
        if backend or file is binary:
            file.parent.mkdir(parents=True)
            file.touch(0o755)
    (tmp_path / "backends").mkdir(exist_ok=True)
    (tmp_path / "TRITON_VERSION").write_text(f"{version[0]}.{version[1]}.0")
    found = machine.triton(PythonFacts.current(), {"PATH": str(binary.parent)})
    assert levels(found) == {"python": "ok", "triton": level}


def test_a_triton_with_the_built_in_backends_is_taken_at_its_word(tmp_path):
    installation = TritonInstallation(
        binary=tmp_path, backend_source=None, library_dirs=(), version=(2, 60), embedded=False
    )
    assert machine.system_triton(installation).level is Level.OK


def test_a_port_that_is_taken():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        found = machine.ports("127.0.0.1", {"grpc": port, "http": 0})
    assert levels(found) == {"grpc port": "error", "http port": "ok"}
    assert f"127.0.0.1:{port} for grpc" in found[0].found
    assert found[0].advice == "choose another with --grpc-port, or 0 for any"


def test_one_port_for_two():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = machine.ports("127.0.0.1", {"grpc": port, "http": port})
    assert levels(found) == {"grpc port": "ok", "http port": "ok", "ports": "error"}
    assert len(machine.ports("127.0.0.1", {"grpc": 0, "http": 0})) == 2


def test_an_address_of_another_machine():
    assert levels(machine.ports("192.0.2.1", {"grpc": 0})) == {"grpc port": "error"}


def installed(version, *, embedded):
    return TritonInstallation(
        binary=Path("/bin/tritonserver"),
        backend_source=None,
        library_dirs=(),
        version=version,
        embedded=embedded,
    )


@pytest.mark.parametrize(
    ("flags", "version", "embedded", "level", "said"),
    [
        ({}, (2, 51), True, "ok", "for loopback only: a single request"),
        ({}, (2, 74), False, "ok", "127.0.0.1"),
        ({"host": "0.0.0.0"}, (2, 74), False, "ok", "0.0.0.0"),
        ({"host": "0.0.0.0"}, (2, 69), False, "error", "may listen on loopback only, not on 0.0.0.0"),
        ({"host": "0.0.0.0"}, (2, 51), True, "error", "may listen on loopback only, not on 0.0.0.0"),
        ({"host": "::", "expose_vulnerable_triton": True}, (2, 51), True, "warning", "a single request"),
        ({"triton_http": True, "http_host": "0.0.0.0"}, (2, 51), True, "error", "not on 0.0.0.0"),
    ],
)
def test_who_may_reach_which_triton(flags, version, embedded, level, said):
    wanted = dict.fromkeys(("grpc_port", "metrics_port", "health_port"), 0)
    settings = ServeSettings.merged(**wanted, **flags)
    found = machine.addresses(settings, installed(version, embedded=embedded))
    assert (found[0].name, found[0].level) == ("exposure", level) and said in found[0].found
    assert bool(found[0].advice) == (level != "ok")


def test_addresses_are_looked_at_as_serving_does():
    found = machine.addresses(ServeSettings.merged(host="nowhere.invalid"), None)
    assert levels(found) == {"addresses": "error"}
    ports = dict.fromkeys(("grpc_port", "metrics_port", "health_port"), 0)
    found = machine.addresses(ServeSettings.merged(host="::1", **ports), None)
    assert levels(found) == {"grpc port": "ok", "metrics port": "ok", "health port": "ok"}


@pytest.mark.parametrize(("hard", "level"), [(1024, "warning"), (4096, "ok")])
def test_open_files(monkeypatch, hard, level):
    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, hard))
    assert machine.open_files().level == level


def test_what_the_next_release_does_not_know_any_more_is_a_warning():
    found, settings = machine.settings({"http_port": 0})
    assert (found.level, settings.serves_http) == (Level.WARNING, True)
    assert found.advice == "add --triton-http"


@pytest.mark.parametrize(("free", "level"), [(512 * MIB, "ok"), (512 * MIB - 1, "warning")])
def test_free_shared_memory(tmp_path, free, level):
    found = machine.shared_memory(tmp_path, lambda path: (1 << 30, 0, free))
    assert found.level == level
    assert bool(found.advice) == (level != "ok")


def test_no_shared_memory(tmp_path):
    assert machine.shared_memory(tmp_path / "nowhere").level is Level.ERROR


def test_runtime_folder(tmp_path):
    assert machine.runtime_folder(["relative", str(tmp_path)]) == Finding(
        name="runtime folder", level=Level.OK, found=str(tmp_path)
    )
    assert list(tmp_path.iterdir()) == []
    wrong = machine.runtime_folder([str(tmp_path / ("x" * 100))])
    assert (wrong.level, bool(wrong.advice)) == (Level.ERROR, True)


def test_cache_folder(tmp_path):
    engines = tmp_path / "zoetrope" / "engines"
    engines.mkdir(parents=True)
    (engines / "unet.plan").write_bytes(bytes(3 * MIB))
    assert "3 MiB of engines" in machine.cache_folder(tmp_path / "zoetrope", little=0).found
    assert machine.cache_folder(tmp_path / "zoetrope", little=1 << 60).level is Level.WARNING
    (tmp_path / "file").touch()
    wrong = machine.cache_folder(tmp_path / "file" / "zoetrope", little=0)
    assert (wrong.level, "cannot be written" in wrong.found) == (Level.WARNING, True)
    assert machine.cache_folder(tmp_path / "not" / "yet", little=0).level is Level.OK
    assert not (tmp_path / "not").exists()


def test_settings(monkeypatch):
    found, settings = machine.settings({"grpc_port": 5, "host": None})
    assert (found.level, found.found, settings.grpc_port) == (Level.OK, "grpc_port", 5)
    found, settings = machine.settings({"grpc_port": 99999})
    assert (found.level, settings) == (Level.ERROR, None)
    assert "--grpc-port (ZOETROPE_GRPC_PORT) = 99999" in found.found
    monkeypatch.setenv("ZOETROPE_MEDIA_THREADS", "many")
    found, settings = machine.settings({})
    assert (found.level, settings) == (Level.ERROR, None)
    assert "ZOETROPE_MEDIA_THREADS = 'many'" in found.found


def test_real_modules_are_tried_in_a_process_of_their_own():
    assert libraries.probe("numpy") == Library(module="numpy", version=PythonFacts.current().numpy)
    missing = libraries.probe("zoetrope_nowhere")
    assert missing.problem == "ModuleNotFoundError: No module named 'zoetrope_nowhere'"


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("import os; os.abort()", "its import dies of SIGABRT"),
        ("raise SystemExit(3)", "its import ends with 3"),
        ("import time; time.sleep(60)", "its import takes longer than 2 s"),
        ("raise OSError('libcuda.so.1: no such file')", "OSError: libcuda.so.1: no such file"),
    ],
)
def test_a_module_that_does_not_load(tmp_path, monkeypatch, body, problem):
    (tmp_path / "broken_module.py").write_text(body)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert libraries.probe("broken_module", timeout_s=2).problem == problem


def test_a_folder_is_not_taken_for_a_module(tmp_path, monkeypatch):
    (tmp_path / "wrong_module.py").touch()
    monkeypatch.chdir(tmp_path)
    assert "ModuleNotFoundError" in libraries.probe("wrong_module").problem


def test_the_version_of_torch_without_its_import():
    torch = pytest.importorskip("torch")
    assert libraries.probe("torch") == Library(module="torch", version=str(torch.__version__))


def test_every_engine_has_its_modules():
    assert set(libraries.MODULES) == set(ENGINES)
    for name in ENGINES:
        assert libraries.engine(name, WHOLE, H200).level is Level.OK


def test_engines_without_a_gpu():
    found = {name: libraries.engine(name, WHOLE, None) for name in ENGINES}
    notes = {name for name, finding in found.items() if finding.level is Level.NOTE}
    assert notes == {"tensorrt", "tensorrt-rtx"}
    assert libraries.any_engine(list(found.values())).found == "onnxruntime, openvino, aot-inductor"


def test_engines_without_their_libraries():
    broken = {name: Library(module=name, problem="ImportError: no") for name in WHOLE}
    found = [libraries.engine(name, broken, H200) for name in ENGINES]
    assert {finding.level for finding in found} == {Level.NOTE}
    assert all(finding.advice.startswith("pip install ") for finding in found)
    assert libraries.any_engine(found).level is Level.ERROR
    assert libraries.media(broken["av"]).level is Level.ERROR


def test_gpu(tmp_path):
    assert libraries.gpu(H200, []).found.startswith("NVIDIA H200 (sm90), driver 570.1, 143360 of 146432")
    assert libraries.gpu(None, [str(tmp_path / "nowhere")]).level is Level.NOTE
    assert libraries.gpu(None, [str(tmp_path)]).level is Level.WARNING


def test_advice_is_told_from_what_was_found():
    found = refused("x", LaunchError("it (a: b) is [::1]:80 (c: d): do e: f"))
    assert (found.found, found.advice) == ("it (a: b) is [::1]:80 (c: d)", "do e: f")
    assert refused("x", LaunchError("only this")).advice == ""
