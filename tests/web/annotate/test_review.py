"""Photos to review, from a run's predictions and from tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.errors import CollectionError, RunError
from finetune.evaluation.predictions import Prediction, write_predictions
from finetune.photos.scan import find_photos
from finetune.web.annotate.photo_index import PhotoIndex
from finetune.web.annotate.review import Review, read_review


def prediction(number: int, label: str, ranked: tuple[tuple[str, float], ...]) -> Prediction:
    return Prediction(
        path=f"{number}.jpg", digest=f"{number:032x}", part="test", label=label, ranked=ranked
    )


def test_mistakes_and_doubts_of_a_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text("{}")
    rows = [
        prediction(1, "a", (("a", 0.9), ("b", 0.1))),
        prediction(2, "b", (("a", 0.9), ("b", 0.1))),
        prediction(3, "a", (("a", 0.55), ("b", 0.45))),
    ]
    write_predictions(run / "predictions.csv", rows)
    found = read_review(str(run), tmp_path)
    assert found == Review(digests=frozenset({f"{2:032x}", f"{3:032x}"}))


def test_tables_of_predict_name_the_photos_that_are_not_sure(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    (root / "sub").mkdir(parents=True)
    for name in ("a.jpg", "b.jpg", "sub/c.jpg"):
        (root / name).touch()
    table = tmp_path / "new.csv"
    lines = [
        "photo,status,label_1",
        f"{root}/a.jpg,sure,x",
        f"{root}/b.jpg,unsure,x",
        "sub/c.jpg,,",
    ]
    table.write_text("\n".join(lines))
    assert read_review(str(table), root).paths == {"b.jpg", "sub/c.jpg"}
    table.write_text("a.jpg\nsub/c.jpg\n")
    assert read_review(str(table), root).paths == {"a.jpg", "sub/c.jpg"}


def test_errors_name_the_table_or_the_run(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").touch()
    with pytest.raises(CollectionError, match=r"names no photo\.$"):
        read_review(str(tmp_path / "empty.csv"), tmp_path)
    with pytest.raises(CollectionError, match="cannot be read"):
        read_review(str(tmp_path / "gone.csv"), tmp_path)
    with pytest.raises(RunError):
        read_review(str(tmp_path / "gone"), tmp_path)


def test_the_review_list_of_serve_names_files_in_any_folder(tmp_path: Path) -> None:
    (tmp_path / "heron").mkdir()
    for path in ("heron/a.jpg", "heron/b.jpg", "c.jpg"):
        (tmp_path / path).write_bytes(path.encode())
    table = tmp_path / "review.csv"
    table.write_text("filename,label\na.jpg,owl\nc.jpg,owl\n", encoding="utf-8")
    review = read_review(str(table), tmp_path)
    index = PhotoIndex(tmp_path)
    index.add_files(find_photos(tmp_path).files)
    assert index.set_review(review) == 2
    assert [state.path for state in index.states() if state.review] == ["c.jpg", "heron/a.jpg"]
