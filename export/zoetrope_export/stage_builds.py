"""One stage from its PyTorch module to the engine file in its model's folder, by engine."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from zoetrope_core.manifest import Manifest, Size
from zoetrope_core.specs import StageSpec
from zoetrope_export import engine_cache, inductor_build, preflight, tensorrt_build
from zoetrope_export.checkpoint import Checkpoint
from zoetrope_export.engine_cache import Cached, EngineCache
from zoetrope_export.engines import TorchEngine, build_engine
from zoetrope_export.errors import ExportError
from zoetrope_export.half import HALVES, to_half
from zoetrope_export.native_graphs import export_native
from zoetrope_export.onnx_graphs import trace_symbols
from zoetrope_export.parity import ENGINE
from zoetrope_export.profiles import profiles, size_groups
from zoetrope_export.tensorrt_build import Builder, Progress
from zoetrope_server.engines import Engine, EngineError, open_engine, stage_precision
from zoetrope_server.engines.gpu import detect_gpu
from zoetrope_server.engines.inductor import LIBRARY as INDUCTOR_LIBRARY
from zoetrope_server.engines.sidecar import EngineKey
from zoetrope_server.engines.tensorrt import LIBRARIES

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """What a build may be told beyond the facts of the manifest.

    Attributes:
        profiles: frame sizes (height, width) that share an optimization profile; see `size_groups`.
        compute_capability: the GPU to build for, such as `8.9`; None for the one of this machine.
        workspace_gib: the most scratch memory of a kernel, in GiB.
        cache: where built engines are kept.
        force: build although disk or memory may be short.
    """

    profiles: tuple[tuple[Size, ...], ...] = ()
    compute_capability: str | None = None
    workspace_gib: float | None = None
    cache: Path = field(default_factory=engine_cache.default_root)
    force: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What a build made, to be compared with PyTorch.

    Attributes:
        engine: the engine, or its graph in ONNX Runtime where the engine cannot run on this machine.
        computed_by: which of the two, for the report.
        nodes: nodes of the graph that the engine was built from: as translated from PyTorch, and as built.
    """

    engine: Engine
    computed_by: str
    nodes: tuple[int, int]


class Silent:
    """Progress that nobody follows."""

    def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
        """Nothing."""

    def step_complete(self, phase: str, step: int) -> bool:
        """Goes on."""
        return True

    def phase_finish(self, phase: str) -> None:
        """Nothing."""


