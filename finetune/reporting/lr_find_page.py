"""Learning rate sweep as an HTML page, a PNG picture, and text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from finetune.experiments.lr_find import LearningRateResult
from finetune.files import write_atomically
from finetune.reporting.charts import LEGEND, Figure
from finetune.reporting.page import write_page

WIDTH, HEIGHT = 960, 560
MARGIN = 70

BRAILLE = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bits of the dots of a braille character, row by row."""


def why(found: LearningRateResult) -> str:
    """Returns the suggestion and its reason."""
    suggestion = found.suggestion
    if suggestion.rule == "valley":
        reason = (
            f"the middle of the range in which the loss falls; it falls fastest at "
            f"{suggestion.steepest:.2g} and rises from {suggestion.rising:.2g} on"
        )
    else:
        reason = (
            f"a tenth of {suggestion.rising:.2g}, where the loss starts to rise; it hardly falls "
            "before"
        )
    return (
        f"Learning rate {suggestion.lr:.2g}: {reason}. The default for this training is "
        f"{found.default_lr:.2g}."
    )


def shown_losses(found: LearningRateResult) -> tuple[float, float]:
    """Returns the lowest and highest loss to show; a diverged loss is cut off."""
    smoothed = found.sweep.smoothed
    low = min(smoothed)
    return max(0.0, low - 0.1 * (smoothed[0] - low)), min(
        max(smoothed), smoothed[0] + (smoothed[0] - low)
    )


def write_lr_page(path: Path, found: LearningRateResult) -> Path:
    """Writes a sweep as an HTML file and returns `path`.

    Raises:
        StorageError: The file could not be written.
    """
    return write_page(
        path,
        "lr_find.html.j2",
        scripts=("charts.js",),
        data={"charts": {"sweep": sweep_figure(found)}},
        found=found,
        why=why(found),
    )


def sweep_figure(found: LearningRateResult) -> Figure:
    """Returns the chart of a sweep."""
    sweep, lr = found.sweep, found.suggestion.lr
    low, high = _padded(found)
    hover = "lr %{x:.2g}: loss %{y:.3f}<extra></extra>"
    return {
        "data": [
            {
                "type": "scatter",
                "mode": "markers",
                "name": "single steps",
                "x": list(sweep.rates),
                "y": list(sweep.losses),
                "marker": {"size": 4, "color": "var(--muted)"},
                "hovertemplate": hover,
            },
            {
                "type": "scatter",
                "mode": "lines",
                "name": "running mean",
                "x": list(sweep.rates),
                "y": list(sweep.smoothed),
                "line": {"color": "var(--right)", "width": 2},
                "hovertemplate": hover,
            },
            {
                "type": "scatter",
                "mode": "lines",
                "name": f"suggested: {lr:.2g}",
                "x": [lr, lr],
                "y": [low, high],
                "line": {"color": "var(--wrong)", "width": 2, "dash": "dash"},
                "hoverinfo": "skip",
            },
        ],
        "layout": {
            "height": 420,
            "xaxis": {
                "title": {"text": "Learning rate of the head"},
                "type": "log",
                "exponentformat": "power",
                "dtick": 1,
            },
            "yaxis": {"title": {"text": "Training loss (nats)"}, "range": [low, high]},
            "legend": LEGEND,
        },
    }


def write_lr_picture(path: Path, found: LearningRateResult) -> Path:
    """Writes a sweep as a PNG file of 960 x 560 pixels and returns `path`; raises StorageError."""
    low, high = _padded(found)
    rates = found.sweep.rates
    first, last = math.log10(rates[0]), math.log10(rates[-1])

    def place(rate: float, loss: float) -> tuple[float, float]:
        across = (math.log10(rate) - first) / (last - first)
        up = (min(max(loss, low), high) - low) / (high - low)
        return MARGIN + across * (WIDTH - 2 * MARGIN), HEIGHT - MARGIN - up * (HEIGHT - 2 * MARGIN)

    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(16)
    for power in range(math.ceil(first), math.floor(last) + 1):
        x, bottom = place(10.0**power, low)
        draw.line([(x, MARGIN), (x, bottom)], fill="#dddddd")
        draw.text((x, bottom + 8), f"{10.0**power:g}", fill="#333333", font=font, anchor="ma")
    for part in range(5):
        loss = low + part * (high - low) / 4
        x, y = place(rates[0], loss)
        draw.line([(x, y), (WIDTH - MARGIN, y)], fill="#dddddd")
        draw.text((x - 8, y), f"{loss:.2f}", fill="#333333", font=font, anchor="rm")
    for rate, loss in zip(rates, found.sweep.losses, strict=True):
        x, y = place(rate, loss)
        draw.ellipse([x - 2, y - 2, x + 2, y + 2], fill="#999999")
    points = [place(*point) for point in zip(rates, found.sweep.smoothed, strict=True)]
    draw.line(points, fill="#0a6ebd", width=3, joint="curve")
    x, top = place(found.suggestion.lr, high)
    draw.line([(x, top), (x, HEIGHT - MARGIN)], fill="#c4422b", width=2)
    draw.text((x + 8, top + 6), f"{found.suggestion.lr:.2g}", fill="#c4422b", font=font)
    draw.text((WIDTH / 2, 20), "Loss by learning rate", fill="#111111", font=font, anchor="ma")
    draw.text(
        (WIDTH / 2, HEIGHT - 28),
        "Learning rate of the head",
        fill="#333333",
        font=font,
        anchor="ma",
    )
    return write_atomically(path, lambda file: image.save(file, format="PNG"))


def text_chart(found: LearningRateResult, *, columns: int = 72, rows: int = 14) -> list[str]:
    """Returns a sweep as lines of text: running mean in braille dots, suggestion as an arrow."""
    low, high = _padded(found)
    rates, losses = found.sweep.rates, found.sweep.smoothed
    first, last = math.log10(rates[0]), math.log10(rates[-1])
    cells = [[0] * columns for _ in range(rows)]
    dots = columns * 2
    for dot in range(dots):
        at = dot / (dots - 1) * (len(losses) - 1)
        loss = _between(losses, at)
        if loss > high:
            continue
        level = round((high - loss) / (high - low) * (rows * 4 - 1))
        cells[level // 4][dot // 2] |= BRAILLE[level % 4][dot % 2]
    names = {0: f"{high:.2f}", rows - 1: f"{low:.2f}"}
    lines = [
        f"{names.get(row, ''):>7} │" + "".join(chr(0x2800 + bits) for bits in line)
        for row, line in enumerate(cells)
    ]
    lines.append(f"{'':>7} └" + "─" * columns)

    def column(rate: float) -> int:
        share = (math.log10(rate) - first) / (last - first)
        return min(max(round(share * (columns - 1)), 0), columns - 1)

    axis = [" "] * (columns + 8)
    for power in range(math.ceil(first), math.floor(last) + 1):
        start = column(10.0**power)
        for offset, character in enumerate(f"1e{power:d}"):
            axis[start + offset] = character
    lines.append(f"{'':>9}" + "".join(axis).rstrip())
    lines.append(f"{'':>9}" + " " * column(found.suggestion.lr) + f"▲ {found.suggestion.lr:.2g}")
    return lines


def _padded(found: LearningRateResult) -> tuple[float, float]:
    low, high = shown_losses(found)
    span = max(high - low, 1e-6)
    return low, high + 0.05 * span


def _between(values: Sequence[float], at: float) -> float:
    left = min(int(at), len(values) - 2)
    return values[left] + (at - left) * (values[left + 1] - values[left])
