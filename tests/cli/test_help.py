"""The help of every command, as a person reads it."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Callable

import pytest
from typer.models import CommandInfo
from typer.testing import Result

from finetune.cli import app, paragraphs

COLOR = re.compile(r"\x1b\[[0-9;]*m")


def name_of(command: CommandInfo) -> str:
    return command.name or command.callback.__name__


@pytest.mark.parametrize("command", app.registered_commands, ids=name_of)
def test_a_paragraph_of_help_breaks_only_where_the_terminal_ends(
    run: Callable[..., Result], command: CommandInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = inspect.getdoc(command.callback)
    for width in (64, 2000):
        monkeypatch.setenv("COLUMNS", str(width))
        shown = COLOR.sub("", run(name_of(command), "--help").stdout)
        prose = shown.partition("[OPTIONS]")[2].partition("╭")[0].partition("\n")[2].strip()
        blocks = [block.splitlines() for block in prose.split(" " * width + "\n")]
        assert len(blocks) == len(written.split("\n\n"))
        for block, paragraph in zip(blocks, written.split("\n\n"), strict=True):
            lines = [line.strip() for line in block]
            assert " ".join(lines) == " ".join(paragraph.split())
            # The first word of a line did not fit on the line before.
            for line, after in itertools.pairwise(lines):
                assert len(f"{line} {after.split()[0]}") > width - 2


def test_a_paragraph_of_a_docstring_becomes_one_line() -> None:
    text = """Do this.

    And then
    that.

    The end.
    """
    assert paragraphs(text) == "Do this.\n\nAnd then that.\n\nThe end."
    assert paragraphs(None) == ""
