"""32-bit indexing: SVD-XT's GEGLU for one and for two videos, by how its rows are declared to AOTInductor.

The projection of two guided videos of 1024x576 has more than 2^31 elements. Each way is compiled and run in a
process of its own, since one that indexes wrongly may end it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoetrope_bench.gpu.device import Device
from zoetrope_bench.gpu.record import Record, Step

WAYS = ("static", "bounded", "unbounded")
"""As we compile; with bounds; as AOTInductor must not be used."""
ROWS = {1: 460_800, 2: 921_600}
"""25 frames x 2 rows x 72 x 128 positions, by the number of videos."""
_CHUNK = 65_536
_TOLERANCE = 0.05


class Geglu(nn.Module):
    """The widest layer of SVD-XT: 320 channels to 2 x 1280."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(320, 2560)

    def forward(self, x: Tensor) -> Tensor:
        """f16 [N,320] to f16 [N,1280]."""
        value, gate = self.proj(x).chunk(2, dim=-1)
        gated: Tensor = value * functional.gelu(gate)
        return gated


def steps(record: Record, device: Device, scratch: Path) -> list[Step]:
    """Compiles all ways at once, since compilers are slow, and looks at one after the other."""
    toy = ["--toy"] * device.toy
    children = {
        way: subprocess.Popen(
            [sys.executable, "-m", __name__, way, *toy],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for way in WAYS
    }
    return [(way, partial(_look, record, way, child)) for way, child in children.items()]


def _look(record: Record, way: str, child: subprocess.Popen[str]) -> None:
    """Takes what one way has found; only the unbounded way may be wrong."""
    try:
        output, errors = child.communicate(timeout=max(1.0, record.ends - time.monotonic()))
    finally:
        child.kill()
    for line in filter(lambda line: line.startswith("{"), output.splitlines()):
        found = json.loads(line)
        record.add(f"{found['videos']} videos, rows that are off", found["off"], "rows")
        record.add(f"{found['videos']} videos, seconds to compile", found["seconds"], "s")
        if way != "unbounded":
            record.check(f"{way}, {found['videos']} videos", found["off"] == 0, found["off"])
    record.add("exit code", child.returncode)
    if child.returncode and way != "unbounded":
        raise RuntimeError(f"exit code {child.returncode}: {errors.strip()[-800:]}")


def main(way: str, *, toy: bool) -> None:
    """Compiles one way and prints a line of JSON for each number of videos."""
    device = Device(toy=toy)
    rows = {videos: count // 5000 if toy else count for videos, count in ROWS.items()}
    model = Geglu().to(device.name, device.half).eval()
    bound = torch.export.Dim("n", max=max(rows.values())) if way == "bounded" else torch.export.Dim("n")
    loaded: Any = None
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        for videos, count in rows.items():
            began, x = time.monotonic(), device.random(count, 320)
            if loaded is None or way == "static":
                example = x if way == "static" else device.random(64, 320)
                shapes = None if way == "static" else {"x": {0: bound}}
                program = torch.export.export(model, (example,), dynamic_shapes=shapes)
                path = torch._inductor.aoti_compile_and_package(program, package_path=f"{folder}/{count}.pt2")
                loaded = torch._inductor.aoti_load_package(path)
            seconds, result = time.monotonic() - began, loaded(x)
            device.synchronize()
            sys.stdout.write(
                json.dumps({"videos": videos, "off": _off(model, x, result), "seconds": seconds}) + "\n"
            )
            sys.stdout.flush()


def _off(model: nn.Module, x: Tensor, result: Tensor) -> int:
    """How many rows differ from what torch computes, a piece at a time."""
    pairs = zip(torch.split(result, _CHUNK), torch.split(x, _CHUNK), strict=True)
    errors = [(ours.float() - model(piece).float()).abs().nan_to_num(1e9).amax(1) for ours, piece in pairs]
    return int((torch.cat(errors) > _TOLERANCE).sum())


if __name__ == "__main__":
    main(sys.argv[1], toy="--toy" in sys.argv)
