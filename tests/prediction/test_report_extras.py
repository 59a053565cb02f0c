"""Likely label errors of a run's own collection."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from finetune import train
from finetune.config_io import resolve
from finetune.photos.split.split import read_split, write_split
from finetune.prediction.report_extras import report_extras, suspects
from finetune.reporting.report import Suspect
from finetune.runs.folder import RunFolder
from finetune.runs.loading import open_trained

Draw = Callable[[int], tuple[tuple[str, ...], Image.Image]]
NUMBER = 3


def mislabel(run: RunFolder, labels: tuple[str, ...]) -> str:
    """Gives a photo of the run's split other labels, and returns its path."""
    rows = list(read_split(run.split_file))
    place = next(k for k, row in enumerate(rows) if Path(row.path).stem == f"{NUMBER:03d}")
    rows[place] = dataclasses.replace(rows[place], labels=labels)
    write_split(run.split_file, rows)
    return rows[place].path


def test_of_several_labels_one_too_many_and_one_missing_are_found(
    several_folders: Path, tmp_path: Path, draw_shapes: Draw
) -> None:
    assert draw_shapes(NUMBER)[0] == ("blue",)
    flags = {"multi_label": True, "negatives": "none", "augment": "none", "size": 96}
    run = train(several_folders, resolve({}, flags), run="r", runs=tmp_path).run
    path = mislabel(run, ("red",))
    found = suspects(open_trained(run), several_folders)
    by_label = {(error.label, error.suggested): error for where, error in found if where == path}
    assert set(by_label) == {(None, "blue"), ("red", None)}
    assert len(found) < 20
    extras, notes = report_extras(run, several_folders)
    assert not notes
    shown = [suspect for suspect in extras.suspects if suspect.path == path]
    assert sorted(shown, key=lambda suspect: suspect.label or "") == [
        Suspect(
            path=path, label=None, suggested="blue", probability=by_label[None, "blue"].probability
        ),
        Suspect(
            path=path, label="red", suggested=None, probability=by_label["red", None].probability
        ),
    ]
    (several_folders / path).rename(tmp_path / "elsewhere.png")
    try:
        assert path not in {where for where, _ in suspects(open_trained(run), several_folders)}
    finally:
        (tmp_path / "elsewhere.png").rename(several_folders / path)
