from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from finetune import Predictor
from finetune.photos.scan import scan
from finetune.web.annotate.session import Session
from finetune.web.annotate.suggestions import RunAnswers, run_classifier


def test_answers_are_kept_by_photo() -> None:
    answers = RunAnswers()
    assert answers.labels == ()
    answers.put(["a", "b"], ("x", "y"), np.array([[0.75, 0.25], [0.5, 0.5]]))
    answers.put(["b", "c"], ("x", "y"), np.array([[0.0, 1.0], [1.0, 0.0]]))
    assert answers.labels == ("x", "y")
    assert [answers.of(photo_id).tolist() for photo_id in "abc"] == [[0.75, 0.25], [0, 1], [1, 0]]


def test_a_run_speaks_of_a_sessions_photos_in_the_order_of_its_labels(
    train_tiny: Callable[..., Path], tmp_path: Path
) -> None:
    run = train_tiny(tmp_path, photos=6, epochs=1)
    photos = tmp_path / "photos"
    scan(photos, workers=1)
    session = Session(photos)
    entries = session.board.entries()
    (photos / entries[1].path).write_bytes(b"no photo any more")
    labels, shares = run_classifier(str(run), session)([entry.photo for entry in entries[:3]])
    session.close()
    assert labels == ("ant", "bee")
    predictor = Predictor.load(run)
    for row, entry in ((shares[0], entries[0]), (shares[2], entries[2])):
        answer = predictor(photos / entry.path)
        assert row == pytest.approx([answer.probability_of(label) for label in labels])
    # One that cannot be opened any more could be anything.
    assert shares[1].tolist() == [0.5, 0.5]
