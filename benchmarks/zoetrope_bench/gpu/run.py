"""Runs the parts one after the other, each in a process of its own; needs the standard library alone."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoetrope_bench.gpu import environment, record
from zoetrope_bench.gpu.parts import BUDGET_S, PARTS, file_name, limit_s

_GRACE_S = 3.0
"""How long a part has to write its file when its time is over, before it is killed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 when every step of every part ran and every check passed."""
    options = _options(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    ends, letters, failed = time.monotonic() + options.budget_s, options.parts, []
    with tempfile.TemporaryDirectory(prefix="zoetrope-gpu-") as name:
        scratch = Path(name)
        python, variables = environment.prepare(scratch, options.wheels)
        for number, letter in enumerate(letters):
            allowed = limit_s(letter, letters[number + 1 :], ends - time.monotonic())
            _say(f"== {letter}. {PARTS[letter].title} (at most {allowed:.0f} s)")
            if not _run_part(letter, allowed, options, python, variables, scratch):
                failed.append(letter)
    _say(f"{len(letters) - len(failed)} of {len(letters)} parts passed; {options.out}")
    return 1 if failed else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="zoetrope_bench.gpu.run", description="Everything that needs a GPU."
    )
    parser.add_argument("--parts", type=_letters, default=list(PARTS), help="such as 0,a,e (default: all)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="where JSON goes")
    parser.add_argument("--budget-s", type=float, default=BUDGET_S, help="seconds for all of them")
    parser.add_argument("--wheels", type=Path, help="directory of wheels that this machine lacks")
    parser.add_argument("--toy", action="store_true", help="rehearse on the CPU at tiny sizes")
    options = parser.parse_args(arguments)
    options.out = options.out.absolute()
    return options


def _letters(text: str) -> list[str]:
    letters = [letter for letter in text.replace(",", " ").split() if letter]
    unknown = sorted(set(letters) - set(PARTS))
    if unknown or not letters:
        raise argparse.ArgumentTypeError(f"the parts are {', '.join(PARTS)}")
    return letters


def _run_part(
    letter: str,
    allowed_s: float,
    options: argparse.Namespace,
    python: Path,
    variables: dict[str, str],
    scratch: Path,
) -> bool:
    """Runs one part; whether all of it went well."""
    file = options.out / file_name(letter)
    file.unlink(missing_ok=True)
    words = [letter, "--out", options.out, "--scratch", scratch, "--limit-s", allowed_s]
    command = [str(python), "-m", "zoetrope_bench.gpu.child", *map(str, words), *["--toy"] * options.toy]
    process = subprocess.Popen(command, env=os.environ | variables, start_new_session=True)
    try:
        code = process.wait(allowed_s + _GRACE_S)
        if code and (not file.is_file() or _status(file) == record.RUNNING):
            record.close_killed(file, f"the process ended with code {code}")
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        record.close_killed(file, f"killed after {allowed_s:.0f} s")
    _show(file)
    return _status(file) == record.DONE


def _status(file: Path) -> str:
    return str(json.loads(file.read_text())["status"]) if file.is_file() else record.FAILED


def _show(file: Path) -> None:
    """Prints what a part found."""
    body: dict[str, Any] = {"error": "no file was written"}
    if file.is_file():
        body = json.loads(file.read_text())
    letter = file.stem.removeprefix(file_name("").removesuffix(".json"))
    for figure in body.get("figures", ()):
        _say(f"{letter}  {figure['step']}: {figure['name']}: {figure['measured']} {figure['unit']}")
    for check in body.get("checks", ()):
        verdict = "passed" if check["passed"] else "FAILED"
        _say(f"{letter}  {check['step']}: {verdict}: {check['name']} ({check['found']})")
    for step in body.get("steps", ()):
        if step["status"] != record.DONE:
            said = step.get("error") or step.get("reason") or ""
            _say(f"{letter}  {step['name']}: {step['status'].upper()}: {said.splitlines()[0][:160]}")
    if "error" in body:
        _say(f"{letter}  {body['error']}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
