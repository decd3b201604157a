"""What the manifests rely on, on the real server: probes, drain, balancing, TLS, the check, a read-only root.

That a stage process's death ends requests and server is in test_supervisor.py and test_load.py; the metrics
of the rules, the dashboard and the autoscaler are in test_monitoring.py.
"""

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import grpc
import psutil
import pytest
from certificates import Authority
from engine_keys import KEY
from fakes import png
from footprint import Footprint
from manifests import generated, named, one, pod, server, settings
from metrics import metric
from waiting import wait_until

from zoetrope_bench.noop_repository import write_noop_repository
from zoetrope_bench.overhead import SVD_XT
from zoetrope_bench.server import serving
from zoetrope_client import Client
from zoetrope_core.errors import Draining
from zoetrope_core.specs import STAGES
from zoetrope_server import sizing
from zoetrope_server.doctor.traffic import largest
from zoetrope_server.engines.sidecar import Sidecar

pytestmark = pytest.mark.e2e
BIN = Path(sys.executable).parent
SHM = Path("/dev/shm")


def status(running, probe):
    """What a probe of the manifests is told: the status, or None where nobody answers."""
    path = server("cpu-demo")[probe]["httpGet"]["path"]
    connection = http.client.HTTPConnection(running.ports["health"], timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return None
    finally:
        connection.close()


def demo_environment():
    """The environment that cpu-demo gives to its server."""
    return {**os.environ, **settings("cpu-demo")}


class Video(threading.Thread):
    """One request in a thread, and how it ended."""

    def __init__(self, url, **fields):
        super().__init__(daemon=True)
        self.url, self.fields = url, fields
        self.events, self.error = [], None
        self.start()

    def run(self):
        try:
            with Client(self.url) as client:
                for event in client.stream(png(64, 96), seed=1, **self.fields):
                    self.events.append(type(event).__name__)
        except Exception as error:
            self.error = error


def test_a_drain_under_load(timed_repository, tmp_path):
    """What runs and waits is served, what comes is refused, nothing is left: all within the grace period."""
    limits = named(settings("gpu"))
    active, waiting = int(limits["max_active"]), int(limits["max_waiting"])
    environment = {**os.environ, **settings("gpu")}
    with serving(timed_repository, tmp_path / "log", environment=environment) as running:
        assert (status(running, "readinessProbe"), status(running, "livenessProbe")) == (200, 200)
        prefix = Footprint(running).prefix
        assert list(SHM.glob(prefix + "*"))
        videos = [Video(running.url, num_inference_steps=20) for _ in range(active + waiting)]
        wait_until(lambda: all(video.events for video in videos), 30)
        assert not all("Progress" in video.events for video in videos), "some of them wait"
        began = time.monotonic()
        running.process.send_signal(signal.SIGTERM)
        wait_until(lambda: status(running, "readinessProbe") == 503, 2)
        late = Video(running.url, num_inference_steps=1)
        late.join(20)
        assert isinstance(late.error, Draining)
        assert status(running, "livenessProbe") == 200, "or the kubelet would end the drain"
        for video in videos:
            video.join(60)
        assert [(video.events[-1:], video.error) for video in videos] == [(["Done"], None)] * len(videos)
        done = time.monotonic()
        assert running.process.wait(30) == 0
        assert time.monotonic() - done < sizing.EXIT_S
        assert time.monotonic() - began < float(limits["grace_period_s"])
    assert list(SHM.glob(prefix + "*")) == []


def test_a_dead_stage_process_fails_both_probes(noop_repository, tmp_path):
    with serving(noop_repository, tmp_path / "log", environment=demo_environment()) as running:
        stages = {
            Path(child.cmdline()[1]).parts[-3]: child
            for child in psutil.Process(running.ports["triton_pid"]).children()
        }
        stages["unet"].kill()
        wait_until(lambda: status(running, "readinessProbe") in (503, None), 1)
        wait_until(lambda: status(running, "livenessProbe") in (503, None), 5)
        assert running.process.wait(20) == 3


def test_the_check_before_the_server(noop_repository, repository, tmp_path):
    """The init container's own command: it passes a whole repository and says what is wrong with another."""
    (check,) = pod(one("gpu", "Deployment"))["initContainers"]
    key = generated("gpu", "zoetrope-repository")["key"]
    (path,) = (text.replace("$(REPOSITORY_KEY)", key) for text in check["args"])
    assert path == f"/models/{key}"

    def checked(folder):
        program, *words = check["command"]
        command = [str(BIN / program), *words, str(folder)]
        ports = {f"ZOETROPE_{name}_PORT": "0" for name in ("GRPC", "HTTP", "METRICS", "HEALTH")}
        environment = {**demo_environment(), **ports}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)

    assert checked(repository).returncode == 0
    missing = checked(tmp_path / key)
    assert missing.returncode == 1 and f"{tmp_path / key} is not a folder" in missing.stdout
    foreign = tmp_path / "foreign"
    shutil.copytree(repository, foreign, ignore=shutil.ignore_patterns("cache"))
    facts = json.loads((foreign / "zoetrope.json").read_text())
    (foreign / "zoetrope.json").write_text(json.dumps(facts | {"engine": "aot-inductor"}))
    for stage in STAGES:
        own = {"stage": stage, "library": "torch", "library_version": metadata.version("torch")}
        engine_of(foreign / stage / "1", replace(KEY, **own, precision="fp32", target="sm90"))
    refused = checked(foreign)
    assert refused.returncode == 1
    assert "was built for another place: " in refused.stdout and "target is sm90, here" in refused.stdout
    assert refused.stdout.splitlines()[-1].endswith("unet, stage vae_decoder")
    assert len(refused.stdout) < 2048, "what the kubelet keeps of a log for a pod's state"


