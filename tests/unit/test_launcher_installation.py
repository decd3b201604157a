"""Finding Triton, and refusing what the embedded one cannot host; facts are injected, not patched."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from zoetrope_server.launcher.errors import LaunchError
from zoetrope_server.launcher.installation import (
    TritonInstallation,
    assemble_backends,
    embedded_installation,
    find_installation,
)
from zoetrope_server.launcher.python import PythonFacts


@pytest.fixture
def package(tmp_path):
    """A folder laid out as the wheel lays out its `pytriton` package."""
    root = tmp_path / "site-packages" / "pytriton" / "tritonserver"
    contents = {
        "bin/tritonserver": "triton",
        "backends/python/libtriton_python.so": "library",
        "backends/python/triton_python_backend_utils.py": "utils",
        "python_backend_stubs/3.10/triton_python_backend_stub": "stub 3.10",
        "python_backend_stubs/3.11/triton_python_backend_stub": "stub 3.11",
    }
    for name, text in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root.parent


@pytest.fixture
def python(tmp_path):
    library = tmp_path / "lib"
    library.mkdir()
    (library / "libpython3.11.so.1.0").touch()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()
    (tmp_path / "bin" / "python3").symlink_to("python")
    return PythonFacts(
        executable=tmp_path / "bin" / "python",
        version=(3, 11),
        library="libpython3.11.so.1.0",
        library_dirs=(tmp_path / "nowhere", library),
        numpy="1.26.4",
    )


def executable(path, text="#!/bin/sh\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_embedded(package, python, tmp_path):
    found = embedded_installation(package, python, "0.7.0")
    assert found == TritonInstallation(
        binary=package / "tritonserver" / "bin" / "tritonserver",
        backend_source=package / "tritonserver",
        library_dirs=(tmp_path / "lib", package.parent / "nvidia_pytriton.libs"),
        version=(2, 51),
        embedded=True,
    )


def test_an_unknown_wheel_counts_as_the_oldest_triton(package, python):
    assert embedded_installation(package, python, "9.9.9").version == (2, 51)
    assert embedded_installation(package, python, None).version == (2, 51)


def test_no_triton_at_all(python):
    with pytest.raises(LaunchError, match=r"pip install 'zoetrope\[server\]'.*NGC"):
        embedded_installation(None, python, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"numpy": "2.1.0"},
            "embedded Triton 2.51 corrupts tensors under numpy 2.1.0: pip install 'numpy<2'",
        ),
        ({"numpy": None}, "numpy is not installed"),
        ({"library_dirs": ()}, "bin/python has no shared libpython3.11.so.1.0.*--enable-shared"),
        ({"executable": Path("/bin/sh")}, "environment of /bin/python3, which is not /bin/sh: .*virtual"),
        ({"version": (3, 14)}, r"no stub for Python 3.14 \(it has: 3.10, 3.11\)"),
    ],
)
def test_a_python_that_the_embedded_triton_cannot_host(package, python, change, message):
    with pytest.raises(LaunchError, match=message):
        embedded_installation(package, replace(python, **change), "0.7.0")


def test_the_facts_of_this_python_are_right():
    facts = PythonFacts.current()
    assert facts.shared_library_dir() is not None
    assert os.access(facts.executable, os.X_OK)
    assert facts.numpy is not None


def test_a_tritonserver_on_path_is_preferred(tmp_path):
    binary = executable(tmp_path / "opt" / "bin" / "tritonserver")
    (tmp_path / "opt" / "backends").mkdir()
    (tmp_path / "opt" / "TRITON_VERSION").write_text("2.74.0\n")
    found = find_installation(environ={"PATH": f"/nowhere:{binary.parent}"})
    assert found == TritonInstallation(
        binary=binary,
        backend_source=tmp_path / "opt" / "backends",
        library_dirs=(),
        version=(2, 74),
        embedded=False,
    )


@pytest.mark.parametrize(("stated", "version"), [("2.60.0", (2, 60)), ("", (2, 51)), ("nonsense", (2, 51))])
def test_the_version_of_a_system_triton_may_come_from_the_environment(tmp_path, stated, version):
    binary = executable(tmp_path / "opt" / "bin" / "tritonserver")
    found = find_installation(environ={"PATH": str(binary.parent), "TRITON_SERVER_VERSION": stated})
    assert found.version == version
    assert found.backend_source is None


def test_the_wheel_is_found_without_importing_it():
    found = find_installation(environ={"PATH": "/nowhere"})
    assert found.embedded
    assert os.access(found.binary, os.X_OK)


def assembled(target):
    return {path.name: path.read_text() for path in (target / "python").iterdir()}


def test_the_parts_are_assembled_once(package, python, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    installation = embedded_installation(package, python, "0.7.0")
    target = assemble_backends(installation, python, tmp_path)
    assert target == tmp_path / "cache" / "zoetrope" / "triton-2.51-py3.11"
    assert assembled(target) == {
        "libtriton_python.so": "library",
        "triton_python_backend_utils.py": "utils",
        "triton_python_backend_stub": "stub 3.11",
    }
    before = [path.stat().st_ino for path in sorted((target / "python").iterdir())]
    assert assemble_backends(installation, python, tmp_path) == target
    assert [path.stat().st_ino for path in sorted((target / "python").iterdir())] == before


def test_a_damaged_part_is_replaced(package, python, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    installation = embedded_installation(package, python, "0.7.0")
    target = assemble_backends(installation, python, tmp_path)
    (target / "python" / "libtriton_python.so").write_text("lib")
    assemble_backends(installation, python, tmp_path)
    assert assembled(target)["libtriton_python.so"] == "library"


def test_a_backend_that_others_could_have_written_is_not_loaded(
    package, python, tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    installation = embedded_installation(package, python, "0.7.0")
    (tmp_path / "fallback").mkdir()
    kept = assemble_backends(installation, python, tmp_path / "fallback")
    assert kept.is_relative_to(tmp_path / "cache") and kept.stat().st_mode & 0o777 == 0o700
    kept.chmod(0o777)
    used = assemble_backends(installation, python, tmp_path / "fallback")
    assert used.is_relative_to(tmp_path / "fallback") and "others can write there" in caplog.text


def test_without_a_cache_folder_the_fallback_is_used(package, python, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    installation = embedded_installation(package, python, "0.7.0")
    target = assemble_backends(installation, python, tmp_path / "fallback")
    assert target == tmp_path / "fallback" / "triton-2.51-py3.11"
    assert "cannot use" in caplog.text


def test_a_system_triton_keeps_its_backends(tmp_path, python):
    binary = executable(tmp_path / "opt" / "bin" / "tritonserver")
    (tmp_path / "opt" / "backends").mkdir()
    found = find_installation(environ={"PATH": str(binary.parent)})
    assert assemble_backends(found, python, tmp_path) == tmp_path / "opt" / "backends"
