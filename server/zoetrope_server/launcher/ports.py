"""Ports to listen on."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import ExitStack

from zoetrope_server.launcher.errors import LaunchError


def choose_ports(host: str, wanted: Mapping[str, int]) -> dict[str, int]:
    """Real ports for the wanted ones, by name; 0 becomes a free one. All are different.

    Raises:
        LaunchError: a wanted port is taken or may not be used.
    """
    with ExitStack() as held:
        # All are held until all are chosen, so that no two zeros get the same port.
        return {name: _bind(held, host, name, port) for name, port in wanted.items()}


def connectable(host: str) -> str:
    """The address on which a server that listens on `host` is reached from this machine."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)


def address(host: str, port: int) -> str:
    """`host:port` for a client on this machine, with brackets around an IPv6 address."""
    reachable = connectable(host)
    return f"[{reachable}]:{port}" if ":" in reachable else f"{reachable}:{port}"


def _bind(held: ExitStack, host: str, name: str, port: int) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = held.enter_context(socket.socket(family, socket.SOCK_STREAM))
    # As servers do: a port whose last connections are still closing may be taken again.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        raise LaunchError(
            f"cannot listen on {host}:{port} for {name} ({error}): "
            f"choose another with --{name}-port, or 0 for any"
        ) from error
    listener.listen(1)
    return int(listener.getsockname()[1])