def engine_of(folder, key):
    """An engine file of that key, as far as anyone looks before it is loaded."""
    file = folder / key.file_name()
    file.write_bytes(b"engine")
    Sidecar.of(file, key, 0.0).save(file)


def connections(running, port):
    """The addresses of the clients that are connected to a port of a server."""
    number = int(running.ports[port].rpartition(":")[2])
    tcp = psutil.Process(running.ports["triton_pid"]).net_connections(kind="tcp")
    return {each.raddr for each in tcp if each.laddr.port == number and each.raddr}


def test_streams_of_one_client_go_to_all_servers(roomy_server, noop_repository, tmp_path):
    """Balancing in the client, as docs/deploy.md has it for the headless Service."""
    config = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})
    with ExitStack() as stack:
        servers = [roomy_server, stack.enter_context(serving(noop_repository, tmp_path / "log"))]
        target = "ipv4:" + ",".join(each.url for each in servers)
        client = stack.enter_context(Client(target, channel_args=[("grpc.service_config", config)]))
        wait_until(client.health, 10)
        wait_until(lambda: all(connections(each, "grpc") for each in servers), 10)
        before = [served_requests(each) for each in servers]
        for seed in range(6):
            client.generate(png(64, 96), seed=seed, num_inference_steps=1)
        wait_until(lambda: sum(map(served_requests, servers)) == sum(before) + 6, 10)
        served = [served_requests(each) - then for each, then in zip(servers, before, strict=True)]
    assert served == [3, 3]


def test_an_old_connection_takes_no_new_calls_and_its_streams_go_on(timed_repository, tmp_path):
    """Clients that balance look for new servers when a connection ends."""
    assert "ZOETROPE_GRPC_CONNECTION_AGE_S" in settings("gpu")
    with (
        serving(timed_repository, tmp_path / "log", "--grpc-connection-age-s=1") as running,
        Client(running.url) as client,
    ):
        assert client.health()
        first = connections(running, "grpc")
        began = time.monotonic()
        assert client.generate(png(64, 96), seed=1, num_inference_steps=100).seed == 1
        assert time.monotonic() - began > 3, "longer than a connection lives, with its 10 % more or less"
        assert client.generate(png(64, 96), seed=1, num_inference_steps=1).seed == 1
        assert first and (later := connections(running, "grpc")) and not first & later


