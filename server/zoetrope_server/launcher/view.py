"""The model repository as Triton is shown it: the exported one, with what the server says of itself.

A repository lies where the server may not write, and says nothing about the server that it meets: which
release serves it, with which samplers, formats and limits. So Triton gets a folder of links beside the
control socket; only the configuration of the entry model is a file of its own there.
"""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version
from pathlib import Path

from zoetrope_core import contract
from zoetrope_core.manifest import FILE_NAME, Manifest
from zoetrope_core.metadata import PARAMETER, Metadata, describe
from zoetrope_server.launcher.errors import LaunchError
from zoetrope_server.launcher.settings import ServeSettings
from zoetrope_server.settings import OrchestratorSettings

CONFIG = "config.pbtxt"


def show(repository: Path, folder: Path, settings: ServeSettings) -> Path:
    """Makes the view of a repository anew.

    Args:
        repository: the exported repository, absolute.
        folder: where the view goes; an older one there is replaced.
        settings: the limits that the metadata names.

    Returns:
        What Triton is to load: `folder`, or the repository itself where it has no manifest or no entry model.

    Raises:
        LaunchError: the manifest cannot be read, or the view cannot be written.
    """
    entry = repository / contract.MODEL
    if not (repository / FILE_NAME).is_file() or not (entry / CONFIG).is_file():
        return repository
    try:
        metadata = _metadata(repository, settings)
        shutil.rmtree(folder, ignore_errors=True)
        _link(repository, folder, own=contract.MODEL)
        _link(entry, folder / contract.MODEL, own=CONFIG)
        config = (entry / CONFIG).read_text() + _parameter(metadata)
        (folder / contract.MODEL / CONFIG).write_text(config)
    except (OSError, ValueError) as error:
        raise LaunchError(f"{repository} cannot be served: {error}") from error
    return folder


def _metadata(repository: Path, settings: ServeSettings) -> Metadata:
    """What this server can do with the repository; limits that no flag gives are the orchestrator's."""
    usual = OrchestratorSettings()
    return describe(
        Manifest.load(repository),
        release=version("zoetrope"),
        max_active=usual.max_active if settings.max_active is None else settings.max_active,
        max_waiting=usual.max_waiting if settings.max_waiting is None else settings.max_waiting,
    )


def _link(source: Path, target: Path, own: str) -> None:
    """A folder of links to all that another holds, but for one name."""
    target.mkdir()
    for path in source.iterdir():
        if path.name != own:
            (target / path.name).symlink_to(path)


def _parameter(metadata: Metadata) -> str:
    """The metadata as a parameter of a model's configuration; JSON twice quotes what protobuf text would."""
    text = json.dumps(metadata.to_json())
    return f'\nparameters {{ key: "{PARAMETER}" value {{ string_value: {text} }} }}\n'
