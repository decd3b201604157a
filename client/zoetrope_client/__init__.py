"""The client of Zoetrope: a light install without torch or server parts."""

from zoetrope_client.aio import AsyncClient
from zoetrope_client.client import Client
from zoetrope_client.errors import BadResponse, ConnectionLost, ServerUnavailable
from zoetrope_client.video import Video

__all__ = ["AsyncClient", "BadResponse", "Client", "ConnectionLost", "ServerUnavailable", "Video"]
