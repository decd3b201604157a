"""Each stage by itself: our engine beside diffusers' module, eager and under torch.compile, in one run.

    python -m zoetrope_bench.stages CHECKPOINT REPOSITORY [--json FILE]
    python -m zoetrope_bench.stages CHECKPOINT --engine E --precision P --size HxW --frames N [--json FILE]

Every contender has a process of its own (`stage_worker`). Those of a stage are loaded, compiled and warmed up
one after the other, and then take turns, so that a slow minute of the machine hits all of them.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from zoetrope_bench.stage_report import Row, report, show
from zoetrope_bench.stage_rounds import Contender, best_rate, measure
from zoetrope_bench.stage_tasks import (
    COMPILED,
    EAGER,
    PEAK,
    Task,
    choose_device,
    stage_inputs,
    stage_tasks,
)
from zoetrope_bench.stage_worker import PEAK_SIDES
from zoetrope_bench.workers import Worker
from zoetrope_core.errors import ZoetropeError
from zoetrope_core.manifest import Manifest
from zoetrope_core.specs import STAGES, StageSpec

if TYPE_CHECKING:
    from zoetrope_export.checkpoint import Checkpoint

BASELINES = (EAGER, COMPILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """One run of the benchmark.

    Attributes:
        checkpoint: what the baselines load, and what the engines were or will be exported from.
        manifest: the facts of the repository.
        repository: the repository; None when each stage is built in a temporary folder before its turns.
        device: where all contenders compute.
        baselines: of `BASELINES`.
        rounds: the turns of each contender.
        console: told what is being done.
        peaks: the matrix product at each precision, which takes turns with every stage.
    """

    checkpoint: Checkpoint
    manifest: Manifest
    repository: Path | None
    device: str
    baselines: tuple[str, ...]
    rounds: int
    console: Console
    peaks: dict[str, Contender] = field(default_factory=dict)

    def run(self, stages: Iterable[StageSpec]) -> tuple[list[Row], dict[str, float]]:
        """The rows of all stages, and the peak of the machine at each precision, in operations a second."""
        with ExitStack() as stack:
            rows = [row for stage in stages for row in self._rows(stage, stack)]
        rates = {name: best_rate(each, 2 * PEAK_SIDES[self.device] ** 3) for name, each in self.peaks.items()}
        return rows, {name: rate for name, rate in rates.items() if rate}

    def _rows(self, stage: StageSpec, stack: ExitStack) -> list[Row]:
        """The rows of one stage; the workers of new peaks live as long as `stack`."""
        from zoetrope_bench.stage_reference import count_flops, hollow_component

        self.console.print(f"{stage.name}: building and loading", highlight=False)
        inputs = stage_inputs(stage, self.manifest)
        flops = count_flops(hollow_component(self.checkpoint, stage.name), stage.name, inputs)
        with ExitStack() as building:
            failed: list[Row] = []
            try:
                tasks = self._tasks(stage, building.enter_context(self._engine(stage)))
            except Exception as error:  # no engine of any kind: the baselines are still worth their time
                tasks = self._tasks(stage, Path())
                failed = [_not_built(task, error) for task in tasks if task.kind not in BASELINES]
                tasks = [task for task in tasks if task.kind in BASELINES]
            self._add_peaks(tasks, stack)
            others = list(self.peaks.values())
            return failed + measure(tasks, flops=flops, rounds=self.rounds, others=others)

    @contextmanager
    def _engine(self, stage: StageSpec) -> Iterator[Path]:
        """The folder of a stage's engine, for as long as the block lasts."""
        from zoetrope_export.repository import stage_directory
        from zoetrope_export.stage_builds import BuildOptions, Silent, StageBuilder
        from zoetrope_export.stage_modules import stage_module

        if self.repository:
            yield stage_directory(self.repository, stage.name)
            return
        builder = StageBuilder(self.checkpoint, self.manifest, BuildOptions(), Silent())
        with tempfile.TemporaryDirectory(prefix="zoetrope-stages-") as folder:
            most = max(self.manifest.num_frames)
            module = stage_module(self.checkpoint, stage.name, max_frames=most)
            with builder.build(module, stage, Path(folder)):
                pass
            yield Path(folder)

    def _tasks(self, stage: StageSpec, engine: Path) -> list[Task]:
        return stage_tasks(
            stage,
            self.manifest,
            device=self.device,
            engine=str(engine),
            checkpoint=str(self.checkpoint.directory),
            baselines=self.baselines,
        )

    def _add_peaks(self, tasks: list[Task], stack: ExitStack) -> None:
        """Starts the matrix product at the precisions that are new."""
        for precision in sorted({task.precision for task in tasks} - set(self.peaks)):
            task = Task(kind=PEAK, precision=precision, device=self.device)
            self.peaks[precision] = Contender(task, stack.enter_context(Worker(task)))


