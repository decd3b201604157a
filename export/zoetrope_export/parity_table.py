"""The parity report as people see it."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from zoetrope_export.parity import ENGINE, ParityReport

_LEFT = ("stage", "precision", "computed by")


def show_parity(report: ParityReport, console: Console) -> None:
    """Prints the parity of the stages and of the whole as a table."""
    height, width = report.size
    table = Table(title=f"Parity with PyTorch at {height}x{width}, {report.num_frames} frames")
    for heading in (*_LEFT, "nodes", "max abs error", "PSNR", "needs"):
        table.add_column(heading, justify="left" if heading in _LEFT else "right")
    for each in report.stages:
        ratios = f"{each.psnr_db:.1f} dB", f"{each.tolerance_db:.0f} dB"
        nodes = " -> ".join(map(str, each.nodes or ()))
        table.add_row(
            each.stage, each.precision, each.computed_by, nodes, f"{each.max_abs_error:.2e}", *ratios
        )
    if (whole := report.pipeline) is not None:
        ratios = f"{whole.psnr_db:.1f} dB", f"{whole.tolerance_db:.0f} dB"
        error = f"{whole.max_abs_error:.0f} levels"
        table.add_row("video, against diffusers", report.precision, ENGINE, "", error, *ratios)
    console.print(table)
    if not report.passed:
        console.print(f"[red]Outside of the tolerance, written nevertheless: {', '.join(report.failures())}")
    if any(each.computed_by != ENGINE for each in report.stages):
        console.print(
            "The engines themselves were not run: their GPU is not here. Their graphs were compared."
        )
