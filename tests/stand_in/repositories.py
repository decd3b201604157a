"""Exported repositories whose stages find the stand-in in Triton's processes."""

import shutil
from pathlib import Path

MODULES = Path(__file__).parent / "modules"
FAULT = "STAND_IN_FAULT"
PRELUDE = """import os
import sys

sys.path.insert(0, {modules!r})
if {others}:
    os.environ.pop({fault!r}, None)
"""


def on_stand_in(repository, target, only=None):
    """A copy at `target`; a fault that is asked for is the stage's that `only` names, or everyone's."""
    shutil.copytree(repository, target)
    for model in target.glob("*/1/model.py"):
        if "triton.stage" in (text := model.read_text()):
            others = only is not None and model.parts[-3] != only
            model.write_text(PRELUDE.format(modules=str(MODULES), fault=FAULT, others=others) + text)
    return target
