from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as reference

from finetune.errors import RunError
from finetune.evaluation import confusion
from finetune.evaluation.confusion import (
    confusion_matrix,
    count_labels,
    draw_confusion,
    most_confused,
    order_by_confusion,
    order_by_recall,
    read_confusion_csv,
    resample_labels,
    worst_confusions,
    write_confusion_csv,
)

Case = tuple[NDArray[np.float64], NDArray[np.int64]]

LABELS = ["カワセミ", "=HYPERLINK(1)", '<b>"gull", herring</b>', "rook\nnest", "-1"]


def test_matrix_equals_scikit_learns(case: Case) -> None:
    logits, targets = case
    labels = logits.shape[1]
    ours = confusion_matrix(targets, logits.argmax(axis=1), labels)
    theirs = reference.confusion_matrix(targets, logits.argmax(axis=1), labels=range(labels))
    np.testing.assert_array_equal(ours, theirs)


def test_file_gives_matrix_and_labels_back(tmp_path: Path) -> None:
    matrix = np.arange(25).reshape(5, 5)
    path = write_confusion_csv(tmp_path / "confusion_matrix.csv", matrix, LABELS)
    read, labels = read_confusion_csv(path)
    np.testing.assert_array_equal(read, matrix)
    assert labels == LABELS


def test_file_opens_in_a_spreadsheet_with_labels_on_both_axes(tmp_path: Path) -> None:
    path = write_confusion_csv(tmp_path / "c.csv", np.eye(5, dtype=np.int64), LABELS)
    assert path.read_bytes().startswith(b"\xef\xbb\xbf")  # else Excel garbles Japanese
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["truth \\ predicted", "カワセミ", "'=HYPERLINK(1)", *LABELS[2:4], "'-1"]
    assert [row[0] for row in rows[1:]] == rows[0][1:]
    assert rows[1][1:] == ["1", "0", "0", "0", "0"]


def test_a_file_that_is_no_matrix_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "confusion_matrix.csv"
    path.write_text("truth,a,b\na,1\n")
    with pytest.raises(RunError, match=r"is not a confusion matrix: .* with finetune evaluate\."):
        read_confusion_csv(path)
    with pytest.raises(RunError, match=r"is not a confusion matrix: .*No such file"):
        read_confusion_csv(tmp_path / "missing.csv")
    path.write_text("")
    with pytest.raises(RunError, match="is not a confusion matrix"):
        read_confusion_csv(path)


def test_worst_confusions_come_most_frequent_first() -> None:
    matrix = np.array([[9, 2, 0], [5, 9, 2], [0, 0, 9]])
    assert worst_confusions(matrix, limit=2) == [(1, 0, 5), (0, 1, 2)]
    assert worst_confusions(matrix, limit=9) == [(1, 0, 5), (0, 1, 2), (1, 2, 2)]


def test_counts_are_the_sums_of_the_matrix() -> None:
    counts = count_labels(np.array([[3, 1, 0], [2, 5, 0], [0, 4, 0]]))
    assert counts.hits.tolist() == [3, 5, 0]
    assert counts.photos.tolist() == [4, 7, 4]
    assert counts.predicted.tolist() == [5, 10, 0]


def test_a_resample_of_cells_is_a_resample_of_photos() -> None:
    truth = np.repeat([0, 1, 3], [30, 90, 5])
    predicted = np.r_[np.zeros(20), np.ones(10 + 80), np.full(10, 3), np.zeros(5)].astype(int)
    rng = np.random.default_rng(0)
    picks = rng.integers(0, 125, (4000, 125))
    expected: dict[str, list[NDArray[np.int64]]] = {"hits": [], "photos": [], "predicted": []}
    for pick in picks:
        t, s = truth[pick], predicted[pick]
        expected["hits"].append(np.bincount(t[t == s], minlength=4))
        expected["photos"].append(np.bincount(t, minlength=4))
        expected["predicted"].append(np.bincount(s, minlength=4))
    again = resample_labels(
        confusion_matrix(truth, predicted, 4), resamples=4000, rng=np.random.default_rng(1)
    )
    for name, values in expected.items():
        ours, theirs = getattr(again, name), np.array(values)
        assert ours.shape == (4000, 4)
        np.testing.assert_allclose(ours.mean(axis=0), theirs.mean(axis=0), atol=0.4)
        np.testing.assert_allclose(ours.std(axis=0), theirs.std(axis=0), rtol=0.05, atol=0.02)
    np.testing.assert_array_equal(again.photos.sum(axis=1), 125)
    assert (again.photos[:, 2] == 0).all()


