"""SVD-XT's UNet and decoder with random FP16 weights: eager, compiled by torch, and as our program."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zoetrope_bench.gpu.device import Device
from zoetrope_bench.gpu.record import Record, Step
from zoetrope_core.specs import UNET, VAE_DECODER, StageSpec

STEP_TFLOP, DECODE_TFLOP = 159.9, 173.6
"""One guided step, and the decoding of 25 frames, at 1024x576."""
CHUNK = 7


@dataclass(slots=True)
class Network:
    """One stage of SVD-XT on the device.

    Attributes:
        spec: the stage.
        tflop: the work of one call.
        make: makes its module with random weights, in FP32.
        symbols: the sizes of a call.
    """

    spec: StageSpec
    tflop: float
    make: Callable[[], nn.Module]
    symbols: Mapping[str, int]


def toy_architecture() -> Any:
    """The smallest of the family: for rehearsals, whose compiler has few cores."""
    from zoetrope_export.architectures import TINY

    levels: dict[str, Any] = {
        "unet_channels": (32, 64),
        "unet_heads": (1, 2),
        "vae_channels": (32, 32),
        "clip_layers": 1,
    }
    return replace(TINY, num_frames=3, size=(16, 24), **levels)


class Lab:
    """The networks of the part, their inputs, and what is measured of each."""

    def __init__(self, record: Record, device: Device, scratch: Path) -> None:
        self._record, self._device, self._scratch = record, device, scratch
        self._modules: dict[str, nn.Module] = {}

    @cached_property
    def architecture(self) -> Any:
        """SVD-XT, or something tiny of the same family."""
        from zoetrope_export.architectures import SVD_XT

        return toy_architecture() if self._device.toy else SVD_XT

    @cached_property
    def floor_tflops(self) -> float:
        """The rate that nothing on this card goes beyond."""
        return self._device.matmul_tflops()

    def networks(self) -> tuple[Network, Network]:
        """The UNet of one guided video, and the decoder of one chunk."""
        facts = self.architecture
        height, width = (side // facts.vae_scale_factor for side in facts.size)
        frames, chunk = facts.num_frames, min(CHUNK, facts.num_frames)
        common = {"C": facts.latent_channels, "E": facts.embedding_dim, "h": height, "w": width}
        return (
            Network(UNET, STEP_TFLOP, self._unet, {**common, "K": 2, "F": frames}),
            Network(VAE_DECODER, DECODE_TFLOP * chunk / 25, self._decoder, {**common, "f": chunk}),
        )

    def _unet(self) -> nn.Module:
        from zoetrope_export.random_checkpoint import random_unet
        from zoetrope_export.rewrites import rewrite_unet
        from zoetrope_export.stage_modules import Unet

        unet = rewrite_unet(random_unet(self.architecture), max_frames=max(4, self.architecture.num_frames))
        return Unet(unet)

    def _decoder(self) -> nn.Module:
        from zoetrope_export.random_checkpoint import random_vae
        from zoetrope_export.rewrites import rewrite_decoder
        from zoetrope_export.stage_modules import VaeDecoder

        return VaeDecoder(rewrite_decoder(random_vae(self.architecture)))

    def module(self, network: Network) -> nn.Module:
        """The module of a network, its heart in FP16 on a GPU, made once."""
        from zoetrope_export.half import to_half

        name = network.spec.name
        if name not in self._modules:
            with torch.device(self._device.name):
                module = network.make().eval().requires_grad_(False)
            self._modules[name] = module if self._device.toy else to_half(module, network.spec)
        return self._modules[name]

    def inputs(self, network: Network) -> tuple[Any, ...]:
        """Random inputs of one call, with sigmas and weights that may be."""
        tensors = {
            spec.name: self._device.random(1, *spec.shape(network.symbols), dtype=torch.float32)
            for spec in network.spec.inputs
        }
        if "sigma" in tensors:
            tensors["sigma"] = tensors["sigma"].abs() + 0.5
            tensors["weights"] = torch.full_like(tensors["weights"], 0.5)
        return tuple(tensors.values())

    def eager(self, network: Network) -> None:
        """Torch as it is."""
        module, inputs = self.module(network), self.inputs(network)
        self._measure(network, lambda: module(*inputs))
        output = module(*inputs)
        values = output[0] if isinstance(output, tuple) else output
        self._record.check("finite", bool(values.float().isfinite().all()))

    def compiled(self, network: Network) -> None:
        """`torch.compile` in its default mode, for static shapes."""
        module, inputs = self.module(network), self.inputs(network)
        backend = "aot_eager" if self._device.toy else "inductor"
        call, began = torch.compile(module, dynamic=False, backend=backend), time.monotonic()
        call(*inputs)
        self._device.synchronize()
        self._record.add("to compile", time.monotonic() - began, "s")
        self._measure(network, lambda: call(*inputs))

    def ours(self, network: Network) -> None:
        """Our AOTInductor program of these shapes, plain and as a CUDA graph."""
        from zoetrope_export import inductor_build

        module, inputs, began = self.module(network), self.inputs(network), time.monotonic()
        expected = module(*inputs)
        ranges = {symbol: (size,) * 3 for symbol, size in {**network.symbols, "B": 1}.items()}
        program = inductor_build.trace(module, network.spec, network.symbols, ranges)
        path = self._scratch / f"{network.spec.name}.pt2"
        inductor_build.compile_package(program, path)
        package = torch._inductor.aoti_load_package(str(path))
        self._record.add("to trace, compile and load", time.monotonic() - began, "s")
        self._measure(network, lambda: package(*inputs))
        self._check(expected, package(*inputs))
        if not self._device.toy:
            self._record.ran(
                engine="aot-inductor", precision="fp16", shapes="SVD-XT", stages=[network.spec.name]
            )
        self._measure(network, self._device.captured(lambda: package(*inputs)), "CUDA graph, ")

    def _check(self, expected: Any, actual: Any) -> None:
        first, second = (each[0] if isinstance(each, tuple | list) else each for each in (expected, actual))
        scale = first.float().abs().max().item() or 1.0
        error = (first.float() - second.float()).abs().max().item() / scale
        self._record.check("as the module computes it, relative to the largest value", error < 0.05, error)

    def _measure(self, network: Network, call: Callable[[], Any], how: str = "") -> None:
        self._device.begin_memory()
        ms = self._device.time_ms(call)
        rate = network.tflop / ms * 1e3
        self._record.add(f"{how}time", ms, "ms")
        if not self._device.toy:
            self._record.add(f"{how}rate", rate, "TFLOP/s")
            self._record.add(f"{how}share of the floor", rate / self.floor_tflops, "ratio")
        self._record.add(f"{how}peak memory", self._device.peak_gib(), "GiB")


def steps(record: Record, device: Device, scratch: Path) -> list[Step]:
    """Ours before torch's: where the time is short, it is ours that must be known."""
    lab = Lab(record, device, scratch)
    ways = {"eager": lab.eager, "ours": lab.ours, "torch.compile": lab.compiled}

    def step(network: Network, way: Callable[[Network], None]) -> Callable[[], None]:
        def work() -> None:
            with torch.inference_mode():
                way(network)

        return work

    def floor() -> None:
        record.add("matrix product, float16", lab.floor_tflops, "TFLOP/s")

    return [
        ("floor", floor),
        *(
            (f"{network.spec.name}, {name}", step(network, way))
            for name, way in ways.items()
            for network in lab.networks()
        ),
    ]
