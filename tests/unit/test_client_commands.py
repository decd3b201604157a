"""The `zoetrope` command finds its subcommands lazily."""

import os
import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints, version
from pathlib import Path

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


def completing(*words):
    """What a shell sets where it asks what to offer after these words."""
    return {
        "_ZOETROPE_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(("zoetrope", *words)),
        "COMP_CWORD": str(len(words)),
    }


def test_a_shell_asks_the_program_what_it_completes():
    environment = {**os.environ, **completing("generate", "--mot")}
    command = Path(sys.executable).parent / "zoetrope"
    ran = subprocess.run([command], env=environment, capture_output=True, text=True, timeout=60)
    assert (ran.stdout.split(), ran.stderr) == (["--motion-bucket-id"], "")


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["ge"], ["generate"]),
        (["generate", "--pat"], ["--patience"]),
        (["generate", "--sampler", "h"], ["heun"]),
        (["info", "--he"], ["--header", "--help"]),
        (["serve", "--grpc-ce"], ["--grpc-cert"]),
        (["checkpoint", "ran"], ["random"]),
        (["checkpoint", "random", "--li"], ["--like"]),
        (["nothing", "--x"], []),
    ],
    ids=" ".join,
)
def test_a_shell_completes_commands_and_their_options(words, offered):
    if words[0] == "serve":
        pytest.importorskip("pydantic_settings", reason="the server extra")
    result = CliRunner().invoke(cli.app, [], env=completing(*words), prog_name="zoetrope")
    assert (sorted(result.stdout.split()), result.stderr) == (offered, "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_can_be_shown_and_installed(shell, tmp_path):
    environment = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1", "HOME": str(tmp_path)}
    command = str(Path(sys.executable).parent / "zoetrope")
    settings = {"env": environment, "capture_output": True, "text": True, "check": True}
    shown = subprocess.run([command, "--show-completion", shell], **settings)
    assert "_ZOETROPE_COMPLETE" in shown.stdout
    subprocess.run([command, "--install-completion", shell], **settings)
    written = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert any("_ZOETROPE_COMPLETE" in text for text in written)


def test_completing_a_command_that_is_not_installed_says_nothing(modules):
    modules("tool", "cli_test_absent", "import no_such_package\ncommand = None\n")
    result = CliRunner().invoke(cli.app, [], env=completing("tool", "--x"), prog_name="zoetrope")
    assert (result.stdout.strip(), result.stderr) == ("", "")
