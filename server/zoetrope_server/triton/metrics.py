"""Metrics on Triton's own Prometheus endpoint."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import triton_python_backend_utils as pb_utils

from zoetrope_server.metrics import METRICS, Metric

_logger = logging.getLogger(__name__)


class TritonMetrics:
    """See `zoetrope_server.metrics.Metrics`. A metric that cannot be updated never ends a request."""

    def __init__(self, metrics: Mapping[str, Metric] = METRICS) -> None:
        """Registers all families; those without a label begin at 0."""
        self._facts = metrics
        self._families = {
            name: pb_utils.MetricFamily(
                name=name, description=metric.help, kind=getattr(pb_utils.MetricFamily, metric.kind.upper())
            )
            for name, metric in metrics.items()
        }
        self._metrics: dict[tuple[str, str], Any] = {}
        for name, metric in metrics.items():
            if not metric.label:
                self._metric(name, "")

    def add(self, name: str, value: float = 1.0, label: str = "") -> None:
        """Adds to a counter."""
        self._update("increment", name, value, label)

    def set(self, name: str, value: float) -> None:
        """Sets a gauge."""
        self._update("set", name, value, "")

    def observe(self, name: str, value: float, label: str = "") -> None:
        """Adds an observation to a histogram."""
        self._update("observe", name, value, label)

    def close(self) -> None:
        """Lets go of all: metrics before their families."""
        self._metrics.clear()
        self._families.clear()

    def _update(self, operation: str, name: str, value: float, label: str) -> None:
        try:
            getattr(self._metric(name, label), operation)(value)
        except Exception:
            _logger.exception("metric %s was not updated", name)

    def _metric(self, name: str, label: str) -> Any:
        if (name, label) not in self._metrics:
            facts = self._facts[name]
            options = {"buckets": list(facts.buckets)} if facts.buckets else {}
            labels = {facts.label: label} if facts.label else {}
            self._metrics[name, label] = self._families[name].Metric(labels=labels, **options)
        return self._metrics[name, label]
