"""The settings of the orchestrator process, from the environment (`ZOETROPE_…`)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class OrchestratorSettings(BaseSettings):
    """How much the orchestrator takes at once.

    Attributes:
        max_active: requests that run at the same time.
        max_waiting: requests that wait; more are refused at once.
        decode_workers: processes that decode images.
        media_threads: threads that fit images and encode videos.
        hardware_encoders: `auto` tries the GPU's video encoders (NVENC) before the software; their files are
            others, and not promised to be equal for equal frames.
        start_timeout_s: how long a stage may take over a shape that it meets for the first time, as its
            model may take to load.
        control_socket: Unix socket on which the supervisor and the unary model speak to the orchestrator.
    """

    model_config = SettingsConfigDict(env_prefix="ZOETROPE_", env_ignore_empty=True, extra="ignore")

    max_active: int = Field(default=4, ge=1, le=1024)
    max_waiting: int = Field(default=16, ge=0, le=100_000)
    decode_workers: int = Field(default=2, ge=1, le=64)
    media_threads: int = Field(default=2, ge=1, le=64)
    hardware_encoders: Literal["auto", "off"] = "off"
    start_timeout_s: float = Field(default=600.0, gt=0, le=86_400)
    control_socket: Path | None = None
