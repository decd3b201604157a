"""`zoetrope doctor` as a user runs it, on a repository that was exported."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e
FREE_PORTS = [f"--{name}-port=0" for name in ("grpc", "metrics", "health")]


def doctor(*arguments):
    command = [str(Path(sys.executable).parent / "zoetrope"), "doctor", *map(str, arguments), *FREE_PORTS]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture
def broken(repository, tmp_path):
    """A copy of the repository with one engine file missing and another cut off."""
    folder = tmp_path / "broken"
    shutil.copytree(repository, folder, ignore=shutil.ignore_patterns("cache"))
    (folder / "unet" / "1" / "model.bin").unlink()
    weights = folder / "vae_decoder" / "1" / "model.bin"
    weights.write_bytes(weights.read_bytes()[:-1])
    return folder


def test_a_repository_that_can_be_served(repository):
    ran = doctor(repository)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.splitlines()[-1].startswith(f"{repository} can be served here")
    assert "stage unet" in ran.stdout


def test_a_broken_repository(broken):
    ran = doctor(broken)
    assert (ran.returncode, ran.stderr) == (1, "")
    assert "zoetrope export" in ran.stdout
    verdict = f"{broken} cannot be served here: stage unet, stage vae_decoder"
    assert ran.stdout.splitlines()[-1] == verdict


def test_json(broken):
    ran = doctor(broken, "--json")
    assert ran.returncode == 1
    findings = json.loads(ran.stdout)
    assert all(set(finding) == {"name", "level", "found", "advice"} for finding in findings)
    wrong = [finding["name"] for finding in findings if finding["level"] == "error"]
    assert wrong == ["stage unet", "stage vae_decoder"]


def test_the_machine_alone():
    ran = doctor("--json")
    assert ran.returncode == 0, ran.stdout
    names = {finding["name"] for finding in json.loads(ran.stdout)}
    assert {"python", "libpython", "triton", "numpy", "gpu", "shared memory", "grpc port"} <= names
    assert "manifest" not in names
