"""Which pictures `zoetrope generate` takes, and where their videos go."""

import io
import sys

import pytest

from zoetrope_client.jobs import UsageError, plan


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with pictures, which is the current one."""
    for name in ("a.jpg", "b.jpg", "c.png", "more/a.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"picture")
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def outputs(images, output, preview=None, format=None):
    return [(job.name, str(job.output)) for job in plan(images, output, preview, format)]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("images", "output", "format", "found"),
    [
        (["a.jpg"], "v.webm", None, [("a.jpg", "v.webm")]),
        (["a.jpg"], "out", None, [("a.jpg", "out/a.mp4")]),
        (["a.jpg"], "out/", "gif", [("a.jpg", "out/a.gif")]),
        (["a.jpg"], "out/{name}.gif", None, [("a.jpg", "out/a.gif")]),
        (["*.jpg"], "out", None, [("a.jpg", "out/a.mp4"), ("b.jpg", "out/b.mp4")]),
        (["c.png", "*.jpg", "a.jpg"], "out/{index}.mp4", None,
         [("c.png", "out/1.mp4"), ("a.jpg", "out/2.mp4"), ("b.jpg", "out/3.mp4")]),
        (["**/*.jpg"], "{index}-{name}.mp4", None,
         [("a.jpg", "1-a.mp4"), ("b.jpg", "2-b.mp4"), ("more/a.jpg", "3-a.mp4")]),
    ],
)  # fmt: skip
def test_files_patterns_and_targets(images, output, format, found):
    assert outputs(images, output, format=format) == found


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("images", "output", "said"),
    [
        (["no.jpg"], "v.mp4", "there is no file no.jpg"),
        (["*.gif"], "v.mp4", r"no picture matches \*.gif"),
        (["more"], "v.mp4", "more is a folder; give more/"),
        (["*.jpg"], "v.mp4", r"2 pictures need a folder, or a name with \{name\}"),
        (["a.jpg"], "no/v.mp4", "there is no folder no"),
        (["*.jpg"], "no/", "there is no folder no"),
        (["a.jpg", "more/a.jpg"], "out", "several pictures or previews would be written to .*out/a.mp4"),
        (["a.jpg", "b.jpg"], "./{name}.jpg", "is one of the pictures"),
        (["a.jpg"], "b.jpg/v.mp4", "there is no folder b.jpg"),
    ],
)
def test_what_cannot_be_meant_is_wrong_usage(images, output, said):
    with pytest.raises(UsageError, match=said):
        outputs(images, output)


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(folder):
    (folder / "a[1].jpg").write_bytes(b"picture")
    (folder / "a{index}.jpg").write_bytes(b"picture")
    assert outputs(["a[1].jpg", "a{index}.jpg"], "out") == [
        ("a[1].jpg", "out/a[1].mp4"),
        ("a{index}.jpg", "out/a{index}.mp4"),
    ]


def test_previews_have_a_name_each(folder):
    (one, two) = plan(["*.jpg"], "out/{name}.mp4", "out", None)
    assert [str(one.preview), str(two.preview)] == ["out/a.webp", "out/b.webp"]
    with pytest.raises(UsageError, match="several pictures or previews"):
        plan(["*.jpg"], "out/{name}.webp", "out", None)


def test_standard_input_is_a_picture_once(folder, monkeypatch):
    class Standard:
        buffer = io.BytesIO(b"from a pipe")

    monkeypatch.setattr(sys, "stdin", Standard)
    job, other = plan(["-", "a.jpg", "-"], "out", None, None)
    assert (job.image, str(job.output), other.name) == (b"from a pipe", "out/stdin.mp4", "a.jpg")


def test_the_format_follows_from_the_name_unless_it_is_given(folder):
    assert [job.format for job in plan(["*.jpg"], "out/{name}.webm", None, None)] == ["webm", "webm"]
    assert [job.format for job in plan(["a.jpg"], "v.webm", None, "mp4")] == ["mp4"]
    assert [job.format for job in plan(["a.jpg"], "v", None, None)] == [None]
