"""`zoetrope serve` before it starts anything."""

import pytest
import typer
from typer.testing import CliRunner

from zoetrope_server.commands import serve

app = typer.Typer()
app.command()(serve)


def run(*arguments, **environment):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env=environment)


def test_errors_are_one_line_on_standard_error(tmp_path):
    result = run(tmp_path / "nowhere")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith(f"zoetrope serve: {tmp_path}/nowhere is not a folder")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["--grpc-port=99999"], {}, "--grpc-port (ZOETROPE_GRPC_PORT) = 99999"),
        ([], {"ZOETROPE_MAX_ACTIVE": "many"}, "--max-active (ZOETROPE_MAX_ACTIVE) = 'many'"),
        (["--max-active=0"], {"ZOETROPE_MAX_ACTIVE": "4"}, "--max-active (ZOETROPE_MAX_ACTIVE) = 0"),
    ],
)
def test_wrong_settings(tmp_path, arguments, environment, message):
    result = run(tmp_path, *arguments, **environment)
    assert result.exit_code == 1
    assert message in result.stderr


def test_a_wrong_log_level(tmp_path):
    result = run(tmp_path, "--log-level=loud")
    assert result.exit_code == 2
    assert "debug, info, warning, error" in result.stderr
