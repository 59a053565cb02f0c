"""Prints predictions: a table per photo for a few, a line for many, or JSON."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
from numpy.typing import NDArray
from rich.color import Color
from rich.style import Style
from rich.text import Text

from finetune.cli.console import json_text, make_table, output
from finetune.formatting import percent
from finetune.photos.crops import crop_and_resize
from finetune.prediction.predictions import UNKNOWN

if TYPE_CHECKING:
    from finetune.prediction.predictions import PhotoPrediction
    from finetune.prediction.predictor import Predictor


TOP = 5
"""Labels of a table, unless a person asks for another number."""

FEW = 4
"""Up to this many photos get a table of their own each."""


@dataclass
class Extras:
    """Further output per photo: heat map, similar training photos, picture."""

    predictor: Predictor
    overlays: Path | None
    training: Any
    similar: int
    show: bool
    overlay_of: dict[str, str] = field(default_factory=dict)

    def of(self, prediction: PhotoPrediction) -> dict[str, Any]:
        """Returns the further keys of a photo's JSON object; writes its overlay."""
        found: dict[str, Any] = {}
        if prediction.photo is None or prediction.label is None:
            return found
        if self.overlays is not None and prediction.status != "unknown":
            found["overlay"] = str(self._overlay(prediction.photo, prediction))
        if self.training is not None:
            path = Path(prediction.photo)
            image = self.predictor.pixels_of(path)
            like = self.training.like(image, count=self.similar, photo=path)
            found["similar"] = [item.to_dict() for item in like]
        return found

    def _overlay(self, photo: str, prediction: PhotoPrediction) -> Path:
        from finetune.files import numbered, safe_name
        from finetune.prediction.explain import captioned, explain_photo, explainable, write_png

        best = prediction.ranked[0]
        image = explain_photo(explainable(self.predictor), Path(photo), best.label)
        image = captioned(image, f"{best.label} {percent(best.probability)}")
        assert self.overlays is not None
        name = free = safe_name(Path(photo).stem)
        # Photos of other folders may have the same name.
        number = 2
        while self.overlay_of.setdefault(free.casefold(), photo) != photo:
            free = numbered(name, number)
            number += 1
        return write_png(self.overlays / f"{free}.png", image)


class Printer:
    """Prints predictions as they arrive: tables for a few photos, lines for many, or JSON.

    It keeps none of them, so 100,000 photos take no more memory than 100.
    """

    def __init__(
        self,
        top: int | None,
        total: int,
        labels: Iterable[str],
        extras: Extras,
        *,
        quiet_rows: bool,
    ) -> None:
        self.top = top or TOP
        self.more = 0 if top is None else top - 1  # further labels of a line
        self.total = total
        self.extras = extras
        self.few = total <= FEW
        self.silent = quiet_rows and not output.json and not self.few
        self._width = _answer_width(labels)
        self._first = True
        # A progress bar on stderr catches what is written to sys.stdout while it is shown.
        self._stream: TextIO = sys.stdout

    @property
    def on_terminal(self) -> bool:
        """Whether lines appear on a terminal, where a bar would be torn apart by them."""
        return not self.silent and not output.json and output.stdout.is_terminal

    def add(self, prediction: PhotoPrediction) -> None:
        """Prints one prediction."""
        further = self.extras.of(prediction)
        if output.json:
            self._json(prediction.to_dict(self.top) | further)
        elif self.few or self.extras.show or further.get("similar"):
            show_photo(prediction, self.top, self.extras)
            _show_further(further)
        elif not self.silent:
            self._line(prediction)

    def close(self) -> None:
        """Prints the end."""
        if output.json:
            self._stream.write("[]\n" if self._first else "\n]\n")
            self._stream.flush()

    def _json(self, content: dict[str, Any]) -> None:
        indented = "\n".join("  " + line for line in json_text(content, indent=2).split("\n"))
        self._stream.write(("[\n" if self._first else ",\n") + indented)
        self._first = False

    def _line(self, prediction: PhotoPrediction) -> None:
        if prediction.labels is not None or prediction.error is not None:
            self._stream.write(f"{prediction.photo}: {prediction.answer}{_remark(prediction)}\n")
            return
        from rich.cells import cell_len, set_cell_size

        if self._first:
            self._first = False
            self._stream.write(f"{'answer':<{self._width}} {'probability':<13} photo\n")
        answer = prediction.answer
        answer = set_cell_size(answer, max(self._width, cell_len(answer)))
        drawn = "" if prediction.status == "unknown" else bar(prediction.ranked[0].probability, 12)
        further = ", ".join(
            f"{item.label} {percent(item.probability)}"
            for item in prediction.ranked[1 : self.more + 1]
        )
        then = f"  then: {further}" if further else ""
        self._stream.write(f"{answer} {drawn:<13} {prediction.photo}{then}{_remark(prediction)}\n")


