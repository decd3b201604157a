"""docs/observability.md lists the metrics that there are."""

import re
from pathlib import Path

from zoetrope_server.metrics import METRICS, STAGE_METRICS

PAGE = (Path(__file__).parents[2] / "docs" / "observability.md").read_text()


def test_the_metrics_are_those_of_the_code():
    found = re.findall(r"^\| `(zoetrope_\w+)`(?: by `(\w+)`)? \| (\w+) \| (.*) \|$", PAGE, re.MULTILINE)
    metrics = METRICS | STAGE_METRICS
    assert found == [(name, each.label, each.kind, each.help) for name, each in metrics.items()]
