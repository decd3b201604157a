"""Times and sizes of the manifests are those that `zoetrope size` finds for what the jobs export."""

import json
import math
import re
import shlex
from dataclasses import replace

import pytest
from manifests import (
    ROOT,
    SERVERS,
    command,
    documents,
    named,
    one,
    pod,
    probed,
    seconds_of,
    server,
    settings,
    size_bytes,
)

from zoetrope_bench.overhead import SVD_XT
from zoetrope_server import sizing
from zoetrope_server.launcher.workspace import ENOUGH_SHM

DEMO = (ROOT / "demo" / "Dockerfile").read_text()


def shapes(arguments):
    """What an export with these options puts into its manifest, as far as sizes depend on it."""
    from zoetrope_export.exporting import default_chunk, default_max_batch

    given = command("export").make_context("export", list(arguments)).params
    frames = given["frames"] or [
        json.loads((ROOT / "demo/checkpoint/unet/config.json").read_text())["num_frames"]
    ]
    (largest,) = [max((tuple(map(int, text.split("x"))) for text in given["size"]), key=math.prod)]
    positions = math.prod(largest) // 64 * max(frames)
    return replace(
        SVD_XT,
        sizes=tuple(tuple(map(int, text.split("x"))) for text in given["size"]),
        num_frames=tuple(frames),
        decode_chunk_size=given["decode_chunk"] or default_chunk(frames[0]),
        max_batch_size=given["max_batch"]
        or default_max_batch(given["precision"], weights=1_520_000_000, positions=positions),
    )


def export_arguments(overlay):
    """The options of the export that fills the repository of a deployment."""
    if overlay == "cpu-demo":
        (line,) = re.findall(r"^RUN zoetrope export (.*)$", DEMO, re.MULTILINE)
        return shlex.split(line)
    (job,) = [each for each in documents("engines-h100") if each["kind"] == "Job"]
    return pod(job)["containers"][0]["args"]


def sizes(overlay):
    """What `zoetrope size` says, with the options that the deployment was made with."""
    source = "gpu" if overlay == "kserve" else overlay
    annotations = one(source, "Deployment")["spec"]["template"]["metadata"]["annotations"]
    given = command("size").make_context("size", ["/r", *shlex.split(annotations["zoetrope-size"])]).params
    limits = named(settings(overlay))
    load = sizing.Load(
        max_active=int(limits["max_active"]),
        max_waiting=int(limits["max_waiting"]),
        calls=given["calls"],
        call_s=given["call_s"],
        rest_s=given["rest_s"],
        pre_stop_s=given["pre_stop_s"],
    )
    return {each.name: each.value for each in sizing.quantities(shapes(export_arguments(overlay)), load)}


@pytest.mark.parametrize("overlay", [*SERVERS, "kserve"])
def test_times_exceed_the_longest_video(overlay):
    found, container = sizes(overlay), probed(overlay)
    if overlay == "kserve":
        spec = one("kserve", "InferenceService")["spec"]["predictor"]
    else:
        spec = pod(one(overlay, "Deployment"))
    drain = float(named(settings(overlay))["grace_period_s"])
    sleep = float(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert drain == found["grace_period_s"] > found["longest_video_s"]
    assert spec["terminationGracePeriodSeconds"] == found["termination_grace_period_s"]
    assert spec["terminationGracePeriodSeconds"] == sleep + drain + sizing.EXIT_S
    if overlay != "kserve":
        deadline = one(overlay, "Deployment")["spec"]["progressDeadlineSeconds"]
        started = float(named(settings(overlay))["start_timeout_s"])
        assert deadline > spec["terminationGracePeriodSeconds"] + started, "the GPU may be of one that drains"
    # Endpoints go within seconds of the deletion; the hook waits longer than the readiness probe takes.
    assert sleep > seconds_of(container["readinessProbe"])


@pytest.mark.parametrize("overlay", [*SERVERS, "kserve"])
def test_shared_memory_covers_the_shapes(overlay):
    found = sizes(overlay)
    if overlay == "kserve":
        spec, limits = one("kserve", "ServingRuntime")["spec"], probed(overlay)["resources"]["limits"]
    else:
        spec, limits = pod(one(overlay, "Deployment")), server(overlay)["resources"]["limits"]
    (shm,) = [each["emptyDir"] for each in spec["volumes"] if each["name"] == "dshm"]
    assert shm["medium"] == "Memory"
    # The server warns below a size of its own.
    least = max(found["shm_bytes"], ENOUGH_SHM)
    assert least <= size_bytes(shm["sizeLimit"]) < 1.5 * least
    assert size_bytes(limits["memory"]) > 2 * size_bytes(shm["sizeLimit"]), (
        "its pages count as the container's"
    )
    given = named(settings(overlay))
    assert int(given["pinned_pool_bytes"]) == found["pinned_pool_bytes"] == 0
    assert int(given["cuda_pool_bytes"]) == found["cuda_pool_bytes"] == 0


def test_the_documented_size():
    """docs/deploy.md shows what the command prints for the GPU deployment."""
    page = (ROOT / "docs" / "deploy.md").read_text()
    found = sizes("gpu")
    for name, value in found.items():
        assert f"| `{name}` | {value} |" in page, name