SHADE = (8, 81, 156)


def test_a_cell_is_as_dark_as_its_share_of_its_row() -> None:
    matrix = np.array([[40, 0], [10, 10]])
    picture = draw_confusion(matrix, ["a", "b"], title="t")
    assert picture.dtype == np.uint8
    # The four cells are the last 80 pixels in both directions, less the margin of 10.
    corners = {}
    for row in range(2):
        for column in range(2):
            y, x = picture.shape[0] - 10 - 80 + 40 * row, picture.shape[1] - 10 - 80 + 40 * column
            corners[row, column] = tuple(int(v) for v in picture[y + 3, x + 3])
    assert corners[0, 0] == SHADE
    assert corners[0, 1] == (255, 255, 255)
    half = tuple(round(255 + (c - 255) / 2) for c in SHADE)
    assert corners[1, 0] == corners[1, 1] == half


@pytest.mark.parametrize("count", [2, 26, 101, 600])
def test_any_number_of_labels_makes_a_picture_of_a_fair_size(count: int) -> None:
    labels = [f"label number {k} with a long name that goes on and on" for k in range(count)]
    picture = draw_confusion(np.eye(count, dtype=np.int64), labels, title="validation")
    assert picture.shape[2] == 3
    assert 80 < max(picture.shape) < 2700


def test_a_label_without_photos_is_an_empty_row() -> None:
    picture = draw_confusion(np.zeros((2, 2), np.int64), ["a", "b"], title="t")
    assert np.isfinite(picture).all()


def test_letters_that_no_font_has_make_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confusion, "has_glyphs", lambda text: text.isascii())
    drawn = draw_confusion(np.eye(2, dtype=np.int64), ["カワセミ", "モズ"], title="t")
    numbered = draw_confusion(np.eye(2, dtype=np.int64), ["1", "2"], title="t")
    np.testing.assert_array_equal(drawn, numbered)


def test_confused_labels_are_put_side_by_side() -> None:
    matrix = np.diag(np.full(6, 20))
    matrix[0, 4], matrix[4, 0], matrix[2, 5], matrix[4, 1] = 5, 3, 4, 1
    order = order_by_confusion(matrix)
    assert abs(order.index(0) - order.index(4)) == 1
    assert abs(order.index(2) - order.index(5)) == 1
    assert abs(order.index(4) - order.index(1)) == 1
    assert order[-1] == 3  # no mistakes at all


@given(st.integers(1, 12), st.integers(0, 1000))
def test_every_order_holds_each_label_once(size: int, seed: int) -> None:
    matrix = np.random.default_rng(seed).integers(0, 4, (size, size))
    before = matrix.copy()
    assert (
        sorted(order_by_confusion(matrix)) == sorted(order_by_recall(matrix)) == list(range(size))
    )
    np.testing.assert_array_equal(matrix, before)


def test_the_worst_label_comes_first_and_one_without_photos_last() -> None:
    matrix = np.array([[9, 1, 0], [0, 0, 0], [5, 0, 5]])
    assert order_by_recall(matrix) == [2, 0, 1]


def test_the_most_confused_labels_are_those_in_most_mistakes() -> None:
    matrix = np.diag(np.full(5, 9))
    matrix[1, 3] = 4
    matrix[0, 3] = 1
    assert most_confused(matrix, 2) == [1, 3]
    assert most_confused(matrix, 3) == [0, 1, 3]
