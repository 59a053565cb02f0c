"""Output of the program: tables and JSON on stdout, progress and errors on stderr."""

from __future__ import annotations

import codecs
import contextlib
import io
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from finetune.formatting import visible, visible_json

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only results and errors.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Answer yes to every question.")]


BROKEN_PIPE = 141
"""Exit code of Unix programs whose reader, such as ``head``, has gone: 128 + SIGPIPE."""


class Advance(Protocol):
    """Callback that library functions take as `progress`."""

    def __call__(self, done: int, total: int) -> None:
        """Receives how many of `total` are done."""
        ...


class VisibleConsole(Console):
    """Console that prints control characters of names and labels as visible characters."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        """Yields the segments of anything that is printed."""
        for segment in super().render(renderable, options):
            text = segment.text if segment.control else visible(segment.text, keep_bytes=True)
            yield segment if text is segment.text else segment._replace(text=text)

    def on_broken_pipe(self) -> None:
        """Ends as other programs do whose reader, such as ``head``, has gone."""
        raise BrokenPipeError


@dataclass
class Output:
    """Output of the running command; `quiet` and `json` are its options."""

    quiet: bool = False
    json: bool = False
    stdout: Console = field(default_factory=lambda: VisibleConsole(highlight=False))
    stderr: Console = field(default_factory=lambda: VisibleConsole(stderr=True, highlight=False))

    def show_library_warnings(self) -> None:
        """Prints the library's warnings; further calls change nothing."""
        logger = logging.getLogger("finetune")
        if not any(isinstance(handler, _Notes) for handler in logger.handlers):
            logger.addHandler(_Notes(self))
            logger.propagate = False

    def literal(self, text: str) -> Text:
        """Returns a cell of a table; brackets are no markup."""
        # Before the table is measured: what is shown is wider than the characters it stands for.
        return Text(visible(text, keep_bytes=True))

    def print(self, *parts: object) -> None:
        """Prints a result to stdout, except under --json.

        A table that is too wide for the terminal is printed as a list, as no word is to be broken.
        """
        if not self.json:
            self.stdout.print(
                *(_as_list(p, self.stdout) if isinstance(p, Table) else p for p in parts)
            )

    def text(self, text: str) -> None:
        """Prints text to stdout, except under --json; brackets are no markup."""
        if not self.json:
            self.stdout.print(text, markup=False, soft_wrap=True)

    def info(self, text: str) -> None:
        """Prints a remark to stderr, except under --quiet."""
        if not self.quiet:
            self.stderr.print(text, markup=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Prints a warning to stderr, also under --quiet."""
        self.stderr.print(f"[yellow]Note:[/] {escape(text)}", soft_wrap=True)

    def error(self, text: str) -> None:
        """Prints an error to stderr."""
        self.stderr.print(f"[bold red]Error:[/] {escape(text)}", soft_wrap=True)

    def document(self, value: Any) -> None:
        """Prints the command's JSON document under --json."""
        if self.json:
            sys.stdout.write(json_text(value, indent=2) + "\n")

    def line(self, value: Any) -> None:
        """Prints one line of JSON under --json, for a command that prints as it runs."""
        if self.json:
            sys.stdout.write(json_text(value) + "\n")
            sys.stdout.flush()

    @contextmanager
    def progress(self, what: str, unit: str = "photos") -> Iterator[Advance]:
        """Yields ``advance(done, total)``, which draws a bar on stderr if that is a terminal."""
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


def json_text(value: Any, *, indent: int | None = None) -> str:
    """Returns a value as JSON that standard output can write in its encoding.

    Parts of a file name that are no UTF-8 become escaped surrogates, as Python reads them back.
    """
    ascii_only = _encoding(sys.stdout) != "utf-8"
    text = json.dumps(value, ensure_ascii=ascii_only, default=str, indent=indent)
    return visible_json(text)


_PLAIN = str.maketrans(
    {
        "\u202f": " ",
        "\u2013": "-",
        "\u2014": "-",
        "\u2026": "...",
        "\u00d7": "x",
        "\u2192": "->",
        "\u2588": "#",
        **dict.fromkeys("\u2589\u258a\u258b\u258c", "#"),
        **dict.fromkeys("\u258d\u258e\u258f", " "),
    }
)
"""Characters of our own output in ASCII."""


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(_PLAIN)
    return "".join(c if c.isascii() else "?" for c in text), error.end


codecs.register_error("finetune.plain", _replaced)


def _encoding(stream: Any) -> str:
    name = codecs.lookup(getattr(stream, "encoding", None) or "utf-8").name
    return name.removesuffix("-sig")


def prepare_streams() -> None:
    """Lets the standard streams take and give any text, whatever their encoding is.

    In UTF-8 the bytes of a file name that is not UTF-8 are kept; in another encoding, characters
    that it lacks are replaced. A closed stream discards what is written to it.
    """
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115
        elif isinstance(stream, io.TextIOWrapper):
            keeps = name == "stdin" or _encoding(stream) == "utf-8"
            # A stream that has been read from keeps its settings.
            with contextlib.suppress(io.UnsupportedOperation):
                stream.reconfigure(errors="surrogateescape" if keeps else "finetune.plain")


def is_main_process() -> bool:
    """Returns whether this is the process that prints, of those started by torchrun."""
    return int(os.environ.get("RANK", "0")) == 0


class _Notes(logging.Handler):
    """Handler that prints the library's warnings."""

    def __init__(self, target: Output) -> None:
        super().__init__(logging.WARNING)
        self._target = target

    def emit(self, record: logging.LogRecord) -> None:
        self._target.warn(record.getMessage())


def make_table(*columns: str, title: str | None = None, right: tuple[str, ...] = ()) -> Table:
    """Returns an empty table; the columns in `right` are aligned right."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(Text(name), justify="right" if name in right else "left", overflow="fold")
    return table


def _as_list(table: Table, console: Console) -> Table:
    """Returns a table itself, or a line for each of its cells if its words are too wide."""
    columns = table.columns
    if len(columns) < 3 or not all(column.header for column in columns[:1]):
        return table
    endless = console.options.update(max_width=100_000)
    least = Measurement.get(console, endless, table).minimum
    if least <= console.width:
        return table
    rows = Table(box=None, pad_edge=False, show_header=False)
    rows.add_column(overflow="fold")
    rows.add_column(overflow="fold")
    for cells in zip(*(column.cells for column in columns), strict=True):
        rows.add_row(columns[0].header, cells[0], style="bold")
        for column, cell in zip(columns[1:], cells[1:], strict=True):
            rows.add_row(column.header, cell)
    return rows


output = Output()
"""Output of the running command."""

if os.environ.get("COLUMNS") is None and not (sys.stdout and sys.stdout.isatty()):
    # In a pipe, rich would wrap tables at 80 columns.
    output.stdout.width = 160
