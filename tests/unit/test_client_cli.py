"""`zoetrope generate` and its progress bar."""

import contextlib
import io
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import grpc_server as scripts
import pytest
from fakes import png
from grpc_server import METADATA, serving
from PIL import Image
from typer.testing import CliRunner
from waiting import wait_until

from zoetrope_client import blocks, cli, progress, runs
from zoetrope_client.commands import generate
from zoetrope_client.events import Accepted, Done, Fragment, Heartbeat, Preview, Progress
from zoetrope_client.jobs import Job
from zoetrope_core.errors import InvalidImage, NonFinite, Overloaded
from zoetrope_core.request import GenerateRequest, field_rules


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(png())
    return path


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out" / "video.mp4"


@pytest.fixture
def run(photo, output):
    """Runs `zoetrope generate` on the photo with more arguments."""
    output.parent.mkdir()

    def call(*arguments):
        return CliRunner().invoke(cli.app, ["generate", str(photo), "-o", str(output), *arguments])

    return call


def test_generate_writes_the_video_and_says_so(run, photo, output):
    with serving(scripts.normal) as server:
        result = run("--url", server.url, "--seed", "7")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"{output}: seed 7\n"
    assert server.requests == [(photo.read_bytes(), GenerateRequest(seed=7))]
    assert output.read_bytes() == scripts.video_of(*server.requests[0])


@pytest.mark.parametrize(("more", "every"), [((), 1), (("--preview-every", "3"), 3)])
def test_the_newest_preview_is_kept(run, output, tmp_path, more, every):
    preview = tmp_path / "newest.webp"
    with serving(scripts.normal) as server:
        result = run("--url", server.url, "--preview", str(preview), *more)
    assert result.exit_code == 0, result.stderr
    assert preview.read_bytes() == b"preview 2" and output.exists()
    assert server.requests[0][1].preview_every == every


def test_json_is_one_line_on_stdout(run, photo, output):
    with serving(scripts.normal) as server:
        result = run("--url", server.url, "--seed", "7", "--json")
    assert result.stdout.count("\n") == 1
    line = json.loads(result.stdout)
    assert line["parameters"]["motion_bucket_id"] == 127
    del line["parameters"]
    assert line == {
        "image": str(photo),
        "output": str(output),
        "id": "r1",
        "seed": 7,
        "width": 48,
        "height": 32,
        "num_frames": 6,
        "fps": 7,
        "video_bytes": output.stat().st_size,
        "timings": {"denoise": 0.5, "total": 0.75},
        "warnings": [],
    }


def test_warnings_go_to_stderr_and_into_the_json_line(run, photo):
    with serving(scripts.warning) as server:
        result = run("--url", server.url, "--json")
    assert result.exit_code == 0
    assert result.stderr == f"zoetrope generate: {photo}: warning: far away\n"
    assert json.loads(result.stdout)["warnings"] == ["far\naway"]


VALUES = {int: 9, float: 0.5}
PLAIN = [name for name, rule in field_rules().items() if rule.type not in (bool, tuple)]


@pytest.mark.parametrize("name", [name for name in PLAIN if name != "deadline_s"])
def test_every_field_has_an_option(name, run):
    rule = field_rules()[name]
    value = rule.choices[-1] if rule.choices else VALUES[rule.type]
    with serving(scripts.normal) as server:
        result = run("--url", server.url, "--" + name.replace("_", "-"), str(value))
    assert result.exit_code == 0, result.stderr
    assert server.requests[0][1] == GenerateRequest(**{name: value})


@pytest.mark.parametrize(
    ("name", "more", "format"),
    [
        ("a.webm", (), "webm"),
        ("a.GIF", (), "gif"),
        ("a.zip", (), "png"),
        ("a.jpeg.zip", (), "jpeg"),
        ("a.raw", (), "raw"),
        ("a", (), "mp4"),
        ("a.webp", ("--format", "mp4"), "mp4"),
    ],
)
def test_the_name_of_the_file_decides_the_format(name, more, format, photo, tmp_path):
    with serving(scripts.normal) as server:
        arguments = ["generate", str(photo), "-o", str(tmp_path / name), "--url", server.url, *more]
        assert CliRunner().invoke(cli.app, arguments).exit_code == 0
    assert server.requests[0][1].format == format


