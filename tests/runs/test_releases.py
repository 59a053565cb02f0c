"""Runs of earlier releases stay readable: one small run of each is kept beside this file.

A run is kept with what its own release predicted for drawn pixels (`expected.json`). That of 0.1.0
was trained by the code of commit 9f51ebf, one of the first that trained.
"""

from __future__ import annotations

import json
import shutil
from csv import DictReader
from pathlib import Path

import numpy as np
import pytest

from finetune import Predictor
from finetune.api.runs import compare
from finetune.reporting.report import write_report
from finetune.runs.folder import open_run
from finetune.runs.model_card import model_card

RELEASES = sorted((Path(__file__).parent / "releases").iterdir())


@pytest.fixture(params=RELEASES, ids=lambda path: path.name)
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a kept run."""
    return Path(shutil.copytree(request.param, tmp_path / "kept"))


def pixels(seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Returns the pixels that a release predicted: cells of 2 x 2 random colors."""
    cells = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    return cells.repeat(2, axis=0).repeat(2, axis=1)


def test_a_kept_run_is_small() -> None:
    for release in RELEASES:
        assert sum(file.stat().st_size for file in release.rglob("*")) < 100_000, release


def test_a_run_of_an_earlier_release_predicts_as_it_did_then(kept: Path) -> None:
    predictor = Predictor.load(kept)
    for seed, expected in enumerate(json.loads((kept / "expected.json").read_text())):
        ranked = {item.label: item.probability for item in predictor(pixels(seed)).ranked}
        assert ranked == pytest.approx(expected, abs=1e-5)


def test_a_run_of_an_earlier_release_is_reported_and_described(kept: Path) -> None:
    written = write_report(kept, photos_root=None)
    assert written.path.stat().st_size > 100_000
    card = model_card(open_run(kept))
    assert "simple_cnn" in card
    assert "wasp" in card


def test_a_run_of_an_earlier_release_is_compared(kept: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(kept, tmp_path / "other"))
    found = compare([kept, other])
    with (kept / "predictions.csv").open(encoding="utf-8-sig", newline="") as file:
        right = [
            row["label"] == row["predicted"] for row in DictReader(file) if row["part"] == "test"
        ]
    assert found.rows[0].top1 == found.rows[1].top1 == pytest.approx(sum(right) / len(right))
