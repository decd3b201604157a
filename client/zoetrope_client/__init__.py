"""The client of Zoetrope: a light install without torch or server parts."""

from zoetrope_client.aio import AsyncClient
from zoetrope_client.client import Client
from zoetrope_client.errors import BadResponse, ConnectionLost, ServerUnavailable
from zoetrope_client.events import (
    Accepted,
    Done,
    Event,
    Fragment,
    Frames,
    Heartbeat,
    Preview,
    Progress,
    Warned,
)
from zoetrope_client.retry import Retry
from zoetrope_client.transport import BaseTransport, Tls, Transport
from zoetrope_client.video import Video
from zoetrope_core.metadata import Metadata
from zoetrope_core.request import GenerateRequest

__all__ = [
    "Accepted",
    "AsyncClient",
    "BadResponse",
    "BaseTransport",
    "Client",
    "ConnectionLost",
    "Done",
    "Event",
    "Fragment",
    "Frames",
    "GenerateRequest",
    "Heartbeat",
    "Metadata",
    "Preview",
    "Progress",
    "Retry",
    "ServerUnavailable",
    "Tls",
    "Transport",
    "Video",
    "Warned",
]
