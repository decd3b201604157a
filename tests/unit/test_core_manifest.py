"""The manifest survives its file; another file is a ValueError."""

import dataclasses
import json

import pytest
from fakes import COLOURS, MANIFEST

from zoetrope_core.manifest import FILE_NAME, Manifest


def test_a_manifest_survives_its_file(tmp_path):
    MANIFEST.save(tmp_path)
    assert Manifest.load(tmp_path) == MANIFEST
    assert Manifest.load(tmp_path / FILE_NAME) == MANIFEST
    assert hash(Manifest.load(tmp_path)) == hash(MANIFEST)


def test_it_is_json_with_a_version():
    data = json.loads(json.dumps(MANIFEST.to_dict()))
    assert data["version"] == 1
    assert Manifest.from_dict(data) == MANIFEST


@pytest.mark.parametrize("version", [0, 2, None, "1"])
def test_another_version_is_refused(version):
    with pytest.raises(ValueError, match="version"):
        Manifest.from_dict({**MANIFEST.to_dict(), "version": version})


def test_a_file_without_a_version_is_refused():
    data = MANIFEST.to_dict()
    del data["version"]
    with pytest.raises(ValueError, match="version"):
        Manifest.from_dict(data)


def test_an_unknown_field_is_named():
    with pytest.raises(ValueError, match="unknown fields: colour, size"):
        Manifest.from_dict({**MANIFEST.to_dict(), "size": 1, "colour": 2})


REQUIRED = [field.name for field in dataclasses.fields(Manifest) if field.default is dataclasses.MISSING]


@pytest.mark.parametrize("name", REQUIRED)
def test_a_missing_field_is_named(name):
    data = MANIFEST.to_dict()
    del data[name]
    with pytest.raises(ValueError, match=name):
        Manifest.from_dict(data)


@pytest.mark.parametrize(
    "change", [{"sizes": 5}, {"sizes": [[1, 2, 3]]}, {"sizes": [["a", "b"]]}, {"num_frames": 5}]
)
def test_a_field_of_another_shape_is_a_value_error(change):
    with pytest.raises(ValueError):
        Manifest.from_dict({**MANIFEST.to_dict(), **change})


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "null"])
def test_another_file_is_a_value_error(text, tmp_path):
    (tmp_path / FILE_NAME).write_text(text)
    with pytest.raises(ValueError):
        Manifest.load(tmp_path)


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        Manifest.load(tmp_path)


def test_symbols_and_latent_sizes():
    assert MANIFEST.symbols() == {"C": 4, "E": 8, "S": 224}
    assert MANIFEST.latent_size((32, 48)) == (4, 6)


def test_the_colours_of_latents_survive_the_file(tmp_path):
    coloured = dataclasses.replace(MANIFEST, latent_rgb=COLOURS)
    coloured.save(tmp_path)
    assert Manifest.load(tmp_path) == coloured and hash(coloured) != hash(MANIFEST)


def test_an_older_manifest_has_no_colours():
    data = MANIFEST.to_dict()
    del data["latent_rgb"]
    assert Manifest.from_dict(data) == MANIFEST and MANIFEST.latent_rgb is None


RANGES = {
    "grid": 16,
    "size_ranges": (((32, 32), (48, 48)),),
    "frame_range": (3, 6),
    "trained_size": (576, 1024),
    "trained_frames": 25,
}


def test_ranges_and_trained_sizes_survive_the_file(tmp_path):
    ranged = dataclasses.replace(MANIFEST, **RANGES)
    ranged.save(tmp_path)
    assert Manifest.load(tmp_path) == ranged and hash(ranged) != hash(MANIFEST)


def test_an_older_manifest_has_no_ranges():
    data = {name: value for name, value in MANIFEST.to_dict().items() if name not in RANGES}
    assert Manifest.from_dict(data) == MANIFEST and MANIFEST.size_ranges == ()


@pytest.mark.parametrize(
    "change",
    [
        {"grid": 0},
        {"grid": "a"},
        {"size_ranges": 5},
        {"size_ranges": [[1, 2]]},
        {"size_ranges": [[[1, 2], [3]]]},
        {"frame_range": [1, 2, 3]},
        {"frame_range": [0, 3]},
        {"trained_size": [0, 64]},
        {"trained_size": 5},
    ],
    ids=str,
)
def test_ranges_of_another_shape_are_a_value_error(change):
    with pytest.raises(ValueError):
        Manifest.from_dict({**MANIFEST.to_dict(), **change})


@pytest.mark.parametrize("rows", [5, [[0, 0, 0]] * 4, [[0, 0]] * 5, [["a", 0, 0]] * 5, [[0, 0, None]] * 5])
def test_colours_of_another_shape_are_a_value_error(rows):
    with pytest.raises(ValueError):
        Manifest.from_dict({**MANIFEST.to_dict(), "latent_rgb": rows})
