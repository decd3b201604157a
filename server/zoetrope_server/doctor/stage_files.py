"""Checks of the engine file of one stage, without loading it."""

from __future__ import annotations

import mmap
import re
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

from zoetrope_core.manifest import Manifest
from zoetrope_core.specs import StageSpec
from zoetrope_server.doctor.findings import Finding, Level, refused
from zoetrope_server.doctor.libraries import MODULES, Library
from zoetrope_server.engines import EngineError, stage_precision
from zoetrope_server.engines.gpu import Gpu
from zoetrope_server.engines.inductor import LIBRARY as TORCH
from zoetrope_server.engines.inductor import instructions_digest
from zoetrope_server.engines.sidecar import Sidecar, find_engine, verify
from zoetrope_server.engines.tensorrt import LIBRARIES as TENSORRT
from zoetrope_server.engines.tensorrt import checked_engine

GRAPH_FILES: Mapping[str, tuple[str, ...]] = {
    "onnxruntime": ("model.onnx",),
    "openvino": ("model.xml", "model.bin"),
}
"""Files of the engines that have no sidecar, since they run on any CPU."""
_NATIVE_FILES: Mapping[str, str] = {"onnxruntime": "model.onnx", "tensorrt": "model.plan"}
"""Triton's own backends whose engines are known here, and the file that each opens unless told another."""
_LOCATION = re.compile(rb"\x0a\x08location\x12(.)", re.DOTALL)
"""The entry `location` of a tensor's external data in an ONNX file, up to the length of the file's name."""
_MIB = 1 << 20
_VERSION = "1"


def version_folder(repository: Path, stage: StageSpec) -> Path:
    """Where the engine of a stage lies."""
    return repository / stage.name / _VERSION


def stage(
    repository: Path, spec: StageSpec, manifest: Manifest, libraries: Mapping[str, Library], gpu: Gpu | None
) -> Finding:
    """Whether the engine of a stage is there, whole and made for this machine.

    Args:
        repository: the model repository.
        spec: the stage.
        manifest: the facts of the repository.
        libraries: what `probe` said of the modules.
        gpu: the GPU of this machine.
    """
    name, directory = f"stage {spec.name}", version_folder(repository, spec)
    try:
        if manifest.engine in GRAPH_FILES:
            return Finding(name=name, level=Level.OK, found=_graph(directory, manifest.engine))
        version = libraries[MODULES[manifest.engine][0]].version
        precision = stage_precision(spec, manifest.precision, manifest.engine)
        if manifest.engine in TENSORRT:
            return _tensorrt(name, directory, spec, manifest.engine, precision, version, gpu)
        file = _inductor(directory, spec, precision, version, gpu)
        return Finding(name=name, level=Level.OK, found=f"{file.name} is whole and made for this place")
    except EngineError as error:
        return refused(name, error)


def native_backend(repository: Path, spec: StageSpec) -> str | None:
    """The backend of Triton's own that hosts a stage; None when it is a python stage.

    Raises:
        EngineError: the configuration of the stage cannot be read.
    """
    backend = _configured(repository, spec, "backend") or "python"
    return None if backend == "python" else backend


def native_stage(
    repository: Path, spec: StageSpec, manifest: Manifest, backend: str, gpu: Gpu | None
) -> Finding:
    """Whether the engine of a stage that Triton's backend hosts is there, whole and made for this machine.

    The version of the library is not compared: Triton's backend brings its own, which it does not tell.

    Args:
        repository: the model repository.
        spec: the stage.
        manifest: the facts of the repository.
        backend: the name of the backend.
        gpu: the GPU of this machine.
    """
    name, directory = f"stage {spec.name}", version_folder(repository, spec)
    if backend not in _NATIVE_FILES:
        found = f"no export writes a stage for Triton's {backend} backend, so its engine was not looked at"
        return Finding(name=name, level=Level.NOTE, found=found)
    try:
        checked = _NATIVE_FILES[backend] if backend in GRAPH_FILES else find_engine(directory, spec.name).name
        opened = _configured(repository, spec, "default_model_filename") or _NATIVE_FILES[backend]
        if opened != checked:
            raise EngineError(f"Triton opens {opened} of {spec.name}, and the engine is {checked}")
        if backend in GRAPH_FILES:
            return Finding(name=name, level=Level.OK, found=_graph(directory, backend))
        precision = stage_precision(spec, manifest.precision, backend)
        return _tensorrt(name, directory, spec, backend, precision, None, gpu)
    except EngineError as error:
        return refused(name, error)


