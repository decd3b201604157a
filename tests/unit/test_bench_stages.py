"""Stages beside diffusers': operations counted, workers that fail, and a real run of a small checkpoint."""

import json
import sys
import time
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

import artifacts  # noqa: E402
from rich.console import Console  # noqa: E402
from small_checkpoints import SMALLEST  # noqa: E402

from zoetrope_bench import overhead, stage_report, stages  # noqa: E402
from zoetrope_bench.stage_reference import count_flops, hollow_component  # noqa: E402
from zoetrope_bench.stage_report import Row  # noqa: E402
from zoetrope_bench.stage_rounds import Contender, best_rate, measure  # noqa: E402
from zoetrope_bench.stage_tasks import (  # noqa: E402
    COMPILED,
    EAGER,
    ENGINE,
    PEAK,
    RESIDENT,
    Task,
    baseline_precision,
    choose_device,
    stage_inputs,
    stage_tasks,
)
from zoetrope_bench.workers import Turn, Worker, WorkerFailed  # noqa: E402
from zoetrope_core.specs import STAGES, UNET, VAE_ENCODER  # noqa: E402
from zoetrope_export.architectures import SVD_XT  # noqa: E402
from zoetrope_export.checkpoint import open_checkpoint  # noqa: E402
from zoetrope_export.random_checkpoint import random_unet, random_vae  # noqa: E402
from zoetrope_server.engines import open_engine  # noqa: E402

FRAMES = 2


@pytest.fixture(scope="module")
def checkpoint():
    return open_checkpoint(artifacts.checkpoint(SMALLEST))


def manifest_of(checkpoint, engine="openvino", precision="fp32"):
    return checkpoint.manifest(
        engine=engine,
        precision=precision,
        sizes=((16, 24),),
        num_frames=(FRAMES,),
        decode_chunk_size=FRAMES,
        max_batch_size=1,
    )


def svd_xt_inputs(stage, chunk):
    facts = replace(overhead.SVD_XT, decode_chunk_size=chunk)
    return stage_inputs(STAGES[stage], facts)


@pytest.mark.parametrize(
    ("stage", "build", "tera"), [("unet", random_unet, 159.9), ("vae_decoder", random_vae, 173.6)]
)
def test_the_operations_of_svd_xt_are_those_of_the_design(stage, build, tera):
    with torch.device("meta"):
        module = build(SVD_XT).to("meta").eval()
    flops = count_flops(module, stage, svd_xt_inputs(stage, 25))
    assert flops / 1e12 == pytest.approx(tera, rel=0.02)


def test_operations_are_counted_by_hand_for_one_layer(checkpoint):
    clip = hollow_component(checkpoint, "image_encoder")
    inputs = stage_inputs(STAGES["image_encoder"], manifest_of(checkpoint))
    width, patch, tokens, embedding = SMALLEST.clip_width, SMALLEST.clip_patch, 5, SMALLEST.embedding_dim
    patches = 2 * 4 * 3 * patch * patch * width
    layer = 2 * tokens * width * width * (4 + 8) + 2 * 2 * tokens * tokens * width
    assert count_flops(clip, "image_encoder", inputs) == patches + layer + 2 * width * embedding


def test_all_stages_have_operations_without_weights(checkpoint):
    for name, stage in STAGES.items():
        module = hollow_component(checkpoint, name)
        assert all(each.is_meta for each in module.parameters())
        assert count_flops(module, name, stage_inputs(stage, manifest_of(checkpoint))) > 1e6


def test_the_baselines_compute_as_diffusers_users_do():
    assert [baseline_precision(UNET, kind, "cpu") for kind in (EAGER, COMPILED)] == ["fp32", "bf16"]
    assert [baseline_precision(UNET, kind, "cuda") for kind in (EAGER, COMPILED)] == ["fp16", "fp16"]
    assert baseline_precision(VAE_ENCODER, COMPILED, "cuda") == "fp32"
    assert [choose_device(engine, True) for engine in ("openvino", "tensorrt")] == ["cpu", "cuda"]
    assert choose_device("aot-inductor", False) == "cpu"


