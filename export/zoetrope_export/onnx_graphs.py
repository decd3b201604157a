"""From stage modules to ONNX graphs with the names, dtypes and dynamic axes of the stage specs."""

from __future__ import annotations

import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

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
INLINE_BYTES = 1 << 30
"""Weights of more than this lie in a file of their own: one protobuf message holds 2 GiB at most."""

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
        _store(traced, path)
    onnx.checker.check_model(str(path))
    _logger.info("%s: wrote %s", stage.name, path)
    return path


def dynamic_axes(spec: TensorSpec) -> dict[int, str]:
    """The dynamic axes of a tensor: the batch dimension and all symbols that are not the checkpoint's."""
    symbols = {
        axis: dim
        for axis, dim in enumerate(spec.dims, start=1)
        if isinstance(dim, str) and dim not in STATIC_SYMBOLS
    }
    return {0: "B", **symbols}


def _store(traced: Path, path: Path) -> None:
    """Moves a traced graph to its place, with large weights gathered into one file.

    The exporter scatters the weights of a large model over one file for each tensor.
    """
    weights = sum(file.stat().st_size for file in traced.parent.iterdir())
    if weights < INLINE_BYTES:
        shutil.move(traced, path)
        return
    onnx.save(
        onnx.load(str(traced)),
        str(path),
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=WEIGHTS_NAME,
    )


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
