"""docs/status.md is what result files and tests say, and no page says more of a GPU."""

import json
import re
from pathlib import Path

import pytest

status = pytest.importorskip("zoetrope_bench.status")

from zoetrope_core.specs import STAGES  # noqa: E402
from zoetrope_server.engines import GPU_ENGINES  # noqa: E402

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = ("README.md", "docs/engines.md", "docs/docker.md")
PRODUCT = re.compile(r"\b(H100|H200|A100|B200|L40S?|RTX \d+|TensorRT|CUDA|GPU)\b")
UNITS = ("ms", "s", "seconds", "minutes", "fps", "TFLOP/s", "TB/s", "x as fast", "times as fast")
FIGURE = re.compile(rf"\b\d[\d.,]*\s?({'|'.join(UNITS)})(?!\w)")
ROW = {"engine": "tensorrt", "host": "python", "precision": "fp16", "shapes": "SVD-XT"}


@pytest.fixture(scope="module")
def found():
    return status.records(RESULTS)


def runs():
    return json.loads((RESULTS / status.RUNS).read_text())


def test_the_page_is_what_was_recorded(found):
    """`python -m zoetrope_bench.status` writes it."""
    assert (ROOT / status.PAGE).read_text() == status.render(found)


def test_each_test_that_is_named_exists_and_records_what_it_is_named_for():
    for record in runs():
        file, _, name = record["test"].partition("::")
        text = (ROOT / file).read_text()
        assert f"def {name}(" in text and f'ran("{record["kind"]}"' in text, record["test"]
        assert set(record["stages"]) <= set(STAGES)


def test_every_path_of_a_gpu_has_a_row():
    assert {row.engine for row in status.rows()} == GPU_ENGINES
    assert {row.host for row in status.rows() if row.engine == "tensorrt"} == {"python", "triton"}


def test_what_a_gpu_has_run_is_named_with_its_file(tmp_path):
    path = {**ROW, "stages": ["unet"]}
    body = {"benchmark": "gpu", "machine": {"gpu": {"name": "NVIDIA H200"}}, "details": {"paths": [path]}}
    (tmp_path / "gpu.json").write_text(json.dumps(body))
    on_gpu = status.records(tmp_path)
    said = status.cell(status.Row(**ROW), status.GPU, on_gpu)
    assert said == "unet: NVIDIA H200 [gpu.json](../benchmarks/results/gpu.json)"
    assert status.state("tensorrt", on_gpu) == "run on a GPU"
    body["machine"]["gpu"] = None
    (tmp_path / "gpu.json").write_text(json.dumps(body))
    assert status.records(tmp_path) == [], "a machine without a GPU proves nothing of one"


def test_the_table_of_engines_claims_no_more(found):
    page = (ROOT / "docs/engines.md").read_text()
    for engine in GPU_ENGINES:
        (line,) = [line for line in page.splitlines() if line.startswith(f"| `{engine}` |")]
        assert line.rstrip(" |").endswith(f"GPU: {status.state(engine, found)}"), line


def claims(text):
    """Lines that speak of a GPU and give a speed."""
    return [line for line in text.splitlines() if PRODUCT.search(line) and FIGURE.search(line)]


@pytest.mark.parametrize("page", PAGES)
def test_no_page_gives_a_speed_that_no_gpu_has_shown(found, page):
    shown = {Path(record["source"]).name for record in found if record["kind"] == status.GPU}
    unproven = [line for line in claims((ROOT / page).read_text()) if not any(name in line for name in shown)]
    assert unproven == [], "a speed on a GPU names the result file that holds it"


@pytest.mark.parametrize(
    "line",
    [
        "A step takes 220 ms on an H100.",
        "TensorRT: 2.5 times as fast",
        "| H200 | 8.9 s |",
        "GPU: 740 TFLOP/s",
    ],
)
def test_such_a_claim_is_found(line):
    assert claims(line) == [line]


@pytest.mark.parametrize("page", PAGES)
def test_the_pages_name_what_has_run(page):
    assert "status.md" in (ROOT / page).read_text()
