"""This server beside diffusers: what the table says, the process that runs diffusers, and its memory."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("diffusers")

import artifacts  # noqa: E402
from small_checkpoints import SMALLEST  # noqa: E402

from zoetrope_bench import side_by_side  # noqa: E402
from zoetrope_bench.contenders import WORKER, Crowd, Diffusers  # noqa: E402
from zoetrope_bench.memory import peak_memory  # noqa: E402
from zoetrope_bench.pipeline_worker import EAGER, Call, PipelineTask, load  # noqa: E402
from zoetrope_bench.side_by_side import Measured  # noqa: E402
from zoetrope_bench.workers import Worker, WorkerFailed  # noqa: E402
from zoetrope_export.checkpoint import open_checkpoint  # noqa: E402

PHOTO = Path(__file__).parents[2] / "demo" / "photo.jpg"


def measured(seconds, level=100, batch=1.0):
    return Measured(
        seconds=seconds,
        crowds={1: Crowd(seconds=6.0, batch=1.0), 4: Crowd(seconds=12.0, batch=batch)},
        warm_up=9.04,
        memory=3 << 30,
        frames=np.full((2, 8, 8, 3), level, np.uint8),
    )


def test_speed_is_the_ratio_of_medians():
    found = {
        side_by_side.EAGER: measured([9.0, 10.0, 50.0]),
        side_by_side.SERVER: measured([2.0, 2.0, 9.0], level=101),
    }
    report = side_by_side.report(found, {})
    figures = {figure.name: figure for figure in report.figures}
    speed = figures[f"speed against {side_by_side.EAGER}"]
    assert speed.measured == 5.0 and speed.passed
    assert not any(side_by_side.COMPILED in name for name in figures)


def test_the_table_has_rates_memory_and_quality():
    found = {
        side_by_side.EAGER: measured([10.0]),
        side_by_side.SERVER: measured([2.0], level=101, batch=3.5),
    }
    rows = side_by_side.rows(found)
    assert rows[1]["videos_a_minute"] == {"1": 10.0, "4": 20.0}
    assert rows[1]["videos_an_execution"] == {"1": 1.0, "4": 3.5}
    assert [row["psnr_db"] for row in rows] == [None, 48.1]
    lines = side_by_side.table(rows).splitlines()
    assert lines[2] == f"| {side_by_side.EAGER} | 10.00 | 10.0 (1) | 20.0 (1) | 3072 | 9 | reference |"
    assert lines[3] == f"| {side_by_side.SERVER} | 2.00 | 10.0 (1) | 20.0 (3.5) | 3072 | 9 | 48.1 |"
    assert len({line.count("|") for line in lines}) == 1


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    folder = artifacts.checkpoint(SMALLEST, seed=1)
    manifest = open_checkpoint(folder).manifest(
        engine="onnxruntime",
        precision="fp32",
        sizes=((32, 48),),
        num_frames=(3,),
        decode_chunk_size=3,
        max_batch_size=1,
    )
    facts = json.loads(json.dumps(manifest.to_dict()))
    return PipelineTask(kind=EAGER, checkpoint=str(folder), manifest=facts, photo=str(PHOTO))


def test_the_process_makes_the_videos_of_the_seeds(task):
    with Worker(task, WORKER) as worker:
        contender = Diffusers(worker, began=0.0)
        frames = contender.frames(seed=5, steps=2)
        crowd = contender.crowd(2, steps=2)
        assert crowd.batch == 2 and crowd.seconds > 0
        assert peak_memory(contender.pid) > 100 << 20
    alone, other = load(task)(Call(seeds=(5, 6), steps=2))
    assert frames.shape == (3, 32, 48, 3)
    assert np.abs(frames.astype(int) - alone).max() <= 1, "in a batch a video is what it is alone"
    assert np.abs(frames.astype(int) - other).max() > 1


def test_an_error_of_the_contender_is_told(task):
    missing = replace(task, checkpoint="/no/such/checkpoint")
    with Worker(missing, WORKER) as worker, pytest.raises(WorkerFailed, match="/no/such/checkpoint"):
        worker.reply()


def test_memory_that_was_given_back_counts():
    script = (
        "import numpy; block = numpy.ones(200 << 20, numpy.uint8); del block\n"
        "print('freed', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "freed\n"
        assert 200 << 20 < peak_memory(process.pid) < 300 << 20
        process.communicate("\n")


def test_memory_of_children_counts():
    script = "import subprocess, sys; print('there', flush=True); " + (
        "subprocess.run([sys.executable, '-c', "
        "'import numpy; b = numpy.ones(150 << 20, numpy.uint8); print(1, flush=True); input()'])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "there\n"
        assert process.stdout.readline() == "1\n"
        assert peak_memory(process.pid) > 150 << 20
        process.communicate("\n")