def test_arrays_are_written_with_commas(run):
    with serving(scripts.normal) as server:
        result = run("--url", server.url, "--sigmas", "700,9.5,1", "--guidance-interval", "0,16")
    assert result.exit_code == 0, result.stderr
    assert server.requests[0][1] == GenerateRequest(sigmas=(700, 9.5, 1), guidance_interval=(0, 16))
    assert run("--url", server.url, "--sigmas", "a,b").exit_code == 2


def test_the_deadline_travels_in_the_request(run):
    with serving(scripts.normal) as server:
        assert run("--url", server.url, "--deadline", "9").exit_code == 0
    ((_, request),) = server.requests
    assert 7 < request.deadline_s < 9, "reading the picture counts"
    assert request == GenerateRequest(deadline_s=request.deadline_s)


def test_the_address_comes_from_the_environment(run, monkeypatch):
    with serving(scripts.normal) as server:
        monkeypatch.setenv("ZOETROPE_URL", server.url)
        assert run().exit_code == 0


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (Overloaded("the queue\nis full", retry_after_s=3.5), 3, "the queue is full (try again in 3.5 s)"),
        (InvalidImage("image: truncated", field="image"), 4, "image: truncated"),
        (NonFinite("vae_decoder: not finite"), 1, "vae_decoder: not finite"),
    ],
    ids=lambda value: getattr(value, "code", None),
)
def test_an_error_is_one_line_and_an_exit_code(error, code, line, run, photo, output):
    with serving(scripts.failing(error)) as server:
        result = run("--url", server.url)
        told = run("--url", server.url, "--json")
    said = f"zoetrope generate: {photo}: {line}\n"
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", said)
    assert (told.exit_code, told.stderr) == (code, said)
    body = json.loads(told.stdout)
    assert (body["image"], body["error"]) == (str(photo), error.to_event())
    assert list(output.parent.iterdir()) == []


def test_a_retry_hint_of_any_kind_is_shown(run, photo):
    with serving(scripts.failing(Overloaded("full", retry_after_s="soon"))) as server:
        result = run("--url", server.url)
    assert result.stderr == f"zoetrope generate: {photo}: full (try again in soon s)\n"


def test_no_server_there_is_exit_code_3(run, photo):
    result = run("--url", "127.0.0.1:1")
    assert result.exit_code == 3
    assert result.stderr.startswith(f"zoetrope generate: {photo}: 127.0.0.1:1: no server is ready there")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--fps", "999"], 4, "fps: got 999, allowed is an integer from 1 to 120"),
        (["--schedule", "linear"], 4, "schedule: got 'linear', allowed is one of karras, ays"),
        (["--noise-aug-strength", "nan"], 4, "noise_aug_strength: got nan"),
        (["--fps", "many"], 2, "--fps"),
        (["--speed", "3"], 2, "--speed"),
        (["--deadline", "-1"], 2, "--deadline"),
    ],
)
def test_bad_values_are_found_without_a_server(arguments, code, words, run):
    result = run("--url", "127.0.0.1:1", *arguments)
    assert result.exit_code == code
    assert words in result.stderr


def test_an_image_or_folder_that_is_not_there_is_wrong_usage(tmp_path, photo):
    runner = CliRunner()
    missing = runner.invoke(cli.app, ["generate", str(tmp_path / "no.png"), "-o", str(tmp_path / "v.mp4")])
    folder = runner.invoke(cli.app, ["generate", str(photo), "-o", str(tmp_path / "no" / "v.mp4")])
    assert (missing.exit_code, folder.exit_code) == (2, 2)
    assert "there is no folder" in folder.stderr


