"""The `zoetrope` command finds its subcommands lazily."""

import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints, version

import pytest
from typer.testing import CliRunner

from zoetrope_client import cli


def test_help_and_version():
    runner = CliRunner()
    shown = runner.invoke(cli.app, ["--help"])
    assert shown.exit_code == 0
    for name in ("generate", "serve", "export", "checkpoint"):
        assert name in shown.stdout
    assert cli.HELP["serve"] in shown.stdout
    assert runner.invoke(cli.app, ["--version"]).stdout == f"zoetrope {version('zoetrope')}\n"
    unknown = runner.invoke(cli.app, ["serv"])
    assert unknown.exit_code == 2
    assert "'serve'" in unknown.stderr


def test_every_entry_point_has_a_line_of_help():
    assert set(cli.entry_points(group=cli.GROUP).names) <= set(cli.HELP)


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """Makes `zoetrope` find commands in modules that the test writes; returns the writer."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name, module, source, attribute="command"):
        (tmp_path / f"{module}.py").write_text(source)
        entry = EntryPoint(name, f"{module}:{attribute}", cli.GROUP)
        monkeypatch.setattr(cli, "entry_points", lambda **params: EntryPoints([entry]).select(**params))

    return write


def test_a_typer_app_may_be_a_subcommand(modules):
    source = (
        "import typer\ncommand = typer.Typer()\n"
        "@command.command()\ndef random(count: int = 3) -> None:\n    typer.echo(f'random {count}')\n"
        "@command.command()\ndef show() -> None:\n    typer.echo('show')\n"
    )
    modules("tools", "cli_test_tools", source)
    runner = CliRunner()
    assert runner.invoke(cli.app, ["tools", "random", "--count", "5"]).stdout == "random 5\n"
    assert runner.invoke(cli.app, ["tools", "show"]).stdout == "show\n"
    assert "random" in runner.invoke(cli.app, ["tools", "--help"]).stdout


def test_help_imports_no_subcommand(modules):
    modules("boom", "cli_test_boom", "raise SystemError('imported')\n")
    shown = CliRunner().invoke(cli.app, ["--help"])
    assert (shown.exit_code, "boom" in shown.stdout) == (0, True)


@pytest.mark.parametrize(
    "source",
    ["import no_such_package\ncommand = None\n", "def command() -> None:\n    import no_such_package\n"],
    ids=["at import", "when called"],
)
def test_a_missing_package_is_one_line(source, modules, monkeypatch):
    modules("tool", "cli_test_missing", source)
    sys.modules.pop("cli_test_missing", None)
    result = CliRunner().invoke(cli.app, ["tool"])
    assert (result.exit_code, result.stderr) == (1, "zoetrope tool needs the package no_such_package\n")
    monkeypatch.setitem(cli._EXTRAS, "cli_test_missing", "export")
    result = CliRunner().invoke(cli.app, ["tool"])
    assert (result.exit_code, result.stderr) == (
        1,
        "zoetrope tool needs the export extra: pip install 'zoetrope[export]'\n",
    )


def test_a_package_that_misses_a_part_of_itself_is_a_bug_not_an_extra(modules):
    modules("tool", "cli_test_broken", "import zoetrope_client.no_such_module\n")
    with pytest.raises(ModuleNotFoundError):
        CliRunner().invoke(cli.app, ["tool"], catch_exceptions=False)


def test_the_command_imports_nothing_heavy():
    script = (
        "import sys\nfrom zoetrope_client.cli import app\n"
        "from typer.testing import CliRunner\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "print([m for m in ('torch', 'openvino', 'zoetrope_server') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
