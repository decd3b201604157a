"""The parts of the run, in order of their value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part.

    Attributes:
        module: where it is, in this package.
        title: what it finds out.
        limit_s: its time in a run of all parts; what one leaves goes to those after it.
    """

    module: str
    title: str
    limit_s: float


PARTS: Mapping[str, Part] = {
    "0": Part(module="probe", title="Compiler, CUDA headers, a toy package, torch-free tests", limit_s=30),
    "a": Part(
        module="engines", title="A small checkpoint as AOTInductor packages, through the gate", limit_s=95
    ),
    "b": Part(module="cuda_calls", title="CUDA calls of the TensorRT host, a copy for an engine", limit_s=15),
    "c": Part(module="indexing", title="32-bit indexing of AOTInductor at SVD-XT's GEGLU", limit_s=40),
    "d": Part(module="attention", title="Attention at SVD-XT's shapes: limits and rates", limit_s=20),
    "e": Part(module="networks", title="SVD-XT's UNet and decoder: eager, compiled, ours", limit_s=110),
    "f": Part(module="copies", title="Convolution layouts, and copies by kind of host memory", limit_s=20),
    "g": Part(module="serving", title="`zoetrope serve`: a video, two at once, cancel", limit_s=30),
}
"""The parts by letter."""
BUDGET_S = sum(part.limit_s for part in PARTS.values())
"""All of them: six minutes."""


def file_name(letter: str) -> str:
    """The name of a part's result file."""
    return f"gpu-{letter}.json"


def limit_s(letter: str, rest: list[str], left_s: float) -> float:
    """The time of the next part: its share of what is left for it and the parts after it."""
    shares = [PARTS[each].limit_s for each in (letter, *rest)]
    return max(1.0, left_s * shares[0] / sum(shares))
