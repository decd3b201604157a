"""The metrics by a real Prometheus: every name that the rules and the dashboard use has values."""

import json
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import yaml
from fakes import png
from manifests import documents, server
from metrics import metric
from waiting import wait_until

from zoetrope_client import Client
from zoetrope_server.launcher.ports import choose_ports
from zoetrope_server.metrics import METRICS, STAGE_METRICS

pytestmark = pytest.mark.e2e
MONITORING = Path(__file__).parents[2] / "deploy" / "monitoring"
RULES = MONITORING / "alerts.yml"
REQUESTS = "zoetrope_requests_total"
needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="prometheus is not installed (apt install prometheus)"
)


def expressions():
    """All PromQL of the rules and the dashboard."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    panels = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
    rules = [rule["expr"] for group in groups for rule in group["rules"]]
    return rules + [target["expr"] for panel in panels for target in panel["targets"]]


def names():
    """All metrics that they read, as Prometheus stores them."""
    return sorted(set(re.findall(r"\b(?:zoetrope|nv)_\w+", " ".join(expressions()))))


@contextmanager
def prometheus(target, folder, labels=None):
    """A Prometheus that scrapes the server each second and adds labels to all it reads; its address."""
    found = {"targets": [target], "labels": labels or {}}
    scrape = {"job_name": "zoetrope", "scrape_interval": "1s", "static_configs": [found]}
    (folder / "prometheus.yml").write_text(
        yaml.safe_dump({"scrape_configs": [scrape], "rule_files": [str(RULES)]})
    )
    address = f"127.0.0.1:{choose_ports('127.0.0.1', {'web': 0})['web']}"
    files = (f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data")
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            ["prometheus", *files, f"--web.listen-address={address}"], stdout=log, stderr=log
        )
        try:
            yield address
        finally:
            process.terminate()
            process.wait(20)


def query(address, expression):
    url = f"http://{address}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
    with urllib.request.urlopen(url, timeout=5) as answer:
        return json.load(answer)["data"]["result"]


def wait_for(address, expression, seconds=40):
    def value():
        with suppress(OSError):
            return query(address, expression)

    return wait_until(value, seconds)


@needs_prometheus
def test_the_rules_are_rules():
    ran = subprocess.run(["promtool", "check", "rules", str(RULES)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "5 rules found" in ran.stdout


def test_the_rules_and_the_dashboard_read_what_there_is():
    suffixes = re.compile(r"_(bucket|sum|count)$")
    ours = {name for name in names() if name.startswith("zoetrope")}
    assert {suffixes.sub("", name) for name in ours} <= {*METRICS, *STAGE_METRICS}
    assert {name for name in names() if name.endswith("_bucket")} == {
        f"{name}_bucket" for name, metric in METRICS.items() if metric.kind == "histogram"
    }


@needs_prometheus
def test_a_real_prometheus_reads_every_metric(roomy_server, tmp_path):
    done, steps = metric(roomy_server, REQUESTS, outcome="done"), metric(roomy_server, "zoetrope_steps_total")
    with prometheus(roomy_server.ports["metrics"], tmp_path) as address:
        with Client(roomy_server.url) as client:
            client.generate(png(), num_inference_steps=3)
            with pytest.raises(Exception, match="width"):
                client.generate(png(), width=8)
        for name in names():
            wait_for(address, name)
        wait_for(address, f'{REQUESTS}{{outcome="done"}} == {done + 1}')
        wait_for(address, f"zoetrope_steps_total == {steps + 3}")
        assert query(address, 'zoetrope_requests_total{outcome="invalid_argument"}')
        for expression in expressions():
            query(address, expression.replace("$__rate_interval", "1m"))


@needs_prometheus
def test_the_autoscalers_read_the_work_of_a_pod(single_server, tmp_path):
    """Their metric, with the labels that a PodMonitor gives it, follows what waits."""
    (keda,) = [each for each in documents("autoscale") if each["kind"] == "ScaledObject"]
    (plain,) = [each for each in documents("autoscale-hpa") if each["kind"] == "HorizontalPodAutoscaler"]
    expression = keda["spec"]["triggers"][0]["metadata"]["query"]
    name = plain["spec"]["metrics"][0]["pods"]["metric"]["name"]
    labels = {"namespace": "zoetrope", "pod": "zoetrope-0", "container": server("autoscale")["name"]}
    with (
        prometheus(single_server.ports["metrics"], tmp_path, labels) as address,
        Client(single_server.url) as client,
    ):
        client.generate(png(), num_inference_steps=2)
        (idle,) = wait_for(address, expression)
        assert float(idle["value"][1]) == 0
        first, video = (client.stream(png(), num_inference_steps=200) for _ in range(2))
        next(first)
        assert not query(address, f"{expression} > 1"), "what runs is no reason for another pod"
        next(video)
        (busy,) = wait_for(address, f"{expression} > 1")
        (pods,) = query(address, f'{name}{{pod="zoetrope-0"}} > 1')
        assert 1 < float(busy["value"][1]) < 60 and pods["metric"]["namespace"] == "zoetrope"
        video.close()
        first.close()
