"""Other load generators against the same server: how they are called, and what they say.

perf_analyzer comes with the wheel of tritonclient 2.51.0, locust with its own. Both live in a virtual
environment apart (`make tools`), since they want other versions of what is installed here.

    python -m zoetrope_bench.load.foreign PICTURE --steps 4 > input.json    # for perf_analyzer
"""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from zoetrope_bench.load.statistics import quantile
from zoetrope_core.contract import MODEL, UNARY_MODEL

LOCUSTFILE = Path(__file__).parents[2] / "locustfile.py"
STREAMING = ("--async", "--streaming")
_PATIENCE_S = 300.0


class ToolFailed(RuntimeError):
    """A tool is not there or ended with an error; the message says which, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a tool says of its run.

    Attributes:
        requests: how many it counts.
        per_s: its throughput.
        mean: its mean latency in seconds.
        p50: its median.
        p95: its 95th percentile.
        first: the median to the first response, as far as it keeps that.
        last: the median to the last response, likewise.
    """

    requests: int
    per_s: float
    mean: float
    p50: float
    p95: float
    first: float | None = None
    last: float | None = None


def input_data(picture: bytes, fields: Mapping[str, Any]) -> dict[str, Any]:
    """perf_analyzer's `--input-data` for both entry models; JSON has no bytes, so the picture is base64."""
    image = {"content": [base64.b64encode(picture).decode()], "shape": [1]}
    request = {"content": [json.dumps(dict(fields))], "shape": [1]}
    return {"data": [{"image": image, "request": request}]}


def library_path(tools: Path) -> str:
    """The value of LD_LIBRARY_PATH with which perf_analyzer starts: it needs libcudart even without a GPU."""
    found = sorted(tools.glob("lib/python*/site-packages/nvidia/cuda_runtime/lib"))
    return os.pathsep.join(filter(None, (*map(str, found), os.environ.get("LD_LIBRARY_PATH"))))


def perf_analyzer(tools: Path, url: str, data: Path, *load: str, streaming: bool) -> Outcome:
    """Runs perf_analyzer.

    Args:
        tools: the virtual environment that has it.
        url: HOST:PORT of the gRPC endpoint.
        data: a file of `input_data`.
        load: its options for the load, such as `--concurrency-range 2 --request-count 20`.
        streaming: the decoupled model; the unary one without.

    Raises:
        ToolFailed: it is not there or ended with an error.
    """
    table, profile = data.with_suffix(".csv"), data.with_suffix(".profile.json")
    command = [
        *(str(tools / "bin" / "perf_analyzer"), "-m", MODEL if streaming else UNARY_MODEL, "-u", url),
        *("-i", "grpc", *(STREAMING if streaming else ("--async",)), "--input-data", str(data)),
        *("-f", str(table), "--profile-export-file", str(profile), *load),
    ]
    profile.unlink(missing_ok=True)  # it refuses one that is there
    _run(command, {"LD_LIBRARY_PATH": library_path(tools)})
    return read_perf_analyzer(table.read_text(), json.loads(profile.read_text()))


def read_perf_analyzer(table: str, profile: Mapping[str, Any]) -> Outcome:
    """What its table says (microseconds), and the times of responses in its profile (nanoseconds)."""
    (row,) = csv.DictReader(io.StringIO(table))
    requests = profile["experiments"][0]["requests"]
    answered = [entry for entry in requests if entry["response_timestamps"]]
    first = [(entry["response_timestamps"][0] - entry["timestamp"]) / 1e9 for entry in answered]
    last = [(entry["response_timestamps"][-1] - entry["timestamp"]) / 1e9 for entry in answered]
    return Outcome(
        requests=len(requests),
        per_s=float(row["Inferences/Second"]),
        mean=sum(map(float, (row[name] for name in _PARTS))) / 1e6,
        p50=float(row["p50 latency"]) / 1e6,
        p95=float(row["p95 latency"]) / 1e6,
        first=quantile(first, 0.5).value,
        last=quantile(last, 0.5).value,
    )


_PARTS = (
    "Client Send",
    "Network+Server Send/Recv",
    "Server Queue",
    "Server Compute Input",
    "Server Compute Infer",
    "Server Compute Output",
    "Client Recv",
)
"""What its mean is made of in the table, in microseconds."""


def locust(tools: Path, url: str, *, users: int, seconds: float, environment: Mapping[str, str]) -> Outcome:
    """Runs locust with `benchmarks/locustfile.py`; raises ToolFailed."""
    if not LOCUSTFILE.exists():
        raise ToolFailed(f"no {LOCUSTFILE}: the locust file is in the repository, not in the package")
    command = [
        *(str(tools / "bin" / "locust"), "-f", str(LOCUSTFILE), "--headless", "--json", "--only-summary"),
        *("--users", str(users), "--spawn-rate", str(users), "--run-time", f"{seconds:g}s", "--host", url),
    ]
    return read_locust(json.loads(_run(command, environment)))


def read_locust(body: Sequence[Mapping[str, Any]]) -> Outcome:
    """What its summary says; it keeps latencies in milliseconds, rounded to two digits."""
    if not body:
        raise ToolFailed("locust: no request ended")
    (entry,) = body
    counts = {float(key): int(value) for key, value in entry["response_times"].items()}
    values = [key / 1000 for key, value in counts.items() for _ in range(value)]
    count = int(entry["num_requests"])
    seconds = float(entry["last_request_timestamp"]) - float(entry["start_time"])
    return Outcome(
        requests=count,
        per_s=count / seconds,
        mean=float(entry["total_response_time"]) / count / 1000,
        p50=quantile(values, 0.5).value,
        p95=quantile(values, 0.95).value,
    )


def _run(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """Its standard output; raises ToolFailed."""
    name = Path(command[0]).name
    try:
        ran = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            env={**os.environ, **environment},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolFailed(f"{name}: {error}") from error
    if ran.returncode:
        raise ToolFailed(f"{name} ended with status {ran.returncode}: {_end(ran.stderr or ran.stdout)}")
    return ran.stdout


def _end(text: str) -> str:
    """The words of a failure, without the whole help that may follow it."""
    return text.partition("Usage:")[0].strip()[-1500:]


def main(
    picture: Annotated[Path, typer.Argument(help="the picture", exists=True, dir_okay=False)],
    steps: Annotated[int, typer.Option(help="denoising steps")] = 25,
    seed: Annotated[int, typer.Option(help="of the noise")] = 1,
) -> None:
    """Prints perf_analyzer's input data for a picture."""
    fields = {"num_inference_steps": steps, "seed": seed}
    typer.echo(json.dumps(input_data(picture.read_bytes(), fields)))


if __name__ == "__main__":
    typer.run(main)
