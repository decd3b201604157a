"""What the server itself says while it is under load: its queue, and how many videos share an execution."""

from __future__ import annotations

import asyncio
import logging
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPException
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from zoetrope_bench.load.records import Sample
from zoetrope_core.specs import UNET

INFERENCES, EXECUTIONS = f"nv_inference_count:{UNET.name}", f"nv_inference_exec_count:{UNET.name}"
QUEUE = {
    "waiting": "zoetrope_waiting_requests",
    "active": "zoetrope_active_requests",
    "work_s": "zoetrope_work_seconds",
}
_WANTED = ("nv_inference_count", "nv_inference_exec_count", *QUEUE.values())
_TIMEOUT_S = 2.0
_logger = logging.getLogger(__name__)


def read_metrics(text: str) -> dict[str, float]:
    """The values that are wanted of a metrics page: by name, with `:MODEL` where there is one of each model.

    Lines of other metrics are left out before they are parsed, which would take the generator's time.
    """
    lines = (line for line in text.splitlines() if line.startswith(_WANTED))
    families = text_string_to_metric_families("\n".join(lines) + "\n")
    return {
        f"{sample.name}:{sample.labels['model']}" if "model" in sample.labels else sample.name: sample.value
        for family in families
        for sample in family.samples
    }


async def watch(url: str, clock: Callable[[], float], sink: Callable[[Sample], None], every_s: float) -> None:
    """Hands on a sample of the metrics at `http://URL/metrics` every few seconds, until cancelled.

    An endpoint that does not answer is logged once, and tried again.
    """
    failed = False
    while True:
        at = clock()
        try:
            values = read_metrics(await asyncio.to_thread(_fetch, f"http://{url}/metrics"))
            sink(Sample(at=at, values=values))
        except (OSError, ValueError, HTTPException) as error:
            if not failed:
                _logger.warning("no metrics from %s: %s", url, error)
            failed = True
        await asyncio.sleep(max(0.0, at + every_s - clock()))


def _fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
        return str(answer.read().decode())


def fold_metrics(samples: Sequence[Sample]) -> dict[str, Any]:
    """The means over a run and the series, for a run without samples nothing."""
    if not samples:
        return {}
    series = [
        {"at": sample.at, **{short: sample.values.get(name) for short, name in QUEUE.items()}}
        for sample in samples
    ]
    for entry, before, after in zip(series[1:], samples, samples[1:], strict=False):
        entry["videos_per_execution"] = per_execution(before.values, after.values)
    return {
        "samples": len(samples),
        "videos_per_execution": per_execution(samples[0].values, samples[-1].values),
        **{f"mean_{short}": _mean(entry[short] for entry in series) for short in QUEUE},
        **{f"max_{short}": max((entry[short] or 0.0 for entry in series), default=None) for short in QUEUE},
        "series": series,
    }


def per_execution(before: Mapping[str, float], after: Mapping[str, float]) -> float | None:
    """Videos that shared an execution of the UNet between two samples; None where none ran."""
    executions = after.get(EXECUTIONS, 0.0) - before.get(EXECUTIONS, 0.0)
    inferences = after.get(INFERENCES, 0.0) - before.get(INFERENCES, 0.0)
    return inferences / executions if executions > 0 else None


def _mean(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
