"""Writes the README's table of `side-by-side` from what was measured.

python -m zoetrope_bench.readme_table [README] [JSON]
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from zoetrope_bench.side_by_side import table

_PLACE = re.compile(r"(<!-- side-by-side -->\n).*(<!-- /side-by-side -->)", re.DOTALL)


def section(report: Mapping[str, Any]) -> str:
    """The table of a report and what it was measured with, as the README has them."""
    facts, machine = report["parameters"], report["machine"]
    height, width = facts["sizes"][0]
    versions = machine["versions"]
    speeds = ", ".join(
        f"{figure['measured']:.2f}x the speed of {figure['name'].removeprefix('speed against ')}"
        f" (target {figure['target']:g}x{'' if figure['passed'] else ', missed'})"
        for figure in report["figures"]
        if "target" in figure
    )
    return (
        f"{table(report['details']['rows'])}\n\n"
        f"{facts['num_frames'][0]} frames of {height}x{width}, {facts['steps']} steps "
        f"({facts['crowd_steps']} where several run at once); {facts['engine']} {facts['precision']}; "
        f"{machine['processor']}, {machine['cores']} cores; diffusers {versions['diffusers']}, "
        f"torch {versions['torch']}, OpenVINO {versions['openvino']}. Zoetrope has {speeds}.\n"
    )


def main(
    readme: Annotated[Path, typer.Argument(exists=True)] = Path("README.md"),
    report: Annotated[Path, typer.Argument(exists=True)] = Path("benchmarks/results/side_by_side.json"),
) -> None:
    """Puts the table of a report of `side-by-side` into the README."""
    text, written = readme.read_text(), section(json.loads(report.read_text()))
    if not _PLACE.search(text):
        raise typer.BadParameter(f"{readme} has no place for the table", param_hint="README")
    readme.write_text(_PLACE.sub(lambda match: match[1] + written + match[2], text))


if __name__ == "__main__":
    typer.run(main)
