"""What docs/clients.md shows runs as it stands, and names what there is."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from zoetrope_client import Client
from zoetrope_client.commands import generate

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "clients.md").read_text()
SNIPPETS = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
SERVED = [snippet for snippet in SNIPPETS if "MockTransport" not in snippet]
"""Those with a server; `tests/unit/test_client_testing.py` runs the other one."""


@pytest.mark.parametrize("snippet", SERVED)
def test_the_snippets_run(snippet, server, tmp_path):
    (tmp_path / "demo").symlink_to(ROOT / "demo")
    (tmp_path / "out").mkdir()
    assert "127.0.0.1:8001" in snippet
    code = snippet.replace("127.0.0.1:8001", server.url)
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert (ran.returncode, ran.stderr) == (0, "") and ran.stdout


def test_every_argument_of_the_connection_has_its_row():
    rows = set(re.findall(r"^\| `(\w+)` \| ", PAGE, re.MULTILINE))
    assert rows | {"retry"} == set(inspect.signature(Client.__init__).parameters) - {"self", "url"}


def test_the_exit_codes_are_those_of_the_command():
    told = dict(re.findall(r"(\d+) ([a-z ]+?)(?=,|\.)", inspect.getdoc(generate).split("Exit codes: ")[1]))
    rows = set(re.findall(r"^\| (\d+) \| ", PAGE, re.MULTILINE))
    assert rows == set(told) == {"0", "1", "2", "3", "4", "130"}


def test_every_link_leads_somewhere():
    targets = [target.partition("#")[0] for target in re.findall(r"\]\((?!http)([^)]+)\)", PAGE)]
    assert len(targets) > 5
    assert [target for target in targets if not (ROOT / "docs" / target).exists()] == []
