"""What a test has run of the paths of a GPU, for docs/status.md."""

import json
import os
from pathlib import Path


def ran(kind, *, engine, precision, stages, shapes="small", host="python"):
    """Called at the end of a test; written to the file that ZOETROPE_RUNS names, if it names one."""
    if not (name := os.environ.get("ZOETROPE_RUNS")):
        return
    test = os.environ["PYTEST_CURRENT_TEST"].partition("[")[0].partition(" ")[0]
    record = {
        "kind": kind, "engine": engine, "host": host, "precision": precision, "shapes": shapes,
        "stages": list(stages), "test": test,
    }  # fmt: skip
    file = Path(name)
    found = json.loads(file.read_text()) if file.is_file() else []
    if record not in found:
        found.append(record)
    found.sort(key=lambda each: json.dumps(each, sort_keys=True))
    file.write_text(json.dumps(found, indent=2) + "\n")
