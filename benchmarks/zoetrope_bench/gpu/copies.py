"""Convolutions by memory layout, TF32 in the encoder's, and copies by the kind of the host's memory."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import conv2d

from zoetrope_bench.gpu.device import Device
from zoetrope_bench.gpu.record import Record, Step

CONVOLUTIONS = ((50, 320, 72, 128), (7, 128, 576, 1024))
"""Inputs of 3x3 convolutions: of the UNet's first level, of the decoder's last."""
SIZES = {"latents": 25 * 4 * 72 * 128 * 4, "frames of a chunk": 7 * 576 * 1024 * 3}
"""Bytes that cross in each step, and in each chunk."""


def steps(record: Record, device: Device, scratch: Path) -> list[Step]:
    """See the module."""
    layouts = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
    return [
        *(
            (
                f"3x3 on {list(shape)}, {name}",
                partial(_convolution, record, device, shape, layout),
            )
            for shape in CONVOLUTIONS
            for name, layout in layouts.items()
        ),
        ("the encoder's, FP32 and TF32", lambda: _tf32(record, device)),
        *((name, partial(_copies, record, device, size)) for name, size in SIZES.items()),
    ]


def _convolution(record: Record, device: Device, shape: tuple[int, ...], layout: torch.memory_format) -> None:
    shape = (2, 8, 8, 8) if device.toy else shape
    channels = shape[1]
    x = device.random(*shape).to(memory_format=layout)
    weight = device.random(channels, channels, 3, 3).to(memory_format=layout)
    ms = device.time_ms(lambda: conv2d(x, weight, padding=1))
    record.add("time", ms, "ms")
    record.add("rate", 2 * 9 * channels * math.prod(shape) / ms / 1e9, "TFLOP/s")


def _tf32(record: Record, device: Device) -> None:
    from zoetrope_server.engines.inductor import fp32_products

    shape = (1, 8, 8, 8) if device.toy else (1, 128, 576, 1024)
    x = device.random(*shape, dtype=torch.float32)
    weight = device.random(shape[1], shape[1], 3, 3, dtype=torch.float32)
    results = []
    for tf32 in (False, True):
        with fp32_products(torch, tf32=tf32):
            record.add("TF32" if tf32 else "FP32", device.time_ms(lambda: conv2d(x, weight, padding=1)), "ms")
            results.append(conv2d(x, weight, padding=1))
    error = (results[0] - results[1]).abs().max().item() / results[0].abs().max().item()
    record.check("TF32 is near FP32", error < 5e-3, error)


def _copies(record: Record, device: Device, size: int) -> None:
    """Pageable, fresh and page-locked memory of the host, both ways."""
    there = torch.zeros(size, dtype=torch.uint8, device=device.name)
    hosts = {"pageable": torch.zeros(size, dtype=torch.uint8)}
    if not device.toy:
        hosts["page-locked"] = torch.zeros(size, dtype=torch.uint8, pin_memory=True)
    for kind, host in hosts.items():
        record.add(
            f"{kind}, to the device",
            device.host_ms(lambda host=host: there.copy_(host, non_blocking=True)),
            "ms",
        )
        record.add(
            f"{kind}, to the host",
            device.host_ms(lambda host=host: host.copy_(there, non_blocking=True)),
            "ms",
        )
    fresh = device.host_ms(lambda: torch.from_numpy(np.empty(size, np.uint8)).copy_(there))
    record.add("a fresh array, to the host", fresh, "ms")
