"""Locust users who ask for videos: each waits for one, thinks, and asks for the next (a closed loop).

    locust -f benchmarks/locustfile.py --headless --users 4 --run-time 60s --host 127.0.0.1:8001

ZOETROPE_IMAGE names the picture (the demo photo without), ZOETROPE_STEPS the denoising steps, ZOETROPE_THINK
the mean seconds between two requests of a user (0 without). It needs locust, and zoetrope without extras.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Any

import grpc.experimental.gevent

# Before a channel is made: otherwise the first call blocks every user.
grpc.experimental.gevent.init_gevent()

from locust import User, task  # noqa: E402

from zoetrope_client import Client  # noqa: E402
from zoetrope_core.errors import ZoetropeError  # noqa: E402

PHOTO = Path(os.environ.get("ZOETROPE_IMAGE", Path(__file__).parents[1] / "demo" / "photo.jpg"))
STEPS = int(os.environ.get("ZOETROPE_STEPS", "25"))
THINK_S = float(os.environ.get("ZOETROPE_THINK", "0"))


class Viewer(User):
    """Asks for one video after the other; `--host` is HOST:PORT of the gRPC endpoint."""

    def wait_time(self) -> float:
        """Seconds to think."""
        return random.expovariate(1 / THINK_S) if THINK_S else 0.0

    def on_start(self) -> None:
        """Connects."""
        self._photo = PHOTO.read_bytes()
        self._client = Client(self.host)

    def on_stop(self) -> None:
        """Leaves; what still runs is cancelled."""
        self._client.close()

    @task
    def video(self) -> None:
        """One video, from sending to `done`."""
        outcome: dict[str, Any] = {"exception": None, "response_length": 0}
        began = time.perf_counter()
        try:
            video = self._client.generate(self._photo, num_inference_steps=STEPS)
            outcome["response_length"] = len(video.data)
        except ZoetropeError as error:
            outcome["exception"] = error
        self.environment.events.request.fire(
            request_type="grpc",
            name="image_to_video",
            response_time=1000 * (time.perf_counter() - began),
            **outcome,
        )
