"""TensorRT's errors, kept until somebody asks: some calls fail and say so to its error recorder alone."""

from __future__ import annotations

from typing import Any, Protocol


class Recorder(Protocol):
    """An error recorder of TensorRT."""

    def taken(self) -> list[str]:
        """The errors since the last call, which are then forgotten."""
        ...


def error_recorder(library: Any) -> Any:
    """A `Recorder` that is given to a runtime and so to all that is made from it.

    An enqueue of TensorRT-RTX with dynamic shapes may fail in its compiler and return True all the same
    (pytorch/TensorRT issue 4646): what it reports here is the only sign.

    Args:
        library: the module `tensorrt` or `tensorrt_rtx`.
    """

    class Kept(library.IErrorRecorder):  # type: ignore[misc]
        def __init__(self) -> None:
            library.IErrorRecorder.__init__(self)
            self.errors: list[tuple[Any, str]] = []

        def taken(self) -> list[str]:
            said = [text for _, text in self.errors]
            self.errors.clear()
            return said

        def num_errors(self) -> int:
            return len(self.errors)

        def get_error_code(self, index: int) -> Any:
            return self.errors[index][0]

        def get_error_desc(self, index: int) -> str:
            return self.errors[index][1]

        def has_overflowed(self) -> bool:
            return False

        def clear(self) -> None:
            self.errors.clear()

        def report_error(self, code: Any, description: str) -> bool:
            self.errors.append((code, description))
            return False

    return Kept()
