"""Errors on their way to Triton."""

from __future__ import annotations

from typing import Any

import triton_python_backend_utils as pb_utils

from zoetrope_core.errors import ZoetropeError


def triton_error(error: ZoetropeError) -> Any:
    """The error as Triton's, with the nearest status that its python backend has."""
    codes = pb_utils.TritonError
    by_status = {
        "INVALID_ARGUMENT": codes.INVALID_ARG,
        "UNAVAILABLE": codes.UNAVAILABLE,
        "CANCELLED": codes.CANCELLED,
    }
    return codes(error.status_message(), by_status.get(error.status, codes.INTERNAL))
