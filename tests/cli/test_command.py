from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import typer
from typer.testing import CliRunner, Result

from finetune import __version__
from finetune.cli import app
from finetune.cli.command import RENAMED, Group, current_names
from finetune.errors import RunError


def app_that_raises(error: BaseException) -> typer.Typer:
    app = typer.Typer(cls=Group, pretty_exceptions_enable=False)

    @app.command()
    def work() -> None:
        raise error

    @app.command()
    def other() -> None:
        pass

    return app


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (RunError("There is no run."), 1, "Error: There is no run.\n"),
        (KeyboardInterrupt(), 130, "Error: Interrupted.\n"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 141, ""),
        (
            ModuleNotFoundError("No module named 'optuna'", name="optuna.study"),
            1,
            "Error: finetune work needs the package 'optuna'. Install it with: "
            "pip install 'finetune-photos[tune]'\n",
        ),
    ],
)
def test_expected_error_is_one_line(error: BaseException, code: int, text: str) -> None:
    result = CliRunner().invoke(app_that_raises(error), ["work"])
    assert (result.exit_code, result.stderr) == (code, text)


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("a bug"), ModuleNotFoundError("no torch", name="torch")]
)
def test_a_bug_keeps_its_traceback(error: Exception) -> None:
    result = CliRunner().invoke(app_that_raises(error), ["work"])
    assert result.exception is error


@pytest.mark.parametrize(
    ("command", "old", "new"),
    [
        ("train", "--run garden --folds 2", "--name garden --folds 2"),
        ("annotate", "--take-back --no-browser", "--undo --no-open"),
        ("crop", "--html=a.html --png b.png", "--output=a.html --output b.png"),
        ("predict", "--undo-sort sorted", "--undo --sort-into sorted"),
        ("predict", "--undo-sort=sorted", "--undo --sort-into=sorted"),
        ("evaluate", "garden --tta", "garden --tta 2"),
        ("evaluate", "--tta --json", "--tta 2 --json"),
        ("evaluate", "--tta 2 --json", "--tta 2 --json"),
        ("train", "-- --run", "-- --run"),
    ],
)
def test_old_option_names_become_current_ones(command: str, old: str, new: str) -> None:
    assert current_names(command, old.split()) == new.split()


def test_old_option_name_is_noted_on_stderr(run: Callable[..., Result]) -> None:
    assert run("export", "gone", "--out", "x", code=1).stderr.splitlines()[0] == (
        "Note: --out is now --output; the old name will stop working in the next release."
    )


@pytest.mark.parametrize("command", RENAMED)
def test_current_option_names_are_options_of_the_command(command: str) -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, Group)
    names = {name for param in group.commands[command].params for name in param.opts}
    names |= {name for param in group.commands[command].params for name in param.secondary_opts}
    for old, new in RENAMED[command].items():
        assert old not in names
        assert set(new.split()) <= names


def test_version_names_what_finetune_runs_on(run: Callable[..., Result]) -> None:
    lines = run("--version").stdout.splitlines()
    assert lines[0] == f"finetune {__version__}"
    assert [line.split()[0] for line in lines] == ["finetune", "Python", "torch", "timm", "device"]


def test_completion_lists_commands_in_bash() -> None:
    environment = {
        **os.environ,
        "_FINETUNE_COMPLETE": "complete_bash",
        "COMP_WORDS": "finetune exp",
        "COMP_CWORD": "1",
    }
    code = "import sys; sys.argv = ['finetune']; from finetune.__main__ import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert sorted(result.stdout.split()) == ["export", "export-photos"]


@pytest.mark.parametrize("raised", ["KeyboardInterrupt", "ImportError"])
def test_interrupt_during_imports_is_one_line_whatever_a_library_raises(raised: str) -> None:
    code = (
        "import os, signal, sys; from finetune.__main__ import main\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name != 'finetune.cli': return\n"
        "        try: os.kill(os.getpid(), signal.SIGINT)\n"
        f"        finally: raise {raised}\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "main()"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (130, "Error: Interrupted.\n")


@pytest.mark.parametrize("address", ["https://example.org/a.jpg", "S3://photos/a"])
@pytest.mark.parametrize("command", ["predict", "train", "scan", "import"])
def test_address_on_the_web_is_no_file(
    error_of: Callable[..., str], command: str, address: str
) -> None:
    assert error_of(command, address) == (
        f"{address} is an address on the web, not a file. Download it first, and give the path of "
        "the file."
    )
