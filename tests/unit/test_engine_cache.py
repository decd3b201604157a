"""The engine cache: the same engine is built once, another one anew, whatever happens in between."""

import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from engine_keys import KEY, OTHER

onnx = pytest.importorskip("onnx")
pytest.importorskip("filelock")

from zoetrope_export import engine_cache  # noqa: E402
from zoetrope_export.engine_cache import EngineCache, default_root, graph_digests, place  # noqa: E402
from zoetrope_server.engines import EngineError  # noqa: E402
from zoetrope_server.engines.sidecar import verify  # noqa: E402


class Builder:
    """Writes an engine and counts."""

    def __init__(self):
        self.builds = 0

    def __call__(self, path):
        self.builds += 1
        path.write_bytes(b"engine" * 100_000)


@pytest.fixture
def builder():
    return Builder()


@pytest.fixture
def cache(tmp_path):
    return EngineCache(tmp_path / "cache")


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_the_second_time_is_a_hit_within_milliseconds(cache, builder):
    first = cache.fetch(KEY, builder)
    began = time.perf_counter()
    second = cache.fetch(KEY, builder)
    assert time.perf_counter() - began < 0.5
    assert (first.hit, second.hit, builder.builds) == (False, True, 1)
    assert first.file == second.file and first.sidecar == second.sidecar
    assert names(cache.root) == [KEY.file_name(), f"{KEY.file_name()}.json"]


@pytest.mark.parametrize("name", OTHER)
def test_any_other_part_of_the_key_is_a_miss(cache, builder, name):
    cache.fetch(KEY, builder)
    assert not cache.fetch(replace(KEY, **{name: OTHER[name]}), builder).hit
    assert cache.fetch(KEY, builder).hit
    assert builder.builds == 2


@pytest.mark.parametrize("damage", ["truncated", "altered", "gone", "sidecar"])
def test_what_is_damaged_is_built_again(cache, builder, damage, caplog):
    file = cache.fetch(KEY, builder).file
    data = file.read_bytes()
    if damage == "gone":
        file.unlink()
    elif damage == "sidecar":
        file.with_name(f"{file.name}.json").write_text("{")
    else:
        file.write_bytes(data[:-1] if damage == "truncated" else b"X" + data[1:])
    assert not cache.fetch(KEY, builder).hit
    assert file.read_bytes() == data
    assert "built again" in caplog.text
    assert cache.fetch(KEY, builder).hit
    assert builder.builds == 2


def test_a_build_that_fails_leaves_nothing_and_no_lock(cache, builder):
    def failing(path):
        path.write_bytes(b"half")
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        cache.fetch(KEY, failing)
    assert names(cache.root) == []
    assert not cache.fetch(KEY, builder).hit


RACER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from engine_keys import KEY
from zoetrope_export.engine_cache import EngineCache

root = Path(sys.argv[1])
def build(path):
    with (root / "builds").open("a") as log:
        log.write("built\\n")
    time.sleep(1.5)
    path.write_bytes(b"engine")

(root / f"ready-{sys.argv[3]}").touch()
while len(list(root.glob("ready-*"))) < 2:
    time.sleep(0.01)
print(EngineCache(root / "cache").fetch(KEY, build).hit)
"""


def test_of_two_builders_at_once_one_builds(tmp_path, request):
    command = [sys.executable, "-c", RACER, str(tmp_path), str(request.path.parents[1])]
    racers = [
        subprocess.Popen([*command, name], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for name in "ab"
    ]
    said = [racer.communicate(timeout=60) for racer in racers]
    assert sorted(out.strip() for out, _ in said) == ["False", "True"], said
    assert (tmp_path / "builds").read_text() == "built\n"
    assert any("another process is building it" in err for _, err in said)


@pytest.mark.parametrize("linked", [True, False])
def test_an_engine_is_placed_with_its_sidecar(cache, builder, tmp_path, monkeypatch, linked):
    cached = cache.fetch(KEY, builder)
    if not linked:

        def refuse(*paths):
            raise OSError("another file system")

        monkeypatch.setattr(engine_cache.os, "link", refuse)
    placed = place(cached, tmp_path)
    assert verify(placed, {"stage": "unet"}).key == KEY
    assert (placed.stat().st_ino == cached.file.stat().st_ino) == linked


def test_an_engine_altered_in_a_repository_is_refused_there_and_not_served_from_the_cache(
    cache, builder, tmp_path
):
    placed = place(cache.fetch(KEY, builder), tmp_path)
    placed.write_bytes(b"other")
    with pytest.raises(EngineError, match="damaged"):
        verify(placed, {})
    assert not cache.fetch(KEY, builder).hit


def graph(folder, *, value=1.0, node="Add", external=False):
    folder.mkdir()
    array = onnx.numpy_helper.from_array(np.full((64, 64), value, np.float32), "w")
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [64, 64])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [64, 64])
    nodes = [onnx.helper.make_node(node, ["x", "w"], ["y"])]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [x], [y], [array]))
    options = {"save_as_external_data": True, "location": "w.data", "size_threshold": 0} if external else {}
    onnx.save(model, str(folder / "m.onnx"), **options)
    return graph_digests(folder / "m.onnx")


@pytest.mark.parametrize("external", [False, True])
def test_the_graph_and_its_weights_have_digests_of_their_own(tmp_path, external):
    first = graph(tmp_path / "a", external=external)
    assert graph(tmp_path / "b", external=external) == first
    weights = graph(tmp_path / "c", value=1.0001, external=external)
    assert weights[0] == first[0] and weights[1] != first[1]
    node = graph(tmp_path / "d", node="Mul", external=external)
    assert node[0] != first[0] and node[1] == first[1]


def test_the_cache_follows_the_users_choice(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_root() == tmp_path / "zoetrope" / "engines"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert str(default_root()) == "/home/someone/.cache/zoetrope/engines"
