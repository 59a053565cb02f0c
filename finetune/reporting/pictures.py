"""Pictures of a report for articles and mails: galleries, confusion matrix and learning curves."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from finetune.evaluation.confusion import draw_confusion
from finetune.evaluation.predictions import Prediction
from finetune.evaluation.probabilities import Integers
from finetune.files import storage_errors, write_atomically, write_text
from finetune.fonts import draw_text, fitted
from finetune.formatting import count, percent, visible
from finetune.reporting import charts, gallery
from finetune.reporting.chart import draw_chart
from finetune.reporting.drawing import PAPER, to_image, to_svg
from finetune.reporting.run_record import RunRecord

MOST_CARDS = 48
"""Maximum number of photos in a picture."""

_CARD, _PHOTO, _GAP, _ROW, _TEXT = 220, 165, 16, 22, 14


def write_pictures(
    folder: Path,
    record: RunRecord,
    rows: Sequence[Prediction],
    matrix: Integers | None,
    *,
    photos_root: Path | None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Writes a report's pictures into `folder` and returns their paths.

    ``mistakes.png``, ``surest.png``, ``confusion.png`` and ``learning_curve.png`` and ``.svg``;
    those with nothing to show are left out.

    Args:
        folder: Where they are written; made if it is not there.
        record: The run.
        rows: Predictions of one part.
        matrix: Their confusion matrix; None if photos may have several labels.
        photos_root: Root of the collection; None leaves the photos blank.
        progress: Called as ``progress(done, total)`` while photos are read.

    Raises:
        StorageError: A file could not be written.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    wrong = [rows[k] for k in gallery.mistakes(rows)]
    surest = [rows[k] for k in gallery.most_confident(rows, record.labels)]
    shown = {row.path: row for row in (*wrong[:MOST_CARDS], *surest[:MOST_CARDS])}
    thumbnails: Mapping[str, bytes] = {}
    if photos_root is not None:
        thumbnails, _ = gallery.make_thumbnails(photos_root, list(shown), progress=progress)
    written = []

    def write(name: str, image: Image.Image) -> None:
        written.append(write_atomically(folder / name, lambda file: image.save(file, "PNG")))

    if wrong:
        title = f"{count(len(wrong), 'mistake')} of {count(len(rows), 'photo')}"
        if len(wrong) > MOST_CARDS:
            title += f", the {MOST_CARDS} most confident"
        write("mistakes.png", draw_gallery(wrong[:MOST_CARDS], thumbnails, title=title))
    if surest:
        title = "The most confident photo of each label"
        if len(surest) > MOST_CARDS:
            title += f", {MOST_CARDS} of {count(len(surest), 'photo')}"
        write("surest.png", draw_gallery(surest[:MOST_CARDS], thumbnails, title=title, ranks=1))
    if matrix is not None:
        title = f"{record.name}: {count(len(rows), 'photo')}"
        write("confusion.png", Image.fromarray(draw_confusion(matrix, record.labels, title=title)))
    if record.epochs and not record.fitted:
        score = draw_chart(charts.score_curves(record.epochs, record.task), 640)
        loss = draw_chart(charts.loss_curves(record.epochs), 640)
        sheets = [to_image(score), to_image(loss)]
        both = Image.new("RGB", (sheets[0].width, sheets[0].height + sheets[1].height), "white")
        both.paste(sheets[0], (0, 0))
        both.paste(sheets[1], (0, sheets[0].height))
        write("learning_curve.png", both)
        written.append(write_text(folder / "learning_curve.svg", to_svg(score)))
        written.append(write_text(folder / "loss_curve.svg", to_svg(loss)))
    return written


def draw_gallery(
    rows: Sequence[Prediction],
    thumbnails: Mapping[str, bytes],
    *,
    title: str,
    ranks: int = 5,
) -> Image.Image:
    """Returns photos with their correct label and ranked answers, each a bar.

    Args:
        rows: The photos, in order.
        thumbnails: Encoded images by path; a photo without one is blank.
        title: Above them.
        ranks: Answers for each photo.
    """
    ranks = min(ranks, max((len(row.ranked) for row in rows), default=0))
    columns = max(1, min(4 if len(rows) <= 12 else 6, len(rows)))
    height = _PHOTO + 30 + ranks * _ROW + _GAP
    lines = -(-len(rows) // columns)
    width = max(columns * (_CARD + _GAP) + _GAP, 2 * _CARD)
    page = Image.new("RGB", (width, 52 + lines * height), "white")
    pen = ImageDraw.Draw(page)
    draw_text(pen, (_GAP, 14), title, size=18, fill=PAPER["text"])
    for k, row in enumerate(rows):
        left = _GAP + k % columns * (_CARD + _GAP)
        top = 52 + k // columns * height
        _draw_card(page, pen, (left, top), row, thumbnails.get(row.path), ranks)
    return page


def _draw_card(
    page: Image.Image,
    pen: ImageDraw.ImageDraw,
    place: tuple[int, int],
    row: Prediction,
    thumbnail: bytes | None,
    ranks: int,
) -> None:
    left, top = place
    pen.rectangle((left, top, left + _CARD - 1, top + _PHOTO - 1), fill="#f1efeb")
    if thumbnail is not None:
        photo = Image.open(io.BytesIO(thumbnail)).convert("RGB")
        scale = min(_CARD / photo.width, _PHOTO / photo.height)
        # Small pictures such as digits keep their pixels visible.
        how = Image.Resampling.NEAREST if scale > 3 else Image.Resampling.LANCZOS
        photo = photo.resize((round(photo.width * scale), round(photo.height * scale)), how)
        page.paste(photo, (left + (_CARD - photo.width) // 2, top + (_PHOTO - photo.height) // 2))
    truth = visible(" + ".join(row.truth) or "none of the labels")
    middle = (left + _CARD / 2, top + _PHOTO + 5)
    shown = fitted(truth, _TEXT + 1, _CARD)
    draw_text(pen, middle, shown, size=_TEXT + 1, fill=PAPER["text"], anchor="ma")
    for k, (label, probability) in enumerate(row.ranked[:ranks]):
        line = top + _PHOTO + 30 + k * _ROW
        color = PAPER["right" if label in row.truth else "wrong" if k == 0 else "series-4"]
        share = percent(probability)
        name = fitted(visible(label), _TEXT, _CARD - 62)
        draw_text(pen, (left, line), name, size=_TEXT, fill=PAPER["text"])
        draw_text(pen, (left + _CARD, line), share, size=_TEXT, fill=PAPER["muted"], anchor="ra")
        pen.rectangle((left, line + 17, left + _CARD - 1, line + 19), fill=PAPER["line"])
        full = round((_CARD - 1) * probability)
        if full:
            pen.rectangle((left, line + 17, left + full, line + 19), fill=color)
