"""``finetune predict``: what is on a photo."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from finetune.cli.console import Json, Quiet, make_table, output

if TYPE_CHECKING:
    from finetune.prediction.predictor import PhotoPrediction

_FEW = 4
"""Up to this many photos get a table of their own each."""


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("predict")(predict)


def predict(
    photos: Annotated[list[Path], typer.Argument(help="Photos, or folders of photos.")],
    run: Annotated[
        str | None, typer.Option("--run", help="A run's name or folder; not set: the newest.")
    ] = None,
    top: Annotated[int, typer.Option("--top", help="How many labels to show.", min=1)] = 5,
    device: Annotated[
        str | None, typer.Option("--device", help="cpu, cuda, cuda:1, mps; not set: the best.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say what is on photos: ranked labels with probabilities.

    A photo that cannot be opened is named with the reason, the others are answered all the same,
    and the exit code is 1.
    """
    output.json, output.quiet = json, quiet
    from finetune.prediction.sources import photos_of
    from finetune.runs.folder import find_run

    folder = find_run(run)
    paths = photos_of(photos)
    from finetune.prediction.predictor import Predictor
    from finetune.training.machine import choose_device

    predictor = Predictor.load(folder, device=str(choose_device(device)))
    output.say(f"By {folder.path}")
    answers = []
    with output.progress("Predicting") as advance:
        for answer in predictor.predict_stream(paths):
            answers.append(answer)
            advance(len(answers), len(paths))
    output.document([answer.to_dict(top) for answer in answers])
    if len(answers) <= _FEW:
        for answer in answers:
            show_photo(answer, top)
    else:
        _show_many(answers)
    if any(answer.status != "ok" for answer in answers):
        raise typer.Exit(1)


def show_photo(answer: PhotoPrediction, top: int) -> None:
    """Prints a photo's ranked labels with bars, or why it cannot be opened."""
    output.text(f"\n{answer.photo}")
    if answer.status != "ok":
        output.text(f"  cannot be opened: {answer.status}")
        return
    table = make_table("#", "label", "probability", " ", right=("#", "probability"))
    for rank, item in enumerate(answer.ranked[:top], start=1):
        table.add_row(
            str(rank), output.plain(item.label), f"{item.probability:.1%}", bar(item.probability)
        )
    output.print(table)
    if answer.unknown:
        output.text("  Perhaps none of these: it is unlike the photos that this run is sure of.")


def _show_many(answers: Sequence[PhotoPrediction]) -> None:
    table = make_table("photo", "label", "probability", "", "or", right=("probability",))
    for answer in answers:
        photo = output.plain(answer.photo or "")
        if answer.status != "ok":
            table.add_row(photo, output.plain(f"cannot be opened: {answer.status}"), "", "", "")
            continue
        first = answer.ranked[0]
        label = f"{first.label} ?" if answer.unknown else first.label
        second = answer.ranked[1].label if len(answer.ranked) > 1 else ""
        table.add_row(
            photo,
            output.plain(label),
            f"{first.probability:.1%}",
            bar(first.probability, width=12),
            output.plain(second),
        )
    output.print(table)
    if any(answer.unknown for answer in answers):
        output.text("? perhaps none of these: unlike the photos that this run is sure of")


def bar(share: float, width: int = 24) -> str:
    """Returns a horizontal bar of `width` cells at most, drawn in eighths of a cell."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    full, rest = divmod(eighths, 8)
    return "█" * full + ("" if rest == 0 else " ▏▎▍▌▋▊▉"[rest])
