"""`make demo`: a photo in, a video out, through the real server, with what each step took.

Each command is the one a user would type. A second run reuses the checkpoint and the engines.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from zoetrope_bench.server import serving

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "out"
PHOTO = ROOT / "demo" / "photo.jpg"
CHECKPOINT = ROOT / "demo" / "checkpoint"
PARAMETERS = ("--motion-bucket-id", "80", "--max-guidance-scale", "1.0", "--seed", "1")
ZOETROPE = str(Path(sys.executable).parent / "zoetrope")
console = Console()


def run(*arguments: str) -> None:
    """Runs one `zoetrope` command and shows it."""
    console.print("[dim]$ zoetrope " + " ".join(arguments), soft_wrap=True)
    subprocess.run([ZOETROPE, *arguments], check=True)


def export() -> Path:
    """The model repository of the demo, made when it is not there."""
    repository = OUT / "repository"
    if (repository / "zoetrope.json").is_file():
        console.print(f"Reusing the engines in {repository}")
        return repository
    engine = ("--engine", "openvino", "--precision", "bf16", "--size", "128x192")
    run("export", str(CHECKPOINT), *engine, "--out", str(repository))
    return repository


def generate(url: str) -> dict:
    """Generates the demo video; the progress bar is the command's own."""
    video = OUT / "demo.mp4"
    command = [ZOETROPE, "generate", str(PHOTO), "-o", str(video), "--url", url, *PARAMETERS, "--json"]
    console.print("[dim]$ zoetrope " + " ".join(command[1:]), soft_wrap=True)
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(answer)


def main() -> None:
    """The whole demo."""
    OUT.mkdir(exist_ok=True)
    began = time.perf_counter()
    repository = export()
    ready = time.perf_counter()
    console.print(f"[dim]$ zoetrope serve {repository}", soft_wrap=True)
    with serving(repository, OUT / "server.log") as server:
        started = time.perf_counter()
        result = generate(server.url)
    table = Table("step", "seconds", title="Where the time went")
    table.add_row("engines", f"{ready - began:.2f}")
    table.add_row("server start", f"{started - ready:.2f}")
    for stage, seconds in result["timings"].items():
        table.add_row(f"request: {stage}", f"{seconds:.2f}")
    console.print(table)
    console.print(f"The video lies at {os.path.relpath(OUT / 'demo.mp4')}", style="bold")


if __name__ == "__main__":
    main()
