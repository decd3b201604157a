"""The progress of an export: what is being done, and the phases of a builder as they come and go."""

import io

import pytest
from rich.console import Console

pytest.importorskip("diffusers")

from zoetrope_export.progress import ExportProgress  # noqa: E402


def tasks(progress):
    return {task.description.strip(): (task.completed, task.total) for task in progress._bars.tasks}


def test_phases_come_and_go():
    with ExportProgress(Console(file=io.StringIO(), force_terminal=True)) as progress:
        progress.report("unet: building the engine")
        progress.phase_start("Building engine", None, 6)
        progress.phase_start("Timing", "Building engine", 2)
        assert progress.step_complete("Timing", 0)
        assert progress.step_complete("an unknown phase", 0)
        assert tasks(progress) == {
            "unet: building the engine": (0, None),
            "Building engine": (0, 6),
            "Timing": (1, 2),
        }
        progress.phase_finish("Timing")
        progress.phase_finish("an unknown phase")
        assert "Timing" not in tasks(progress)


def test_it_is_shown_on_its_console():
    screen = io.StringIO()
    with ExportProgress(Console(file=screen, force_terminal=True)) as progress:
        progress.report("unet: building the engine")
    assert "unet: building the engine" in screen.getvalue()
