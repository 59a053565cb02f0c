from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune import train
from finetune.config_io import resolve
from finetune.errors import RunError
from finetune.runs.folder import RunFolder
from finetune.runs.model_card import write_model_card


def test_the_card_says_what_the_run_measured_and_names_no_path(
    make_photos: Callable[..., Path], tmp_path: Path, tiny_settings: dict[str, object]
) -> None:
    photos = make_photos({"heron | gray": 8, "カワセミ": 8})
    run = train(photos, resolve({}, tiny_settings), run="garden", runs=tmp_path).run
    card = write_model_card(run)
    assert card == run.path / "README.md"
    text = card.read_text(encoding="utf-8")
    metrics = json.loads(run.metrics_file.read_text())
    judged = "test" if "test" in metrics else "validation"
    low, high = metrics[judged]["top1_interval"]
    front = text.split("---\n")[1]
    assert "library_name: timm\n" in front
    assert f"value: {metrics[judged]['top1']:.4f}" in front
    assert f"{low:.1%} to {high:.1%}" in text
    assert "| heron \\| gray |" in text
    assert "| カワセミ |" in text
    assert "No group of near-duplicates lies on both sides" in text
    temperature = json.loads(run.calibration_file.read_text())["temperature"]
    assert f"softmax(logits / {temperature:.4g})" in text
    assert str(tmp_path) not in text
    for heading in ("Accuracy", "Calibration", "Intended use and limits", "How it was made"):
        assert f"\n## {heading}\n" in text


def test_an_unfinished_run_has_no_card(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"has no config\.json: it is no finished run"):
        write_model_card(RunFolder(tmp_path))
