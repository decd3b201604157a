"""The repository on disk: what lies where, and that it is put in place all at once or not at all."""

from dataclasses import replace

import pytest
from engine_keys import KEY
from fakes import MANIFEST

pytest.importorskip("diffusers")

from zoetrope_core.manifest import Manifest  # noqa: E402
from zoetrope_core.specs import STAGES  # noqa: E402
from zoetrope_export import repository  # noqa: E402
from zoetrope_export.errors import ExportError  # noqa: E402
from zoetrope_server.engines.sidecar import Sidecar  # noqa: E402


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_the_layout(tmp_path):
    repository.write_layout(tmp_path, MANIFEST, queue_delay_us=7)
    assert Manifest.load(tmp_path) == MANIFEST
    assert {"image_to_video", "zoetrope.json", *STAGES} <= set(names(tmp_path))
    for stage in STAGES:
        assert names(tmp_path / stage) == ["1", "config.pbtxt"]
        assert repository.stage_directory(tmp_path, stage) == tmp_path / stage / "1"
        model = (tmp_path / stage / "1" / "model.py").read_text()
        assert "from zoetrope_server.triton.stage import TritonPythonModel" in model
        compile(model, "model.py", "exec")
    assert "max_queue_delay_microseconds: 7 " in (tmp_path / "unet" / "config.pbtxt").read_text()
    assert names(tmp_path / "image_to_video" / "1") == ["model.py"]
    assert (tmp_path / "image_to_video" / "config.pbtxt").is_file()


def test_a_tensorrt_engine_is_handed_to_triton_with_all_its_profiles(tmp_path):
    stage = STAGES["unet"]
    facts = replace(MANIFEST, engine="tensorrt")
    repository.write_layout(tmp_path, facts)
    key = replace(KEY, profiles=(*KEY.profiles, {"B": (1, 1, 1), "K": (1, 2, 2)}))
    engine = tmp_path / "unet" / "1" / key.file_name()
    engine.write_bytes(b"engine")
    Sidecar.of(engine, key, 0.0).save(engine)
    repository.make_native(tmp_path, stage, facts)
    assert names(engine.parent) == [engine.name, f"{engine.name}.json"]
    text = (tmp_path / "unet" / "config.pbtxt").read_text()
    assert f'default_model_filename: "{engine.name}"' in text
    assert 'kind: KIND_GPU gpus: [ 0 ] profile: [ "0", "1" ]' in text


def test_what_a_link_names_is_replaced(tmp_path):
    (tmp_path / "v1").mkdir()
    (tmp_path / "current").symlink_to("v1")
    with repository.staged(tmp_path / "current") as directory:
        (directory / "zoetrope.json").write_text("{}")
    assert (tmp_path / "current").is_symlink()
    assert names(tmp_path / "v1") == ["zoetrope.json"]


def test_a_repository_is_put_in_place_when_it_is_complete(tmp_path):
    target = tmp_path / "new" / "repository"
    with repository.staged(target) as directory:
        assert directory.parent.parent == target.parent
        (directory / "zoetrope.json").write_text("{}")
        assert not target.exists()
    assert names(target) == ["zoetrope.json"]
    assert names(target.parent) == ["repository"]


def test_a_server_of_another_user_can_read_it(tmp_path):
    with repository.staged(tmp_path / "repository") as directory:
        (directory / "unet").mkdir(mode=0o700)
        (directory / "unet" / "model.onnx.data").touch(mode=0o600)
    assert (tmp_path / "repository" / "unet").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "repository" / "unet" / "model.onnx.data").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("old", ["nothing", "an empty folder", "a repository"])
def test_what_may_be_replaced(tmp_path, old):
    target = tmp_path / "repository"
    if old != "nothing":
        target.mkdir()
    if old == "a repository":
        (target / "zoetrope.json").write_text("old")
        (target / "unet").mkdir()
    with repository.staged(target) as directory:
        (directory / "zoetrope.json").write_text("new")
    assert (target / "zoetrope.json").read_text() == "new"
    assert names(target) == ["zoetrope.json"]
    assert names(tmp_path) == ["repository"]


def test_an_export_that_fails_leaves_the_old_repository(tmp_path):
    target = tmp_path / "repository"
    target.mkdir()
    (target / "zoetrope.json").write_text("old")
    with pytest.raises(RuntimeError), repository.staged(target) as directory:
        (directory / "zoetrope.json").write_text("new")
        raise RuntimeError
    assert (target / "zoetrope.json").read_text() == "old"
    assert names(tmp_path) == ["repository"]


def test_a_rename_that_fails_brings_the_old_repository_back(tmp_path, monkeypatch):
    target = tmp_path / "repository"
    target.mkdir()
    (target / "zoetrope.json").write_text("old")
    rename = repository.Path.rename

    def failing(path, to):
        if path.name == "new":
            raise OSError("disk full")
        return rename(path, to)

    monkeypatch.setattr(repository.Path, "rename", failing)
    with pytest.raises(OSError, match="disk full"), repository.staged(target):
        pass
    assert (target / "zoetrope.json").read_text() == "old"


def test_what_must_not_be_replaced(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "cat.jpg").write_text("precious")
    with pytest.raises(ExportError, match="no Zoetrope repository"), repository.staged(photos):
        pass
    with pytest.raises(ExportError, match="is a file"), repository.staged(photos / "cat.jpg"):
        pass
    assert names(photos) == ["cat.jpg"]


def test_missing_entry_models_are_said(tmp_path, monkeypatch):
    monkeypatch.setattr(repository, "ENTRY_MODELS", "elsewhere")
    with pytest.raises(ExportError, match="install zoetrope again"):
        repository.write_layout(tmp_path, MANIFEST)
