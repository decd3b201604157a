"""The deployments of deploy/kubernetes as data: built by kubectl, each overlay once."""

import functools
import re
import shutil
import subprocess
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import typer
import yaml

ROOT = Path(__file__).parents[1]
KUBERNETES = ROOT / "deploy" / "kubernetes"
OVERLAYS = sorted(path.parent.name for path in (KUBERNETES / "overlays").glob("*/kustomization.yaml"))
SERVERS = [name for name in OVERLAYS if not name.startswith("engines-") and name != "kserve"]
"""Those with a Deployment."""
ENGINES = [name for name in OVERLAYS if name.startswith("engines-")]
OLDEST = (5, 0)
"""The oldest kustomize that the manifests are written for; kubectl 1.27 has 5.0.1."""


@functools.cache
def unusable():
    """Why the overlays cannot be built on this machine; empty when they can."""
    if shutil.which("kubectl") is None:
        return "kubectl is not installed, so no overlay is built"
    said = subprocess.run(["kubectl", "version", "--client"], capture_output=True, text=True, timeout=60)
    version = re.search(r"Kustomize Version: v(\d+)\.(\d+)", said.stdout)
    if version is None or tuple(map(int, version.groups())) < OLDEST:
        return f"kubectl is too old, so no overlay is built (kustomize below {OLDEST[0]}.{OLDEST[1]})"
    return ""


def built(overlay):
    """The text of what `kubectl apply -k` would apply; skips the test where kubectl is missing."""
    if reason := unusable():
        pytest.skip(reason)
    return _built(KUBERNETES / "overlays" / overlay)


@functools.cache
def _built(folder):
    ran = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == "", "a field that newer versions will drop"
    return ran.stdout


def documents(overlay):
    """The documents of an overlay."""
    return list(yaml.safe_load_all(built(overlay)))


def one(overlay, kind, name="zoetrope"):
    """The only document of that kind and name."""
    (found,) = [
        each for each in documents(overlay) if each["kind"] == kind and each["metadata"]["name"] == name
    ]
    return found


def pod(document):
    """The pod spec of a Deployment or a Job."""
    return document["spec"]["template"]["spec"]


def generated(overlay, name):
    """The data of a generated ConfigMap, whose name ends in a hash."""
    (found,) = [
        each
        for each in documents(overlay)
        if each["kind"] == "ConfigMap" and each["metadata"]["name"].startswith(f"{name}-")
    ]
    return found["data"]


def seconds_of(probe):
    """How long a probe may fail before it counts."""
    return probe["periodSeconds"] * probe["failureThreshold"]


def size_bytes(quantity):
    """The bytes of a quantity such as 512Mi."""
    number, unit = re.fullmatch(r"(\d+)([KMGT]i)?", quantity).groups()
    return int(number) << {None: 0, "Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40}[unit]


def server(overlay):
    """The server's container of a Deployment."""
    return pod(one(overlay, "Deployment"))["containers"][0]


def settings(overlay):
    """The server's ZOETROPE_ variables, from the ConfigMap or, under KServe, the container."""
    if overlay != "kserve":
        return generated(overlay, "zoetrope-settings")
    (container,) = one("kserve", "ServingRuntime")["spec"]["containers"]
    return {each["name"]: each["value"] for each in container["env"]}


def named(variables):
    """Variables by the names of the settings."""
    return {name.removeprefix("ZOETROPE_").lower(): value for name, value in variables.items()}


def probed(overlay):
    """The server's container, also under KServe."""
    if overlay != "kserve":
        return server(overlay)
    return one("kserve", "ServingRuntime")["spec"]["containers"][0]


def command(name):
    """A subcommand of `zoetrope` as click has it."""
    (entry,) = entry_points(group="zoetrope.commands", name=name)
    app = typer.Typer()
    app.command()(entry.load())
    return typer.main.get_command(app)
