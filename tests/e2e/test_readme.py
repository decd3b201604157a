"""The README's client commands and Python snippets run as they stand."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


@pytest.fixture
def checkout(tmp_path, server):
    """A folder that looks like a checkout, and an environment whose default server is the running one."""
    (tmp_path / "demo").symlink_to(ROOT / "demo")
    (tmp_path / "out").mkdir()
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "ZOETROPE_URL": server.url,
    }
    return tmp_path, environment


def test_generate_line(checkout):
    folder, environment = checkout
    (line,) = re.findall(r"^zoetrope generate .*$", README, re.MULTILINE)
    subprocess.run(shlex.split(line), cwd=folder, env=environment, check=True, timeout=120)
    assert b"ftyp" in (folder / "out" / "video.mp4").read_bytes()[:12]


def test_python_snippet(checkout, server):
    folder, environment = checkout
    (snippet,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert "127.0.0.1:8001" in snippet
    code = snippet.replace("127.0.0.1:8001", server.url)
    subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, check=True, timeout=120)
    assert b"ftyp" in (folder / "out" / "video.mp4").read_bytes()[:12]


def test_every_command_exists(checkout):
    folder, environment = checkout
    commands = set(re.findall(r"^zoetrope (\w+)", README, re.MULTILINE))
    assert {"export", "serve", "generate", "bench"} <= commands
    for command in sorted(commands):
        subprocess.run(
            ["zoetrope", command, "--help"],
            cwd=folder, env=environment, check=True, timeout=60, capture_output=True,
        )  # fmt: skip


def test_every_link_leads_somewhere():
    targets = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []
