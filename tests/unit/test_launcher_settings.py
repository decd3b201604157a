import pytest

from zoetrope_server.launcher.errors import LaunchError
from zoetrope_server.launcher.settings import ServeSettings
from zoetrope_server.settings import OrchestratorSettings


@pytest.fixture(autouse=True)
def no_settings_in_the_environment(monkeypatch):
    for name in ServeSettings.model_fields:
        monkeypatch.delenv(f"ZOETROPE_{name.upper()}", raising=False)


def test_defaults_are_loopback_and_triton_s_ports():
    settings = ServeSettings.merged()
    assert settings.host == "127.0.0.1"
    assert settings.ports() == {"grpc": 8001, "metrics": 8002, "health": 8003}
    assert settings.hosts() == dict.fromkeys(settings.ports(), "127.0.0.1")
    assert settings.orchestrator_environment() == {"ZOETROPE_START_TIMEOUT_S": "600.0"}


def test_flags_come_before_the_environment_before_defaults(monkeypatch):
    monkeypatch.setenv("ZOETROPE_GRPC_PORT", "9001")
    monkeypatch.setenv("ZOETROPE_HEALTH_PORT", "9003")
    monkeypatch.setenv("ZOETROPE_RESTART", "true")
    settings = ServeSettings.merged(grpc_port=0, health_port=None, restart=None)
    assert (settings.grpc_port, settings.health_port, settings.metrics_port) == (0, 9003, 8002)
    assert settings.restart


def test_http_is_on_when_it_is_asked_for():
    settings = ServeSettings.merged(triton_http=True, host="10.0.0.3")
    assert settings.ports() == {"grpc": 8001, "http": 8000, "metrics": 8002, "health": 8003}
    assert settings.hosts()["http"] == "127.0.0.1", "its own address, whatever that of the others is"
    assert ServeSettings.merged(triton_http=True, http_host="10.0.0.3").hosts()["http"] == "10.0.0.3"
    assert settings.deprecations() == []


def test_a_port_of_http_alone_still_turns_it_on_and_says_how_to_do_so(monkeypatch):
    monkeypatch.setenv("ZOETROPE_HTTP_PORT", "9000")
    settings = ServeSettings.merged()
    assert settings.ports()["http"] == 9000
    (warning,) = settings.deprecations()
    assert "add --triton-http" in warning
    off = ServeSettings.merged(triton_http=False)
    assert ("http" in off.ports(), off.deprecations()) == (False, [])


def test_http_needs_its_flag_for_its_address():
    with pytest.raises(LaunchError, match="--http-host .*give both"):
        ServeSettings.merged(http_host="127.0.0.1")


def test_nothing_is_in_plain_text_beside_tls(tmp_path):
    pem = tmp_path / "a.pem"
    pem.touch()
    tls = {"grpc_cert": pem, "grpc_key": pem}
    with pytest.raises(LaunchError, match="--triton-http would serve in plain text"):
        ServeSettings.merged(triton_http=True, **tls)
    old = ServeSettings.merged(http_port=0, **tls)
    assert "http" not in old.ports() and "ignored" in old.deprecations()[0]


@pytest.mark.parametrize("name", ServeSettings.model_fields)
def test_an_empty_variable_is_none(monkeypatch, name):
    monkeypatch.setenv(f"ZOETROPE_{name.upper()}", "")
    assert name not in ServeSettings.merged().model_fields_set


@pytest.mark.parametrize("name", OrchestratorSettings.model_fields)
def test_an_empty_variable_of_the_orchestrator_is_none(monkeypatch, name):
    monkeypatch.setenv(f"ZOETROPE_{name.upper()}", "")
    assert OrchestratorSettings().model_fields_set == set()


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
