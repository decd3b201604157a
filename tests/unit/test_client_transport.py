"""Headers, compression, message sizes and what the server says of itself, for both clients."""

import asyncio
import inspect
import json
import socket
import threading
import typing
from contextlib import contextmanager, suppress

import grpc
import grpc_server as scripts
import pytest
from grpc_server import METADATA, Mocked, serving

from zoetrope_client import (
    AsyncClient,
    BadResponse,
    Client,
    Metadata,
    Retry,
    ServerUnavailable,
    Tls,
    Transport,
)
from zoetrope_client.errors import NotServed, ZoetropeError

IMAGE = b"\x89PNG not decoded here"
PUBLIC = ["__init__", "close", "generate", "health", "metadata", "stream"]


def run(kind, server, method="generate", *arguments, **settings):
    """One call of either client to an address, or by a transport."""
    settings |= {"url": server} if isinstance(server, str) else {"transport": server}

    async def asynchronously():
        async with AsyncClient(**settings) as client:
            return await getattr(client, method)(*arguments)

    if kind is AsyncClient:
        return asyncio.run(asynchronously())
    with Client(**settings) as client:
        return getattr(client, method)(*arguments)


both = pytest.mark.parametrize("kind", [Client, AsyncClient])


def public(kind):
    return sorted(name for name, value in vars(kind).items() if callable(value) and not name.startswith("_"))


def test_the_clients_have_the_same_public_methods():
    assert public(Client) == public(AsyncClient) == sorted(set(PUBLIC) - {"__init__"})


@pytest.mark.parametrize("name", PUBLIC)
def test_the_clients_have_the_same_signatures(name):
    methods = [getattr(kind, name) for kind in (Client, AsyncClient)]
    one, other = (inspect.signature(method, eval_str=True) for method in methods)
    assert list(one.parameters.values()) == list(other.parameters.values()), "names, kinds, defaults, types"
    if name == "stream":
        one_events, other_events = (typing.get_args(each.return_annotation)[0] for each in (one, other))
        assert one_events == other_events
    else:
        assert one.return_annotation == other.return_annotation


@both
def test_a_header_provider_is_asked_for_each_attempt(kind):
    numbers = iter(range(9))
    refusals = iter([True, True, False])

    def script(*arguments):
        if next(refusals):
            arguments[-1].abort(grpc.StatusCode.UNAVAILABLE, "not yet")
        yield from scripts.normal(*arguments)

    retry = Retry(attempts=3, first_s=0, longest_s=0)
    with serving(script) as server:
        run(
            kind, server.url, "generate", IMAGE, retry=retry, headers=lambda: {"X-Number": str(next(numbers))}
        )
    assert [each["x-number"] for each in server.metadata] == ["0", "1", "2"]


def test_a_provider_may_be_a_coroutine_function_of_the_asynchronous_client():
    async def headers():
        await asyncio.sleep(0)
        return {"authorization": "Bearer y"}

    server = Mocked(scripts.normal)
    run(AsyncClient, server, "generate", IMAGE, headers=headers)
    with pytest.raises(TypeError, match="needs AsyncClient"):
        run(Client, server, "generate", IMAGE, headers=headers)
    assert server.headers == [{"authorization": "Bearer y"}]


@both
def test_what_a_provider_raises_is_the_callers(kind):
    def headers():
        raise LookupError("no token")

    server = Mocked(scripts.normal)
    with pytest.raises(LookupError, match="no token"):
        run(kind, server, "generate", IMAGE, headers=headers)
    assert server.calls == []


@contextmanager
def counting(url):
    """A way to a server that counts the bytes which go there."""
    host, port = url.split(":")
    counted, open_sockets = [], []

    def pass_on(source, target, count):
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if count:
                    counted.append(len(data))
                target.sendall(data)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def accept(listening):
        with suppress(OSError):
            while True:
                near, far = listening.accept()[0], socket.create_connection((host, int(port)))
                open_sockets.extend((near, far))
                for pair in ((near, far, True), (far, near, False)):
                    threading.Thread(target=pass_on, args=pair, daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=accept, args=(listening,), daemon=True).start()
        try:
            yield f"127.0.0.1:{listening.getsockname()[1]}", counted
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            for each in open_sockets:
                each.close()


