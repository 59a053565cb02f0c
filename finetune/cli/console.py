"""The only printer of the program: tables to stdout, progress and errors to stderr, JSON whole."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say only results and errors.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Answer yes to every question.")]


class Advance(Protocol):
    """What a library function calls as its `progress`: how many are done, of how many."""

    def __call__(self, done: int, total: int) -> None:
        """Takes how many are done."""
        ...


@dataclass
class Output:
    """Where a command's words go; set once by the global options."""

    quiet: bool = False
    json: bool = False
    stdout: Console = field(default_factory=lambda: Console(highlight=False))
    stderr: Console = field(default_factory=lambda: Console(stderr=True, highlight=False))

    def listen_to_library(self) -> None:
        """Shows what the library logs as warnings; once, however often it is called."""
        logger = logging.getLogger("finetune")
        if not any(isinstance(handler, _Notes) for handler in logger.handlers):
            logger.addHandler(_Notes(self))
            logger.propagate = False

    def plain(self, text: str) -> Text:
        """Returns text for a table's cell in which no markup is read."""
        return Text(text)

    def print(self, *parts: object) -> None:
        """Prints a result to stdout; nothing under --json, where only `document` speaks."""
        if not self.json:
            self.stdout.print(*parts)

    def text(self, text: str) -> None:
        """Prints plain text to stdout with no markup read into it."""
        if not self.json:
            self.stdout.print(text, markup=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Says on stderr what is being done, or done instead of what was asked."""
        if not self.quiet:
            self.stderr.print(text, markup=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Says on stderr what a person must know even under --quiet."""
        self.stderr.print(f"[yellow]Note:[/] {escape(text)}", soft_wrap=True)

    def error(self, text: str) -> None:
        """Prints one error line to stderr."""
        self.stderr.print(f"[bold red]Error:[/] {escape(text)}", soft_wrap=True)

    def document(self, value: Any) -> None:
        """Prints the one JSON document of a command under --json."""
        if self.json:
            sys.stdout.write(json.dumps(value, ensure_ascii=False, default=str, indent=2) + "\n")

    def line(self, value: Any) -> None:
        """Prints one line of JSON under --json, for a command that goes on saying things."""
        if self.json:
            sys.stdout.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")
            sys.stdout.flush()

    @contextmanager
    def progress(self, what: str, unit: str = "photos") -> Iterator[Advance]:
        """Yields `advance(done, total)`, drawn as a bar on stderr where that is a terminal."""
        if self.quiet or not self.stderr.is_terminal:
            yield lambda done, total: None
            return
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeRemainingColumn(),
            console=self.stderr,
            transient=True,
        ) as bars:
            task = bars.add_task(what, total=None)
            yield lambda done, total: bars.update(task, completed=done, total=total)


def speaks() -> bool:
    """Returns whether this process is the one that speaks, of those that torchrun has started."""
    return int(os.environ.get("RANK", "0")) == 0


class _Notes(logging.Handler):
    """Says the library's warnings on stderr."""

    def __init__(self, target: Output) -> None:
        super().__init__(logging.WARNING)
        self._target = target

    def emit(self, record: logging.LogRecord) -> None:
        self._target.warn(record.getMessage())


def make_table(*columns: str, title: str | None = None, right: tuple[str, ...] = ()) -> Table:
    """Returns an empty table in the house style; `right` names the columns of numbers."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(Text(name), justify="right" if name in right else "left", overflow="fold")
    return table


def count(number: int, noun: str) -> str:
    """Returns a number with its noun, such as ``1 photo`` or ``2,000 photos``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


output = Output()
"""The output of the running command."""

if os.environ.get("COLUMNS") is None and not sys.stdout.isatty():
    # A pipe has no width: without one rich would wrap tables at 80 columns into unreadable cells.
    output.stdout.width = 160
