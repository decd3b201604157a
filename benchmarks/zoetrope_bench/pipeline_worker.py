"""The process that measures diffusers' whole pipeline: `python -m zoetrope_bench.pipeline_worker`.

A process of its own has the memory, the threads and the compiled kernels of its contender alone. It speaks
lines of JSON, as `stage_worker` does: the task comes in on stdin and `ready` goes out when a first video is
made; then each line that comes in is a `Call`, and its seconds go out. The process ends with its stdin.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from PIL import Image

from zoetrope_core.manifest import Manifest
from zoetrope_core.request import GenerateRequest
from zoetrope_core.specs import Array
from zoetrope_server.media.encode import encode_video
from zoetrope_server.media.fit import fit

EAGER, COMPILED = "eager", "compiled"
"""FP32 as it is, or BF16 with the UNet and the decoder compiled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineTask:
    """What the process is to load.

    Attributes:
        kind: EAGER or COMPILED.
        checkpoint: the folder of the checkpoint.
        manifest: the facts of the repository that was exported from it.
        photo: the file of the picture to animate.
    """

    kind: str
    checkpoint: str
    manifest: Mapping[str, Any]
    photo: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of the pipeline.

    Attributes:
        seeds: a video for each, in one batch.
        steps: denoising steps.
        frames: the file (.npy) that the frames of the first video go to; None to keep none.
    """

    seeds: tuple[int, ...]
    steps: int
    frames: str | None = None


Generate = Callable[[Call], list[Array]]
"""The frames of each video, from the encoded picture to the encoded videos."""


def load(task: PipelineTask) -> Generate:
    """Loads the pipeline; what is compiled is compiled by the first call."""
    import torch

    from zoetrope_export.checkpoint import open_checkpoint
    from zoetrope_export.verification import fp32_pipeline, reference_frames

    manifest = Manifest.from_dict(dict(task.manifest))
    pipeline = fp32_pipeline(open_checkpoint(task.checkpoint))
    if task.kind == COMPILED:
        pipeline.to(torch.bfloat16)
        pipeline.unet = torch.compile(pipeline.unet)
        pipeline.vae.decode = torch.compile(pipeline.vae.decode)
    photo = Path(task.photo).read_bytes()

    def generate(call: Call) -> list[Array]:
        pixels = np.asarray(Image.open(io.BytesIO(photo)).convert("RGB"))
        asked = [GenerateRequest(seed=seed, num_inference_steps=call.steps) for seed in call.seeds]
        requests = [each.validate(manifest) for each in asked]
        picture = fit(pixels, requests[0].size, "crop")
        with torch.inference_mode():
            videos = reference_frames(pipeline, manifest, requests, picture)
        for frames in videos:
            encode_video([frames], fps=requests[0].fps)
        return videos

    return generate


def serve(commands: TextIO, replies: TextIO) -> None:
    """Answers calls until the other end closes; an error of the contender is a reply."""

    def reply(**body: Any) -> None:
        replies.write(json.dumps(body) + "\n")
        replies.flush()

    try:
        generate = load(PipelineTask(**json.loads(commands.readline())))
        generate(Call(seeds=(0,), steps=2))
        reply(ready=True)
        for line in commands:
            call = Call(**json.loads(line))
            began = time.perf_counter()
            videos = generate(call)
            seconds = time.perf_counter() - began
            if call.frames is not None:
                np.save(call.frames, videos[0])
            reply(seconds=seconds)
    except Exception as error:  # whatever it is, it concerns this contender alone
        words = str(error).strip().splitlines()
        reply(error=f"{type(error).__name__}: {words[0] if words else ''}"[:300])


def encoded(call: Call) -> str:
    """The line that asks for a call."""
    return json.dumps(asdict(call))


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no reply
    serve(sys.stdin, answers)
