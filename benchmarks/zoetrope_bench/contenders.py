"""Whole pipelines side by side: this server through gRPC, and diffusers in a process of its own."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from zoetrope_bench.pipeline_worker import Call, PipelineTask, encoded
from zoetrope_bench.server import Server, serving
from zoetrope_bench.throughput import unet_counts
from zoetrope_bench.workers import Worker
from zoetrope_client.client import Client
from zoetrope_core.manifest import Manifest
from zoetrope_core.specs import Array

WORKER = (sys.executable, "-P", "-m", "zoetrope_bench.pipeline_worker")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What all contenders are given.

    Attributes:
        checkpoint: the folder of the checkpoint.
        repository: the model repository that was exported from it.
        photo: the file of the picture to animate.
    """

    checkpoint: Path
    repository: Path
    photo: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """Several videos at once: the seconds of all, and how many shared an execution of the UNet."""

    seconds: float
    batch: float


class Contender(Protocol):
    """One way to make videos, ready and warm."""

    warm_up: float
    """Seconds from nothing to the first video."""
    pid: int
    """The process that all its others descend from."""

    def video(self, seed: int, steps: int) -> float:
        """Seconds of one video."""
        ...

    def frames(self, seed: int, steps: int) -> Array:
        """The frames of a video u8 [F,H,W,3], with this project's noise."""
        ...

    def crowd(self, width: int, steps: int) -> Crowd:
        """`width` videos that are wanted at the same time."""
        ...


class Served:
    """This server; several videos are as many requests at once."""

    def __init__(self, server: Server, photo: Path, began: float) -> None:
        """Makes the first video; `began` is when the server was started."""
        self._server, self._client = server, Client(server.url)
        self._photo = photo.read_bytes()
        self.pid = server.process.pid
        self.video(0, 2)
        self.warm_up = time.perf_counter() - began

    def video(self, seed: int, steps: int) -> float:
        """See `Contender`."""
        began = time.perf_counter()
        self._client.generate(self._photo, seed=seed, num_inference_steps=steps)
        return time.perf_counter() - began

    def frames(self, seed: int, steps: int) -> Array:
        """See `Contender`."""
        video = self._client.generate(self._photo, seed=seed, num_inference_steps=steps, format="raw")
        size = (video.parameters[name] for name in ("num_frames", "height", "width"))
        return np.frombuffer(video.data, np.uint8).reshape(*size, 3)

    def crowd(self, width: int, steps: int) -> Crowd:
        """See `Contender`; the batch is Triton's statistics of the UNet."""
        before = unet_counts(self._server)
        began = time.perf_counter()
        with ThreadPoolExecutor(width) as pool:
            list(pool.map(lambda seed: self.video(seed, steps), range(width)))
        seconds = time.perf_counter() - began
        videos, executions = (now - then for now, then in zip(unet_counts(self._server), before, strict=True))
        return Crowd(seconds=seconds, batch=videos / executions)


class Diffusers:
    """Diffusers' pipeline; several videos are one call with a batch."""

    def __init__(self, worker: Worker, began: float) -> None:
        """Waits for the first video; `began` is when the process was started."""
        self._worker, self.pid = worker, worker.pid
        worker.reply()
        self.warm_up = time.perf_counter() - began

    def video(self, seed: int, steps: int) -> float:
        """See `Contender`."""
        return self._call(Call(seeds=(seed,), steps=steps))

    def frames(self, seed: int, steps: int) -> Array:
        """See `Contender`."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "frames.npy"
            self._call(Call(seeds=(seed,), steps=steps, frames=str(file)))
            frames: Array = np.load(file)
        return frames

    def crowd(self, width: int, steps: int) -> Crowd:
        """See `Contender`; another shape may be compiled anew, which a short call pays."""
        seeds = tuple(range(width))
        self._call(Call(seeds=seeds, steps=2))
        return Crowd(seconds=self._call(Call(seeds=seeds, steps=steps)), batch=width)

    def _call(self, call: Call) -> float:
        return float(self._worker.ask(encoded(call))["seconds"])


@contextmanager
def served(case: Case, most: int) -> Iterator[Served]:
    """This server with the repository of the case, for up to `most` requests at once."""
    began = time.perf_counter()
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(case.repository, Path(folder) / "log", "--max-active", str(most)) as server,
    ):
        yield Served(server, case.photo, began)


@contextmanager
def diffusers(case: Case, kind: str) -> Iterator[Diffusers]:
    """Diffusers with the checkpoint of the case."""
    began = time.perf_counter()
    task = PipelineTask(
        kind=kind,
        checkpoint=str(case.checkpoint),
        manifest=json.loads(json.dumps(Manifest.load(case.repository).to_dict())),
        photo=str(case.photo),
    )
    with Worker(task, WORKER) as worker:
        yield Diffusers(worker, began)
