"""Stage modules in FP16 or BF16, with FP32 where that would overflow or lose a condition.

TensorRT 11 has only strongly typed networks: an engine computes in the types of its graph. So precision is
laid down here, in the module that is traced. What stays FP32:

- the tensors of the stage, the Karras scalings, the sum over the condition rows, and the decoder's last
  steps from samples to levels: they lie outside of what is made half;
- the embeddings of the timestep and the added time ids, up to the blocks that take them, and the table of the
  frame numbers;
- the statistics of group norms, whose sums go over many pixels (layer norms have FP32 statistics in ONNX,
  by their `stash_type`);
- the CLIP encoder and the VAE encoder as a whole: the FP16 VAE overflows when it encodes (diffusers'
  `force_upcast`), and both run once a request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoetrope_core.specs import UNET, VAE_DECODER, StageSpec

_ISLANDS = frozenset({"time_embedding", "add_embedding"})
"""Submodules that stay FP32."""
_DOORS = frozenset({"conv_in", "time_emb_proj", "to_v"})
"""Submodules that FP32 enters by: samples, the embedding of the timestep, the image embedding."""


HALVES: Mapping[str, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16}
"""The types of two bytes by precision. BF16 has the range of FP32: where FP16 overflows, it does not."""


def to_half(module: nn.Module, stage: StageSpec, dtype: torch.dtype = torch.float16) -> nn.Module:
    """Makes the heart of a stage's module FP16 or BF16, in place; the encoders are left as they are.

    Args:
        module: the stage's module, of `stage_modules`, rewritten.
        stage: its spec; its tensors keep their dtypes.
        dtype: one of `HALVES`.

    Returns:
        The module.
    """
    if stage.name == UNET.name:
        module.unet = FloatOut(_halve(module.unet, dtype))  # type: ignore[arg-type]
    elif stage.name == VAE_DECODER.name:
        module.decoder = FloatOut(_halve(module.decoder, dtype))  # type: ignore[arg-type]
    return module


def _halve(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Makes the parameters of a module and its submodules half, but for the islands."""
    for name, child in module.named_children():
        if name in _ISLANDS:
            continue
        half = _halve(child, dtype)
        if isinstance(child, nn.GroupNorm):
            half = FloatGroupNorm(child)
        elif name in _DOORS:
            half = HalfIn(half, dtype)
        setattr(module, name, half)
    for parameter in module.parameters(recurse=False):
        parameter.data = parameter.data.to(dtype)
    return module


class HalfIn(nn.Module):
    """A module whose input is made FP16 or BF16."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        """Takes the module, in that type, and the type."""
        super().__init__()
        self.module, self.dtype = module, dtype

    def forward(self, x: Tensor) -> Tensor:
        """Any float tensor to what the module makes of it in the half type."""
        result: Tensor = self.module(x.to(self.dtype))
        return result


class FloatOut(nn.Module):
    """A network whose output, a tensor or a tuple with one, is made FP32."""

    def __init__(self, module: nn.Module) -> None:
        """Takes the network."""
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **options: Any) -> Any:
        """The network's output in FP32."""
        output = self.module(*args, **options)
        return (output[0].float(),) if isinstance(output, tuple) else output.float()


class FloatGroupNorm(nn.Module):
    """A group norm that computes in FP32 between FP16 or BF16 tensors."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        """Takes the norm; its weights are stored in the half type already."""
        super().__init__()
        self.groups, self.eps = norm.num_groups, norm.eps
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, x: Tensor) -> Tensor:
        """f16 or bf16 [N,C,...] to the same shape and dtype."""
        weight, bias = self.weight.float(), self.bias.float()
        return functional.group_norm(x.float(), self.groups, weight, bias, self.eps).to(x.dtype)
