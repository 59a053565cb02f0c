from __future__ import annotations

import io
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from finetune.evaluation.predictions import Prediction
from finetune.reporting.drawing import PAPER
from finetune.reporting.pictures import draw_gallery
from finetune.reporting.report import write_report

if TYPE_CHECKING:
    from tests.reporting.conftest import MadeRun


def test_a_report_writes_its_pictures(small_run: MadeRun, tmp_path: Path) -> None:
    made = write_report(
        small_run.path,
        photos_root=small_run.photos,
        output=tmp_path / "r.html",
        images=tmp_path / "pictures",
    )
    assert {path.name for path in made.pictures} == {
        *("mistakes.png", "surest.png", "confusion.png"),
        *("learning_curve.png", "learning_curve.svg", "loss_curve.svg"),
    }
    for path in made.pictures:
        assert path.parent == tmp_path / "pictures"
        if path.suffix == ".png":
            with Image.open(path) as image:
                assert min(image.size) > 200
        else:
            assert ET.parse(path).getroot().tag.endswith("svg")


def card(probabilities: list[float], size: tuple[int, int]) -> Image.Image:
    photo = Image.new("RGB", size, (0, 160, 0))
    labels = ("a", "b", "c", "d", "e")
    row = Prediction(
        path="p",
        digest="p",
        part="test",
        label="b",
        ranked=tuple(zip(labels, probabilities, strict=True)),
    )
    return draw_gallery([row], {"p": png_of(photo)}, title="t")


def png_of(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def colored(image: Image.Image, color: tuple[int, int, int]) -> np.ndarray:
    return np.argwhere((np.asarray(image) == color).all(axis=2))


def test_bars_are_as_long_as_their_probabilities() -> None:
    image = card([0.5, 0.25, 0.125, 0.0625, 0.0625], (100, 100))
    spans = {}
    for name in ("wrong", "right"):
        found = colored(image, tuple(bytes.fromhex(PAPER[name][1:])))  # type: ignore[arg-type]
        spans[name] = np.ptp(found[:, 1]) + 1
    # A card is 220 pixels wide.
    assert abs(spans["wrong"] - 0.5 * 220) <= 1
    assert abs(spans["right"] - 0.25 * 220) <= 1


def test_the_whole_photo_is_in_its_card() -> None:
    for size in ((28, 28), (300, 100), (100, 300)):
        found = colored(card([1, 0, 0, 0, 0], size), (0, 160, 0))
        height, width = (np.ptp(found, axis=0) + 1).tolist()
        assert abs(width / height - size[0] / size[1]) < 0.03
        assert width == 220 or height == 165
