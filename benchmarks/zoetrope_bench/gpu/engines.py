"""A small checkpoint as AOTInductor packages: exported through the gate, opened, run at every shape."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from zoetrope_bench.gpu.device import Device
from zoetrope_bench.gpu.networks import toy_architecture
from zoetrope_bench.gpu.record import Record, Step
from zoetrope_core.manifest import Manifest
from zoetrope_core.specs import STAGES, Array, StageSpec
from zoetrope_server import batching
from zoetrope_server.engines import open_engine, stage_precision

ENGINE = "aot-inductor"
_TURNS = 3
"""Each shape runs so often, in turns with the others: a graph is recorded in the second and replayed then."""


def steps(record: Record, device: Device, scratch: Path) -> list[Step]:
    """See the module."""
    return [
        ("export", lambda: _export(record, device, scratch)),
        *((name, partial(_stage, record, device, scratch, stage)) for name, stage in STAGES.items()),
    ]


def repository(scratch: Path, *, toy: bool) -> Path:
    """The repository of the checkpoint, exported when it is asked for first; one that fails fails once."""
    place, failure = scratch / "repository", scratch / "repository.failed"
    if failure.is_file():
        raise RuntimeError(f"there is no repository: {failure.read_text()}")
    if not place.is_dir():
        failure.write_text("its export did not end")
        _write_repository(place, scratch / "checkpoint", toy)
        failure.unlink()
    return place


def _write_repository(place: Path, checkpoint: Path, toy: bool) -> None:
    from zoetrope_export.architectures import TINY
    from zoetrope_export.checkpoint import open_checkpoint
    from zoetrope_export.exporting import Plan, export_repository
    from zoetrope_export.random_checkpoint import write_random_checkpoint
    from zoetrope_export.stage_builds import BuildOptions

    architecture = toy_architecture() if toy else replace(TINY, num_frames=6)
    size, frames = architecture.size, architecture.num_frames
    write_random_checkpoint(architecture, checkpoint)
    opened = open_checkpoint(str(checkpoint))
    manifest = opened.manifest(
        engine=ENGINE,
        precision="fp32" if toy else "fp16",
        sizes=(size,),
        num_frames=(frames,),
        decode_chunk_size=frames - frames // 3,
        max_batch_size=2,
    )
    options = BuildOptions(cache=checkpoint.parent / "engines")
    export_repository(Plan(checkpoint=opened, manifest=manifest, out=place, options=options))


def _export(record: Record, device: Device, scratch: Path) -> None:
    began = time.monotonic()
    place = repository(scratch, toy=device.toy)
    record.add("checkpoint, packages and gate", time.monotonic() - began, "s")
    report = json.loads((place / "parity.json").read_text())
    for each in report["stages"]:
        record.check(
            f"{each['stage']} through the gate", each["psnr_db"] >= each["tolerance_db"], each["psnr_db"]
        )
    record.check("the whole repository", report["passed"])


def _stage(record: Record, device: Device, scratch: Path, stage: StageSpec) -> None:
    """Runs the engine of a stage at every served shape, in turns, against the module in FP32."""
    from zoetrope_export.checkpoint import open_checkpoint
    from zoetrope_export.engines import TorchEngine
    from zoetrope_export.parity import TOLERANCE_DB
    from zoetrope_export.stage_modules import stage_module

    place = repository(scratch, toy=device.toy)
    manifest = Manifest.load(place)
    engine = open_engine(
        place / stage.name / "1", stage, engine=manifest.engine, precision=manifest.precision
    )
    module = stage_module(open_checkpoint(str(scratch / "checkpoint")), stage.name)
    reference = TorchEngine(module, stage, device.name)
    least = TOLERANCE_DB[stage_precision(stage, manifest.precision, manifest.engine)]
    shapes = [_noisy(inputs) for inputs in batching.served_shapes(stage, manifest)]
    expected = [reference.run(inputs) for inputs in shapes]
    worst = [
        _psnr(expected[number], engine.run(inputs))
        for _ in range(_TURNS)
        for number, inputs in enumerate(shapes)
    ]
    record.add("shapes", len(shapes))
    record.check(f"every call of {stage.name} is right", min(worst) >= least, round(min(worst), 1))
    if not device.toy and min(worst) >= least:
        record.ran(engine=ENGINE, precision=manifest.precision, shapes="small", stages=[stage.name])
    for inputs in shapes:
        name = ", ".join(f"{symbol}={size}" for symbol, size in _symbols(stage, inputs).items())
        record.add(name, device.host_ms(lambda inputs=inputs: engine.run(inputs), runs=5), "ms")


def _symbols(stage: StageSpec, inputs: dict[str, Array]) -> dict[str, int]:
    return stage.symbols_of({name: array.shape for name, array in inputs.items()})


def _noisy(inputs: dict[str, Array]) -> dict[str, Array]:
    """Ones with noise, of which sigmas and weights stay what they may be."""
    generator = np.random.default_rng(0)
    return {
        name: array if name in ("weights", "added_time_ids") else array + _noise(generator, name, array)
        for name, array in inputs.items()
    }


def _noise(generator: Any, name: str, array: Array) -> Array:
    noise: Array = generator.standard_normal(array.shape).astype(array.dtype)
    return np.abs(noise) if name == "sigma" else noise


def _psnr(expected: dict[str, Array], actual: dict[str, Array]) -> float:
    from zoetrope_export.parity import psnr

    return min(psnr(expected[name], array) for name, array in actual.items() if array.dtype != np.bool_)
