"""TensorRT engines from ONNX graphs: one way for `tensorrt` and `tensorrt_rtx`, which have the same API.

Networks are strongly typed, as TensorRT 11 has nothing else: the precision is the graph's. Building with
`tensorrt` needs the GPU that will run the engine, since it times kernels there. `tensorrt_rtx` builds ahead
of time, for one compute capability; left to its default, all of them, its builder runs out of memory.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from zoetrope_core.specs import StageSpec
from zoetrope_export.errors import ExportError
from zoetrope_export.profiles import input_shapes
from zoetrope_server.engines import EngineError, requirements
from zoetrope_server.engines.gpu import Gpu
from zoetrope_server.engines.sidecar import Profile
from zoetrope_server.engines.tensorrt import LIBRARIES

_GIB = 1 << 30
_MOST_FUSED = 256
"""The largest head dimension that has fused kernels; the VAE's attentions have 512 and more."""
_logger = logging.getLogger(__name__)


class Progress(Protocol):
    """Follows a build: phases within phases, each of a number of steps."""

    def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
        """A phase begins."""
        ...

    def step_complete(self, phase: str, step: int) -> bool:
        """A step of a phase is done; returns whether the build is to go on."""
        ...

    def phase_finish(self, phase: str) -> None:
        """A phase is over."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Builder:
    """What builds.

    Attributes:
        library: the module `tensorrt` or `tensorrt_rtx`.
        target: what for, such as `sm89`.
        ahead: whether for a GPU that need not be here.
        workspace_gib: the most scratch memory of a kernel on the GPU, in GiB; None for all of it.
        optimization_level: how long it may search, 0 to 5; None for the library's own choice, 3.
        timing_cache: where times of kernels are kept for the next build; None to keep none.
    """

    library: Any
    target: str
    ahead: bool
    workspace_gib: float | None = None
    optimization_level: int | None = None
    timing_cache: Path | None = None

    def options(self) -> dict[str, str]:
        """What of this changes the engine beyond its target, for the engine's key."""
        said = {} if self.workspace_gib is None else {"workspace_gib": f"{self.workspace_gib:g}"}
        level = self.optimization_level
        return said if level is None else said | {"optimization_level": str(level)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """A network in the library; the parser and the builder own what it refers to."""

    builder: Any
    parser: Any
    network: Any


def load_library(engine: str) -> Any:
    """The module of `tensorrt` or `tensorrt-rtx`; raises ExportError when it is missing or too old."""
    try:
        return requirements.load(LIBRARIES[engine])
    except EngineError as error:
        raise ExportError(f"{engine}: {error}") from error


def choose_target(engine: str, library: Any, wanted: str | None, gpu: Gpu | None) -> str:
    """The compute capability to build for.

    Args:
        engine: `tensorrt` or `tensorrt-rtx`.
        library: its module.
        wanted: what was asked for, such as `sm89` or `8.9`; None for the GPU of this machine.
        gpu: that GPU; None when there is none.

    Raises:
        ExportError: the library cannot build for it here.
    """
    target = parse_capability(wanted) if wanted else gpu.target if gpu else None
    if engine == "tensorrt":
        if gpu is None:
            raise ExportError("engine tensorrt is built on the GPU that runs it, and there is none here")
        if target != gpu.target:
            raise ExportError(
                f"engine tensorrt builds for the GPU of this machine, {gpu.target}, not {target}"
            )
        return gpu.target
    known = sorted(name.lower() for name in dir(library.ComputeCapability) if re.fullmatch(r"SM\d+", name))
    if target is None:
        raise ExportError(f"there is no GPU here: give --compute-capability, one of {', '.join(known)}")
    if target not in known:
        raise ExportError(f"engine {engine} cannot build for {target}; it can for {', '.join(known)}")
    return target


def parse_capability(text: str) -> str:
    """`sm89` from `sm89`, `SM89`, `89` or `8.9`; raises ExportError."""
    match = re.fullmatch(r"(?:sm)?_?(\d{1,2})\.?(\d)", text.strip().lower())
    if match is None:
        raise ExportError(f"--compute-capability {text}: give something like 8.9 or sm89")
    return f"sm{match[1]}{match[2]}"


def parse(library: Any, graph: Path) -> Parsed:
    """Reads an ONNX graph into a strongly typed network; raises ExportError with all that it rejects."""
    logger = _library_logger(library)
    builder = library.Builder(logger)
    flag = getattr(library.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = library.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        errors = [str(parser.get_error(index)) for index in range(parser.num_errors)]
        raise ExportError(f"{library.__name__} cannot read {graph.name}: {'; '.join(errors)}")
    _let_attention_fall_apart(library, network)
    return Parsed(builder=builder, parser=parser, network=network)


def _let_attention_fall_apart(library: Any, network: Any) -> None:
    """Lets the builder compute an attention step by step where no kernel does it at once, and nowhere else.

    Otherwise it refuses the network. Elsewhere it must refuse: step by step, the scores of SVD-XT's first
    level take 42 GB for one video; an engine that needs them is found out here and not when it is served.
    """
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == library.LayerType.ATTENTION_INPUT:
            query = layer.get_input(0)
            fused = query.dtype != library.float32 and query.shape[-1] <= _MOST_FUSED
            layer.__class__ = library.IAttentionInputLayer
            layer.attention.decomposable = not fused


def configure(
    parsed: Parsed,
    builder: Builder,
    stage: StageSpec,
    profiles: Sequence[Profile],
    static: Mapping[str, int],
    *,
    tf32: bool = False,
) -> tuple[Any, list[Any]]:
    """The builder's configuration, and the optimization profiles that were added to it.

    Args:
        parsed: the network.
        builder: what builds.
        stage: the stage.
        profiles: the ranges of its profiles.
        static: the values of the static symbols.
        tf32: whether FP32 products may take TF32, which has the mantissa of FP16; FP32 means FP32 otherwise.

    Raises:
        ExportError: the library refuses a profile.
    """
    library, config = builder.library, parsed.builder.create_builder_config()
    (config.set_flag if tf32 else config.clear_flag)(library.BuilderFlag.TF32)
    if builder.workspace_gib is not None:
        config.set_memory_pool_limit(library.MemoryPoolType.WORKSPACE, int(builder.workspace_gib * _GIB))
    if builder.optimization_level is not None:
        config.builder_optimization_level = builder.optimization_level
    if builder.ahead:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(library.ComputeCapability, builder.target.upper()), 0)
    added = []
    for ranges in profiles:
        profile = parsed.builder.create_optimization_profile()
        for name, shapes in input_shapes(stage, ranges, static).items():
            profile.set_shape(name, *shapes)
        if config.add_optimization_profile(profile) < 0:
            raise ExportError(f"{library.__name__} refuses the profile {ranges} of {stage.name}")
        added.append(profile)
    return config, added


def build(parsed: Parsed, builder: Builder, config: Any, path: Path, progress: Progress) -> None:
    """Compiles a network into an engine file.

    Raises:
        ExportError: the library could not; its log says why.
        KeyboardInterrupt: it was interrupted.
    """
    monitor = _monitor(builder.library, progress)
    config.progress_monitor = monitor
    cache = _open_timing_cache(config, builder)
    plan = parsed.builder.build_serialized_network(parsed.network, config)
    if monitor.interrupted:
        raise KeyboardInterrupt
    if plan is None:
        raise ExportError(
            f"{builder.library.__name__} could not build {path.name}; its log is above. "
            "When memory was short: a smaller --workspace, fewer sizes or a smaller --max-batch"
        )
    with path.open("wb") as stream:
        stream.write(memoryview(plan))
    if cache is not None and builder.timing_cache is not None:
        _save(builder.timing_cache, cache)


def _open_timing_cache(config: Any, builder: Builder) -> Any:
    """Gives the builder the times of earlier builds, where it takes them.

    A build ahead of time measures nothing, and a timing cache breaks it.
    """
    if builder.ahead or builder.timing_cache is None:
        return None
    data = builder.timing_cache.read_bytes() if builder.timing_cache.is_file() else b""
    cache = config.create_timing_cache(data)
    config.set_timing_cache(cache, False)
    return cache


def _save(path: Path, cache: Any) -> None:
    """Writes a timing cache, all of it or nothing."""
    scratch = path.with_name(f".{path.name}-{os.getpid()}")
    scratch.write_bytes(memoryview(cache.serialize()))
    scratch.replace(path)


def _monitor(library: Any, progress: Progress) -> Any:
    """The library's progress monitor, made to tell `progress`. An interrupt ends the build cleanly."""

    class Monitor(library.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            library.IProgressMonitor.__init__(self)
            self.interrupted = False

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self._tell(lambda: progress.phase_start(phase, parent, steps))

        def phase_finish(self, phase: str) -> None:
            self._tell(lambda: progress.phase_finish(phase))

        def step_complete(self, phase: str, step: int) -> bool:
            return self._tell(lambda: progress.step_complete(phase, step)) and not self.interrupted

        def _tell(self, call: Callable[[], bool | None]) -> bool:
            try:
                return call() is not False
            except KeyboardInterrupt:  # it must not cross the library's own frames
                self.interrupted = True
                return False

    return Monitor()


@cache
def _library_logger(library: Any) -> Any:
    """The logger that passes a library's messages on: one, since the library keeps the first for good."""
    levels = {
        library.ILogger.INTERNAL_ERROR: logging.ERROR,
        library.ILogger.ERROR: logging.ERROR,
        library.ILogger.WARNING: logging.INFO,
        library.ILogger.INFO: logging.DEBUG,
        library.ILogger.VERBOSE: logging.NOTSET,
    }

    class Logger(library.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            library.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if level := levels.get(severity, logging.DEBUG):
                _logger.log(level, "%s: %s", library.__name__, message)

    return Logger()
