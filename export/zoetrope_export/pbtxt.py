"""`config.pbtxt` of the stages, rendered from the stage specs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from zoetrope_core.manifest import Manifest
from zoetrope_core.specs import StageSpec, TensorSpec
from zoetrope_server import batching

QUEUE_DELAY_US = 0
"""How long the batcher waits for more: not at all, since the orchestrator gathers what may share a step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeHost:
    """A backend of Triton's own that hosts the engine of a stage, without python between them.

    Attributes:
        backend: `tensorrt` or `onnxruntime`.
        file_name: the engine's file in the version folder.
        on_gpu: whether it runs on the GPU, as the gate ran it.
        profiles: the number of optimization profiles of a TensorRT engine; Triton chooses among them by the
            shapes of a request. 0 for an engine that has none.
    """

    backend: str
    file_name: str
    on_gpu: bool
    profiles: int = 0

    def instance_group(self) -> str:
        """The instance group: one instance, on the first GPU or on the CPU.

        Left to itself Triton makes one on each GPU that it sees; an engine of TensorRT fits one product.
        """
        numbers = ", ".join(f'"{index}"' for index in range(self.profiles))
        place = "kind: KIND_GPU gpus: [ 0 ]" if self.on_gpu else "kind: KIND_CPU"
        return f"count: 1 {place}" + (f" profile: [ {numbers} ]" if self.profiles else "")

    def options(self, stage: StageSpec, manifest: Manifest) -> list[str]:
        """What the TensorRT backend is told beyond that.

        Otherwise each of its contexts, one for each profile, keeps the memory of the largest, and kernels are
        launched one by one: of shapes that are dynamic it records those alone that are listed.
        """
        if self.backend != "tensorrt":
            return []
        shapes = (
            {name: array.shape for name, array in inputs.items()}
            for inputs in batching.served_shapes(stage, manifest)
        )
        return [
            'parameters { key: "execution_context_allocation_strategy" '
            'value { string_value: "ON_PROFILE_CHANGE" } }',
            "optimization { cuda {",
            "  graphs: true",
            *(f"  graph_spec {{ {_graph_spec(each)} }}" for each in shapes),
            "} }",
        ]


def render(
    stage: StageSpec,
    manifest: Manifest,
    *,
    queue_delay_us: int = QUEUE_DELAY_US,
    native: NativeHost | None = None,
) -> str:
    """The configuration of a stage's model in a Triton model repository.

    Args:
        stage: the stage.
        manifest: gives the static dims and the largest batch.
        queue_delay_us: microseconds that the UNet's dynamic batcher waits for more requests.
        native: Triton's own backend that hosts the engine; None for a python stage.

    Returns:
        The text of `config.pbtxt`.
    """
    batch = batching.max_batch(stage, manifest)
    # Where one video is all that fits, the batcher would wait for company that it cannot take.
    batched = batch > 1
    lines = [
        f'name: "{stage.name}"',
        f'backend: "{native.backend if native else "python"}"',
        *([f'default_model_filename: "{native.file_name}"'] if native else []),
        f"max_batch_size: {batch}",
        # A native host cannot group a mixture, so that the batcher must not make one.
        _tensors("input", stage.inputs, manifest, ragged=batched and native is None),
        _tensors("output", stage.outputs, manifest, ragged=False),
    ]
    if batched:
        lines.append(f"dynamic_batching {{ max_queue_delay_microseconds: {queue_delay_us} }}")
    lines += native.options(stage, manifest) if native else []
    instances = native.instance_group() if native else "count: 1 kind: KIND_CPU"
    lines.append(f"instance_group [ {{ {instances} }} ]")
    return "\n".join(lines) + "\n"


def _graph_spec(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The shapes of one CUDA graph; the batch dimension is apart."""
    batch = next(iter(shapes.values()))[0]
    inputs = (
        f'input {{ key: "{name}" value {{ dim: [ {", ".join(map(str, shape[1:]))} ] }} }}'
        for name, shape in shapes.items()
    )
    return f"batch_size: {batch} {' '.join(inputs)}"


def _tensors(field: str, specs: tuple[TensorSpec, ...], manifest: Manifest, *, ragged: bool) -> str:
    entries = ",\n".join(f"  {_tensor(spec, manifest, ragged=ragged)}" for spec in specs)
    return f"{field} [\n{entries}\n]"


def _tensor(spec: TensorSpec, manifest: Manifest, *, ragged: bool) -> str:
    """One tensor. Ragged inputs let the batcher hand over K = 1 beside K = 2; the stage groups them."""
    dims = ", ".join(map(str, spec.shape(manifest.symbols())))
    extra = " allow_ragged_batch: true" if ragged else ""
    return f'{{ name: "{spec.name}" data_type: TYPE_{spec.dtype} dims: [ {dims} ]{extra} }}'