def test_an_output_that_cannot_be_written_is_an_error(run, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with serving(scripts.normal) as server:
        result = run("--url", server.url)
    assert (result.exit_code, "No space left" in result.stderr) == (1, True)


def test_a_deadline_is_a_refusal(run):
    with serving(scripts.silent) as server:
        result = run("--url", server.url, "--deadline", "0.3")
    assert result.exit_code == 3
    assert "deadline" in result.stderr


def test_ctrl_c_cancels_on_the_server_and_leaves_no_file(photo, tmp_path):
    output = tmp_path / "video.mp4"
    with serving(scripts.endless) as server:
        command = [sys.executable, "-m", "zoetrope_client", "generate", str(photo), "-o", str(output)]
        process = subprocess.Popen([*command, "--url", server.url], stderr=subprocess.PIPE, text=True)
        wait_until(lambda: server.requests, 30)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
        assert server.cancelled.wait(5)
    assert process.returncode == 130
    assert stderr == "zoetrope generate: interrupted, what was asked for is cancelled\n"
    assert list(tmp_path.iterdir()) == [photo]


@pytest.mark.parametrize(
    ("event", "shown"),
    [
        (Accepted(id="a", seed=1, steps=2), ("accepted", 0, None, "")),
        (Heartbeat(waiting=2), ("waiting, 2 before this one", 0, None, "")),
        (Progress(stage="encode_image", step=0, steps=1), ("encode image", 0, 1, "")),
        (Progress(stage="denoise", step=3, steps=9, eta_seconds=4.4), ("denoise", 3, 9, "4 s left")),
        (Done(id="a", seed=1, parameters={}, timings={}, video_bytes=1), ("done", 1, 1, "")),
        (Fragment(data=b"m"), None),
    ],
    ids=str,
)
def test_what_the_bar_shows(event, shown):
    assert progress.describe(event) == shown


def animation():
    """Two frames of 4x6 pixels: red over green, then blue."""
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("red", "blue")]
    frames[0].paste("lime", (0, 1, 6, 4))
    buffer = io.BytesIO()
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    return buffer.getvalue()


def test_the_board_shows_a_bar_for_each_picture_and_its_preview():
    shown = io.StringIO()
    console = progress.Console(force_terminal=True, color_system="truecolor", file=shown, width=100)
    with progress.Board(console, previews=True) as board:
        tasks = [board.begin(name) for name in ("one.jpg", "[two].jpg")]
        board.show(tasks[0], Progress(stage="denoise", step=1, steps=2, eta_seconds=4.0))
        board.show(tasks[1], Heartbeat(waiting=3))
        board.show(tasks[1], Preview(image=b"no picture"))
        board.show(tasks[1], Preview(image=animation()))
        board._live.refresh()
        both = shown.getvalue()
        for task in tasks:
            board.end(task)
        shown.truncate(0)
        board._live.refresh()
        after = shown.getvalue()
    for words in (
        "one.jpg",
        "[two].jpg",
        "1/2",
        "4 s left",
        "waiting, 3 before this one",
        "\N{UPPER HALF BLOCK}",
    ):
        assert words in both and words not in after


def test_half_blocks_are_two_pixels_each():
    console = progress.Console(force_terminal=True, color_system="truecolor", width=80)
    picture = blocks.HalfBlocks(animation())
    picture._frames = picture._frames[:1]
    lines = console.render_lines(picture, pad=False)
    assert [len(line) for line in lines] == [6, 6]
    colours = [(s.style.color.triplet, s.style.bgcolor.triplet) for line in lines for s in line]
    red, lime = (255, 0, 0), (0, 255, 0)
    assert colours == [(red, lime)] * 6 + [(lime, lime)] * 6
    narrow = console.render_lines(picture, console.options.update(max_width=3), pad=False)
    assert [len(line) for line in narrow] == [3]
    picture._frames = (picture._frames[0][:3],)
    assert len(console.render_lines(picture, pad=False)) == 1, "half a block is left out"


def test_a_file_name_that_is_no_utf8_does_not_end_the_batch(photo, tmp_path):
    odd, gone = tmp_path / os.fsdecode(b"a\xff.png"), tmp_path / os.fsdecode(b"b\xfe.png")
    photo.rename(odd)
    gone.write_bytes(b"")
    (tmp_path / "c.png").write_bytes(png())
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-m", "zoetrope_client", "generate", odd, gone, tmp_path / "c.png", "-j", "1"]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    with serving(scripts.normal) as server:
        command += ["-o", tmp_path / "out", "--url", server.url]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 4, ran.stderr
    assert ran.stdout == f"{tmp_path}/out/a\\xff.mp4: seed 0\n{tmp_path}/out/c.mp4: seed 0\n"
    assert ran.stderr.startswith(f"zoetrope generate: {tmp_path}/b\\xfe.png: image: got 0 bytes")
    assert sorted(os.listdir(os.fsencode(tmp_path / "out"))) == [b"a\xff.mp4", b"c.mp4"]