def _configured(repository: Path, spec: StageSpec, field: str) -> str | None:
    """The text of a field of a stage's configuration; None where it has none."""
    try:
        text = (repository / spec.name / "config.pbtxt").read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise EngineError(f"the model {spec.name} has no configuration ({error})") from error
    match = re.search(rf'^\s*{field}\s*:\s*"([^"]+)"', text, re.MULTILINE)
    return match[1] if match else None


def _graph(directory: Path, engine: str) -> str:
    """Checks the files of an engine without a sidecar; returns what is there."""
    sizes = {}
    for name in GRAPH_FILES[engine]:
        try:
            sizes[name] = (directory / name).stat().st_size
        except OSError as error:
            raise EngineError(f"no engine at {directory / name}: {error.strerror}") from error
        if not sizes[name]:
            raise EngineError(f"{directory / name} is empty")
    if engine == "openvino":
        _check_weights(directory / "model.xml", sizes["model.bin"])
    else:
        _check_scattered(directory / "model.onnx")
    return ", ".join(f"{name} {size / _MIB:.1f} MiB" for name, size in sizes.items())


def _check_weights(graph: Path, available: int) -> None:
    """A model whose weights were cut off loads, and then computes nonsense or crashes."""
    try:
        # The repository is code already: its models are Python that the server runs.
        data = ElementTree.parse(graph).iterfind(".//data[@offset]")
        wanted = max((int(each.attrib["offset"]) + int(each.attrib["size"]) for each in data), default=0)
    except (ElementTree.ParseError, KeyError, ValueError, OSError) as error:
        raise EngineError(f"{graph} is damaged ({error})") from error
    if wanted > available:
        raise EngineError(f"{graph.with_suffix('.bin')} is damaged: {available} bytes, {wanted} are used")


def _check_scattered(graph: Path) -> None:
    """Files beside a large ONNX graph hold its weights; without them it does not load."""
    with graph.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        names = {content[at.end() : at.end() + at[1][0]].decode() for at in _LOCATION.finditer(content)}
    lost = sorted(name for name in names if not (graph.parent / name).is_file())
    if lost:
        raise EngineError(f"{graph} has its weights in {', '.join(lost)}, and that is not there")


def _tensorrt(
    name: str,
    directory: Path,
    spec: StageSpec,
    engine: str,
    precision: str,
    version: str | None,
    gpu: Gpu | None,
) -> Finding:
    file, sidecar = checked_engine(directory, spec, engine=engine, precision=precision, version=version)
    if gpu is not None and sidecar.key.driver not in ("", gpu.driver):
        found = f"{file.name} was timed on driver {sidecar.key.driver}, here {gpu.driver}"
        advice = "export again to have it timed on this driver"
        return Finding(name=name, level=Level.WARNING, found=found, advice=advice)
    return Finding(name=name, level=Level.OK, found=f"{file.name} is whole and made for this place")


def _inductor(directory: Path, spec: StageSpec, precision: str, version: str, gpu: Gpu | None) -> Path:
    """As the stage's process does, but for the name of the vectors, which torch alone knows."""
    file = find_engine(directory, spec.name)
    target = Sidecar.load(file).key.target
    if target.startswith("cpu"):
        here = f"{target.rpartition('-')[0]}-{instructions_digest()}"
    else:
        here = gpu.target if gpu is not None else ""
    expected = {"stage": spec.name, "library": TORCH, "library_version": version}
    verify(file, expected | {"precision": precision, "target": here})
    return file
