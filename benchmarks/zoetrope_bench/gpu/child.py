"""One part in its process: `python -m zoetrope_bench.gpu.child PART --out DIRECTORY ...`."""

from __future__ import annotations

import argparse
import importlib
import platform
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from zoetrope_bench.gpu import record
from zoetrope_bench.gpu.device import Device
from zoetrope_bench.gpu.parts import PARTS, file_name


def main() -> int:
    """Runs the part; returns 0 when all of it went well."""
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--limit-s", type=float, required=True)
    parser.add_argument("--toy", action="store_true")
    options = parser.parse_args()
    signal.signal(signal.SIGALRM, _over)
    signal.setitimer(signal.ITIMER_REAL, options.limit_s)
    device = Device(toy=options.toy)
    facts = {
        "benchmark": "gpu",
        "part": options.part,
        "title": PARTS[options.part].title,
        "toy": options.toy,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"python": platform.python_version(), **device.facts()},
    }
    kept = record.Record(options.out / file_name(options.part), facts, limit_s=options.limit_s)
    module = importlib.import_module(f"zoetrope_bench.gpu.{PARTS[options.part].module}")
    good = kept.run(module.steps(kept, device, options.scratch), device.is_lost)
    signal.setitimer(signal.ITIMER_REAL, 0)
    return 0 if good else 1


def _over(*_: Any) -> None:
    raise record.OutOfTime("the time of the part is over")


if __name__ == "__main__":
    sys.exit(main())