def test_a_file_name_that_is_no_utf8_is_shown_at_a_terminal(photo, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8:strict")
    odd = photo.rename(tmp_path / os.fsdecode(b"a\xff.png"))
    with serving(scripts.normal) as server:
        shown, code = on_terminal(server, odd, "-o", str(odd.with_suffix(".mp4")), stdout=None)
    assert code == 0 and "seed 0" in shown and "Traceback" not in shown


def on_terminal(server, photo, *arguments, stdout):
    """Runs `zoetrope generate` with standard error at a terminal; what was shown there, and the exit code."""
    near, far = pty.openpty()
    command = [sys.executable, "-m", "zoetrope_client", "generate", str(photo), "--url", server.url]
    environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    process = subprocess.Popen([*command, *arguments], env=environment, stderr=far, stdout=stdout or far)
    os.close(far)
    shown = b""
    with contextlib.suppress(OSError):  # what Linux says at the end
        while data := os.read(near, 1 << 16):
            shown += data
    os.close(near)
    return shown.decode(), process.wait(30)


def test_previews_and_bars_are_shown_at_a_terminal_and_the_lines_go_to_the_file(photo, tmp_path):
    arguments = ("-o", str(tmp_path / "v.mp4"), "--preview", "-", "--json")
    with serving(scripts.picturing(animation())) as server, (tmp_path / "lines").open("w") as lines:
        shown, code = on_terminal(server, photo, *arguments, stdout=lines)
    assert code == 0 and "\N{UPPER HALF BLOCK}" in shown and "denoise" in shown
    assert json.loads((tmp_path / "lines").read_text())["output"] == str(tmp_path / "v.mp4")
    assert "v.mp4" not in shown, "nothing of the lines lands on the terminal"
    assert server.requests[0][1].preview_every == 1


def test_lines_at_a_terminal_stand_above_the_bars(photo, tmp_path):
    with serving(scripts.picturing(animation())) as server:
        shown, code = on_terminal(server, photo, "-o", str(tmp_path / "v.mp4"), stdout=None)
    assert code == 0 and "\N{UPPER HALF BLOCK}" not in shown
    assert "v.mp4: seed 0" in shown.replace("\r\n", "")


def test_previews_without_a_terminal_are_not_asked_for(run):
    with serving(scripts.normal) as server:
        result = run("--url", server.url, "--preview", "-")
    assert result.exit_code == 0
    assert result.stderr == "zoetrope generate: no previews: they need a terminal with colours\n"
    assert server.requests[0][1].preview_every == 0


def test_a_closed_standard_output_ends_it(photo, tmp_path):
    near, far = os.pipe()
    os.close(near)
    command = [sys.executable, "-m", "zoetrope_client", "generate", str(photo), "-o", str(tmp_path / "v.mp4")]
    with serving(scripts.normal) as server:
        ran = subprocess.run(
            [*command, "--url", server.url], stdout=far, stderr=subprocess.PIPE, text=True, timeout=30
        )
    os.close(far)
    assert ran.returncode == 1 and "Traceback" not in ran.stderr


def test_several_pictures_report_each(photo, tmp_path):
    """One is refused, one is no picture: the codes differ, so it is 1; the good one is written."""
    scripted = {
        "good": scripts.normal,
        "full": scripts.refusing,
        "none": scripts.failing(InvalidImage("no")),
    }

    def script(servicer, image, request, context):
        yield from scripted[image[-4:].decode()](servicer, image, request, context)

    for name in scripted:
        (tmp_path / f"{name}.jpg").write_bytes(b"\xff\xd8" + name.encode())
    arguments = [str(tmp_path / "*.jpg"), "-o", f"{tmp_path}/", "--jobs", "2", "--json"]
    with serving(script) as server:
        result = CliRunner().invoke(cli.app, ["generate", *arguments, "--url", server.url])
    lines = {line["image"][-8:-4]: line for line in map(json.loads, result.stdout.splitlines())}
    assert result.exit_code == 1 and result.stderr.count("\n") == 2
    assert lines["good"]["seed"] == 0 and (tmp_path / "good.mp4").exists()
    assert [lines[name]["error"]["code"] for name in ("full", "none")] == ["overloaded", "invalid_image"]
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    ("codes", "combined"), [((), 0), ((0, 0), 0), ((0, 3, 3), 3), ((3, 4), 1), ((1, 0), 1)]
)
def test_the_exit_code_of_several(codes, combined):
    errors = {0: None, 1: OSError("x"), 3: Overloaded("x"), 4: InvalidImage("x")}
    job = Job(name="a", image=b"", output=Path("a"), format=None)
    outcomes = [runs.Outcome(job=job, error=errors[code]) for code in codes]
    assert runs.combined(outcome.exit_code for outcome in outcomes) == combined


