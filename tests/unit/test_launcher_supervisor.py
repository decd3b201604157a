import json
import os

import pytest

from zoetrope_server.launcher.errors import LaunchError
from zoetrope_server.launcher.parity import check_parity
from zoetrope_server.launcher.supervisor import Endpoints, RestartBudget
from zoetrope_server.launcher.workspace import check_repository, make_runtime_dir


def test_restarts_are_bounded_within_a_window():
    now = [0.0]
    budget = RestartBudget(limit=3, window_s=60, clock=lambda: now[0])
    assert [budget.take() for _ in range(4)] == [True, True, True, False]
    now[0] = 59.9
    assert not budget.take()
    now[0] = 60.0
    assert [budget.take() for _ in range(4)] == [True, True, True, False]


def test_restarts_far_apart_go_on():
    now = [0.0]
    budget = RestartBudget(limit=1, window_s=60, clock=lambda: now[0])
    for start in range(0, 6000, 60):
        now[0] = float(start)
        assert budget.take()


def test_endpoints_are_one_line_of_json():
    endpoints = Endpoints(grpc="a:1", http="a:2", metrics="a:3", health="a:4", pid=5, triton_pid=6)
    line = endpoints.to_json()
    assert "\n" not in line
    assert json.loads(line) == {
        "grpc": "a:1",
        "http": "a:2",
        "metrics": "a:3",
        "health": "a:4",
        "pid": 5,
        "triton_pid": 6,
    }


def test_repository_is_checked(tmp_path, monkeypatch):
    with pytest.raises(LaunchError, match="nowhere is not a folder"):
        check_repository(tmp_path / "nowhere")
    with pytest.raises(LaunchError, match="holds no model"):
        check_repository(tmp_path)
    (tmp_path / "models" / "unet").mkdir(parents=True)
    (tmp_path / "models" / "unet" / "config.pbtxt").touch()
    monkeypatch.chdir(tmp_path)
    assert check_repository(type(tmp_path)("models")) == tmp_path / "models"


def test_engines_that_failed_the_parity_gate_are_not_served(tmp_path, caplog):
    check_parity(tmp_path)  # no exporter wrote this repository
    report = tmp_path / "parity.json"
    report.write_text('{"passed": true}')
    check_parity(tmp_path)
    report.write_text('{"passed": false, "drift_allowed": false}')
    with pytest.raises(LaunchError, match="failed the parity gate: export again"):
        check_parity(tmp_path)
    assert not caplog.records
    report.write_text('{"passed": false, "drift_allowed": true}')
    check_parity(tmp_path)
    assert "failed the parity gate; the export allowed it" in caplog.text
    report.write_text("half a rep")
    with pytest.raises(LaunchError, match=r"parity\.json cannot be read"):
        check_parity(tmp_path)
    for text in ("[]", "null", '"passed"', "1"):
        report.write_text(text)
        with pytest.raises(LaunchError, match=r"parity\.json is no report"):
            check_parity(tmp_path)
    for text in ("{}", '{"passed": "false"}', '{"passed": 1, "drift_allowed": "no"}'):
        report.write_text(text)
        with pytest.raises(LaunchError, match="failed the parity gate"):
            check_parity(tmp_path)


def test_the_runtime_folder_is_private(tmp_path):
    folder = make_runtime_dir([str(tmp_path)])
    assert folder.parent == tmp_path
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_place_that_is_too_long_is_passed_over(tmp_path):
    long = tmp_path / ("x" * 100)
    long.mkdir()
    folder = make_runtime_dir(["", "relative", str(tmp_path / "missing"), str(long), str(tmp_path)])
    assert folder.parent == tmp_path
    assert len(os.fsencode(folder / "control.sock")) <= 107


def test_no_place_at_all(tmp_path):
    with pytest.raises(LaunchError, match="no folder for the control socket"):
        make_runtime_dir([str(tmp_path / "missing")])
