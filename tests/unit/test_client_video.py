"""Where a finished video is written: files whole or not at all, and what is no file stays what it is."""

import os
import stat
import threading
from pathlib import Path

import pytest

from zoetrope_client import Video

VIDEO = Video(data=b"the video" * 9000, id="r1", seed=7, parameters={}, timings={})


def test_a_file_is_replaced_and_nothing_stays_beside_it(tmp_path):
    target = tmp_path / "video.mp4"
    target.write_bytes(b"older")
    assert VIDEO.save(target) == target
    assert target.read_bytes() == VIDEO.data and list(tmp_path.iterdir()) == [target]


def test_a_pipe_is_written_into_and_stays(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    received = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()), daemon=True)
    reader.start()
    VIDEO.save(pipe)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    reader.join(10)
    assert received == [VIDEO.data] and list(tmp_path.iterdir()) == [pipe]


def test_a_device_behind_a_link_is_written_into(tmp_path):
    link = tmp_path / "full"
    link.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space"):
        VIDEO.save(link)
    assert link.is_symlink() and link.is_char_device()


def test_standard_output_may_be_a_pipe(tmp_path):
    reading, writing = os.pipe()
    with open(reading, "rb") as reader, open(writing, "wb"):
        Video(data=b"small", id="r1", seed=7, parameters={}, timings={}).save(f"/dev/fd/{writing}")
        assert os.read(reader.fileno(), 100) == b"small"


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_and_its_file_is_replaced(tmp_path, exists):
    folder, link = tmp_path / "elsewhere", tmp_path / "video.mp4"
    folder.mkdir()
    if exists:
        (folder / "real.mp4").write_bytes(b"older")
    link.symlink_to(Path("elsewhere") / "real.mp4")
    assert VIDEO.save(link) == link
    assert link.is_symlink() and (folder / "real.mp4").read_bytes() == VIDEO.data
    assert [path.name for path in folder.iterdir()] == ["real.mp4"]


def test_a_folder_and_a_circle_of_links_are_errors(tmp_path):
    with pytest.raises(IsADirectoryError):
        VIDEO.save(tmp_path)
    circle = tmp_path / "circle"
    circle.symlink_to(circle)
    with pytest.raises(OSError, match="symbolic links"):
        VIDEO.save(circle)
    assert circle.is_symlink() and list(tmp_path.iterdir()) == [circle]
