"""Copies between numpy and a torch device, through page-locked memory where that is a GPU.

torch keeps the page-locked memory that it has once taken, so these cost no page faults and no detours.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from zoetrope_core.specs import Array


def to_device(torch: Any, array: Array, device: str) -> Any:
    """The array as a tensor on the device; what is put on its stream later sees all of it."""
    tensor = torch.from_numpy(np.require(array, requirements=["C", "W"]))
    return tensor if device == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def to_host(torch: Any, tensors: Iterable[Any], device: str) -> list[Array]:
    """The tensors of the device as arrays, complete."""
    if device == "cpu":
        return [tensor.numpy() for tensor in tensors]
    copies = [
        torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
        for tensor in tensors
    ]
    torch.cuda.current_stream().synchronize()
    return [copy.numpy() for copy in copies]
