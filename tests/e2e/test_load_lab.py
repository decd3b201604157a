"""The load lab against the real server, and other load generators beside it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rawtriton import PHOTO

from zoetrope_bench.load import records

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]
TOOLS = Path(os.environ.get("ZOETROPE_TOOLS", ROOT / ".venv-tools"))
MIX = """\
classes:
  short:
    weight: 3
    request: {num_inference_steps: 2}
  long:
    request: {num_inference_steps: 6, preview_every: 2}
"""


def zoetrope(*arguments):
    command = [str(Path(sys.executable).parent / "zoetrope"), "bench", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200)


def test_a_load_on_the_real_server_from_its_schedule_to_its_page(server, tmp_path):
    (tmp_path / "mix.yaml").write_text(MIX)
    raw, report, html = tmp_path / "r.jsonl", tmp_path / "r.json", tmp_path / "r.html"
    what = ("--mix", tmp_path / "mix.yaml", "--image", PHOTO, "--slo", "p90<60s")
    when = ("--ramp", "1..3@8", "--warmup", 1, "--seed", 4)
    where = ("--url", server.url, "--metrics", server.ports["metrics"], "--metrics-every", 0.5)
    ran = zoetrope("load", *what, *when, *where, "--records", raw, "--json", report, "--html", html)
    assert ran.returncode == 0 and "latency" in ran.stderr, ran.stderr
    run = records.read(raw)
    served = [record for record in run.records if record.outcome == records.SERVED]
    assert len(served) == len(run.records) > 10
    for record in served:
        steps = 6 if record.request_class == "long" else 2
        assert record.intended <= record.sent <= record.accepted <= record.first_step < record.ended
        assert (record.first_preview is not None) == (steps == 6)
        assert record.size == (96, 64, 6) and record.bytes >= record.video_bytes > 0
        assert 0 < record.timings["denoise"] <= record.timings["total"] <= record.ended - record.sent
    body = json.loads(report.read_text())
    details = body["details"]
    assert set(details["classes"]) == {"all", "short", "long"} and details["slo"]["met"]
    assert (
        details["stages"]["denoise"]["mean_s"] > 0 and 1.0 <= details["server"]["videos_per_execution"] <= 4
    )
    assert len(run.samples) >= 8 and details["server"]["max_active"] >= 1 and body["machine"]["cores"]
    page = html.read_text()
    assert page.count("<svg") == 6 and "http://" not in page.replace("http://www.w3.org", "")
    assert zoetrope("compare", report, report).returncode == 0


@pytest.fixture(scope="module")
def tools():
    """The other load generators, where they are installed and start; `make tools` installs them."""
    from zoetrope_bench.load.foreign import library_path

    for name in ("perf_analyzer", "locust"):
        program = TOOLS / "bin" / name
        if not program.exists():
            pytest.skip(f"no {program}: `make tools` installs it")
        environment = {**os.environ, "LD_LIBRARY_PATH": library_path(TOOLS)}
        ran = subprocess.run([program, "--version"], capture_output=True, text=True, env=environment)
        if "error while loading shared libraries" in ran.stderr:
            pytest.skip(f"{name} does not start: {ran.stderr.strip()}")
    return TOOLS


@pytest.mark.full
@pytest.mark.timeout(280)
def test_other_load_generators_say_the_same_of_the_real_server(tools, tmp_path):
    image = shutil.copy(ROOT / "demo" / "photo.jpg", tmp_path)
    load = ("--steps", "2", "--rate", "1.5", "--requests", "9", "--rounds", "1", "--tools", str(tools))
    command = [sys.executable, "-m", "zoetrope_bench.tools_compared", "--image", image]
    ran = subprocess.run(
        [*command, *load, "--json", str(tmp_path / "t.json")], capture_output=True, text=True, timeout=270
    )
    assert ran.returncode == 0, ran.stderr
    found = {
        title: rounds[0]
        for title, rounds in json.loads((tmp_path / "t.json").read_text())["details"]["by round"].items()
    }
    assert len(found) == 7 and all(outcome["requests"] >= 5 for outcome in found.values())
    for loop in ("closed", "open"):
        ours, theirs = found[f"{loop}, zoetrope bench load"], found[f"{loop}, perf_analyzer streaming"]
        assert theirs["first"] < theirs["last"] / 2, "the first response is `accepted`, the last `done`"
        assert 1 / 3 < ours["p50"] / theirs["last"] < 3
    assert 1 / 3 < found["closed, zoetrope bench load"]["p50"] / found["closed, locust"]["p50"] < 3
