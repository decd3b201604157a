"""The manifests: they build, they are what Kubernetes takes, and nobody gets more rights than it needs."""

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml
from manifests import KUBERNETES, OVERLAYS, ROOT, built, documents, pod

SCHEMAS = ROOT / "tests" / "schemas"
CUSTOM = {
    json.loads(path.read_text())["properties"]["kind"]["const"]: json.loads(path.read_text())
    for path in SCHEMAS.glob("*.json")
}
VERSIONS = ("1.29.0", kubernetes_validate.latest_version())
"""The oldest Kubernetes that the manifests are for, and the newest whose schemas are there."""
WORKLOADS = ("Deployment", "Job")


def test_the_overlays_that_are_documented():
    assert {"gpu", "cpu-demo", "autoscale"} <= set(OVERLAYS)
    page = (ROOT / "docs" / "deploy.md").read_text()
    assert [name for name in OVERLAYS if f"overlays/{name}" not in page and f"`{name}`" not in page] == []


def problems(document):
    """What is wrong with a document, by the schema of its kind; every kind has one."""
    if document["kind"] in CUSTOM:
        validator = jsonschema.Draft202012Validator(CUSTOM[document["kind"]])
        return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]
    found = []
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            found.append(f"{version}: {error.message}")
    return found


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_document_is_valid(overlay):
    assert {
        (each["kind"], each["metadata"]["name"]): wrong
        for each in documents(overlay)
        if (wrong := problems(each))
    } == {}


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("field", ["spec", "nonsense"])
def test_the_schemas_refuse(overlay, field):
    """A validator that takes everything would pass the test above."""
    checked = [each for each in documents(overlay) if "spec" in each]
    for document in copy.deepcopy(checked):
        if field == "spec":
            document["spec"]["nonsense"] = 1
        else:
            document["nonsense"] = 1
        assert problems(document), document["kind"]


def test_check_jsonschema_agrees(tmp_path):
    """The same by the tool that anyone may run, and the schemas are schemas."""
    program = str(Path(sys.executable).parent / "check-jsonschema")
    files = sorted(map(str, SCHEMAS.glob("*.json")))
    subprocess.run([program, "--check-metaschema", *files], check=True, capture_output=True, timeout=60)
    checked = set()
    for document in (each for overlay in OVERLAYS for each in documents(overlay) if each["kind"] in CUSTOM):
        file = tmp_path / f"{document['kind']}.json"
        file.write_text(json.dumps(document))
        schema = str(SCHEMAS / file.name.lower())
        ran = subprocess.run([program, "--schemafile", schema, str(file)], capture_output=True, timeout=60)
        assert ran.returncode == 0, ran.stdout
        checked.add(document["kind"])
    assert checked == set(CUSTOM)


def test_what_of_kserve_is_a_pod():
    """The parts that are Kubernetes' own, put together as KServe would."""
    runtime, service = (kserve(kind)["spec"] for kind in ("ServingRuntime", "InferenceService"))
    predictor = service["predictor"]
    own = {"minReplicas", "model", "deploymentStrategy", "volumes"}
    spec = {name: value for name, value in predictor.items() if name not in own}
    spec |= {"containers": runtime["containers"], "volumes": runtime["volumes"] + predictor["volumes"]}
    made = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "zoetrope"}, "spec": spec}
    assert problems(made) == []
    made["spec"]["containers"][0]["nonsense"] = 1
    assert problems(made)


def kserve(kind):
    (found,) = [each for each in documents("kserve") if each["kind"] == kind]
    return copy.deepcopy(found)


def pods():
    """Pod specs by overlay and name; KServe's is that of its predictor with the runtime's containers."""
    found = {
        (overlay, each["metadata"]["name"]): pod(each)
        for overlay in OVERLAYS
        for each in documents(overlay)
        if each["kind"] in WORKLOADS
    }
    predictor = kserve("InferenceService")["spec"]["predictor"]
    runtime = kserve("ServingRuntime")["spec"]
    found["kserve", "zoetrope"] = predictor | {
        "containers": runtime["containers"],
        "volumes": runtime["volumes"] + predictor["volumes"],
    }
    return found


def containers(spec):
    return [*spec.get("initContainers", []), *spec["containers"]]


def test_no_pod_gets_more_than_it_needs():
    found = pods()
    assert len(found) >= len(OVERLAYS)
    for where, spec in found.items():
        context = spec["securityContext"]
        assert context["runAsNonRoot"] is True and context["runAsUser"] >= 1000, where
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, where
        assert spec["automountServiceAccountToken"] is False, where
        assert spec["enableServiceLinks"] is False, where
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec), where
        assert not [volume for volume in spec["volumes"] if "hostPath" in volume], where
        for container in containers(spec):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, where


def test_every_container_is_bounded():
    for where, spec in pods().items():
        for container in containers(spec):
            resources = container["resources"]
            assert resources["requests"]["memory"] == resources["limits"]["memory"], where
            assert {"cpu", "memory"} <= set(resources["requests"]), where
            gpus = resources["limits"].get("nvidia.com/gpu")
            assert gpus == resources["requests"].get("nvidia.com/gpu"), where
            assert (gpus == "1") == (where[0] != "cpu-demo"), where
        scratch = [volume["emptyDir"] for volume in spec["volumes"] if "emptyDir" in volume]
        assert scratch and all("sizeLimit" in each for each in scratch), where


def test_images_are_those_of_this_version():
    version = next(
        line.split('"')[1]
        for line in (ROOT / "pyproject.toml").read_text().splitlines()
        if line.startswith("version")
    )
    images = {container["image"] for spec in pods().values() for container in containers(spec)}
    assert images == {f"{name}:{version}" for name in ("zoetrope", "zoetrope-demo", "zoetrope-export")}
    assert f"ARG VERSION={version}\n" in (ROOT / "demo" / "Dockerfile").read_text()


