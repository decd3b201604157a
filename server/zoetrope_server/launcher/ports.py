"""Addresses and ports to listen on."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping
from contextlib import ExitStack

from zoetrope_server.launcher.errors import LaunchError


def choose_ports(host: str | Mapping[str, str], wanted: Mapping[str, int]) -> dict[str, int]:
    """Real ports for the wanted ones, by name; 0 becomes a free one. All are different.

    Args:
        host: the numeric address of all, or of each by name.
        wanted: the ports.

    Raises:
        LaunchError: a wanted port is taken or may not be used.
    """
    with ExitStack() as held:
        # All are held until all are chosen, so that no two zeros get the same port.
        return {
            name: _bind(held, host if isinstance(host, str) else host[name], name, port)
            for name, port in wanted.items()
        }


def resolve(host: str, flag: str = "--host") -> str:
    """The numeric address that a host stands for on this machine; of several an IPv4 one.

    Triton takes numbers alone: of a name its HTTP server makes 255.255.255.255.

    Args:
        host: an IPv4 or IPv6 address, with brackets or without, or a name.
        flag: where it comes from, for the message.

    Raises:
        LaunchError: it is empty, is not an address, has a zone, or is unknown.
    """
    bare = host.strip().removeprefix("[").removesuffix("]")
    if not bare:
        raise LaunchError(f"{flag} is empty: give an address, or leave it out for loopback")
    if "%" in bare:
        raise LaunchError(f"{flag} {host} has a zone, which Triton does not know: give another address")
    try:
        found = socket.getaddrinfo(bare, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise LaunchError(f"{flag} {host} is not an address of this machine ({error})") from error
    first = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    return str(ipaddress.ip_address(first[4][0]))


def is_loopback(address: str) -> bool:
    """Whether only this machine can connect to a numeric address."""
    return ipaddress.ip_address(address).is_loopback


def connectable(host: str) -> str:
    """The address on which a server that listens on `host` is reached from this machine."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def address(host: str, port: int) -> str:
    """`host:port` for a client on this machine, with brackets around an IPv6 address."""
    return joined(connectable(host), port)


def joined(host: str, port: int) -> str:
    """`host:port`, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _bind(held: ExitStack, host: str, name: str, port: int) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = held.enter_context(socket.socket(family, socket.SOCK_STREAM))
    # As servers do: a port whose last connections are still closing may be taken again.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        raise LaunchError(
            f"cannot listen on {joined(host, port)} for {name} ({error}): "
            f"choose another with --{name}-port, or 0 for any"
        ) from error
    listener.listen(1)
    return int(listener.getsockname()[1])
