from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from typer.models import CommandInfo
from typer.testing import Result

from finetune.cli import app
from finetune.config_io import settings

SCREEN = 40
"""Lines of help that fit on one screen."""


def name_of(command: CommandInfo) -> str:
    assert command.callback is not None
    return command.name or command.callback.__name__


@pytest.fixture(autouse=True)
def narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize("command", app.registered_commands, ids=name_of)
def test_help_of_each_command_fits_one_screen(
    run: Callable[..., Result], command: CommandInfo
) -> None:
    lines = run(name_of(command), "--help").stdout.splitlines()
    assert len(lines) <= SCREEN
    assert max(map(len, lines)) <= 80


def test_help_of_the_program_fits_one_screen(run: Callable[..., Result]) -> None:
    shown = run("--help").stdout
    assert len(shown.splitlines()) <= SCREEN
    assert "...\n" not in shown.partition("\n")[2]
    assert all(f"  {name_of(command)} " in shown for command in app.registered_commands)


def test_train_help_shows_the_main_options(run: Callable[..., Result]) -> None:
    shown = run("train", "--help").stdout
    expected = (
        *("model", "weights", "mode", "epochs", "augment", "size", "batch-size", "lr", "device"),
        *("seed", "name", "resume", "from", "folds", "json", "quiet", "help"),
    )
    assert re.findall(r"^  (?:-\w, )?--([\w-]+)", shown, re.MULTILINE) == list(expected)
    assert shown.endswith("\nAll options: finetune train --help-all\n")


@pytest.mark.parametrize("name", ["train", "tune", "ablate", "lr-find"])
def test_help_all_shows_every_setting(run: Callable[..., Result], name: str) -> None:
    words = run(name, "--help-all").stdout.split()
    assert {setting.flag for setting in settings()} <= {word.rstrip(",/") for word in words}


def test_commands_that_train_refer_to_the_options_of_train(run: Callable[..., Result]) -> None:
    assert run("tune", "--help").stdout.endswith(
        "\nOptions of train work here too: finetune tune --help-all\n"
    )
