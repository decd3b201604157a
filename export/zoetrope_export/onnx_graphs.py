"""From stage modules to ONNX graphs with the names, dtypes and dynamic axes of the stage specs."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import onnx
import torch
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

from zoetrope_core.specs import STATIC_SYMBOLS, StageSpec, TensorSpec
from zoetrope_export.checkpoint import CLIP_SIZE, Checkpoint

FILE_NAME = "model.onnx"
WEIGHTS_NAME = "model.onnx.data"
OPSET = 20
"""The newest opset of the TorchScript exporter."""
_ALIGNMENT = 4096
"""Weights begin at a multiple of this, so that a host may map them into memory."""
_COPY_BYTES = 1 << 24

_logger = logging.getLogger(__name__)


def trace_symbols(checkpoint: Checkpoint) -> dict[str, int]:
    """Sizes to trace a stage at: small, and none of them 1, which exporters take for fixed."""
    side = 1 << (checkpoint.unet_levels - 1)
    height, width = 2 * side, 3 * side
    return {
        "C": checkpoint.latent_channels,
        "E": checkpoint.embedding_dim,
        "S": CLIP_SIZE,
        "K": 2,
        "F": 3,
        "f": 3,
        "h": height,
        "w": width,
        "H": height * checkpoint.vae_scale_factor,
        "W": width * checkpoint.vae_scale_factor,
    }


def example_tensors(stage: StageSpec, symbols: Mapping[str, int], batch: int) -> dict[str, Tensor]:
    """Inputs of a stage to trace it with; ones, which are valid sigmas, weights and pixels alike."""
    return {spec.name: torch.ones(batch, *spec.shape(symbols)) for spec in stage.inputs}


def export_onnx(module: nn.Module, stage: StageSpec, symbols: Mapping[str, int], directory: Path) -> Path:
    """Writes `model.onnx` of a stage, and its weights beside it when they are large.

    The TorchScript exporter is used because it leaves the number of frames dynamic; a graph of the
    dynamo exporter has it fixed in the attention blocks for batches of more than one.

    Args:
        module: the stage's module, in evaluation mode.
        stage: its spec, which names the inputs and the outputs and says which axes are dynamic.
        symbols: sizes to trace at, see `trace_symbols`.
        directory: where to, an existing folder.

    Returns:
        The path of the graph.
    """
    inputs = example_tensors(stage, symbols, 2 if stage.batchable else 1)
    path = directory / FILE_NAME
    with tempfile.TemporaryDirectory(dir=directory, prefix=".trace-") as scratch:
        traced = Path(scratch) / FILE_NAME
        with torch.no_grad(), _expected_warnings():
            torch.onnx.export(
                module,
                tuple(inputs.values()),
                str(traced),
                input_names=[spec.name for spec in stage.inputs],
                output_names=[spec.name for spec in stage.outputs],
                dynamic_axes={spec.name: dynamic_axes(spec) for spec in stage.inputs + stage.outputs},
                opset_version=OPSET,
                dynamo=False,
            )
        gather(traced, path)
    onnx.checker.check_model(str(path))
    _logger.info("%s: wrote %s", stage.name, path)
    return path


def count_nodes(graph: Path) -> int:
    """Nodes of a graph; constants are not nodes, however the exporter wrote them."""
    nodes = onnx.load(str(graph), load_external_data=False).graph.node
    return sum(node.op_type != "Constant" for node in nodes)


def dynamic_axes(spec: TensorSpec) -> dict[int, str]:
    """The dynamic axes of a tensor: the batch dimension and all symbols that are not the checkpoint's."""
    symbols = {
        axis: dim
        for axis, dim in enumerate(spec.dims, start=1)
        if isinstance(dim, str) and dim not in STATIC_SYMBOLS
    }
    return {0: "B", **symbols}


def gather(traced: Path, path: Path) -> None:
    """Moves a traced graph to its place, with its weights in at most one file beside it.

    The exporter scatters the weights of a model of more than 2 GiB, which is all that one protobuf message
    holds, over one file for each tensor. They are moved file by file, so that many gigabytes are never in
    memory a second time.

    Args:
        traced: the graph, in a folder of its own.
        path: where to.
    """
    model = onnx.load(str(traced), load_external_data=False)
    scattered = [tensor for tensor in _tensors(model.graph) if tensor.external_data]
    if not scattered:
        shutil.move(traced, path)
        return
    with (path.parent / WEIGHTS_NAME).open("wb") as sink:
        for tensor in scattered:
            _move_weights(tensor, traced.parent, sink)
    onnx.save(model, str(path))


def _tensors(graph: Any) -> Iterator[Any]:
    """All tensors of a graph: weights, and constants in nodes."""
    yield from graph.initializer
    for node in graph.node:
        yield from (attribute.t for attribute in node.attribute if attribute.HasField("t"))


def _move_weights(tensor: Any, folder: Path, sink: IO[bytes]) -> None:
    """Appends the file of a tensor to the file of all weights."""
    places = {entry.key: entry.value for entry in tensor.external_data}
    source = folder / places["location"]
    sink.seek(-sink.tell() % _ALIGNMENT, os.SEEK_CUR)
    entries = {"location": WEIGHTS_NAME, "offset": sink.tell(), "length": source.stat().st_size}
    with source.open("rb") as stream:
        shutil.copyfileobj(stream, sink, _COPY_BYTES)
    source.unlink()
    del tensor.external_data[:]
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))


@contextmanager
def _expected_warnings() -> Iterator[None]:
    """Silences what tracing these modules is known to say; everything else is still heard."""
    with warnings.catch_warnings():
        # Shape checks and loops over levels are the same for all shapes that a stage accepts.
        warnings.filterwarnings("ignore", category=TracerWarning)
        # The choice of the TorchScript exporter is deliberate, see `export_onnx`.
        for message in ("You are using the legacy TorchScript", "The feature will be removed"):
            warnings.filterwarnings("ignore", message, DeprecationWarning)
        # Slices with steps of the time embeddings stay in the graph; nothing is lost.
        warnings.filterwarnings("ignore", "Constant folding - Only steps=1", UserWarning)
        yield