def test_a_package_on_a_gpu_is_measured_with_its_tensors_there_too(checkpoint):
    facts = manifest_of(checkpoint, engine="aot-inductor", precision="fp16")
    for device, kinds in (("cuda", [ENGINE, RESIDENT, EAGER]), ("cpu", [ENGINE, EAGER])):
        tasks = stage_tasks(UNET, facts, device=device, engine="e", checkpoint="c", baselines=(EAGER,))
        assert [task.kind for task in tasks] == kinds
        assert [task.source for task in tasks] == ["e"] * (len(kinds) - 1) + ["c"]


def row(kind, seconds=(), precision="fp32", failure=None):
    task = Task(kind=kind, precision=precision, device="cpu", stage="unet", manifest={"engine": "openvino"})
    return Row(task=task, seconds=seconds, flops=10**12, memory=3 << 20, failure=failure)


def test_more_frames_than_the_checkpoint_has_are_built_and_run(checkpoint):
    frames = checkpoint.num_frames + 3
    facts = replace(manifest_of(checkpoint, engine="onnxruntime"), num_frames=(frames,))
    bench = stages.Bench(
        checkpoint=checkpoint,
        manifest=facts,
        repository=None,
        device="cpu",
        baselines=(),
        rounds=1,
        console=Console(file=StringIO()),
    )
    with bench._engine(UNET) as folder:
        engine = open_engine(folder, UNET, engine="onnxruntime", precision="fp32")
        assert engine.run(stage_inputs(UNET, facts))["denoised"].shape[1] == frames


def test_a_row_says_rate_share_and_speed():
    rows = [
        row(ENGINE, (0.6, 0.5, 0.4), "bf16"),
        row(EAGER, (2.0, 1.5, 9.0)),
        row(COMPILED, (), "bf16", "no compiler"),
    ]
    outcome = stage_report.report(rows, {"bf16": 4e12}, {"rounds": 3})
    ours, eager, failed = outcome.details["rows"]
    assert (ours["median_ms"], ours["fastest_ms"], ours["slowest_ms"]) == (500, 400, 600)
    assert (ours["useful_tflops"], ours["share_of_peak"], ours["memory_mib"]) == (2.0, 0.5, 3.0)
    assert (ours["speed_against_eager"], ours["speed_against_compile"]) == (4.0, None)
    assert eager["share_of_peak"] is None and eager["speed_against_eager"] == 1.0
    assert failed["failure"] == "no compiler" and "median_ms" not in failed
    figures = {figure.name: figure.measured for figure in outcome.figures}
    assert figures["unet: zoetrope openvino bf16, speed against diffusers"] == 4.0
    assert not any("compile" in name for name in figures)


def test_the_table_has_each_contender_and_the_reason_of_a_failure():
    rows = [row(ENGINE, (0.5,)), row(COMPILED, (), "bf16", "no [g++] here")]
    out = StringIO()
    stage_report.show(stage_report.report(rows, {"fp32": 4e12}, {}), Console(file=out, width=140))
    text = out.getvalue()
    assert "500" in text and "50.0%" in text
    assert "diffusers compiled failed: no [g++] here" in text


def peak_task(precision="fp32"):
    return Task(kind=PEAK, precision=precision, device="cpu")


def test_workers_take_turns_and_idle_between():
    with Worker(peak_task()) as worker:
        contender = Contender(worker=worker, task=peak_task())
        contender.turn()
        contender.turn()
        assert len(contender.turns) == 2 and contender.turns[0].peak > 0
        assert best_rate(contender, 10**9) == 10**9 / min(
            seconds for turn in contender.turns for seconds in turn.seconds
        )
        before = cpu_ticks(worker.pid)
        time.sleep(1.0)
        assert cpu_ticks(worker.pid) - before <= 5  # of 100 that a spinning thread would use
    assert not Path(f"/proc/{worker.pid}").exists()


def cpu_ticks(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_a_contender_that_cannot_load_says_why():
    with Worker(peak_task("fp7")) as worker, pytest.raises(WorkerFailed, match="KeyError: 'fp7'"):
        worker.ready()


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("import sys; sys.exit('no memory left')", "ended with status 1: no memory left"),
        ("import os; os.kill(os.getpid(), 9)", "killed by signal 9"),
    ],
)
def test_a_worker_that_dies_leaves_its_last_words(script, words):
    with (
        Worker(peak_task(), (sys.executable, "-c", script)) as worker,
        pytest.raises(WorkerFailed, match=words),
    ):
        worker.ready()


