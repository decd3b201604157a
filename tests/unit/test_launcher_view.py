"""What Triton is shown of a repository, and what the server says of itself there."""

import json
import re
from dataclasses import replace

import pytest

from zoetrope_bench.noop_repository import write_noop_repository
from zoetrope_bench.overhead import SVD_XT
from zoetrope_core.metadata import Metadata
from zoetrope_server.launcher.errors import LaunchError
from zoetrope_server.launcher.settings import ServeSettings
from zoetrope_server.launcher.view import show

MANIFEST = replace(SVD_XT, checkpoint='quo"ted\\ and ünicode\n')


@pytest.fixture
def repository(tmp_path):
    return write_noop_repository(tmp_path / "repository", MANIFEST)


def told(view):
    """The metadata in the configuration of a view, unquoted as protobuf's text format is."""
    text = (view / "image_to_video" / "config.pbtxt").read_text()
    (quoted,) = re.findall(r'key: "zoetrope" value \{ string_value: (".*") \}', text)
    return Metadata.from_json(json.loads(quoted))


def test_the_view_is_the_repository_but_for_one_file(repository, tmp_path):
    view = show(repository, tmp_path / "view", ServeSettings())
    files = {path.relative_to(repository) for path in repository.rglob("*")}
    assert all((view / path).exists() for path in files)
    differing = [
        path
        for path in files
        if (repository / path).is_file() and (view / path).read_bytes() != (repository / path).read_bytes()
    ]
    assert list(map(str, differing)) == ["image_to_video/config.pbtxt"]
    assert "zoetrope" not in (repository / "image_to_video" / "config.pbtxt").read_text().split("}")[-1]


def test_it_names_the_checkpoint_and_the_limits_in_force(repository, tmp_path, monkeypatch):
    monkeypatch.delenv("ZOETROPE_MAX_ACTIVE", raising=False)
    monkeypatch.setenv("ZOETROPE_MAX_WAITING", "5")
    view = show(repository, tmp_path / "view", ServeSettings.merged(max_active=3))
    metadata = told(view)
    assert (metadata.checkpoint, metadata.sizes) == (MANIFEST.checkpoint, MANIFEST.sizes)
    assert (metadata.limits.max_active, metadata.limits.max_waiting) == (3, 5)
    again = show(repository, tmp_path / "view", ServeSettings.merged(max_active=4))
    assert told(again).limits.max_active == 4


def test_a_repository_of_other_models_is_shown_as_it_is(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.pbtxt").write_text('name: "other"\n')
    assert show(tmp_path, tmp_path / "view", ServeSettings()) == tmp_path


def test_a_manifest_that_cannot_be_read_is_a_launch_error(repository, tmp_path):
    (repository / "zoetrope.json").write_text("{}")
    with pytest.raises(LaunchError, match="cannot be served: not a manifest"):
        show(repository, tmp_path / "view", ServeSettings())