def _answer_width(labels: Iterable[str]) -> int:
    """Returns the width of the column of answers, with room for two guesses of usual length."""
    from rich.cells import cell_len

    longest = max(cell_len(label) for label in labels)
    return min(max(len(UNKNOWN), longest + 5, 2 * longest + 20), 48)


def show_photo(prediction: PhotoPrediction, top: int, extras: Extras | None = None) -> None:
    """Prints a photo's ranked labels with bars, or why it cannot be opened."""
    output.text(f"\n{prediction.photo}")
    if prediction.error is not None:
        output.text(f"  {prediction.answer}")
        return
    several = prediction.labels is not None
    labels = ["predicted"] if several else []
    table = make_table("#", *labels, "label", "probability", " ", right=("#", "probability"))
    for rank, item in enumerate(prediction.ranked[:top], start=1):
        mark = ["yes" if item.predicted else ""] if several else []
        table.add_row(
            str(rank),
            *mark,
            output.literal(item.label),
            percent(item.probability),
            bar(item.probability),
        )
    if extras is not None and extras.show and prediction.photo is not None:
        from rich.table import Table

        beside = Table.grid(padding=(0, 2))
        beside.add_row(sketch(extras.predictor.pixels_of(prediction.photo)), table)
        output.print(beside)
    else:
        output.print(table)
    if prediction.status != "sure":
        output.text(f"  {prediction.answer[0].upper()}{prediction.answer[1:]}.")
    if remark := _remark(prediction):
        output.text(f"{remark}.")


def _remark(prediction: PhotoPrediction) -> str:
    """Returns the struck-out labels and the best frame of the burst, or an empty string."""
    found = ""
    if gone := prediction.likely_struck_out:
        named = ", ".join(f"{item.label} {percent(item.probability)}" for item in gone[:3])
        found += f"  struck out: {named}"
    burst = prediction.burst
    if burst is not None:
        best = "the best" if burst.best == prediction.photo else f"the best is {burst.best}"
        found += f"  one of {burst.frames} frames, {best}"
    return found


def _show_further(further: dict[str, Any]) -> None:
    if "overlay" in further:
        output.text(f"  Heat map: {further['overlay']}")
    if further.get("similar"):
        output.text("  It looks like these training photos:")
        for item in further["similar"]:
            output.text(f"    {item['similarity']:.3f}  {item['label']}  {item['photo']}")


def bar(share: float, width: int = 24) -> str:
    """Returns a horizontal bar of `width` cells at most, drawn in eighths of a cell."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    full, rest = divmod(eighths, 8)
    return "█" * full + ("" if rest == 0 else " ▏▎▍▌▋▊▉"[rest])


_UPPER_HALF = "▀"


def sketch(pixels: NDArray[np.uint8], *, columns: int = 24) -> Text:
    """Returns an image as `columns` x `columns` / 2 characters of two colored halves each.

    A terminal's cell is about twice as high as wide, so that the halves are nearly square.

    Args:
        pixels: ``(H, W, 3) uint8``.
        columns: Width in characters; an odd one is made even.
    """
    side = max(2, columns - columns % 2)
    small = crop_and_resize(pixels, size=side)
    text = Text(no_wrap=True)
    for row in range(0, side, 2):
        if row:
            text.append("\n")
        for upper, lower in zip(small[row].tolist(), small[row + 1].tolist(), strict=True):
            style = Style(color=Color.from_rgb(*upper), bgcolor=Color.from_rgb(*lower))
            text.append(_UPPER_HALF, style)
    return text