def _not_built(task: Task, error: Exception) -> Row:
    return Row(task=task, failure=f"{type(error).__name__}: {error}")


def stages(
    checkpoint: Annotated[str, typer.Argument(help="the checkpoint, in diffusers' layout")],
    repository: Annotated[
        Path | None, typer.Argument(help="the repository exported from it; without, --engine and --size")
    ] = None,
    engine: Annotated[str | None, typer.Option(help="the engine to build the stages for")] = None,
    precision: Annotated[str, typer.Option(help="the precision to build at")] = "fp32",
    size: Annotated[str | None, typer.Option(help="the frame size HxW to build for")] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="frames [default: the checkpoint's]")] = None,
    baseline: Annotated[
        str, typer.Option(help="what is measured beside: diffusers, compile, both with a comma, or none")
    ] = "diffusers,compile",
    stage: Annotated[list[str] | None, typer.Option(help="a stage; repeat for more [default: all]")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="turns of each contender")] = 5,
    json_file: Annotated[Path | None, typer.Option("--json", help="where the report goes")] = None,
) -> None:
    """Measures each stage: our engine, diffusers eager and torch.compile in one run; time, memory, FLOP/s."""
    baselines, chosen = parse_baselines(baseline), parse_stages(stage)
    try:
        opened, manifest = _open(checkpoint, repository, engine, precision, size, frames)
    except (ZoetropeError, OSError, ValueError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    import torch

    console = Console(stderr=True)
    bench = Bench(
        checkpoint=opened,
        manifest=manifest,
        repository=repository,
        device=choose_device(manifest.engine, torch.cuda.is_available()),
        baselines=baselines,
        rounds=rounds,
        console=console,
    )
    load = os.getloadavg()[0]
    rows, peaks = bench.run(chosen)
    outcome = report(rows, peaks, bench_parameters(bench, torch.get_num_threads(), load))
    show(outcome, console)
    if json_file:
        outcome.save(json_file)
    if not any(row.ours and row.median for row in rows):
        typer.echo("error: none of our engines could be measured", err=True)
        raise typer.Exit(1)


def bench_parameters(bench: Bench, threads: int, load: float) -> dict[str, object]:
    """What a run was asked to do, JSON-ready; `load` is the machine's before it: other work spoils ratios."""
    facts = bench.manifest
    return {
        "checkpoint": facts.checkpoint,
        "engine": facts.engine,
        "precision": facts.precision,
        "size": facts.sizes[0],
        "num_frames": facts.num_frames[0],
        "chunk": min(facts.decode_chunk_size, facts.num_frames[0]),
        "videos": 1,
        "condition_rows": 2,
        "device": bench.device,
        "baselines": bench.baselines,
        "rounds": bench.rounds,
        "threads": threads,
        "load_before": load,
        "matrix_side": PEAK_SIDES[bench.device],
    }


def parse_baselines(text: str) -> tuple[str, ...]:
    """The baselines of a list with commas; raises BadParameter for an unknown one."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip() not in ("", "none")))
    if unknown := set(names) - set(BASELINES):
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: one of {', '.join(BASELINES)}, or none")
    return names


def parse_stages(names: list[str] | None) -> list[StageSpec]:
    """The stages by name, all without names, in the order of a request; raises BadParameter."""
    if unknown := set(names or ()) - set(STAGES):
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: one of {', '.join(STAGES)}")
    return [spec for name, spec in STAGES.items() if not names or name in names]


def _open(
    checkpoint: str,
    repository: Path | None,
    engine: str | None,
    precision: str,
    size: str | None,
    frames: int | None,
) -> tuple[Checkpoint, Manifest]:
    """The checkpoint, and the manifest of the repository or of what is to be built; raises ZoetropeError."""
    from zoetrope_export.checkpoint import open_checkpoint
    from zoetrope_export.engines import check_supported
    from zoetrope_export.errors import ExportError
    from zoetrope_export.exporting import default_chunk
    from zoetrope_export.plans import parse_size, quiet_libraries

    logging.basicConfig(format="%(levelname)s %(message)s")
    quiet_libraries()
    if repository is not None:
        if engine or size or frames:
            raise ExportError("either a REPOSITORY or --engine, --size and --frames, not both")
        return open_checkpoint(checkpoint), Manifest.load(repository)
    if engine is None or size is None:
        raise ExportError("name a REPOSITORY, or the --engine and the --size to build for")
    check_supported(engine, precision)
    opened = open_checkpoint(checkpoint)
    count = frames or opened.num_frames
    manifest = opened.manifest(
        engine=engine,
        precision=precision,
        sizes=(parse_size(size),),
        num_frames=(count,),
        decode_chunk_size=default_chunk(count),
        max_batch_size=1,
    )
    return opened, manifest


if __name__ == "__main__":
    typer.run(stages)
