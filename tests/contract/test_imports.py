"""Imports run one way, and the light packages stay light."""

import ast
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = {
    "zoetrope_core": ROOT / "core",
    "zoetrope_server": ROOT / "server",
    "zoetrope_client": ROOT / "client",
    "zoetrope_export": ROOT / "export",
    "zoetrope_bench": ROOT / "benchmarks",
}
ARROWS = {
    "zoetrope_core": set(),
    "zoetrope_server": {"zoetrope_core"},
    "zoetrope_client": {"zoetrope_core"},
    "zoetrope_export": {"zoetrope_core", "zoetrope_server"},
    "zoetrope_bench": {"zoetrope_core", "zoetrope_server", "zoetrope_client", "zoetrope_export"},
    "model_repository": {"zoetrope_core", "zoetrope_server"},
}
"""Who may import whom: core <- {server, client}; server <- export; {client, server, export} <- bench."""
MODULES = {"pillow": "PIL", "tritonclient": "tritonclient", "grpcio": "grpc"}
STDLIB = set(sys.stdlib_module_names) | {"__future__"}


def sources(package):
    folder = FOLDERS[package] / package if package in FOLDERS else ROOT / package
    return sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


def imported(path):
    """The top-level names of all imports of a file, wherever they stand; '.' for a relative one."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.partition(".")[0] if node.level == 0 else "."


def wrong_arrows(package, path, allowed):
    names = {name for name in imported(path) if name.startswith("zoetrope_")}
    return sorted(f"{path.name}: {name}" for name in names - allowed - {package})


@pytest.mark.parametrize("package", ARROWS)
def test_no_arrow_runs_back(package):
    files = sources(package)
    assert files
    assert not [wrong for path in files for wrong in wrong_arrows(package, path, ARROWS[package])]


def test_an_arrow_that_runs_back_is_found(tmp_path):
    path = tmp_path / "bad.py"
    path.write_text(
        "def late():\n    from zoetrope_server.service import Service\n    import zoetrope_core\n"
    )
    assert wrong_arrows("zoetrope_client", path, ARROWS["zoetrope_client"]) == ["bad.py: zoetrope_server"]


def base_dependencies():
    """The import names of the base install's dependencies."""
    names = [entry.partition(";") for entry in requires("zoetrope") if "extra" not in entry]
    plain = ["".join(c if c.isalnum() or c in "-_" else " " for c in name).split()[0] for name, _, _ in names]
    return {MODULES.get(name, name) for name in plain}


def test_core_needs_numpy_alone():
    foreign = {name for path in sources("zoetrope_core") for name in imported(path)} - STDLIB
    assert foreign == {"numpy", "zoetrope_core"}


def test_the_client_needs_the_base_install_alone():
    foreign = {name for path in sources("zoetrope_client") for name in imported(path)} - STDLIB
    assert foreign - {"zoetrope_core", "zoetrope_client"} <= base_dependencies()


@pytest.mark.parametrize("package", FOLDERS)
def test_imports_are_absolute(package):
    assert not [path.name for path in sources(package) if "." in imported(path)]


def loaded(*modules):
    """The top-level modules that importing `modules` loads in a fresh interpreter."""
    script = f"import sys, {', '.join(modules)}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    command = [sys.executable, "-c", script]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def all_modules(package):
    folder = FOLDERS[package]
    names = [path.relative_to(folder).with_suffix("").parts for path in sources(package)]
    return [".".join(parts).removesuffix(".__init__") for parts in names if parts[-1] != "__main__"]


HEAVY = {"torch", "tritonclient", "grpc", "PIL", "diffusers", "openvino", "onnxruntime", "av", "typer"}


def test_core_loads_nothing_heavy():
    assert not loaded("zoetrope_core") & HEAVY
    assert not loaded(*all_modules("zoetrope_core")) & HEAVY


def test_the_client_loads_no_engine_and_no_server():
    heavy = {"torch", "diffusers", "transformers", "openvino", "onnxruntime", "av", "zoetrope_server"}
    assert not loaded("zoetrope_client") & heavy
    assert not loaded(*all_modules("zoetrope_client")) & heavy


def test_serving_loads_no_torch():
    for dependency in ("av", "pydantic_settings", "psutil"):  # the server extra
        pytest.importorskip(dependency)
    modules = [
        name for name in all_modules("zoetrope_server") if not name.startswith("zoetrope_server.triton")
    ]
    assert not {"torch", "diffusers"} & loaded(*modules)
