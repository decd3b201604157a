"""What one server needs, from the tensors of its repository and the limits of its queue.

Shared memory was measured against its sum, with stages that compute nothing at SVD-XT's shapes. The pools
of Triton follow the same tensors, but have not been watched on a GPU yet.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from zoetrope_core.manifest import Manifest
from zoetrope_core.request import GenerateRequest
from zoetrope_core.specs import ALL_STAGES
from zoetrope_server.doctor.traffic import Traffic, largest

_MIB = 1 << 20
UNARY_PROCESSES = 4
"""Processes of `image_to_video_unary`; its config.pbtxt says so."""
_FIRST_PAGE = 1 << 20
"""What Triton's python backend takes for a process at once; it grows by as much and never shrinks."""
_HEADROOM = 1.25
"""The pages are cut up by tensors of many sizes, so not all of what is free can be used."""
_COLOURS = 3
EXIT_S = 15
"""What a supervisor takes at most after the last video: errors go out, Triton unloads, processes end."""


def _most_steps() -> int:
    rules = {each.name: each.metadata["rule"] for each in fields(GenerateRequest)}
    return int(rules["num_inference_steps"].high)


MOST_CALLS = 2 * _most_steps() - 1
"""Calls of the UNet that a client may ask for at most: `heun` calls it twice a step, but for the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What may be asked of one server at once.

    Attributes:
        max_active: requests that run.
        max_waiting: requests that wait.
        calls: the most calls of the UNet for one video.
        call_s: seconds of one of these calls at the largest shape, as if alone; None where it is not known.
        rest_s: seconds of everything else of that video.
        pre_stop_s: seconds between an orchestrator's wish and the signal.
    """

    max_active: int
    max_waiting: int
    calls: int = MOST_CALLS
    call_s: float | None = None
    rest_s: float = 0.0
    pre_stop_s: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """One number: its unit is the last word of its name, and `sum` is how it came about."""

    name: str
    value: int
    sum: str


def quantities(manifest: Manifest, load: Load, native: Sequence[str] = ()) -> list[Quantity]:
    """All that is to be set for a server of a repository.

    Args:
        manifest: the facts of the repository.
        load: what may be asked of it; without `call_s` there are no times among the numbers.
        native: the stages that Triton hosts by a backend of its own.
    """
    traffic = largest(manifest)
    pools = native_bytes(manifest, traffic, native)
    return [
        shared_memory(traffic, load),
        _pool("pinned_pool_bytes", pools),
        _pool("cuda_pool_bytes", pools),
        *([] if load.call_s is None else times(load, load.call_s)),
    ]


def shared_memory(traffic: Traffic, load: Load) -> Quantity:
    """The size of /dev/shm in bytes, rounded up to whole MiB.

    The tensors of a call lie in the pages of its stage and in those of the orchestrator. Frames that are
    streamed lie there once more. A picture lies there until its video is done, waiting or not, and twice
    where it came through the unary model.
    """
    processes = len(traffic.stages) + 1 + UNARY_PROCESSES
    height, width = traffic.size
    frames = traffic.frames * height * width * _COLOURS
    each = 2 * traffic.tensors + frames
    requests = load.max_active + load.max_waiting
    total = processes * _FIRST_PAGE + load.max_active * each + requests * 2 * traffic.picture
    value = math.ceil(_HEADROOM * total / _MIB) * _MIB
    parts = " + ".join(f"{name} {size / _MIB:.1f}" for name, size in traffic.stages.items())
    return Quantity(
        name="shm_bytes",
        value=value,
        sum=(
            f"{_HEADROOM} x ({processes} processes x {_FIRST_PAGE / _MIB:.0f} + "
            f"{load.max_active} active x (2 x ({parts}) + streamed frames {frames / _MIB:.1f}) + "
            f"({load.max_active} active + {load.max_waiting} waiting) x 2 x "
            f"picture {traffic.picture / _MIB:.0f}) = {value // _MIB} MiB"
        ),
    )


def native_bytes(manifest: Manifest, traffic: Traffic, native: Sequence[str]) -> Mapping[str, int]:
    """Bytes of the inputs and outputs of one execution of each stage in `native`, at its largest batch."""
    return {
        name: traffic.stages[name] * (manifest.max_batch_size if ALL_STAGES[name].batchable else 1)
        for name in native
    }


def times(load: Load, call_s: float) -> list[Quantity]:
    """Seconds of the longest video, of the drain and of the pod's end, each rounded up.

    A drain serves what runs and what waits. They share the engines, so it takes as long as one after another.
    """
    video = math.ceil(load.calls * call_s + load.rest_s)
    requests = load.max_active + load.max_waiting
    grace = requests * video
    end = load.pre_stop_s + grace + EXIT_S
    return [
        Quantity(
            name="longest_video_s",
            value=video,
            sum=f"{load.calls} calls of the UNet x {call_s:g} s + {load.rest_s:g} s for the rest",
        ),
        Quantity(
            name="grace_period_s",
            value=grace,
            sum=f"({load.max_active} active + {load.max_waiting} waiting) x {video} s",
        ),
        Quantity(
            name="termination_grace_period_s",
            value=end,
            sum=f"preStop {load.pre_stop_s} s + drain {grace} s + exit {EXIT_S} s",
        ),
    ]


def _pool(name: str, stages: Mapping[str, int]) -> Quantity:
    value = math.ceil(sum(stages.values()) / _MIB) * _MIB
    if not stages:
        return Quantity(name=name, value=0, sum="python stages copy by themselves: no stage uses the pool")
    parts = " + ".join(f"{stage} {size / _MIB:.1f}" for stage, size in stages.items())
    return Quantity(name=name, value=value, sum=f"{parts} = {value // _MIB} MiB")