@both
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_compression_makes_less_of_it_travel(kind, compression):
    def script(servicer, image, request, context):
        yield scripts.done(request, b"")

    image = b"\x89PNG" + bytes(500_000)
    with serving(script) as server, counting(server.url) as (url, counted):
        assert run(kind, url, "generate", image, compression=compression).id == "r1"
    assert server.requests[0][0] == image
    assert sum(counted) < 20_000 if compression else sum(counted) > 500_000


def test_an_unknown_compression_is_refused():
    with pytest.raises(ValueError, match="compression: got 'zip'"):
        Client(compression="zip")


@both
def test_message_sizes_are_bounded_where_asked(kind):
    with serving(scripts.normal) as server:
        assert run(kind, server.url, "generate", IMAGE).data
        with pytest.raises(ZoetropeError):
            run(kind, server.url, "generate", b"\x89PNG" + bytes(5000), max_message_bytes=4000)


@both
def test_metadata_is_read(kind):
    with serving(scripts.normal) as server:
        server.told = METADATA.to_json()
        assert run(kind, server.url, "metadata", headers={"a": "b"}) == METADATA
    assert server.metadata[0]["a"] == "b"


@both
@pytest.mark.parametrize(
    ("told", "error"),
    [
        (None, NotServed),
        ("", BadResponse),
        ("[]", BadResponse),
        (json.dumps({"version": 2}), BadResponse),
        (json.dumps({"version": 1}), BadResponse),
        (json.dumps({**json.loads(METADATA.to_json()), "sizes": [1]}), BadResponse),
        (json.dumps({**json.loads(METADATA.to_json()), "fields": [1]}), BadResponse),
    ],
)
def test_metadata_that_is_none_is_an_error(kind, told, error):
    server = Mocked(scripts.normal, metadata=told)
    with pytest.raises(error):
        run(kind, server, "metadata")


@both
def test_no_server_has_no_metadata(kind):
    with pytest.raises(ServerUnavailable):
        run(kind, "127.0.0.1:1", "metadata", retry=Retry(attempts=2, first_s=0))


def test_metadata_of_a_newer_server_is_read():
    body = json.loads(METADATA.to_json())
    body["motion_masks"] = True
    body["limits"]["tenants"] = 3
    body["fields"]["fps"]["unit"] = "1/s"
    body["formats"]["avif"] = {"media_type": "image/avif", "suffixes": [".avif"], "hdr": True}
    read = Metadata.from_json(json.dumps(body))
    assert read.limits == METADATA.limits and read.fields == METADATA.fields
    assert read.formats["avif"].suffixes == (".avif",)
    assert (read.samplers[0], read.schedules[0]) == ("euler", "karras")


@both
@pytest.mark.parametrize(
    "setting",
    [
        {"url": "other:8001"},
        {"credentials": Tls()},
        {"compression": "gzip"},
        {"keepalive_s": 1.0},
        {"max_message_bytes": 9},
        {"channel_args": [("grpc.x", 1)]},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_a_setting_that_the_transport_would_not_see_is_refused(kind, setting):
    (name,) = setting
    with pytest.raises(ValueError, match=f"^{name}: the transport has its own"):
        kind(transport=Mocked(scripts.normal), **setting)


def test_a_transport_may_put_interceptors_before_its_channel():
    class Counting(Transport, grpc.UnaryUnaryClientInterceptor):
        asked = ()

        def channel(self, kind):
            return kind.intercept_channel(super().channel(kind), self)

        def intercept_unary_unary(self, continuation, details, request):
            self.asked += (details.method.rpartition("/")[2],)
            return continuation(details, request)

    with serving(scripts.normal) as server:
        transport = Counting(server.url)
        assert run(Client, transport, "health") and transport.asked == ("ServerReady",)


def test_half_a_pair_of_keys_is_refused():
    with pytest.raises(ValueError, match="go together"):
        Tls(private_key=b"key")


def test_certificates_that_cannot_be_read_are_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        Client(credentials=Tls(root_certificates=tmp_path / "no.pem"))
