"""What a person judges the demo checkpoint by: videos, contact sheets, and a page of old beside new."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from zoetrope_bench.demo_videos import Frames, Subject

SHOWN = (0, 4, 9, 13)
FRAME_MS = 140
STYLE = "body{font:14px sans-serif;margin:2em} td,th{padding:4px 10px;text-align:left} .no{color:#b00}"


def write_video(out: Path, subject: Subject, video: Frames) -> None:
    """Writes an image's video as WebP, there and back, and its contact sheet: the image, then four frames."""
    stem = Path(subject.name).stem
    first, *others = [Image.fromarray(frame) for frame in np.concatenate([video, video[-2:0:-1]])]
    first.save(
        out / f"{stem}.webp", save_all=True, append_images=others, duration=FRAME_MS, loop=0, quality=80
    )
    sheet = np.concatenate([subject.picture, *(video[number] for number in SHOWN)], axis=1)
    Image.fromarray(sheet).save(out / f"{stem}.png")


def figure_table(title: str, figures: Sequence[Mapping[str, Any]]) -> str:
    """A report's verdicts as an HTML table."""
    lines = [f"<h2>{html.escape(title)}</h2><table><tr><th>figure<th>target<th>measured"]
    for line in figures:
        style = "" if line["passed"] else " class=no"
        cells = (line["figure"], line["target"], f"{line['measured']:.2f}")
        lines.append(f"<tr{style}>" + "".join(f"<td>{html.escape(cell)}" for cell in cells))
    return "\n".join([*lines, "</table>"])


def cell(where: str, stem: str, row: Mapping[str, Any] | None) -> str:
    """One image's video, sheet and main figures."""
    if row is None:
        return "<td>"
    caption = (
        f"frame 0 {row['first_frame_db']:.1f} dB, {row['motion_px']:.2f} px, "
        f"warped {row['worst_prediction_db']:.1f} dB, sharpness kept {row['sharpness_kept']:.2f}, "
        f"flicker {row['flicker_percent']:.2f} %"
    )
    video, sheet = (f'<img src="{where}{stem}.{suffix}" alt="">' for suffix in ("webp", "png"))
    return f"<td>{video}<br>{sheet}<br>{caption}"


def write_page(out: Path, report: Mapping[str, Any], beside: Path | None) -> None:
    """Writes `index.html`: the figures, then each image, an earlier run's on the left."""
    body = [f"<!doctype html><meta charset=utf-8><title>Demo quality</title><style>{STYLE}</style>"]
    old: Mapping[str, Any] = {}
    if beside is not None:
        earlier = json.loads((beside / "quality.json").read_text())
        old = earlier["images"]
        body.append(figure_table("before", earlier["figures"]))
    body.append(figure_table("now", report["figures"]))
    body.append("<table>")
    for name, row in report["images"].items():
        stem = html.escape(Path(name).stem)
        body.append(f"<tr><th colspan=2>{html.escape(name)}<tr>")
        if beside is not None:
            body.append(cell(os.path.relpath(beside, out) + "/", stem, old.get(name)))
        body.append(cell("", stem, row))
    (out / "index.html").write_text("\n".join([*body, "</table>"]) + "\n")