def test_an_interruption_does_not_wait_for_the_call_that_runs():
    began = time.monotonic()
    with (
        pytest.raises(KeyboardInterrupt),
        Worker(peak_task(), (sys.executable, "-c", "import time; time.sleep(60)")) as worker,
    ):
        raise KeyboardInterrupt
    assert time.monotonic() - began < 8
    assert not Path(f"/proc/{worker.pid}").exists()


def test_a_contender_that_fails_in_a_turn_takes_no_more():
    script = "print('{\"setup_seconds\": 1, \"setup_peak\": 2}', flush=True); input(); input(); exit('gone')"
    with Worker(peak_task(), (sys.executable, "-c", script)) as worker:
        contender = Contender(peak_task(), worker)
        contender.turn()
        contender.turn()
    failed = contender.row(1)
    assert failed.failure and "gone" in failed.failure and failed.median is None
    assert contender.turns == []


def test_one_that_fails_does_not_hold_up_the_others():
    good, bad = measure([peak_task(), peak_task("fp7")], flops=1, rounds=2)
    assert len(good.seconds) == 2 and good.failure is None
    assert bad.failure is not None and bad.seconds == ()


def test_turns_are_summed_up_by_their_medians():
    with Worker(peak_task("fp7")) as worker:
        contender = Contender(peak_task(), worker)
    contender.turns = [Turn(seconds=(1.0, 2.0, 9.0), peak=5), Turn(seconds=(4.0,), peak=3)]
    assert contender.row(1).seconds == (2.0, 4.0) and contender.row(1).memory == 5


def test_lists_on_the_command_line():
    assert stages.parse_baselines("compile, diffusers,compile") == ("compile", "diffusers")
    assert stages.parse_baselines("none") == () == stages.parse_baselines("")
    assert [spec.name for spec in stages.parse_stages(["unet", "image_encoder"])] == ["image_encoder", "unet"]
    assert len(stages.parse_stages(None)) == 4
    for parse, wrong in ((stages.parse_baselines, "eager"), (stages.parse_stages, ["vae"])):
        with pytest.raises(typer.BadParameter):
            parse(wrong)


def run(*arguments):
    app = typer.Typer()
    app.command()(stages.stages)
    return CliRunner().invoke(app, [str(each) for each in arguments])


def test_wrong_commands_are_refused_in_a_line(checkpoint, tmp_path):
    for wrong in (
        (checkpoint.directory,),
        (checkpoint.directory, tmp_path / "nowhere"),
        (checkpoint.directory, tmp_path, "--engine", "openvino"),
        (tmp_path, "--engine", "openvino", "--size", "16x24"),
        (checkpoint.directory, "--engine", "openvino", "--precision", "fp16", "--size", "16x24"),
        (checkpoint.directory, "--engine", "openvino", "--size", "17x24"),
    ):
        result = run(*wrong)
        assert result.exit_code == 2 and result.output.startswith("error: "), wrong


def test_a_real_run_builds_and_measures(checkpoint, tmp_path):
    file = tmp_path / "report.json"
    options = ("--engine", "openvino", "--size", "16x24", "--frames", FRAMES, "--baseline", "diffusers")
    chosen = ("--stage", "unet", "--rounds", 2, "--json", file)
    result = run(checkpoint.directory, *options, *chosen)
    assert result.exit_code == 0, result.output
    saved = json.loads(file.read_text())
    rows = saved["details"]["rows"]
    assert [(each["stage"], each["contender"]) for each in rows] == [
        ("unet", "zoetrope openvino"),
        ("unet", "diffusers eager"),
    ]
    for each in rows:
        assert each["failure"] is None and len(each["turns_ms"]) == 2 and each["memory_mib"] > 0
        assert 0 < each["share_of_peak"] < 1
    assert saved["parameters"]["chunk"] == FRAMES and "gpu" in saved["machine"]


def test_without_an_engine_of_ours_the_exit_status_says_so(checkpoint, tmp_path):
    manifest_of(checkpoint).save(tmp_path)
    file = tmp_path / "report.json"
    options = ("--stage", "image_encoder", "--baseline", "none", "--rounds", 1, "--json", file)
    result = run(checkpoint.directory, tmp_path, *options)
    assert result.exit_code == 1 and "none of our engines" in result.output
    (ours,) = json.loads(file.read_text())["details"]["rows"]
    assert "no engine at" in ours["failure"] and "median_ms" not in ours
