"""`config.pbtxt` of the stages, rendered from the stage specs."""

from __future__ import annotations

from zoetrope_core.manifest import Manifest
from zoetrope_core.specs import UNET, StageSpec, TensorSpec

QUEUE_DELAY_US = 2000
"""How long the batcher waits for company: a step takes far longer, and equal requests then share it."""


def render(stage: StageSpec, manifest: Manifest, *, queue_delay_us: int = QUEUE_DELAY_US) -> str:
    """The configuration of a stage's model in a Triton model repository.

    Args:
        stage: the stage.
        manifest: gives the static dims and the largest batch.
        queue_delay_us: microseconds that the UNet's dynamic batcher waits for more requests.

    Returns:
        The text of `config.pbtxt`.
    """
    batch = manifest.max_batch_size if stage.batchable else 1
    # Where one video is all that fits, the batcher would wait for company that it cannot take.
    batched = stage.name == UNET.name and batch > 1
    lines = [
        f'name: "{stage.name}"',
        'backend: "python"',
        f"max_batch_size: {batch}",
        _tensors("input", stage.inputs, manifest, ragged=batched),
        _tensors("output", stage.outputs, manifest, ragged=False),
    ]
    if batched:
        lines.append(f"dynamic_batching {{ max_queue_delay_microseconds: {queue_delay_us} }}")
    lines.append("instance_group [ { count: 1 kind: KIND_CPU } ]")
    return "\n".join(lines) + "\n"


def _tensors(field: str, specs: tuple[TensorSpec, ...], manifest: Manifest, *, ragged: bool) -> str:
    entries = ",\n".join(f"  {_tensor(spec, manifest, ragged=ragged)}" for spec in specs)
    return f"{field} [\n{entries}\n]"


def _tensor(spec: TensorSpec, manifest: Manifest, *, ragged: bool) -> str:
    """One tensor. Ragged inputs let the batcher hand over K = 1 beside K = 2; the stage groups them."""
    dims = ", ".join(map(str, spec.shape(manifest.symbols())))
    extra = " allow_ragged_batch: true" if ragged else ""
    return f'{{ name: "{spec.name}" data_type: TYPE_{spec.dtype} dims: [ {dims} ]{extra} }}'
