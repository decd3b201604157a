"""The process that measures one contender of one stage: `python -m zoetrope_bench.stage_worker`.

A process of its own has the memory, the threads and the failures of its contender alone. It speaks lines of
JSON: the task comes in on stdin, `ready` or `error` goes out; then each line that comes in asks for a turn,
and its times go out. The process ends with its stdin.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO

from zoetrope_bench.stage_tasks import COMPILED, DTYPES, EAGER, ENGINE, PEAK, RESIDENT, Task, stage_inputs
from zoetrope_core.manifest import Manifest
from zoetrope_core.specs import STAGES

WARM_UP = 3
"""Calls before the first turn: torch.compile with CUDA graphs compiles, records and replays."""
TURN_SECONDS = 0.5
TURN_CALLS = 100
"""A turn is one call, or as many as fit into `TURN_SECONDS`, and no more than this."""
PEAK_SIDES = {"cpu": 2048, "cuda": 8192}
"""The side of the square matrices whose product shows the peak of a device."""
Run = Callable[[], Any]


class Memory(Protocol):
    """The memory that a contender takes."""

    def restart(self) -> None:
        """Forgets the peak so far."""
        ...

    def peak(self) -> int:
        """The most since `restart`, in bytes."""
        ...


class ResidentMemory:
    """Resident memory of this process, above what it has now (its libraries imported)."""

    def __init__(self) -> None:
        """Notes what there is."""
        self._base = _status("VmRSS")

    def restart(self) -> None:
        """See `Memory` and proc(5), clear_refs; where that is forbidden, the peak of the set-up stays."""
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")

    def peak(self) -> int:
        """See `Memory`."""
        return max(0, _status("VmHWM") - self._base)


class TensorMemory:
    """What torch's allocator has handed out on the GPU."""

    def __init__(self, torch: Any) -> None:
        """Takes the module torch."""
        self._cuda = torch.cuda

    def restart(self) -> None:
        """See `Memory`."""
        self._cuda.reset_peak_memory_stats()

    def peak(self) -> int:
        """See `Memory`."""
        return int(self._cuda.max_memory_allocated())


class DeviceMemory:
    """What is taken on the whole GPU above what was when this was made, as seen after calls.

    Right while no other process takes or frees any: workers are made one after the other.
    """

    def __init__(self, torch: Any) -> None:
        """Makes the CUDA context, which does not count, and notes what is free."""
        self._cuda = torch.cuda
        self._free: int = self._cuda.mem_get_info()[0]
        self._taken = 0

    def restart(self) -> None:
        """Takes the measure: later ones would see other workers."""
        self._taken = max(0, self._free - int(self._cuda.mem_get_info()[0]))

    def peak(self) -> int:
        """See `Memory`."""
        if not self._taken:
            self.restart()
        return self._taken


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A contender that can run: one call that ends when its work has ended, and its memory."""

    run: Run
    memory: Memory


def _status(name: str) -> int:
    """A figure of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))


def prepare(task: Task) -> Prepared:
    """Loads what the task measures."""
    if task.kind == ENGINE:
        return _engine(task)
    return {RESIDENT: _resident, EAGER: _diffusers, COMPILED: _diffusers, PEAK: _peak}[task.kind](task)


def _engine(task: Task) -> Prepared:
    """Our engine, from arrays to arrays: with the copies to a GPU and back."""
    from zoetrope_server.engines import open_engine

    memory = _memory_of_engine(task)
    stage, facts = STAGES[task.stage], Manifest.from_dict(dict(task.manifest))
    inputs = stage_inputs(stage, facts)
    engine = open_engine(Path(task.source), stage, engine=facts.engine, precision=facts.precision)
    return Prepared(run=lambda: engine.run(inputs), memory=memory)


def _memory_of_engine(task: Task) -> Memory:
    """Imports the engine's library, whose memory does not count."""
    engine = task.manifest["engine"]
    if task.device == "cuda":
        import torch

        return DeviceMemory(torch)
    importlib.import_module("torch" if engine == "aot-inductor" else engine)
    return ResidentMemory()


def _resident(task: Task) -> Prepared:
    """The AOTInductor package on tensors that lie on its device, with outputs left there."""
    import torch

    from zoetrope_server.engines.inductor import AotInductorEngine

    memory = _memory_of_engine(task)
    stage = STAGES[task.stage]
    inputs = stage_inputs(stage, Manifest.from_dict(dict(task.manifest)))
    engine = AotInductorEngine(Path(task.source), stage, precision=task.precision)
    tensors = [torch.from_numpy(inputs[spec.name]).to(engine.device) for spec in stage.inputs]
    return Prepared(run=_synchronized(lambda: engine.compute(*tensors), task.device), memory=memory)


def _diffusers(task: Task) -> Prepared:
    """Diffusers' module, its inputs and outputs on the device."""
    import torch

    from zoetrope_bench import stage_reference as reference
    from zoetrope_export.checkpoint import open_checkpoint

    memory = ResidentMemory() if task.device == "cpu" else TensorMemory(torch)
    dtype = getattr(torch, DTYPES[task.precision])
    module = reference.component(open_checkpoint(task.source), task.stage).to(task.device, dtype)
    inputs = stage_inputs(STAGES[task.stage], Manifest.from_dict(dict(task.manifest)))
    tensors = reference.reference_tensors(task.stage, inputs, task.device, dtype)
    call: Any = reference.reference_call(task.stage)
    if task.kind == COMPILED:
        call = torch.compile(call, mode="max-autotune" if task.device == "cuda" else None)

    def run() -> Any:
        with torch.inference_mode():
            return call(module, tensors)

    return Prepared(run=_synchronized(run, task.device), memory=memory)


def _peak(task: Task) -> Prepared:
    """The product of two large square matrices."""
    import torch

    dtype, side = getattr(torch, DTYPES[task.precision]), PEAK_SIDES[task.device]
    left, right = (torch.randn(side, side, device=task.device).to(dtype) for _ in "ab")
    memory = ResidentMemory() if task.device == "cpu" else TensorMemory(torch)
    return Prepared(run=_synchronized(lambda: left @ right, task.device), memory=memory)


def _synchronized(run: Run, device: str) -> Run:
    """The call, waiting for the GPU before it returns."""
    if device == "cpu":
        return run
    import torch

    def synchronized() -> Any:
        result = run()
        torch.cuda.synchronize()
        return result

    return synchronized


def turn(run: Run) -> list[float]:
    """Seconds of each call of one turn."""
    seconds: list[float] = []
    began = time.perf_counter()
    while not seconds or (time.perf_counter() - began < TURN_SECONDS and len(seconds) < TURN_CALLS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return seconds


def serve(commands: TextIO, replies: TextIO) -> None:
    """Measures one task for whoever is at the other end; an error of the contender is a reply."""

    def reply(**body: Any) -> None:
        replies.write(json.dumps(body) + "\n")
        replies.flush()

    try:
        task = Task(**json.loads(commands.readline()))
        began = time.perf_counter()
        prepared = prepare(task)
        for _ in range(WARM_UP):
            prepared.run()
        setup_peak = prepared.memory.peak()
        prepared.memory.restart()
        reply(ready=True, setup_seconds=time.perf_counter() - began, setup_peak=setup_peak)
        for _ in commands:
            reply(seconds=turn(prepared.run), peak=prepared.memory.peak())
    except Exception as error:  # whatever it is, it concerns this contender alone
        words = str(error).strip().splitlines()
        reply(error=f"{type(error).__name__}: {words[0] if words else ''}"[:300])


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no reply
    serve(sys.stdin, answers)