def served_requests(running):
    return metric(running, "zoetrope_requests_total", outcome="done")


def test_tls_from_files(noop_repository, tmp_path):
    authority = Authority(tmp_path, "authority")
    own = authority.sign("localhost")
    files = {"ZOETROPE_GRPC_CERT": str(own.certificate), "ZOETROPE_GRPC_KEY": str(own.key)}
    assert set(files) <= set(settings("tls"))
    with serving(noop_repository, tmp_path / "log", environment={**os.environ, **files}) as running:
        assert status(running, "readinessProbe") == 200
        trusted = grpc.ssl_channel_credentials(authority.certificate.read_bytes())
        with Client(running.url.replace("127.0.0.1", "localhost"), credentials=trusted) as client:
            assert client.generate(png(64, 96), seed=1, num_inference_steps=1).seed == 1
        with Client(running.url) as plain:
            assert not plain.health()


def test_shared_memory_stays_below_its_size(tmp_path):
    """At SVD-XT's shapes, with requests that run and wait, and with frames streamed."""
    manifest = replace(SVD_XT, decode_chunk_size=25)
    photo = png(900, 1400)
    load = sizing.Load(max_active=2, max_waiting=4)
    sized = sizing.shared_memory(replace(largest(manifest), picture=len(photo)), load).value
    repository = write_noop_repository(tmp_path / "repository", manifest)
    limits = ("--max-active", "2", "--max-waiting", "4")
    with serving(repository, tmp_path / "log", *limits) as running:
        footprint, peak = Footprint(running), 0

        def ask():
            with Client(running.url) as client:
                client.generate(photo, seed=1, num_inference_steps=2, stream_frames=True)

        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            peak = max(peak, footprint.read()["server", "shm"])
            time.sleep(0.02)
    assert sized / 2 < peak < sized


def test_a_read_only_root(repository, tmp_path):
    """The server writes to the two places that the manifests mount for it, and nowhere else."""
    mounted = {each["mountPath"] for each in server("cpu-demo")["volumeMounts"]}
    assert mounted == {"/tmp", "/dev/shm"}
    assert server("cpu-demo")["securityContext"]["readOnlyRootFilesystem"] is True
    models = shutil.copytree(repository, tmp_path / "models", ignore=shutil.ignore_patterns("cache"))
    locked = (
        "mount --bind /tmp /tmp && mount -o remount,ro,bind / && "
        f'mount --bind {models} {models} && mount -o remount,ro,bind {models} && exec "$@"'
    )
    namespace = ["unshare", "--mount", "--propagation", "private", "bash", "-c", locked, "-"]
    probe = subprocess.run(
        [*namespace, "bash", "-c", f"touch /tmp/{tmp_path.name} && ! touch /usr/x && ! touch {models}/x"],
        capture_output=True,
    )
    if probe.returncode:
        pytest.skip("no mount namespace of our own here (needs root)")
    ports = [f"--{name}-port=0" for name in ("grpc", "http", "metrics", "health")]
    environment = {**demo_environment(), "HOME": "/tmp", "TMPDIR": "/tmp"}
    environment.pop("XDG_RUNTIME_DIR", None)
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(
            [*namespace, str(BIN / "zoetrope"), "serve", str(models), *ports],
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
            text=True,
        ) as process,
    ):
        try:
            endpoints = json.loads(process.stdout.readline() or "{}")
            assert endpoints, (tmp_path / "log").read_text()[-2000:]
            with Client(endpoints["grpc"]) as client:
                assert client.generate(png(64, 96), seed=1, num_inference_steps=1).seed == 1
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
