"""What ``finetune watch`` draws: a run's epochs as a table and as curves."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from finetune.cli.console import make_table
from finetune.cli.training_progress import duration

if TYPE_CHECKING:
    from finetune.runs.progress import Progress

BLOCKS = "▁▂▃▄▅▆▇█"
PLAIN = "_.-:=+*#"
"""The same in ASCII, for a terminal that has no other letters."""

STYLES = {"running": "bold green", "interrupted": "bold yellow", "finished": "bold"}

NARROW = 64
"""Columns below which only what matters most is shown."""


@dataclass(frozen=True, kw_only=True)
class Room:
    """How much a drawing may take.

    Attributes:
        width: Columns.
        height: Rows.
        ascii: Whether only ASCII can be shown.
    """

    width: int
    height: int
    ascii: bool = False


def draw(progress: Progress, room: Room, *, notes: Sequence[str] = ()) -> RenderableType:
    """Returns a run as one drawing that fits its room.

    Args:
        progress: How far it is.
        room: What it must fit in.
        notes: Lines below it, such as evaluations.
    """
    parts: list[RenderableType] = [_heading(progress, room), ""]
    if progress.rows:
        parts += [_curves(progress.rows, room), ""]
        most = max(3, room.height - 12 - len(notes))
        parts.append(_table(progress.rows[-most:], room))
    else:
        parts.append(Text("No epoch is done yet."))
    if notes:
        parts += ["", *(Text(note) for note in notes)]
    return Group(*parts)


def sparkline(values: Sequence[float], width: int, *, low: float, high: float, marks: str) -> str:
    """Returns a curve of one line, at most `width` letters; more values are averaged in turn.

    Example:
        >>> sparkline([0, 1, 2, 3], 4, low=0, high=3, marks="_-=#")
        '_-=#'
    """
    if len(values) > width:
        edges = [round(place * len(values) / width) for place in range(width + 1)]
        values = [
            sum(values[start:stop]) / (stop - start) for start, stop in itertools.pairwise(edges)
        ]
    span = (high - low) or 1.0
    steps = len(marks) - 1
    return "".join(marks[min(steps, max(0, round((v - low) / span * steps)))] for v in values)


def epoch_line(row: Mapping[str, Any]) -> str:
    """Returns an epoch as one line of text, for a place where nothing can be drawn over."""
    mark = "  best" if row.get("best") else ""
    return (
        f"epoch {row['epoch']}/{row['epochs']}  loss {row['train_loss']:.3f}  "
        f"val loss {row['validation_loss']:.3f}  val {row['validation_accuracy']:.1%}  "
        f"{row['images_per_second']:,.0f} photos/s  {duration(row['seconds'])}{mark}"
    )


def evaluation_lines(epoch: int, metrics: Mapping[str, Any]) -> list[str]:
    """Returns what an evaluation found, a line a part."""
    return [f"epoch {epoch}, {_part_line(part, figures)}" for part, figures in metrics.items()]


def final_lines(metrics: Mapping[str, Any]) -> list[str]:
    """Returns the figures of a finished run, a line a part."""
    return [_part_line(part, figures) for part, figures in metrics.items()]


def _part_line(part: str, figures: Mapping[str, Any]) -> str:
    photos = figures.get("photos", 0)
    if "top1" in figures:
        text = f"{part}: {figures['top1']:.1%} of {photos:,} right"
        interval = figures.get("top1_interval")
        return text + (f" ({interval[0]:.1%} to {interval[1]:.1%})" if interval else "")
    mean = figures.get("mean_average_precision")
    return f"{part}: {photos:,} photos" + ("" if mean is None else f", mAP {mean:.3f}")


def _heading(progress: Progress, room: Room) -> RenderableType:
    done = int(progress.rows[-1]["epoch"]) if progress.rows else 0
    first = Text.assemble(
        (progress.run.name, "bold"), "  ", (progress.state, STYLES[progress.state])
    )
    if room.width >= NARROW:
        first.append(f"  {progress.model}, {progress.mode}")
    metadata = [f"epoch {done} of {progress.epochs}"]
    if progress.rows:
        metadata.append(f"{progress.rows[-1]['images_per_second']:,.0f} photos/s")
    if progress.seconds_left is not None:
        metadata.append(f"{duration(progress.seconds_left)} left")
    first.truncate(room.width, overflow="ellipsis")
    line = Table.grid(padding=(0, 2))
    cells: list[RenderableType] = []
    if not room.ascii:
        side = 24 if room.width >= NARROW else 10
        cells.append(ProgressBar(total=max(1, progress.epochs), completed=done, width=side))
    line.add_row(*cells, Text("  ".join(metadata), no_wrap=True, overflow="ellipsis"))
    return Group(first, line)


def _curves(rows: Sequence[Mapping[str, Any]], room: Room) -> Table:
    marks = PLAIN if room.ascii else BLOCKS
    width = max(8, min(60, room.width - 24))
    table = Table.grid(padding=(0, 1))
    for name, train, validation, shown in (
        ("loss", "train_loss", "validation_loss", "{:.3f}"),
        ("right", "train_accuracy", "validation_accuracy", "{:.1%}"),
    ):
        both = [float(row[key]) for row in rows for key in (train, validation)]
        finite = [value for value in both if abs(value) < float("inf")] or [0.0]
        for title, key in (("train", train), ("val", validation)):
            values = [float(row[key]) for row in rows]
            line = sparkline(
                [value if abs(value) < float("inf") else max(finite) for value in values],
                width,
                low=min(finite),
                high=max(finite),
                marks=marks,
            )
            style = "cyan" if title == "train" else "magenta"
            table.add_row(
                name if title == "train" else "",
                title,
                Text(line, style=style),
                Text(shown.format(values[-1]), justify="right"),
            )
    return table


def _table(rows: Sequence[Mapping[str, Any]], room: Room) -> Table:
    wide = room.width >= NARROW
    names = ["epoch", "train loss", "train", "val loss", "val", "photos/s", "time", ""]
    if not wide:
        names = ["epoch", "val loss", "val", "time", ""]
    table = make_table(*names, right=tuple(names[:-1]))
    for row in rows:
        cells = {
            "epoch": f"{row['epoch']}",
            "train loss": f"{row['train_loss']:.3f}",
            "train": f"{row['train_accuracy']:.1%}",
            "val loss": f"{row['validation_loss']:.3f}",
            "val": f"{row['validation_accuracy']:.1%}",
            "photos/s": f"{row['images_per_second']:,.0f}",
            "time": duration(row["seconds"]),
            "": "best" if row.get("best") else "",
        }
        table.add_row(*(cells[name] for name in names))
    return table
