"""What the manifests say about the server is so: its settings, ports, probes, commands and metrics."""

import re
import subprocess
import sys
from pathlib import Path

import dockerfile
import pytest
from manifests import (
    ENGINES,
    OVERLAYS,
    ROOT,
    SERVERS,
    command,
    documents,
    generated,
    named,
    one,
    pod,
    probed,
    seconds_of,
    server,
    settings,
)

from zoetrope_server.launcher import ServeSettings
from zoetrope_server.launcher.health import Health, HealthServer, Phase
from zoetrope_server.launcher.ports import choose_ports
from zoetrope_server.metrics import METRICS
from zoetrope_server.settings import OrchestratorSettings

_, STAGES = dockerfile.read()
DEMO = (ROOT / "demo" / "Dockerfile").read_text()
PROBES = {"startupProbe": "/readyz", "readinessProbe": "/readyz", "livenessProbe": "/livez"}


@pytest.mark.parametrize("overlay", [*SERVERS, "kserve"])
def test_variables_are_settings_of_the_server(overlay, tmp_path):
    given = named(settings(overlay))
    (tmp_path / "file.pem").write_text("")  # a file of the pod, which must be there
    given |= {name: str(tmp_path / "file.pem") for name in ("grpc_cert", "grpc_key") if name in given}
    assert set(given) <= set(ServeSettings.model_fields) | set(OrchestratorSettings.model_fields)
    merged = ServeSettings.merged(**given)
    assert merged.max_active == int(given["max_active"]) >= 1
    OrchestratorSettings(**{name: given[name] for name in ("max_active", "max_waiting")})


@pytest.mark.parametrize("overlay", SERVERS)
def test_ports_are_those_of_the_server(overlay):
    fields = ServeSettings.model_fields
    ports = {name: fields[f"{name}_port"].default for name in ("grpc", "metrics", "health")}
    assert {each["name"]: each["containerPort"] for each in server(overlay)["ports"]} == ports
    for service in (each for each in documents(overlay) if each["kind"] == "Service"):
        for port in service["spec"]["ports"]:
            assert port["port"] == ports[port["targetPort"]] == ports[port["name"]]
    for policy in (each for each in documents(overlay) if each["kind"] == "NetworkPolicy"):
        for rule in policy["spec"]["ingress"]:
            assert {each["port"] for each in rule["ports"]} <= set(ports)


def test_ports_of_kserve():
    (container,) = one("kserve", "ServingRuntime")["spec"]["containers"]
    fields = ServeSettings.model_fields
    assert [each["containerPort"] for each in container["ports"]] == [fields["grpc_port"].default]
    port = one("kserve", "ServingRuntime")["spec"]["annotations"]["prometheus.kserve.io/port"]
    assert int(port) == fields["metrics_port"].default
    for name in PROBES:
        assert container[name]["httpGet"]["port"] == fields["health_port"].default


@pytest.mark.parametrize("overlay", [*SERVERS, "kserve"])
def test_probes_are_the_supervisors(overlay):
    container = probed(overlay)
    assert {name: container[name]["httpGet"]["path"] for name in PROBES} == PROBES
    assert {container[name]["httpGet"]["port"] for name in PROBES} <= {"health", 8003}
    # The server gives up first, and says why.
    started = float(named(settings(overlay))["start_timeout_s"])
    assert seconds_of(container["startupProbe"]) > started
    assert seconds_of(container["readinessProbe"]) <= 10


@pytest.mark.parametrize(("phase", "ready", "alive"), [(Phase.READY, 200, 200), (Phase.DRAINING, 503, 200)])
def test_a_draining_server_is_alive_and_not_ready(phase, ready, alive):
    """Or the kubelet would restart it amid its last videos."""
    import urllib.error
    import urllib.request

    def status(path):
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5).status
        except urllib.error.HTTPError as error:
            return error.code

    port = choose_ports("127.0.0.1", {"health": 0})["health"]
    health = Health(phase=phase, reason="" if phase is Phase.READY else "the server is shutting down")
    with HealthServer("127.0.0.1", port, lambda: health):
        container = server("gpu")
        assert status(container["readinessProbe"]["httpGet"]["path"]) == ready
        assert status(container["livenessProbe"]["httpGet"]["path"]) == alive


def called(container):
    """The subcommand that a container runs, and its arguments."""
    image = container["image"].partition(":")[0]
    target = {"zoetrope": "serve", "zoetrope-demo": "serve", "zoetrope-export": "export"}[image]
    program, name, *options = container.get("command") or STAGES[target].exec_form("ENTRYPOINT")
    assert program == "zoetrope"
    return name, [*options, *container["args"]]


def containers():
    for overlay in OVERLAYS:
        for document in documents(overlay):
            if document["kind"] in ("Deployment", "Job"):
                spec = pod(document)
                yield from [*spec.get("initContainers", []), *spec["containers"]]
            if document["kind"] == "ServingRuntime":
                yield from document["spec"]["containers"]
            if document["kind"] == "InferenceService":
                yield from document["spec"]["predictor"]["initContainers"]


def test_containers_run_commands_with_options_that_they_have():
    seen = set()
    for container in containers():
        name, arguments = called(container)
        command(name).make_context(name, list(arguments))
        seen.add(name)
    assert seen == {"serve", "doctor", "export"}
    with pytest.raises(Exception, match="nonsense"):
        command("serve").make_context("serve", ["/models", "--nonsense"])


