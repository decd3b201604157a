"""AOTInductor packages, run by torch: the only engine whose stage process imports it."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zoetrope_core.specs import Array, StageSpec
from zoetrope_server.engines import EngineError
from zoetrope_server.engines.sidecar import Sidecar, find_engine, fitting_profile, verify
from zoetrope_server.engines.torch_copies import to_device, to_host

LIBRARY = "torch"


class AotInductorEngine:
    """A compiled package, on the device that it was compiled for, for the shapes that it was compiled for."""

    def __init__(self, directory: Path, stage: StageSpec, *, precision: str) -> None:
        """Verifies the package of the directory and loads it.

        Args:
            directory: the version folder of the stage's model.
            stage: the stage's spec.
            precision: the precision of this stage.

        Raises:
            EngineError: torch is missing, or the package is missing, damaged, stale or foreign.
        """
        self._torch = load_torch()
        file = find_engine(directory, stage.name)
        on_cpu = Sidecar.load(file).key.target.startswith("cpu")
        expected = {
            "stage": stage.name,
            "library": LIBRARY,
            "library_version": str(self._torch.__version__),
            "precision": precision,
            "target": cpu_target(self._torch) if on_cpu else cuda_target(self._torch),
        }
        self._profiles = verify(file, expected).key.profiles
        self.device = "cpu" if on_cpu else "cuda"
        self._stage, self._tf32 = stage, precision == "tf32"
        self._model = self._torch._inductor.aoti_load_package(str(file))

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Computes the outputs of the stage; raises EngineError for shapes that the package does not take.

        What is compiled for some shapes checks none, and computes garbage for others or crashes.
        """
        fitting_profile(self._stage, self._profiles, {name: array.shape for name, array in inputs.items()})
        tensors = [to_device(self._torch, inputs[spec.name], self.device) for spec in self._stage.inputs]
        arrays = to_host(self._torch, self.compute(*tensors), self.device)
        return {spec.name: array for spec, array in zip(self._stage.outputs, arrays, strict=True)}

    def synchronize(self) -> None:
        """See `device_loss.OnDevice`."""
        if self.device == "cuda":
            self._torch.cuda.synchronize()

    def compute(self, *tensors: Any) -> Sequence[Any]:
        """Computes the outputs of the stage, as tensors on `device`, from its inputs as such tensors."""
        with self._torch.inference_mode(), fp32_products(self._torch, tf32=self._tf32):
            outputs = self._model(*tensors)
        return outputs if isinstance(outputs, tuple | list) else (outputs,)


@contextmanager
def fp32_products(torch: Any, *, tf32: bool) -> Iterator[None]:
    """Lets FP32 convolutions and matrix products of a GPU take TF32 or not, for the block.

    By itself torch lets convolutions do so and matrix products not. A package is compiled and run under the
    same setting: its own kernels are compiled by it, those of the libraries ask when they are called.
    """
    kinds = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    before = [kind.fp32_precision for kind in kinds]
    try:
        for kind in kinds:
            kind.fp32_precision = "tf32" if tf32 else "ieee"
        yield
    finally:
        for kind, kept in zip(kinds, before, strict=True):
            kind.fp32_precision = kept


def load_torch() -> Any:
    """The module torch; raises EngineError when it is not installed."""
    try:
        return importlib.import_module(LIBRARY)
    except ImportError as error:
        raise EngineError(f"engine aot-inductor needs torch in the stage's process ({error})") from error


def cpu_target(torch: Any, description: Path = Path("/proc/cpuinfo")) -> str:
    """What a package for the CPU is bound to, such as `cpu-avx512-1f2e3d4c`.

    The compiler uses all instructions of the CPU at hand (`-march=native`), and one that another CPU lacks
    ends its process: so the digest of all of them is part of the target, beside the widest vectors.

    Args:
        torch: the module.
        description: what the kernel says of the CPU.
    """
    return f"cpu-{torch.backends.cpu.get_cpu_capability().lower()}-{instructions_digest(description)}"


def instructions_digest(description: Path = Path("/proc/cpuinfo")) -> str:
    """Eight hexadecimal digits that stand for all instructions of the CPU."""
    return hashlib.sha256(" ".join(sorted(cpu_flags(description))).encode()).hexdigest()[:8]


def cpu_flags(description: Path = Path("/proc/cpuinfo")) -> list[str]:
    """What the kernel says that the CPU can do; empty when it does not say."""
    try:
        lines = description.read_text().splitlines()
    except OSError:
        return []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return flags.partition(":")[2].split()


def cuda_target(torch: Any) -> str:
    """The compute capability of the first GPU, such as `sm90`; empty without one."""
    if not torch.cuda.is_available():
        return ""
    major, minor = torch.cuda.get_device_capability()
    return f"sm{major}{minor}"
