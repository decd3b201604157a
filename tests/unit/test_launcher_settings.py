import pytest

from zoetrope_server.launcher.errors import LaunchError
from zoetrope_server.launcher.settings import ServeSettings


@pytest.fixture(autouse=True)
def no_settings_in_the_environment(monkeypatch):
    for name in ServeSettings.model_fields:
        monkeypatch.delenv(f"ZOETROPE_{name.upper()}", raising=False)


def test_defaults_are_loopback_and_triton_s_ports():
    settings = ServeSettings.merged()
    assert settings.host == "127.0.0.1"
    assert settings.ports() == {"grpc": 8001, "http": 8000, "metrics": 8002, "health": 8003}
    assert settings.orchestrator_environment() == {"ZOETROPE_START_TIMEOUT_S": "600.0"}


def test_flags_come_before_the_environment_before_defaults(monkeypatch):
    monkeypatch.setenv("ZOETROPE_GRPC_PORT", "9001")
    monkeypatch.setenv("ZOETROPE_HTTP_PORT", "9000")
    monkeypatch.setenv("ZOETROPE_RESTART", "true")
    settings = ServeSettings.merged(grpc_port=0, http_port=None, restart=None)
    assert (settings.grpc_port, settings.http_port, settings.metrics_port) == (0, 9000, 8002)
    assert settings.restart


def test_limits_go_to_the_orchestrator():
    environment = ServeSettings.merged(max_active=2, max_waiting=0).orchestrator_environment()
    expected = {"ZOETROPE_MAX_ACTIVE": "2", "ZOETROPE_MAX_WAITING": "0", "ZOETROPE_START_TIMEOUT_S": "600.0"}
    assert environment == expected


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"grpc_port": 70000}, r"--grpc-port \(ZOETROPE_GRPC_PORT\) = 70000: "),
        ({"grpc_port": -1}, "--grpc-port"),
        ({"grace_period_s": -1}, "--grace-period-s"),
        ({"max_active": 0}, "--max-active"),
        ({"host": 3, "max_waiting": -1}, "--host .*; --max-waiting "),
    ],
)
def test_wrong_values_are_named(flags, message):
    with pytest.raises(LaunchError, match=message):
        ServeSettings.merged(**flags)


def test_a_kubernetes_service_link_is_recognised(monkeypatch):
    monkeypatch.setenv("ZOETROPE_GRPC_PORT", "tcp://10.0.0.1:8001")
    with pytest.raises(LaunchError, match="enableServiceLinks: false"):
        ServeSettings.merged()


def test_tls_needs_a_certificate_and_its_key(tmp_path):
    pem = tmp_path / "a.pem"
    pem.write_text("")
    assert ServeSettings.merged().grpc_tls() is None
    tls = ServeSettings.merged(grpc_cert=pem, grpc_key=pem).grpc_tls()
    assert tls is not None and tls.client_ca is None
    for half in ({"grpc_cert": pem}, {"grpc_key": pem}, {"grpc_client_ca": pem}):
        with pytest.raises(LaunchError, match="go together"):
            ServeSettings.merged(**half).grpc_tls()
    with pytest.raises(LaunchError, match="--grpc-cert"):
        ServeSettings.merged(grpc_cert=tmp_path / "no.pem", grpc_key=pem)