def test_a_gpu_deployment_runs_where_its_engines_were_built():
    def product(overlay, kind):
        (found,) = [each for each in documents(overlay) if each["kind"] == kind]
        return pod(found)["nodeSelector"]["nvidia.com/gpu.product"]

    assert product("gpu", "Deployment") == product("engines-h100", "Job")
    predictor = one("kserve", "InferenceService")["spec"]["predictor"]
    assert predictor["nodeSelector"]["nvidia.com/gpu.product"] == product("gpu", "Deployment")
    assert len({product(overlay, "Job") for overlay in ENGINES}) == len(ENGINES)


def test_the_key_is_one_of_a_name():
    """What the job writes is what the server reads, on the same claim."""
    key = generated("gpu", "zoetrope-repository")["key"]
    service = one("kserve", "InferenceService")["spec"]["predictor"]
    assert service["model"]["storageUri"] == f"pvc://zoetrope-models/{key}"
    assert service["initContainers"][0]["args"] == [f"/models/{key}"]
    for overlay in ENGINES:
        (job,) = [each for each in documents(overlay) if each["kind"] == "Job"]
        assert "--out=/models/{key}" in pod(job)["containers"][0]["args"]
    assert f"--out /models/{generated('cpu-demo', 'zoetrope-repository')['key']}\n" in DEMO


def test_metrics_are_those_of_the_server():
    (keda,) = [each for each in documents("autoscale") if each["kind"] == "ScaledObject"]
    query = keda["spec"]["triggers"][0]["metadata"]["query"]
    assert set(re.findall(r"zoetrope_\w+", query)) == {"zoetrope_queued_seconds"} <= set(METRICS)
    assert METRICS["zoetrope_queued_seconds"].kind == "gauge"
    (monitor,) = [each for each in documents("autoscale") if each["kind"] == "PodMonitor"]
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] in {each["name"] for each in server("autoscale")["ports"]}
    assert 'namespace="zoetrope"' in query and f'container="{server("autoscale")["name"]}"' in query


def test_the_route_names_methods_of_the_protocol():
    from tritonclient.grpc import service_pb2

    (service,) = service_pb2.DESCRIPTOR.services_by_name.values()
    (route,) = [each for each in documents("gateway") if each["kind"] == "GRPCRoute"]
    methods = [match["method"] for rule in route["spec"]["rules"] for match in rule["matches"]]
    assert {each["service"] for each in methods} == {service.full_name}
    assert {each["method"] for each in methods} <= {each.name for each in service.methods}
    called = set(re.findall(r"_stub\.(\w+)", (ROOT / "client/zoetrope_client/client.py").read_text()))
    assert {"ModelInfer", "ModelStreamInfer"} | called <= {each["method"] for each in methods}


@pytest.mark.parametrize("overlay", [*SERVERS, "kserve"])
def test_policies_name_who_may_come(overlay):
    """No rule lets any namespace in, and clients come to gRPC alone."""
    policies = [each["spec"] for each in documents(overlay) if each["kind"] == "NetworkPolicy"]
    assert any(spec["policyTypes"] == ["Ingress", "Egress"] and not spec["egress"] for spec in policies)
    assert all(spec["podSelector"]["matchLabels"] for spec in policies)
    for rule in (rule for spec in policies for rule in spec["ingress"]):
        assert all(each["namespaceSelector"]["matchLabels"] for each in rule["from"])
        assert len(rule["ports"]) == 1
        assert rule["ports"][0]["port"] in ("grpc", "metrics", 8001, 8002)


def test_the_policy_of_kserve_is_for_its_pods():
    """KServe gives each pod of a service this label."""
    service = one("kserve", "InferenceService")["metadata"]["name"]
    selector = one("kserve", "NetworkPolicy")["spec"]["podSelector"]["matchLabels"]
    assert selector == {"serving.kserve.io/inferenceservice": service}


@pytest.mark.parametrize("overlay", [*SERVERS, "kserve"])
def test_nothing_is_served_over_http(overlay):
    given = named(settings(overlay))
    assert not {"triton_http", "http_port", "http_host", "expose_vulnerable_triton"} & set(given)
    assert 8000 not in [each["containerPort"] for each in probed(overlay)["ports"]]


def test_what_the_route_lets_through_is_open():
    assert ServeSettings.merged(**named(settings("gateway"))).open_statistics
    assert not ServeSettings.merged(**named(settings("gpu"))).open_statistics


def test_tls_reaches_both_ends():
    spec = pod(one("tls", "Deployment"))
    given = named(settings("tls"))
    for container in (*spec["initContainers"], *spec["containers"]):  # all have the settings
        (mount,) = [each for each in container["volumeMounts"] if each["name"] == "tls"]
        assert {str(Path(given[name]).parent) for name in ("grpc_cert", "grpc_key")} == {mount["mountPath"]}
    assert {Path(given[name]).name for name in ("grpc_cert", "grpc_key")} == {"tls.crt", "tls.key"}
    for name in ("zoetrope", "zoetrope-headless"):
        ports = one("tls", "Service", name)["spec"]["ports"]
        assert [each["name"] for each in ports] == ["grpc"]


def test_the_demo_image(tmp_path):
    ran = subprocess.run(
        [str(Path(sys.executable).parent / "hadolint"), str(ROOT / "demo" / "Dockerfile")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stdout
    assert (ROOT / "demo" / "checkpoint" / "model_index.json").is_file()
    assert "COPY checkpoint /checkpoint" in DEMO and "RUN zoetrope export /checkpoint " in DEMO
