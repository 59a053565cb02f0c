from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from finetune.photos.crops import Crop
from finetune.photos.scan import scan
from finetune.web.annotate.features import FeatureExtractor, Features, SubjectCache
from finetune.web.annotate.session import Session


@pytest.fixture
def session(make_photos: Callable[..., Path]) -> Iterator[Session]:
    root = make_photos({"x": 2, "y": 1})
    (root / "y" / "bad.jpg").write_bytes(b"no photo")
    scan(root, workers=1)
    opened = Session(root)
    yield opened
    opened.close()


def test_nearest_photos_do_not_depend_on_the_norm_of_their_features() -> None:
    rows = np.array([[1, 0], [0, 5], [7, 1], [0, 0]], np.float32)
    features = Features(ids=("a", "b", "c", "d"), rows=rows.astype(np.float16))
    assert features.nearest("a") == [0, 2, 1, 3]
    assert features.nearest("b") == [1, 2, 0, 3]
    assert features.nearest("e") == []


def test_extractor_starts_without_features(session: Session) -> None:
    extractor = FeatureExtractor(session)
    assert len(extractor) == 0
    assert extractor.features().ids == ()
    assert extractor.features().rows.shape[0] == 0
    assert extractor.subject_crop(session.index.states()[0]) is None
    assert [state.path for state in extractor.pending()] == ["x/000.jpg", "x/001.jpg", "y/000.jpg"]


def test_extracted_photos_are_no_longer_pending(session: Session) -> None:
    extractor = FeatureExtractor(session)
    first, second, third = extractor.pending()
    calls = []
    extractor.extract([first, third], lambda *counts: calls.append(counts))
    assert calls
    assert extractor.pending() == [second]
    features = extractor.features()
    assert features.ids == (first.id, third.id)
    assert np.isfinite(features.rows).all()
    assert (np.abs(features.rows).sum(axis=1) > 0).all()
    crop = extractor.subject_crop(first)
    assert crop is not None
    assert first.digest is not None
    assert extractor.subjects.crops.get(first.digest) == crop


def test_a_deleted_photo_is_not_extracted_again(session: Session) -> None:
    extractor = FeatureExtractor(session)
    first, *rest = extractor.pending()
    (session.root / first.path).unlink()
    extractor.extract([first, *rest], lambda *counts: None)
    assert extractor.pending() == []
    features = extractor.features()
    assert not features.rows[features.ids.index(first.id)].any()


def test_subject_crops_are_kept_between_sessions_and_a_damaged_file_is_ignored(
    tmp_path: Path,
) -> None:
    path = tmp_path / "subjects.json"
    subjects = SubjectCache(path)
    subjects.crops["ab"] = Crop(center_x=0.25, center_y=0.5, side=0.4)
    subjects.save()
    assert not path.exists()  # too few new crops for a write
    subjects.save(min_new=1)
    assert SubjectCache(path).crops.get("ab") == Crop(center_x=0.25, center_y=0.5, side=0.4)
    for text in ("nonsense", '{"ab": [1]}', '{"ab": [9, 9, 9]}', "[]"):
        path.write_text(text)
        assert SubjectCache(path).crops.get("ab") is None
