from __future__ import annotations

from finetune.evaluation.predictions import Prediction
from finetune.reporting.gallery import choose_photos, least_sure, mistakes, surest_correct


def said(label: str, predicted: str, probability: float, path: str = "") -> Prediction:
    rest = "other" if predicted != "other" else "more"
    return Prediction(
        path=path or f"{label}-{predicted}-{probability}",
        digest="",
        part="test",
        label=label,
        ranked=((predicted, probability), (rest, 1 - probability)),
    )


ROWS = [
    said("a", "a", 0.9),
    said("a", "b", 0.6),
    said("b", "b", 0.7),
    said("a", "a", 0.95),
    said("b", "a", 0.8),
    said("c", "a", 0.5),
    said("b", "b", 0.65),
    said("a", "a", 0.55),
]


def test_mistakes_come_surest_first():
    assert mistakes(ROWS) == [4, 1, 5]


def test_equally_sure_mistakes_come_by_path():
    rows = [said("a", "b", 0.5, path="z.jpg"), said("a", "b", 0.5, path="a.jpg")]
    assert mistakes(rows) == [1, 0]


def test_each_label_with_a_right_answer_shows_its_surest():
    assert surest_correct(ROWS, ["a", "b", "c"]) == [3, 2]
    assert surest_correct(ROWS, ["b", "a"]) == [2, 3]


def test_least_sure_is_a_quarter_of_the_photos_at_most():
    assert least_sure(ROWS) == [5, 7]
    assert least_sure(ROWS, limit=1) == [5]
    assert least_sure([]) == []


def test_few_photos_are_all_chosen_each_once():
    assert sorted(choose_photos(ROWS, ["a", "b", "c"], limit=100)) == list(range(8))


def test_a_tight_limit_keeps_what_the_caller_named_and_then_mistakes():
    chosen = choose_photos(ROWS, ["a", "b", "c"], limit=5, first=[6])
    assert chosen == [6, 5, 4, 1, 3]
    assert choose_photos(ROWS, ["a"], limit=0) == []


def test_right_answers_fill_the_rest_label_by_label():
    rows = [said("a", "a", 0.9 - k / 100) for k in range(8)]
    rows += [said("b", "b", 0.8 - k / 100) for k in range(2)]
    # 9 is the least sure; then a, b, a and, as b has no more, a.
    assert choose_photos(rows, ["a", "b"], limit=6) == [9, 0, 8, 1, 2, 3]
