"""Exact rewrites of diffusers' modules: the same function in fewer and cheaper operations.

Each takes a loaded model and swaps submodules in place. What they rest on:

- The cross-attention of SVD sees one key, the image embedding, so its softmax is 1 whatever the query is:
  the block is `to_out(to_v(embedding))`, the same for each pixel and each frame of a condition row. It is
  computed once per row, and the norm before it is not needed at all.
- A 3-D convolution with kernel (k,1,1) is a 2-D convolution with kernel (k,1) over (frames, pixels).
- The embedding of the frame numbers is the same in every step and every video: a table.
- SVD never mixes images into a video, so the factor that blends the spatial and the temporal branch is a
  constant, not a choice per frame.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.resnet import AlphaBlender
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel
from torch import Tensor, nn


def rewrite_unet(unet: nn.Module, *, max_frames: int) -> nn.Module:
    """Applies all rewrites to a `UNetSpatioTemporalConditionModel`, in place, and returns it.

    Args:
        unet: the network, FP32.
        max_frames: the most frames that it is to take from now on.
    """
    _swap(
        unet, TransformerSpatioTemporalModel, lambda model: SingleKeyTransformer(model, max_frames=max_frames)
    )
    return rewrite_decoder(unet)


def rewrite_decoder(module: nn.Module) -> nn.Module:
    """Applies the rewrites that have nothing to do with attention, in place, and returns the module."""
    _swap(module, nn.Conv3d, TemporalConv2d)
    for blender in module.modules():
        if isinstance(blender, AlphaBlender):
            blender.merge_strategy = "learned"
    return module


def _swap(module: nn.Module, kind: type[nn.Module], replacement: Any) -> None:
    """Replaces each submodule of a kind by `replacement(submodule)`."""
    for name, child in module.named_children():
        if isinstance(child, kind):
            setattr(module, name, replacement(child))
        else:
            _swap(child, kind, replacement)


class TemporalConv2d(nn.Module):
    """A `Conv3d` that only looks along the frames, as a `Conv2d` over (frames, pixels)."""

    def __init__(self, conv: nn.Conv3d) -> None:
        """Takes the weights of a convolution with kernel (k,1,1) and padding (k//2,0,0).

        Raises:
            ValueError: the convolution is another one.
        """
        super().__init__()
        taps = conv.kernel_size[0]
        same = conv.padding == (taps // 2, 0, 0) and conv.stride == (1, 1, 1) and conv.groups == 1
        if conv.kernel_size != (taps, 1, 1) or not same:
            raise ValueError(f"not a temporal convolution: {conv}")
        self.conv = nn.Conv2d(
            conv.in_channels,
            conv.out_channels,
            (taps, 1),
            padding=(taps // 2, 0),
            bias=conv.bias is not None,
        )
        self.conv.weight = nn.Parameter(conv.weight.detach().squeeze(-1), requires_grad=False)
        self.conv.bias = conv.bias

    def forward(self, hidden: Tensor) -> Tensor:
        """f32 [B,C,F,h,w] to f32 [B,C',F,h,w]."""
        result: Tensor = self.conv(hidden.flatten(3))
        return result.reshape(hidden.shape[0], -1, *hidden.shape[2:])


class SingleKeyTransformer(nn.Module):
    """diffusers' `TransformerSpatioTemporalModel` for a context of one key, out of that model's parts."""

    positions: Tensor

    def __init__(self, model: Any, *, max_frames: int) -> None:
        """Takes the parts of a `TransformerSpatioTemporalModel`, and the most frames that are served."""
        super().__init__()
        self.norm, self.proj_in, self.proj_out = model.norm, model.proj_in, model.proj_out
        with torch.no_grad():
            positions = model.time_pos_embed(model.time_proj(torch.arange(max_frames)))
        self.register_buffer("positions", positions[None, :, None])
        self.mix_factor = model.time_mixer.mix_factor
        self.spatial = nn.ModuleList(map(SpatialBlock, model.transformer_blocks))
        self.temporal = nn.ModuleList(map(TemporalBlock, model.temporal_transformer_blocks))

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        image_only_indicator: Tensor,
        return_dict: bool = False,
    ) -> tuple[Tensor]:
        """One pass over R condition rows of F frames; the signature is diffusers'.

        Args:
            hidden_states: f32 [R*F,C,h,w].
            encoder_hidden_states: f32 [R*F,1,E], the same in all frames of a row.
            image_only_indicator: [R,F], read for its shape only.
            return_dict: not used.

        Returns:
            f32 [R*F,C,h,w], in a tuple.
        """
        rows, frames = image_only_indicator.shape
        height, width = hidden_states.shape[-2:]
        embedding = encoder_hidden_states.reshape(rows, frames, 1, -1)[:, :1]
        # FP32 whatever the blocks are: [1,F,1,C]
        positions = self.positions[:, :frames].to(hidden_states.dtype)
        x = self.proj_in(self.norm(hidden_states).flatten(2).transpose(1, 2))
        x = x.reshape(rows, frames, height * width, -1)
        mix = torch.sigmoid(self.mix_factor)
        for spatial, temporal in zip(self.spatial, self.temporal, strict=True):
            x = spatial(x, embedding)
            x = mix * x + (1.0 - mix) * temporal(x + positions, embedding)
        x = self.proj_out(x).flatten(0, 1).transpose(1, 2)
        return (x.reshape(hidden_states.shape) + hidden_states,)


class SingleKeyAttention(nn.Module):
    """Cross-attention on one key: what is left of it is two projections of the key."""

    def __init__(self, attention: Any) -> None:
        """Takes the parts of diffusers' `Attention`."""
        super().__init__()
        self.to_v, self.to_out = attention.to_v, attention.to_out[0]

    def forward(self, embedding: Tensor) -> Tensor:
        """f32 [R,1,1,E] to f32 [R,1,1,C], to be broadcast over frames and pixels."""
        result: Tensor = self.to_out(self.to_v(embedding))
        return result


class SpatialBlock(nn.Module):
    """diffusers' `BasicTransformerBlock` as SVD uses it: attention among the pixels of each frame."""

    def __init__(self, block: Any) -> None:
        """Takes the parts of the block."""
        super().__init__()
        self.norm1, self.attn1, self.norm3, self.ff = block.norm1, block.attn1, block.norm3, block.ff
        self.cross = SingleKeyAttention(block.attn2)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """f32 [R,F,hw,C] and the embedding [R,1,1,E] to f32 [R,F,hw,C]."""
        attended = self.attn1(self.norm1(x).flatten(0, 1)).reshape(x.shape)
        x = x + attended + self.cross(embedding)
        result: Tensor = x + self.ff(self.norm3(x))
        return result


class TemporalBlock(nn.Module):
    """diffusers' `TemporalBasicTransformerBlock`: attention among the frames at each pixel."""

    def __init__(self, block: Any) -> None:
        """Takes the parts of the block."""
        super().__init__()
        self.norm_in, self.ff_in = block.norm_in, block.ff_in
        self.norm1, self.attn1, self.norm3, self.ff = block.norm1, block.attn1, block.norm3, block.ff
        self.cross = SingleKeyAttention(block.attn2)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """f32 [R,F,hw,C] and the embedding [R,1,1,E] to f32 [R,F,hw,C]."""
        x = x + self.ff_in(self.norm_in(x))
        per_pixel = self.norm1(x).transpose(1, 2)
        attended = self.attn1(per_pixel.flatten(0, 1)).reshape(per_pixel.shape).transpose(1, 2)
        x = x + attended + self.cross(embedding)
        result: Tensor = x + self.ff(self.norm3(x))
        return result