class StageBuilder:
    """Builds the stages of one checkpoint."""

    def __init__(
        self, checkpoint: Checkpoint, manifest: Manifest, options: BuildOptions, progress: Progress
    ) -> None:
        """Finds out early whether the engine can be built here.

        Raises:
            ExportError: the library is missing or cannot build for the target, or a profile is wrong.
        """
        self._checkpoint, self._manifest, self._options = checkpoint, manifest, options
        self._progress = progress
        self._gpu = detect_gpu()
        size_groups(manifest.sizes, options.profiles)
        self._tensorrt = self._tensorrt_builder() if manifest.engine in LIBRARIES else None
        if manifest.engine == "aot-inductor":
            inductor_build.check_precision(manifest.precision)
        if manifest.engine == "onnxruntime" and manifest.precision != "fp32":
            _check_cuda_provider()

    @property
    def runs_here(self) -> bool:
        """Whether the engines can run on this machine, or else their graphs alone."""
        here = None if self._gpu is None else self._gpu.target
        return self._tensorrt is None or self._tensorrt.target == here

    def check_resources(self, out: Path) -> None:
        """Raises ExportError when disk, memory or GPU memory are too small for a repository at `out`."""
        gpu = self._gpu if self._on_gpu() else None
        cache = self._options.cache
        needs = preflight.estimate(self._checkpoint, self._manifest, out=out, cache=cache, gpu=gpu)
        preflight.check(needs, force=self._options.force)

    @contextmanager
    def build(self, module: nn.Module, stage: StageSpec, directory: Path) -> Iterator[Built]:
        """Writes the engine of a stage, and opens it for as long as the block lasts.

        Args:
            module: the stage's module; it may be changed.
            stage: its spec.
            directory: the version folder of the stage's model.

        Raises:
            ExportError: the engine could not be built.
        """
        with tempfile.TemporaryDirectory(dir=directory, prefix=".build-") as scratch:
            built = self._build(module, stage, directory, Path(scratch))
            del module  # its memory is needed for the comparison
            yield built

    def _build(self, module: nn.Module, stage: StageSpec, directory: Path, scratch: Path) -> Built:
        """Builds by the way of the engine; `scratch` lasts as long as the engine is compared."""
        engine = self._manifest.engine
        if self._tensorrt is not None:
            return self._build_tensorrt(self._tensorrt, module, stage, directory, scratch)
        if engine == "aot-inductor":
            nodes = self._build_inductor(module, stage, directory)
        elif self._manifest.precision != "fp32" and engine == "onnxruntime":
            nodes = self._build_native(module, stage, directory)
        else:
            nodes = build_engine(module, stage, trace_symbols(self._checkpoint), directory, engine=engine)
        return Built(engine=self._open(stage, directory), computed_by=ENGINE, nodes=nodes)

    def _on_gpu(self) -> bool:
        """Whether the engines run on a GPU."""
        facts = self._manifest
        if facts.engine == "aot-inductor":
            return inductor_build.device() == "cuda"
        return facts.engine in LIBRARIES or (facts.engine == "onnxruntime" and facts.precision != "fp32")

    def _precision(self, stage: StageSpec) -> str:
        return stage_precision(stage, self._manifest.precision, self._manifest.engine)

    def _open(self, stage: StageSpec, directory: Path) -> Engine:
        facts = self._manifest
        return open_engine(directory, stage, engine=facts.engine, precision=facts.precision)

    def _tensorrt_builder(self) -> Builder:
        engine, options = self._manifest.engine, self._options
        library = tensorrt_build.load_library(engine)
        target = tensorrt_build.choose_target(engine, library, options.compute_capability, self._gpu)
        return Builder(
            library=library,
            target=target,
            ahead=engine == "tensorrt-rtx",
            workspace_gib=options.workspace_gib,
            timing_cache=options.cache / f"timing-{target}-{library.__version__}.bin",
        )

    def _build_tensorrt(
        self, builder: Builder, module: nn.Module, stage: StageSpec, directory: Path, scratch: Path
    ) -> Built:
        """The graph goes into `scratch`; the engine comes from the cache or is built from it."""
        if dtype := HALVES.get(self._precision(stage)):
            module = to_half(module, stage, dtype)
        graph = export_native(module, stage, trace_symbols(self._checkpoint), scratch)
        cached = self._fetch(builder, stage, graph.path)
        engine_cache.place(cached, directory)
        nodes = graph.translated, graph.nodes
        if self.runs_here:
            return Built(engine=self._open(stage, directory), computed_by=ENGINE, nodes=nodes)
        if self._precision(stage) == "bf16":  # which ONNX Runtime does not have on a CPU
            return Built(engine=TorchEngine(module, stage), computed_by="torch (module)", nodes=nodes)
        from zoetrope_server.engines.onnxruntime import OnnxRuntimeEngine

        return Built(engine=OnnxRuntimeEngine(scratch), computed_by="onnxruntime (graph)", nodes=nodes)

    def _build_native(self, module: nn.Module, stage: StageSpec, directory: Path) -> tuple[int, int]:
        """The graph that TensorRT gets, for ONNX Runtime on a GPU; returns its nodes."""
        if dtype := HALVES.get(self._precision(stage)):
            module = to_half(module, stage, dtype)
        graph = export_native(module, stage, trace_symbols(self._checkpoint), directory)
        return graph.translated, graph.nodes

    def _build_inductor(self, module: nn.Module, stage: StageSpec, directory: Path) -> tuple[int, int]:
        """The package comes from the cache or is compiled; returns the nodes of the exported program."""
        precision = self._precision(stage)
        if dtype := HALVES.get(precision):
            module = to_half(module, stage, dtype)
        (ranges,) = profiles(stage, self._manifest, (self._manifest.sizes,))
        program = inductor_build.trace(module, stage, trace_symbols(self._checkpoint), ranges)
        graph, weights = inductor_build.digests(program)
        gpu = self._gpu if inductor_build.device() == "cuda" else None
        key = EngineKey(
            stage=stage.name,
            library=INDUCTOR_LIBRARY,
            library_version=str(torch.__version__),
            target=inductor_build.target(),
            gpu=gpu.name if gpu else "",
            driver=gpu.driver if gpu else "",
            precision=precision,
            graph=graph,
            weights=weights,
            profiles=(ranges,),
        )
        cached = EngineCache(self._options.cache).fetch(
            key, lambda path: inductor_build.compile_package(program, path, tf32=precision == "tf32")
        )
        _log(stage, cached)
        engine_cache.place(cached, directory)
        nodes = len(program.graph.nodes)
        return nodes, nodes

    def _fetch(self, builder: Builder, stage: StageSpec, graph: Path) -> Cached:
        """The engine of a graph, from the cache or built."""
        ranges = profiles(stage, self._manifest, self._options.profiles)
        key = self._key(builder, stage, graph)

        def build(path: Path) -> None:
            parsed = tensorrt_build.parse(builder.library, graph)
            symbols = self._manifest.symbols()
            tf32 = self._precision(stage) == "tf32"
            config, _ = tensorrt_build.configure(parsed, builder, stage, ranges, symbols, tf32=tf32)
            tensorrt_build.build(parsed, builder, config, path, self._progress)

        cached = EngineCache(self._options.cache).fetch(key, build)
        _log(stage, cached)
        return cached

    def _key(self, builder: Builder, stage: StageSpec, graph: Path) -> EngineKey:
        """Everything that changes the engine; the GPU of this machine only where the builder times on it."""
        digest, weights = engine_cache.graph_digests(graph)
        here = None if builder.ahead else self._gpu
        return EngineKey(
            stage=stage.name,
            library=builder.library.__name__,
            library_version=builder.library.__version__,
            target=builder.target,
            gpu=here.name if here else "",
            driver=here.driver if here else "",
            precision=self._precision(stage),
            graph=digest,
            weights=weights,
            profiles=profiles(stage, self._manifest, self._options.profiles),
            options=builder.options(),
        )


def _check_cuda_provider() -> None:
    from zoetrope_server.engines.onnxruntime_cuda import check_provider

    try:
        check_provider()
    except EngineError as error:
        raise ExportError(str(error)) from error


def _log(stage: StageSpec, cached: Cached) -> None:
    state = "found in the cache" if cached.hit else f"built in {cached.sidecar.build_seconds:.1f} s"
    _logger.info("%s: %s, %s", stage.name, cached.file.name, state)