def test_headers_and_wrong_connections(run):
    with serving(scripts.normal) as server:
        assert run("--url", server.url, "-H", "X-Tenant: t: u", "--header", "a:b").exit_code == 0
    assert (server.metadata[0]["x-tenant"], server.metadata[0]["a"]) == ("t: u", "b")
    for wrong in (["--header", "no colon"], ["--header", ": x"], ["--ca", "no.pem"], ["--jobs", "0"]):
        assert run("--url", "127.0.0.1:1", *wrong).exit_code == 2
    assert run("--url", "127.0.0.1:1", "--patience", "inf").exit_code == 4


def test_half_a_key_pair_is_wrong_usage(run, photo):
    result = run("--url", "127.0.0.1:1", "--cert", str(photo))
    assert result.exit_code == 2 and "go together" in result.stderr


def test_patience_waits_a_refusal_out(run):
    turns = iter([scripts.refused_for(0.1), scripts.normal])

    def script(*arguments):
        yield from next(turns)(*arguments)

    with serving(script) as server:
        assert run("--url", server.url, "--patience", "9").exit_code == 0
    assert len(server.requests) == 2


def test_info_shows_what_the_server_can_do_and_whether_it_is_ready():
    with serving(scripts.normal) as server:
        server.told = METADATA.to_json()
        shown = CliRunner().invoke(cli.app, ["info", "--url", server.url])
        told = CliRunner().invoke(cli.app, ["info", "--url", server.url, "--json"])
        server.ready = False
        unready = CliRunner().invoke(cli.app, ["info", "--url", server.url, "--json"])
    assert shown.exit_code == 0
    for words in ("ready, zoetrope 1.2.3", "96x64", "euler, heun", "mp4 (h264, h265, av1)", "1 run, 2 wait"):
        assert words in shown.stdout
    assert json.loads(told.stdout)["metadata"]["sizes"] == [[64, 96]]
    assert (unready.exit_code, json.loads(unready.stdout)["ready"]) == (3, False)


def test_info_without_a_server_or_metadata():
    gone = CliRunner().invoke(cli.app, ["info", "--url", "127.0.0.1:1"])
    assert (gone.exit_code, gone.stdout) == (3, "") and "no server is ready" in gone.stderr
    with serving(scripts.normal) as server:
        old = CliRunner().invoke(cli.app, ["info", "--url", server.url])
    assert old.exit_code == 1 and "does not say what it can do" in old.stderr


def test_nothing_is_shown_where_there_is_no_terminal():
    shown = io.StringIO()
    with progress.Board(progress.Console(file=shown), previews=True) as board:
        board.show(board.begin("a"), Heartbeat(waiting=1))
    assert shown.getvalue() == ""


def test_generates_help_names_the_exit_codes():
    shown = CliRunner().invoke(cli.app, ["generate", "--help"]).stdout
    assert "130 interrupted" in shown
    assert "--motion-bucket-id" in shown
    assert generate.__doc__ and "Exit codes" in generate.__doc__
