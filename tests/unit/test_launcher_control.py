"""The control client against the real control server, and against sockets that misbehave."""

import socket
import threading
import time
from contextlib import contextmanager

import pytest

from zoetrope_server.control import ControlServer
from zoetrope_server.launcher.control import ControlClient, Status
from zoetrope_server.launcher.errors import ControlError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "control.sock"


@contextmanager
def answering(path, answer):
    """A server that sends the same bytes to everybody, or None to stay silent."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        held = []

        def serve():
            connection, _ = listener.accept()
            held.append(connection)
            if answer is not None:
                connection.recv(4096)
                connection.sendall(answer)
                connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            thread.join(5)
            for connection in held:
                connection.close()


def test_operations(path):
    seen = []

    def note(name, answer):
        return lambda body: seen.append((name, dict(body))) or answer

    operations = {
        "status": note("status", {"active": 2, "waiting": 3, "draining": True}),
        "drain": note("drain", {}),
        "fail": note("fail", {}),
        "cancel": note("cancel", {"found": True}),
    }
    server = ControlServer(path, operations)
    try:
        client = ControlClient(path=path)
        assert client.exists()
        assert client.status() == Status(active=2, waiting=3, draining=True)
        client.drain()
        client.fail("unet died")
        assert client.cancel("r1") is True
    finally:
        server.close()
    assert seen == [
        ("status", {"op": "status"}),
        ("drain", {"op": "drain"}),
        ("fail", {"op": "fail", "reason": "unet died"}),
        ("cancel", {"op": "cancel", "id": "r1"}),
    ]
    assert not client.exists()


def test_an_unknown_operation_is_refused(path):
    server = ControlServer(path, {})
    try:
        with pytest.raises(ControlError, match="status was refused"):
            ControlClient(path=path).status()
    finally:
        server.close()


def test_nobody_there(path):
    client = ControlClient(path=path)
    assert not client.exists()
    with pytest.raises(ControlError, match="FileNotFoundError"):
        client.drain()


def test_the_socket_of_a_dead_process(path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    began = time.monotonic()
    with pytest.raises(ControlError, match="ConnectionRefusedError"):
        ControlClient(path=path).fail("x")
    assert time.monotonic() - began < 0.5


def test_a_silent_server_costs_no_more_than_the_timeout(path):
    with answering(path, None):
        began = time.monotonic()
        with pytest.raises(ControlError, match="TimeoutError"):
            ControlClient(path=path, timeout_s=0.2).drain()
        assert time.monotonic() - began < 1


@pytest.mark.parametrize(
    "answer", [b"", b"nonsense\n", b"[1]\n", b"{}\n", b'{"ok": false, "error": "no"}\n', b"\xff\n"]
)
def test_nonsense_is_an_error(path, answer):
    with answering(path, answer), pytest.raises(ControlError, match="drain"):
        ControlClient(path=path).drain()


@pytest.mark.parametrize(
    "answer", [b'{"ok": true}\n', b'{"ok": true, "active": null, "waiting": 0, "draining": 0}\n']
)
def test_an_incomplete_status_is_an_error(path, answer):
    with answering(path, answer), pytest.raises(ControlError, match="incomplete"):
        ControlClient(path=path).status()


@pytest.mark.parametrize(("active", "waiting", "idle"), [(0, 0, True), (1, 0, False), (0, 1, False)])
def test_idle(active, waiting, idle):
    assert Status(active=active, waiting=waiting, draining=True).idle is idle
