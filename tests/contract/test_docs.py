"""The tables of docs/api.md are those of the code."""

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_api_tables_are_current():
    spec = importlib.util.spec_from_file_location("api_tables", DOCS / "api_tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (DOCS / "api.md").read_text()
    assert page == module.render(page), "run `python docs/api_tables.py`"
    assert "`motion_bucket_id`" in page and "`stage_lost`" in page and "`heartbeat`" in page
