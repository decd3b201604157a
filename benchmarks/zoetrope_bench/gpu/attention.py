"""Attention at SVD-XT's shapes in FP16: which of torch's kernels take them, how fast, and whether rightly."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from zoetrope_bench.gpu.device import Device
from zoetrope_bench.gpu.record import Record, Step

SHAPES = {
    "spatial, a guided video": (50, 5, 9216, 64),
    "spatial, second level": (50, 10, 2304, 64),
    "temporal, a guided video": (18_432, 5, 25, 64),
    "temporal, four guided videos": (73_728, 5, 25, 64),
}
"""Sequences, heads, tokens, width of a head."""
BACKENDS = {
    "default": None,
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
_TOLERANCE = 0.02


def steps(record: Record, device: Device, scratch: Path) -> list[Step]:
    """See the module."""
    return [
        (f"{name}, {backend}", partial(_attention, record, device, shape, chosen))
        for name, shape in SHAPES.items()
        for backend, chosen in BACKENDS.items()
    ]


def _attention(
    record: Record, device: Device, shape: tuple[int, int, int, int], backend: SDPBackend | None
) -> None:
    sequences, heads, tokens, width = shape
    if device.toy:
        sequences, tokens = 3, min(tokens, 32)
    # As in diffusers: [sequences, tokens, heads, width] in memory, seen through a transpose.
    q, k, v = (device.random(sequences, tokens, heads, width).transpose(1, 2) for _ in range(3))
    with _only(backend):
        try:
            result = scaled_dot_product_attention(q, k, v)
            device.synchronize()
        except RuntimeError as error:
            if device.is_lost() or backend is None:
                raise
            record.add("refused", str(error).splitlines()[0][:200])
            return
        ms = device.time_ms(lambda: scaled_dot_product_attention(q, k, v))
    record.add("time", ms, "ms")
    record.add("rate", 4 * q.numel() * tokens / ms / 1e9, "TFLOP/s")
    with sdpa_kernel(SDPBackend.MATH):  # the last sequences alone: the scores of all would not fit
        expected = scaled_dot_product_attention(q[-2:], k[-2:], v[-2:])
    worst = (result[-2:].float() - expected.float()).abs().max().item()
    record.check("the last sequences are right", worst < _TOLERANCE, worst)


def _only(backend: SDPBackend | None) -> Any:
    return nullcontext() if backend is None else sdpa_kernel(backend)
