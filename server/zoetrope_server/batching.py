"""Requests that share an execution: grouping by shape, stacking and splitting along the batch dimension."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from zoetrope_core.manifest import Manifest
from zoetrope_core.specs import UNET, VAE_DECODER, VAE_DECODER_FP32, Array, StageSpec

Inputs = Mapping[str, Array]


def groups(requests: Sequence[Inputs], max_batch: int) -> list[list[int]]:
    """Which requests are computed together: indices of requests of equal shapes, at most `max_batch` videos.

    Triton's batcher with ragged inputs hands over mixtures, such as K = 1 beside K = 2; only equal shapes
    can be stacked. The order of arrival is kept within a group.
    """
    by_shape: dict[tuple[tuple[str, tuple[int, ...]], ...], list[list[int]]] = {}
    for index, inputs in enumerate(requests):
        key = tuple((name, tuple(inputs[name].shape[1:])) for name in sorted(inputs))
        parts = by_shape.setdefault(key, [[]])
        if sum(batch_of(requests[member]) for member in parts[-1]) + batch_of(inputs) > max_batch:
            parts.append([])
        parts[-1].append(index)
    return [part for parts in by_shape.values() for part in parts if part]


def max_batch(stage: StageSpec, manifest: Manifest) -> int:
    """The most videos of one execution of a stage: only the UNet's calls are ever put together."""
    return manifest.max_batch_size if stage.name == UNET.name else 1


def batch_of(inputs: Inputs) -> int:
    """The number of videos of one request."""
    return len(next(iter(inputs.values())))


def stack(requests: Sequence[Inputs]) -> dict[str, Array]:
    """The inputs of one execution; a single request is passed on without a copy."""
    if len(requests) == 1:
        return dict(requests[0])
    return {name: np.concatenate([inputs[name] for inputs in requests]) for name in requests[0]}


def split(outputs: Mapping[str, Array], sizes: Sequence[int]) -> list[dict[str, Array]]:
    """The outputs of each request of an execution, by the number of videos of each."""
    edges = np.cumsum(sizes)
    return [
        {name: array[edge - size : edge] for name, array in outputs.items()}
        for edge, size in zip(edges, sizes, strict=True)
    ]


def example_inputs(
    stage: StageSpec, manifest: Manifest, *, batch: int = 1, rows: int = 2
) -> dict[str, Array]:
    """Inputs of ones for a stage at the default frame size, frame count and chunk: for warming up."""
    size, frames = manifest.sizes[0], manifest.num_frames[0]
    latent = manifest.latent_size(size)
    symbols = manifest.symbols() | {
        "K": rows,
        "F": frames,
        "f": min(manifest.decode_chunk_size, frames),
        "H": size[0],
        "W": size[1],
        "h": latent[0],
        "w": latent[1],
    }
    return {spec.name: np.ones((batch, *spec.shape(symbols)), spec.numpy_dtype) for spec in stage.inputs}


def served_shapes(stage: StageSpec, manifest: Manifest) -> Iterator[dict[str, Array]]:
    """Inputs of ones for each shape that serving meets, each once, the default size and frame count first.

    The UNet runs with guidance (K = 2) for each number of videos and without it (K = 1) for one; the decoder
    for a whole chunk and for the rest.
    """
    seen: set[tuple[tuple[int, ...], ...]] = set()
    for size in manifest.sizes:
        for frames in manifest.num_frames:
            for inputs in _shapes_of(stage, replace(manifest, sizes=(size,), num_frames=(frames,))):
                shapes = tuple(array.shape for array in inputs.values())
                if shapes not in seen:
                    seen.add(shapes)
                    yield inputs


def is_listed(stage: StageSpec, manifest: Manifest, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether inputs of these shapes are of a listed frame size and count, as far as the stage sees them."""
    found = stage.symbols_of(shapes)
    latents = map(manifest.latent_size, manifest.sizes)
    return (
        ("H" not in found or (found["H"], found["W"]) in manifest.sizes)
        and ("h" not in found or (found["h"], found["w"]) in latents)
        and ("F" not in found or found["F"] in manifest.num_frames)
    )


def _shapes_of(stage: StageSpec, manifest: Manifest) -> Iterator[dict[str, Array]]:
    """The shapes of one frame size and count."""
    if stage.name == UNET.name:
        for batch in range(1, manifest.max_batch_size + 1):
            yield example_inputs(stage, manifest, batch=batch)
        yield example_inputs(stage, manifest, rows=1)
    elif stage.name in (VAE_DECODER.name, VAE_DECODER_FP32.name):
        chunk = min(manifest.decode_chunk_size, manifest.num_frames[0])
        for length in (chunk, manifest.num_frames[0] % chunk or chunk):
            yield example_inputs(stage, replace(manifest, decode_chunk_size=length))
    else:
        yield example_inputs(stage, manifest)
