"""Large files in small pieces: `python -m demo.training.pieces split|join FILE DIRECTORY`.

A machine that returns only small files can return a checkpoint this way; joining checks the digest.
"""

import hashlib
from pathlib import Path
from typing import Annotated

import typer

PIECE_BYTES = 15_000_000
app = typer.Typer(add_completion=False)


@app.command()
def split(
    file: Annotated[Path, typer.Argument(help="What is cut.")],
    directory: Annotated[Path, typer.Argument(help="Where the pieces go.")],
) -> None:
    """Cuts a file into pieces and writes its digest beside them."""
    body = file.read_bytes()
    directory.mkdir(parents=True, exist_ok=True)
    for number, begin in enumerate(range(0, len(body), PIECE_BYTES)):
        (directory / f"{file.name}.{number:03}").write_bytes(body[begin : begin + PIECE_BYTES])
    (directory / f"{file.name}.sha256").write_text(hashlib.sha256(body).hexdigest() + "\n")


@app.command()
def join(
    file: Annotated[Path, typer.Argument(help="What is made.")],
    directory: Annotated[Path, typer.Argument(help="Where the pieces are.")],
) -> None:
    """Puts a file together again; raises ValueError when it isn't what was split."""
    pieces = sorted(directory.glob(f"{file.name}.[0-9][0-9][0-9]"))
    body = b"".join(piece.read_bytes() for piece in pieces)
    if hashlib.sha256(body).hexdigest() != (directory / f"{file.name}.sha256").read_text().strip():
        raise ValueError(f"the pieces of {file.name} in {directory} aren't what was split")
    file.write_bytes(body)


if __name__ == "__main__":
    app()
