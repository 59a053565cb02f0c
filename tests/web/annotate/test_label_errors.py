"""Which labels are doubted, on features that were made up so that the answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from finetune.web.annotate.features import Features
from finetune.web.annotate.suggestions import CHECK_EVERY, Doubts, Known, RunAnswers

IDS = tuple(map(str, range(20)))
CLUSTERS = [number % 2 for number in range(20)]
WRONG = 4


@pytest.fixture
def features() -> Features:
    rng = np.random.default_rng(0)
    rows = np.eye(4, dtype=np.float32)[CLUSTERS] + rng.normal(0, 0.05, (20, 4)).astype(np.float32)
    return Features(ids=IDS, rows=rows)


def labels() -> list[tuple[str, ...]]:
    own = [("xy"[cluster],) for cluster in CLUSTERS]
    own[WRONG] = ("y",)
    return own


def go_on(done: int = 0, total: int = 0) -> None:
    pass


def test_a_wrong_label_is_doubted_most(features: Features) -> None:
    doubts, own = Doubts(), labels()
    assert doubts.check(features, Known.of(own), IDS, go_on)
    advice = doubts.advice(IDS, own, RunAnswers())
    assert max(advice, key=lambda photo_id: advice[photo_id].disagreement or 0) == str(WRONG)
    assert advice[str(WRONG)].ranked[0][0] == "x"
    assert (advice[str(WRONG)].disagreement or 0) > 0.5


def test_labels_are_checked_again_when_there_are_many_more_of_them(features: Features) -> None:
    doubts, own = Doubts(), labels()
    few = [*own[: CHECK_EVERY - 1], *[()] * (21 - CHECK_EVERY)]
    assert not doubts.check(features, Known.of(few), IDS, go_on)
    assert doubts.check(features, Known.of(own), IDS, go_on)
    assert not doubts.check(features, Known.of(own), IDS, go_on)


def test_of_one_label_alone_nothing_can_be_doubted(features: Features) -> None:
    own = [("x",)] * 20
    assert not Doubts().check(features, Known.of(own), IDS, go_on)


def test_where_every_label_is_one_burst_nothing_can_be_held_out(features: Features) -> None:
    own = labels()
    bursts = [label[0] for label in own]
    assert not Doubts().check(features, Known.of(own), bursts, go_on)
    assert Doubts().check(features, Known.of(own), [*bursts[:-1], "alone"], go_on)


def test_a_check_that_is_stopped_ends(features: Features) -> None:
    def stop(done: int = 0, total: int = 0) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        Doubts().check(features, Known.of(labels()), IDS, stop)


def test_before_a_check_the_run_speaks_and_without_one_nobody() -> None:
    run = RunAnswers()
    run.put(["0", "1"], ("x", "y", "q"), np.array([[0.7, 0.2, 0.1], [0.25, 0.5, 0.25]]))
    own = [("y",), (), ("x", "y")]
    advice = Doubts().advice(["0", "1"], own[:2], run)
    assert advice.keys() == {"0"}
    assert advice["0"].ranked == (("x", 0.7), ("y", 0.2), ("q", 0.1))
    assert advice["0"].disagreement == 0.8
    silent = Doubts().advice(["2"], own[2:], RunAnswers())["2"]
    assert (silent.ranked, silent.disagreement) == ((), None)
