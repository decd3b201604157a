import http.client
import json
import socket

import pytest

from zoetrope_server.launcher.errors import LaunchError
from zoetrope_server.launcher.health import Health, HealthServer, Phase
from zoetrope_server.launcher.ports import choose_ports


@pytest.fixture
def probe():
    """Asks a health server that reports whatever `probe.health` is."""
    port = choose_ports("127.0.0.1", {"health": 0})["health"]

    def ask(path, method="GET"):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request(method, path)
        response = connection.getresponse()
        body = response.read()
        connection.close()
        return response.status, json.loads(body) if body else None

    ask.port = port
    ask.health = Health(phase=Phase.READY)
    with HealthServer("127.0.0.1", port, lambda: ask.health):
        yield ask


@pytest.mark.parametrize(
    ("phase", "reason", "live", "ready"),
    [
        (Phase.STARTING, "loading", 200, 503),
        (Phase.READY, "", 200, 200),
        (Phase.READY, "stage process unet (pid 3) died", 200, 503),
        (Phase.DRAINING, "shutting down", 200, 503),
        (Phase.RESTARTING, "unet died", 200, 503),
        (Phase.FAILED, "unet died", 503, 503),
    ],
)
def test_codes_and_bodies(probe, phase, reason, live, ready):
    probe.health = Health(phase=phase, reason=reason)
    body = {"status": phase.value} | ({"reason": reason} if reason else {})
    assert probe("/livez") == (live, body)
    assert probe("/readyz?verbose") == (ready, body)


def test_head_has_no_body(probe):
    assert probe("/readyz", "HEAD") == (200, None)


def test_other_paths(probe):
    status, body = probe("/")
    assert status == 404
    assert "/readyz" in body["reason"]


def test_a_silent_client_does_not_block_the_others(probe):
    with socket.create_connection(("127.0.0.1", probe.port)):
        assert probe("/livez")[0] == 200


def test_a_taken_port(probe):
    with pytest.raises(LaunchError, match=f"{probe.port} for health"):
        HealthServer("127.0.0.1", probe.port, lambda: probe.health)
