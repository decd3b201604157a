"""How a client reaches its server: address, TLS, compression, keepalive, message sizes, headers."""

from __future__ import annotations

import inspect
import os
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import grpc

from zoetrope_client import codec
from zoetrope_client.retry import Clock

Pem: TypeAlias = str | os.PathLike[str] | bytes
"""A file in PEM format: its path, or its content as bytes."""
HeaderValues: TypeAlias = Mapping[str, str | bytes]
Headers: TypeAlias = HeaderValues | Callable[[], HeaderValues | Awaitable[HeaderValues]]
"""Headers of every call; a function is asked anew for each attempt, such as for a token that expires."""
Compression: TypeAlias = Literal["gzip", "deflate"]
USUAL_URL = "127.0.0.1:8001"
Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """TLS, and with a key and its chain mutual TLS.

    Attributes:
        root_certificates: whom to trust; the system's without.
        private_key: the client's own key.
        certificate_chain: the client's own certificate and those that it rests on.
        server_name: the name that the server's certificate must have, where the address has another.
    """

    root_certificates: Pem | None = None
    private_key: Pem | None = None
    certificate_chain: Pem | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.private_key is None) != (self.certificate_chain is None):
            raise ValueError("tls: a private key and its certificate chain go together")

    def credentials(self) -> Any:
        """The `grpc.ChannelCredentials`; raises OSError for a file that cannot be read."""
        pems = (self.root_certificates, self.private_key, self.certificate_chain)
        return grpc.ssl_channel_credentials(*map(_content, pems))


class BaseTransport(ABC):
    """What carries the calls of a client; `Transport` does so over the network.

    Attributes:
        url: the server's address, for messages.
        clock: the time that the client's deadlines and pauses go by.
    """

    url: str
    clock: Clock = Clock()

    @abstractmethod
    def channel(self, kind: Any) -> Any:
        """A channel, which connects by its first call.

        Args:
            kind: the module `grpc`, or `grpc.aio` for a channel that belongs to the running event loop.
        """


class Transport(BaseTransport):
    """Opens gRPC channels to an address."""

    def __init__(
        self,
        url: str = USUAL_URL,
        *,
        credentials: Tls | grpc.ChannelCredentials | None = None,
        compression: Compression | None = None,
        keepalive_s: float | None = codec.KEEPALIVE_S,
        max_message_bytes: int | None = None,
        channel_args: Iterable[tuple[str, Any]] = (),
    ) -> None:
        """Takes the arguments of `Client`.

        Raises:
            OSError: a certificate or key cannot be read.
            ValueError: there is no such compression.
        """
        self.url = url
        self._credentials = credentials.credentials() if isinstance(credentials, Tls) else credentials
        self._compression = _algorithm(compression)
        name = credentials.server_name if isinstance(credentials, Tls) else None
        own = {} if name is None else {"grpc.ssl_target_name_override": name}
        self._options = codec.channel_options(
            {**own, **dict(channel_args)}, keepalive_s=keepalive_s, max_message_bytes=max_message_bytes
        )

    def channel(self, kind: Any) -> Any:
        """A channel with the settings of this transport; see `BaseTransport.channel`."""
        settings = {"options": self._options, "compression": self._compression}
        if self._credentials is None:
            return kind.insecure_channel(self.url, **settings)
        return kind.secure_channel(self.url, self._credentials, **settings)


def resolve(transport: BaseTransport | None, **settings: Any) -> BaseTransport:
    """The transport that is given, or else a `Transport` with these settings.

    Raises:
        ValueError: a transport is given, and a setting that it does not see.
    """
    if transport is None:
        return Transport(**settings)
    usual = inspect.signature(Transport).parameters
    if unseen := [name for name, value in settings.items() if value != usual[name].default]:
        raise ValueError(f"{unseen[0]}: the transport has its own; set it there")
    return transport


def ask_headers(headers: Headers | None) -> Metadata:
    """The headers of the next call; raises TypeError for a provider that is a coroutine function."""
    values = headers() if callable(headers) else headers
    if isinstance(values, Awaitable):
        if hasattr(values, "close"):
            values.close()  # or Python warns that it was never awaited
        raise TypeError("a header provider that is a coroutine function needs AsyncClient")
    return _lowered(values)


async def ask_headers_async(headers: Headers | None) -> Metadata:
    """The headers of the next call, from a function or a coroutine function."""
    values = headers() if callable(headers) else headers
    return _lowered(await values if isinstance(values, Awaitable) else values)


_COMPRESSIONS: Mapping[str, Any] = {
    "gzip": grpc.Compression.Gzip,
    "deflate": grpc.Compression.Deflate,
}


def _algorithm(compression: Compression | None) -> Any:
    if compression is not None and compression not in _COMPRESSIONS:
        known = ", ".join(_COMPRESSIONS)
        raise ValueError(f"compression: got {compression!r}, allowed is one of {known}")
    return None if compression is None else _COMPRESSIONS[compression]


def _lowered(values: HeaderValues | None) -> Metadata:
    """HTTP/2 has names in lower case only, and gRPC refuses others."""
    return tuple((name.lower(), value) for name, value in (values or {}).items())


def _content(pem: Pem | None) -> bytes | None:
    return pem if pem is None or isinstance(pem, bytes) else Path(pem).read_bytes()
