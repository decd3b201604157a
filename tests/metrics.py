"""The metrics of a running server."""

import re
import urllib.request


def metric(server, name, **labels):
    """The value of a metric with these labels; 0.0 where nothing was counted yet."""
    with urllib.request.urlopen(f"http://{server.ports['metrics']}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    for found, value in re.findall(rf"^{name}(\{{.*\}})? (\S+)$", text, re.MULTILINE):
        if all(f'{label}="{wanted}"' in found for label, wanted in labels.items()):
            return float(value)
    return 0.0


def active(server):
    """Requests that the server runs."""
    return metric(server, "zoetrope_active_requests")


def busy(server):
    """Requests that the server runs or keeps waiting."""
    return active(server) + metric(server, "zoetrope_waiting_requests")
