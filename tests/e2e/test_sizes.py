"""Sizes through the real server: what suits a picture, what lies between the listed ones, warnings.

The repository lists 64x96 (h x w, default), 96x64, 6 and 4 frames. Its grid is 32: 64x64 is between.
"""

import io
import subprocess
import sys
from pathlib import Path

import av
import pytest
from PIL import Image
from rawtriton import PHOTO, frames_of, raw_inputs, triton

from zoetrope_client import Client
from zoetrope_core.errors import InvalidRequest
from zoetrope_core.events import Accepted, Warned
from zoetrope_core.manifest import Manifest

pytestmark = pytest.mark.e2e
ONE_STEP = {"num_inference_steps": 1, "seed": 5}


@pytest.fixture
def client(sized_server):
    with Client(sized_server.url) as connected:
        yield connected


def picture(height, width, orientation=1):
    """A JPEG of the photo's colours; with an orientation of 5 to 8 it is seen the other way round."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.open(PHOTO).convert("RGB").resize((width, height)).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def video_size(video):
    """(H, W) and frame count of an encoded video."""
    with av.open(io.BytesIO(video.data)) as container:
        frames = list(container.decode(video=0))
    return (frames[0].height, frames[0].width), len(frames)


def test_the_exporter_says_what_the_engines_hold(sized_repository):
    manifest = Manifest.load(sized_repository)
    assert (manifest.grid, manifest.size_ranges, manifest.frame_range) == (
        32,
        (((64, 64), (96, 96)),),
        (4, 6),
    )
    assert (manifest.trained_size, manifest.trained_frames) == ((64, 96), 14)


@pytest.mark.parametrize(
    ("image", "size"),
    [
        (picture(300, 200), (96, 64)),
        (picture(200, 300), (64, 96)),
        (picture(200, 300, orientation=6), (96, 64)),
        (picture(300, 200, orientation=8), (64, 96)),
    ],
    ids=["portrait", "landscape", "turned to portrait", "turned to landscape"],
)
def test_auto_gives_a_picture_the_size_that_suits_it(client, image, size):
    video = client.generate(image, fit="auto", **ONE_STEP)
    assert video_size(video) == (size, 6)
    assert (video.parameters["height"], video.parameters["width"], video.parameters["fit"]) == (*size, "crop")
    assert client.generate(image, **video.parameters).data == video.data, "sent again, the same video"


@pytest.mark.parametrize(("fields", "size", "frames"), [
    ({"height": 64, "width": 64}, (64, 64), 6),
    ({"num_frames": 5}, (64, 96), 5),
    ({"height": 64, "width": 64, "num_frames": 4}, (64, 64), 4),
])  # fmt: skip
def test_what_lies_between_the_listed_sizes_is_served(client, fields, size, frames):
    events = list(client.stream(PHOTO, stream_frames=True, **fields, **ONE_STEP))
    assert frames_of(events).shape == (frames, *size, 3)
    assert video_size(client.generate(PHOTO, **fields, **ONE_STEP)) == (size, frames)


@pytest.mark.parametrize(("fields", "said"), [
    ({"height": 96, "width": 96}, "or any of 64..96 x 64..96 in multiples of 32, at most 6144 pixels"),
    ({"height": 64, "width": 128}, "width: got '128x64 (width x height)'"),
    ({"height": 64, "width": 80}, "multiples of 32"),
    ({"num_frames": 7}, "one of 6, 4, or any from 4 to 6"),
    ({"num_frames": 3, "fit": "auto"}, "one of 6, 4, or any from 4 to 6"),
])  # fmt: skip
def test_what_lies_outside_is_refused_with_what_is_served(client, fields, said):
    with pytest.raises(InvalidRequest) as raised:
        client.generate(PHOTO, **fields, **ONE_STEP)
    assert said in raised.value.message and raised.value.status == "INVALID_ARGUMENT"


def test_auto_refuses_what_is_no_picture(client):
    with pytest.raises(InvalidRequest, match="JPEG, PNG or WebP"):
        client.generate(b"\x89PNG is not enough", fit="auto", **ONE_STEP)
    assert client.generate(PHOTO, fit="auto", **ONE_STEP).data


def test_a_size_far_from_the_trained_one_is_warned_of_after_the_acceptance(client):
    events = list(client.stream(PHOTO, height=96, **ONE_STEP))
    assert isinstance(events[0], Accepted) and isinstance(events[1], Warned)
    assert (events[1].code, events[1].field) == ("far_from_trained", "size")
    assert "64x96" in events[1].message and "96x64" in events[1].message
    assert sum(isinstance(event, Warned) for event in events) == 1
    assert not client.generate(PHOTO, **ONE_STEP).warnings


def test_the_unary_model_serves_them_too(sized_server):
    with triton.InferenceServerClient(sized_server.url) as connection:
        answer = connection.infer(
            "image_to_video_unary", raw_inputs(height=64, width=64, num_frames=5, **ONE_STEP)
        )
    with av.open(io.BytesIO(answer.as_numpy("video")[0])) as container:
        assert {(frame.height, frame.width) for frame in container.decode(video=0)} == {(64, 64)}


def test_the_command_prints_the_warning(sized_server, tmp_path):
    command = [
        str(Path(sys.executable).parent / "zoetrope"),
        "generate",
        str(PHOTO),
        "-o",
        str(tmp_path / "a.mp4"),
    ]
    more = ("--url", sized_server.url, "--height", "96", "--fit", "auto", "--num-inference-steps", "1")
    ran = subprocess.run([*command, *more], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert "warning: 64x96 is far from 96x64" in ran.stderr
