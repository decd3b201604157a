import socket

import pytest

from zoetrope_server.launcher.errors import LaunchError
from zoetrope_server.launcher.ports import address, choose_ports, connectable, is_loopback, resolve


def test_zeros_become_different_free_ports():
    ports = choose_ports("127.0.0.1", dict.fromkeys("abcdefgh", 0))
    assert len(set(ports.values())) == 8
    assert all(1024 <= port < 65536 for port in ports.values())


def test_a_wanted_port_is_kept():
    (free,) = choose_ports("127.0.0.1", {"x": 0}).values()
    assert choose_ports("127.0.0.1", {"grpc": free, "http": 0})["grpc"] == free


def test_a_taken_port_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(LaunchError, match=rf"127.0.0.1:{port} for grpc .*--grpc-port, or 0"):
            choose_ports("127.0.0.1", {"grpc": port})


def test_the_same_port_twice_is_refused():
    (free,) = choose_ports("127.0.0.1", {"x": 0}).values()
    with pytest.raises(LaunchError, match="for http"):
        choose_ports("127.0.0.1", {"grpc": free, "http": free})


def test_an_address_that_is_not_ours_is_refused():
    with pytest.raises(LaunchError, match=r"192.0.2.1:0"):
        choose_ports("192.0.2.1", {"grpc": 0})


@pytest.mark.parametrize(
    ("host", "reached"),
    [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("127.0.0.1", "127.0.0.1"), ("10.0.0.3", "10.0.0.3")],
)
def test_connectable(host, reached):
    assert connectable(host) == reached


def test_address_puts_brackets_around_ipv6():
    assert address("::", 80) == "[::1]:80"
    assert address("0.0.0.0", 80) == "127.0.0.1:80"


@pytest.mark.parametrize(
    ("host", "number"),
    [
        ("127.0.0.1", "127.0.0.1"),
        (" 127.0.0.1 ", "127.0.0.1"),
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("localhost", "127.0.0.1"),
        ("0", "0.0.0.0"),
        ("127.1", "127.0.0.1"),
        ("::", "::"),
    ],
)
def test_a_host_becomes_a_number(host, number):
    assert resolve(host) == number


@pytest.mark.parametrize(
    "host", ["", "  ", "[]", "fe80::1%lo", "nowhere.invalid", "1.2.3.4.5", "a b", "é" * 70]
)
def test_what_is_no_address_is_refused_with_its_flag(host):
    with pytest.raises(LaunchError, match="^--http-host "):
        resolve(host, "--http-host")


@pytest.mark.parametrize(
    ("address", "closed"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("0.0.0.0", False), ("::", False)],
)
def test_loopback(address, closed):
    assert is_loopback(address) is closed


def test_ports_of_several_addresses():
    ports = choose_ports({"grpc": "::1", "http": "127.0.0.1"}, {"grpc": 0, "http": 0})
    assert set(ports) == {"grpc", "http"}


def test_a_taken_port_of_ipv6_has_brackets():
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(LaunchError, match=rf"cannot listen on \[::1\]:{port} for grpc"):
            choose_ports("::1", {"grpc": port})