def test_every_reference_has_what_it_names():
    """Labels, ports, accounts, claims and generated names that something refers to are there."""
    for overlay in OVERLAYS:
        found = documents(overlay)
        names = {(each["kind"], each["metadata"]["name"]) for each in found}
        outside = {("PersistentVolumeClaim", name) for name in ("zoetrope-models", "zoetrope-cache")}
        specs = [spec for (where, _), spec in pods().items() if where == overlay]
        wanted = {("ServiceAccount", spec["serviceAccountName"]) for spec in specs}
        for spec in specs:
            wanted |= {
                ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"])
                for volume in spec["volumes"]
                if "persistentVolumeClaim" in volume
            }
            for container in containers(spec):
                wanted |= {
                    ("ConfigMap", each["configMapRef"]["name"]) for each in container.get("envFrom", [])
                }
                mounted = {mount["name"] for mount in container["volumeMounts"]}
                assert mounted <= {volume["name"] for volume in spec["volumes"]}, overlay
        assert wanted <= names | outside, overlay
        labels = [
            each["spec"]["template"]["metadata"]["labels"] for each in found if each["kind"] in WORKLOADS
        ] + [  # which KServe gives to the pods that it makes
            {"serving.kserve.io/inferenceservice": each["metadata"]["name"]}
            for each in found
            if each["kind"] == "InferenceService"
        ]
        for selector in selectors(found):
            assert any(selector.items() <= each.items() for each in labels), (overlay, selector)


def selectors(found):
    """What Services, policies, budgets and monitors select pods by."""
    for each in found:
        spec = each.get("spec", {})
        if each["kind"] == "Service":
            yield spec["selector"]
        if each["kind"] in ("PodDisruptionBudget", "PodMonitor", "Deployment"):
            yield spec["selector"]["matchLabels"]
        if each["kind"] == "NetworkPolicy":
            yield spec["podSelector"]["matchLabels"]


def test_claims_outlive_the_deployments():
    for overlay in OVERLAYS:
        claims = [each for each in documents(overlay) if each["kind"] == "PersistentVolumeClaim"]
        assert bool(claims) == overlay.startswith("engines-"), overlay
        # With a namespace goes everything in it, the claims too: the demo has one of its own.
        spaces = [each for each in documents(overlay) if each["kind"] == "Namespace"]
        assert bool(spaces) == (bool(claims) or overlay == "cpu-demo"), overlay
        names = {each["metadata"]["name"] for each in spaces}
        assert names <= {"zoetrope-demo" if overlay == "cpu-demo" else "zoetrope"}
        placed = {each["metadata"].get("namespace") for each in documents(overlay)} - {None}
        assert placed == {"zoetrope-demo" if overlay == "cpu-demo" else "zoetrope"}


def test_a_scaled_deployment_names_no_number_of_pods():
    for overlay in OVERLAYS:
        found = documents(overlay)
        scaled = any(each["kind"] in ("ScaledObject", "HorizontalPodAutoscaler") for each in found)
        for deployment in (each for each in found if each["kind"] == "Deployment"):
            assert ("replicas" in deployment["spec"]) != scaled, overlay
            rolling = deployment["spec"]["strategy"]["rollingUpdate"]
            assert rolling == {"maxSurge": 1, "maxUnavailable": 0}
    assert sum("autoscale" in overlay for overlay in OVERLAYS) == 2


def test_both_autoscalers_do_the_same():
    (keda,) = [each["spec"] for each in documents("autoscale") if each["kind"] == "ScaledObject"]
    (plain,) = [
        each["spec"] for each in documents("autoscale-hpa") if each["kind"] == "HorizontalPodAutoscaler"
    ]
    assert keda["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == plain["behavior"]
    assert (keda["minReplicaCount"], keda["maxReplicaCount"]) == (plain["minReplicas"], plain["maxReplicas"])
    (trigger,), (metric,) = keda["triggers"], plain["metrics"]
    assert trigger["metricType"] == metric["pods"]["target"]["type"] == "AverageValue"
    assert trigger["metadata"]["threshold"] == metric["pods"]["target"]["averageValue"]
    assert metric["pods"]["metric"]["name"] in trigger["metadata"]["query"]


def test_dashboard_and_rules_are_the_files():
    for overlay in ("autoscale", "autoscale-hpa"):
        data = {
            each["metadata"]["name"]: each["data"]
            for each in documents(overlay)
            if each["kind"] == "ConfigMap"
        }
        monitoring = ROOT / "deploy" / "monitoring"
        assert data["zoetrope-dashboard"]["zoetrope.json"] == (monitoring / "dashboard.json").read_text()
        assert data["zoetrope-alerts"]["zoetrope.yml"] == (monitoring / "alerts.yml").read_text()


def test_another_key_is_a_rollout(tmp_path):
    """The name of the ConfigMap changes with the key, and with it the pods' template."""
    built("gpu")
    copied = tmp_path / "kubernetes"
    shutil.copytree(KUBERNETES, copied)
    file = copied / "overlays" / "gpu" / "kustomization.yaml"
    file.write_text(file.read_text().replace("key=none-yet", "key=svd-xt-fp16-sm90-0123456789"))
    ran = subprocess.run(
        ["kubectl", "kustomize", str(file.parent)], capture_output=True, text=True, timeout=60, check=True
    )
    (after,) = [each for each in yaml.safe_load_all(ran.stdout) if each["kind"] == "Deployment"]
    (before,) = [each for each in documents("gpu") if each["kind"] == "Deployment"]
    assert after["spec"]["template"] != before["spec"]["template"]
