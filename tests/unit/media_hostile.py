"""Decode functions that misbehave on command; test_media_workers has worker processes import them."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import time

import numpy as np

from zoetrope_core.errors import InvalidImage
from zoetrope_server.media.decode import ImageLimits

KEPT: list[bytearray] = []


def decode(data: bytes, limits: ImageLimits) -> np.ndarray:
    """Do what the data says; the picture is 16x16 of the data's length where it says nothing."""
    command = data.split(b" ")[0].decode()
    COMMANDS.get(command, lambda: None)()
    if command == "shape":
        return np.zeros((16, 16, 4), np.uint8)
    if command == "pid":
        return np.frombuffer(os.getpid().to_bytes(3, "little") * 256, np.uint8).reshape(16, 16, 3)
    return np.full((16, 16, 3), len(data), np.uint8)


def refuse() -> None:
    raise InvalidImage("no such picture", field="image", value=7)


def fail() -> None:
    raise RuntimeError("a bug in the decoder")


def allocate() -> None:
    KEPT.append(bytearray(600 * 2**20))
    KEPT.append(bytearray(600 * 2**20))


def hold_the_lock() -> None:
    """Work for ever inside one call that never lets another thread of the interpreter run."""
    re.match(r"(a+)+$", "a" * 60 + "b")


COMMANDS = {
    "sleep": lambda: time.sleep(60),
    "exit": lambda: os._exit(3),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "crash": lambda: ctypes.string_at(0),
    "refuse": refuse,
    "fail": fail,
    "allocate": allocate,
    "lock": hold_the_lock,
    "brief": lambda: time.sleep(0.3),
    "second": lambda: time.sleep(1),
}
