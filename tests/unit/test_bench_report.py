"""Figures say whether their target was reached, and a report is saved with its machine."""

import json
import subprocess
import sys

import pytest

from zoetrope_bench import latency, throughput
from zoetrope_bench.report import Figure, Report


@pytest.mark.parametrize(
    ("measured", "target", "at_most", "passed"),
    [(2.0, 1.3, False, True), (1.2, 1.3, False, False), (9.0, 8.0, True, False), (8.0, 8.0, True, True)],
)
def test_a_target_is_reached_or_missed(measured, target, at_most, passed):
    figure = Figure(name="x", measured=measured, target=target, at_most=at_most)
    assert figure.passed is passed and figure.to_dict()["passed"] is passed


def test_a_figure_without_a_target_claims_nothing():
    assert "passed" not in Figure(name="x", measured=1.0).to_dict()


def test_a_report_is_saved_with_machine_and_versions(tmp_path):
    Report(benchmark="b", figures=[Figure(name="x", measured=1.0)], details={"raw": [1]}).save(
        tmp_path / "r.json"
    )
    saved = json.loads((tmp_path / "r.json").read_text())
    assert saved["machine"]["cores"] >= 1 and saved["machine"]["versions"]["numpy"]
    assert saved["details"] == {"raw": [1]} and saved["figures"][0]["measured"] == 1.0


def test_the_gain_is_the_ratio_of_rates():
    results = {"alone": [(10.0, 1.0)], "together": [(12.0, 3.5)], "mixed": [(11.0, 1.8)]}
    figures = {figure.name: figure for figure in throughput.report(results, 4, {}).figures}
    assert figures["gain"].measured == pytest.approx(1.2) and figures["gain"].passed is False


def test_latency_compares_the_first_request_with_the_last_and_leaves_it_out_of_the_medians():
    def line(accepted, done):
        return latency.Timeline(accepted=accepted, first_step=accepted + 1.03, step=1.0, done=done)

    lines = [line(0.5, 9.0), *[line(0.02, 6.0)] * 9]
    accepted, wait, first = latency.figures(lines)
    assert (round(accepted.measured, 3), accepted.passed) == (20, True)
    assert (round(wait.measured, 3), wait.passed) == (30, True)
    assert (first.measured, first.passed) == (1.5, False)


def test_the_commands_import_nothing_heavy():
    heavy = "('torch', 'diffusers', 'transformers', 'onnx', 'onnxruntime', 'openvino', 'scipy')"
    code = f"import sys, zoetrope_bench.commands; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
