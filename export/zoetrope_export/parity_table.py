"""The parity report as people see it."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from zoetrope_export.parity import ENGINE, ParityReport, PipelineParity, StageParity


def show_parity(report: ParityReport, console: Console) -> None:
    """Prints the parity of the stages with PyTorch, and of the whole with diffusers, as a table."""
    height, width = report.size
    table = Table(title=f"Parity with the checkpoint: {report.num_frames} frames of {height}x{width}")
    for heading in ("what", "precision"):
        table.add_column(heading)
    for heading in ("nodes", "max error", "PSNR", "needs"):
        table.add_column(heading, justify="right")
    for each in report.stages:
        nodes = " -> ".join(map(str, dict.fromkeys(each.nodes or ())))
        table.add_row(each.stage, each.precision, nodes, f"{each.max_abs_error:.1e}", *_ratios(each))
    if (whole := report.pipeline) is not None:
        table.add_row("video", report.precision, "", f"{whole.max_abs_error:.0f} levels", *_ratios(whole))
    console.print(table)
    if not report.passed:
        console.print(f"[red]Outside of the tolerance, written nevertheless: {', '.join(report.failures())}")
    if any(each.computed_by != ENGINE for each in report.stages):
        console.print(
            "The engines themselves were not run: their GPU is not here. Their graphs were compared."
        )


def _ratios(row: StageParity | PipelineParity) -> tuple[str, str]:
    colour = "green" if row.passed else "red"
    return f"[{colour}]{row.psnr_db:.1f} dB", f"{row.tolerance_db:.0f} dB"
