"""Learning rate sweep as an HTML page, a PNG picture, and text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from finetune.experiments.lr_find import LearningRateResult
from finetune.files import write_atomically
from finetune.formatting import count
from finetune.reporting.chart import Axis, Chart, Series, draw_chart
from finetune.reporting.drawing import to_image
from finetune.reporting.page import write_page

BRAILLE = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bits of the dots of a braille character, row by row."""


def why(found: LearningRateResult) -> str:
    """Returns the suggestion and its reason."""
    suggestion = found.suggestion
    reason = {
        "steep": (
            f"the highest of the range in which the loss falls fast; it falls fastest at "
            f"{suggestion.steepest:.2g} and starts to rise at {suggestion.diverging:.2g}"
        ),
        "limit": (
            f"a tenth of {suggestion.diverging:.2g}, where the loss starts to rise; it falls fast "
            "up to a higher rate"
        ),
        "flat": (
            f"a tenth of {suggestion.diverging:.2g}, where the loss starts to rise; it hardly "
            "falls before"
        ),
    }[suggestion.rule]
    return (
        f"Learning rate {suggestion.lr:.2g}: {reason}. The default for this training is "
        f"{found.default_lr:.2g}."
    )


def shown_losses(found: LearningRateResult) -> tuple[float, float]:
    """Returns the lowest and highest loss to show: all but those of the divergence."""
    losses = [*found.sweep.losses, *found.sweep.smoothed]
    low, start = min(losses), max(found.sweep.smoothed[0], found.sweep.losses[0])
    high = min(max(losses), start + max(0.5 * (start - low), 1e-6))
    span = max(high - low, 1e-6)
    return max(0.0, low - 0.04 * span), high + 0.04 * span


def sweep_chart(found: LearningRateResult) -> Chart:
    """Returns the chart of a sweep."""
    sweep, lr = found.sweep, found.suggestion.lr
    low, high = shown_losses(found)
    steps = [(r, loss) for r, loss in zip(sweep.rates, sweep.losses, strict=True) if loss <= high]
    line = [(r, loss) for r, loss in zip(sweep.rates, sweep.smoothed, strict=True) if loss <= high]
    return Chart(
        title=f"Loss by learning rate of {found.model}",
        x=Axis(
            title="Learning rate of the head", kind="log", ends=(sweep.rates[0], sweep.rates[-1])
        ),
        y=Axis(title="Training loss (nats)", ends=(low, high)),
        series=[
            Series(
                name="single steps",
                points=steps,
                color="muted",
                joined=False,
                dots=2,
                notes=[f"learning rate {rate:.2g}: loss {loss:.3f}" for rate, loss in steps],
            ),
            Series(name="smoothed", points=line),
        ],
        upright=[
            (lr, f"suggested {lr:.2g}"),
            (found.default_lr, f"default {found.default_lr:.2g}"),
        ],
        height=400,
    )


def hidden_steps(found: LearningRateResult) -> str:
    """Returns a sentence on the steps above the chart; empty if it shows all."""
    above = sum(loss > shown_losses(found)[1] for loss in found.sweep.losses)
    return (
        f"{count(above, 'step')} of the divergence {'is' if above == 1 else 'are'} above."
        if above
        else ""
    )


def write_lr_page(path: Path, found: LearningRateResult) -> Path:
    """Writes a sweep as an HTML file and returns `path`.

    Raises:
        StorageError: The file could not be written.
    """
    return write_page(
        path,
        "lr_find.html.j2",
        scripts=("base.js",),
        data={},
        charts={"sweep": sweep_chart(found)},
        found=found,
        why=why(found),
        hidden=hidden_steps(found),
    )


def write_lr_picture(path: Path, found: LearningRateResult) -> Path:
    """Writes a sweep as a PNG file and returns `path`; raises StorageError."""
    image = to_image(draw_chart(sweep_chart(found), 640))
    return write_atomically(path, lambda file: image.save(file, format="PNG"))


def text_chart(found: LearningRateResult, *, columns: int = 72, rows: int = 14) -> list[str]:
    """Returns a sweep as lines of text: smoothed loss in braille dots, suggestion as an arrow."""
    low, high = shown_losses(found)
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


def _between(values: Sequence[float], at: float) -> float:
    left = min(int(at), len(values) - 2)
    return values[left] + (at - left) * (values[left + 1] - values[left])
