from __future__ import annotations

import pytest

from finetune.experiments.tune.search_space import Usual, rounded


def test_the_usual_is_the_first_of_a_list_and_a_number_within_its_bounds() -> None:
    usual = Usual()
    assert usual.suggest_categorical("mode", ["head", "full"]) == "head"
    assert usual.suggest_float("weight_decay", 1e-4, 0.5, log=True) == 0.05
    assert usual.suggest_float("label_smoothing", 0.2, 0.3) == 0.2
    assert usual.suggest_int("simple_cnn.first_width", 4, 8, log=True) == 8
    assert usual.chosen == {
        "mode": "head",
        "weight_decay": 0.05,
        "label_smoothing": 0.2,
        "simple_cnn.first_width": 8,
    }


def test_what_is_usual_can_be_told() -> None:
    assert Usual({"label_smoothing": 0.0}).suggest_float("label_smoothing", 0.0, 0.2) == 0.0


@pytest.mark.parametrize(
    ("value", "written"),
    [(0.00123456, 0.00123), (1.0, 1.0), (0.19999, 0.2), (12345.0, 12300.0), (0.0, 0.0)],
)
def test_numbers_are_rounded_to_three_digits(value: float, written: float) -> None:
    assert rounded(value) == written
