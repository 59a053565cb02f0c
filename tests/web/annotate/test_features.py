from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from finetune.photos.scan import scan
from finetune.web.annotate.features import FeatureReader, Features
from finetune.web.annotate.session import Session


@pytest.fixture
def session(make_photos: Callable[..., Path]) -> Iterator[Session]:
    root = make_photos({"x": 2, "y": 1})
    (root / "y" / "bad.jpg").write_bytes(b"no photo")
    scan(root, workers=1)
    opened = Session(root)
    yield opened
    opened.close()


def test_photos_come_by_their_likeness_whatever_the_length_of_their_features() -> None:
    rows = np.array([[1, 0], [0, 5], [7, 1], [0, 0]], np.float32)
    features = Features(ids=("a", "b", "c", "d"), rows=rows)
    assert features.nearest("a") == ["a", "c", "b", "d"]
    assert features.nearest_places("b") == [1, 2, 0, 3]
    assert features.nearest("e") == []


def test_before_it_has_looked_it_knows_nothing(session: Session) -> None:
    reader = FeatureReader(session)
    assert len(reader) == 0
    assert reader.known().ids == ()
    assert reader.known().rows.shape[0] == 0
    assert reader.square(session.board.entries()[0]) is None
    assert [entry.path for entry in reader.fresh()] == ["x/000.jpg", "x/001.jpg", "y/000.jpg"]


def test_what_was_looked_at_is_no_longer_fresh(session: Session) -> None:
    reader = FeatureReader(session)
    first, second, third = reader.fresh()
    stops = []
    reader.read([first, third], lambda *counts: stops.append(counts))
    assert stops
    assert reader.fresh() == [second]
    known = reader.known()
    assert known.ids == (first.id, third.id)
    assert np.isfinite(known.rows).all()
    assert (np.abs(known.rows).sum(axis=1) > 0).all()
    square = reader.square(first)
    assert square is not None
    assert reader.subjects.get(first.digest) == square


def test_a_photo_that_went_away_is_not_looked_at_again(session: Session) -> None:
    reader = FeatureReader(session)
    first, *rest = reader.fresh()
    (session.root / first.path).unlink()
    reader.read([first, *rest], lambda *counts: None)
    assert reader.fresh() == []
    known = reader.known()
    assert not known.rows[known.ids.index(first.id)].any()
