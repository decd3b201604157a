"""Everything in one command: `python -m demo.training --out DIRECTORY --minutes 10 --device cuda`.

Fetches the photographs when `state/images.npz` isn't there, trains the autoencoder, then image encoder and
UNet, puts the checkpoint together and cuts it into pieces. Each phase resumes where it stopped.
"""

import tarfile
from pathlib import Path
from typing import Annotated

import typer

from . import assemble, collect, pieces, vae, video


def train(
    out: Annotated[Path, typer.Option(help="Directory for all states and results.")],
    minutes: Annotated[float, typer.Option(help="Budget of both phases; the clock's with a GPU.")] = 10,
    vae_share: Annotated[float, typer.Option(help="The autoencoder's share of the budget.")] = 0.25,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    workers: Annotated[int, typer.Option(help="Processes that make clips.")] = 0,
    factor: Annotated[int, typer.Option(help="How many times the batch that a CPU is given.")] = 1,
    start: Annotated[
        Path | None, typer.Option(help="A trained checkpoint, also one with fewer latents.")
    ] = None,
    pause_file: Annotated[Path | None, typer.Option(help="While this file exists, nothing runs.")] = None,
) -> None:
    """Trains both phases and returns the checkpoint, whole and in pieces."""
    if not collect.PACK.is_file():
        collect.main()
    common = {"device": device, "threads": threads, "pause_file": pause_file, "factor": factor}
    parts = {"vae": None, "video": None} if start is None else {"vae": start / "vae", "video": start}
    vae.train(out / "vae", minutes=minutes * vae_share, start=parts["vae"], **common)
    video.train(
        out / "vae" / "vae",
        out / "video",
        minutes=minutes * (1 - vae_share),
        start=parts["video"],
        workers=workers,
        compiled=device != "cpu",
        windows_until=0.7 if device == "cpu" else 0.0,  # each shape is compiled: a GPU gets whole clips alone
        **common,
    )
    assemble.main(out / "vae" / "vae", out / "video", out / "checkpoint")
    with tarfile.open(out / "checkpoint.tar", "w") as archive:
        archive.add(out / "checkpoint", arcname="checkpoint")
    pieces.split(out / "checkpoint.tar", out / "pieces")


if __name__ == "__main__":
    typer.run(train)
