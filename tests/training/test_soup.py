from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from finetune.training.averaging import (
    Candidate,
    best_first,
    candidate_file,
    greedy_soup,
    remove_other_candidates,
)


def rank(one: Candidate) -> tuple[float, float]:
    return one.accuracy, -one.loss


def brute_force(
    weights: dict[int, np.ndarray], ranked: list[Candidate], hills: np.ndarray
) -> tuple[list[int], float]:
    """Algorithm 1 of the paper on all-float64 weights, with ties by loss."""
    chosen = [ranked[0].epoch]
    best = (ranked[0].accuracy, -ranked[0].loss)
    for candidate in ranked[1:]:
        trial = [*chosen, candidate.epoch]
        loss, accuracy = score(np.mean([weights[epoch] for epoch in trial], axis=0), hills)
        if (accuracy, -loss) >= best:
            chosen, best = trial, (accuracy, -loss)
    return chosen, best[0]


def score(weights: np.ndarray, hills: np.ndarray) -> tuple[float, float]:
    loss = float(((weights - hills) ** 2).sum())
    return loss, round(1 / (1 + loss), 2)


@pytest.mark.parametrize("seed", range(12))
def test_the_greedy_soup_is_that_of_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    hills = rng.normal(0, 1, 6)
    weights = {epoch: hills + rng.normal(0, 0.5, 6) for epoch in (3, 5, 8, 9)}
    tensors: dict[int, dict[str, Tensor]] = {
        epoch: {"w": torch.from_numpy(w), "count": torch.tensor(epoch)}
        for epoch, w in weights.items()
    }
    candidates = [
        Candidate(epoch, accuracy, loss)
        for epoch, w in weights.items()
        for loss, accuracy in [score(w, hills)]
    ]
    expected, accuracy = brute_force(weights, best_first(candidates, rank), hills)
    soup = greedy_soup(
        best_first(candidates, rank),
        lambda epoch: tensors[epoch],
        lambda t: score(t["w"].numpy(), hills),
        rank,
    )
    assert list(soup.epochs) == expected
    assert soup.accuracy == accuracy >= max(c.accuracy for c in candidates)
    mean = np.mean([weights[epoch] for epoch in expected], axis=0)
    assert soup.tensors["w"].numpy() == pytest.approx(mean, abs=1e-12)
    assert int(soup.tensors["count"]) == best_first(candidates, rank)[0].epoch


def test_the_mean_of_many_is_taken_in_float64() -> None:
    values = [1.0, 1e-8, 1e-8, 1e-8]
    soup = greedy_soup(
        [Candidate(epoch, 0.5, 1.0) for epoch in range(4)],
        lambda epoch: {"w": torch.tensor([values[epoch]])},
        lambda tensors: (1.0, 0.5),
        rank,
    )
    assert soup.epochs == (0, 1, 2, 3)
    assert soup.tensors["w"].dtype == torch.float32
    assert float(soup.tensors["w"]) == np.float32(sum(values) / 4)


def test_the_best_come_first_and_of_equals_the_earlier() -> None:
    order = [Candidate(7, 0.9, 0.5), Candidate(2, 0.9, 0.5), Candidate(3, 0.9, 0.4)]
    assert [c.epoch for c in best_first([Candidate(1, 0.8, 0.1), *order], rank)] == [3, 2, 7, 1]


def test_files_of_epochs_that_fell_out_are_deleted(tmp_path: Path) -> None:
    best = tmp_path / "best.safetensors"
    for epoch in (1, 2, 3):
        candidate_file(best, epoch).write_bytes(b"x")
    best.write_bytes(b"x")
    remove_other_candidates(best, [Candidate(2, 0.5, 1.0)])
    assert {file.name for file in tmp_path.iterdir()} == {
        "best.safetensors",
        "epoch-2.safetensors",
    }


def test_where_the_loss_comes_first_a_better_loss_is_enough() -> None:
    def by_loss(one: Candidate) -> tuple[float, float]:
        return -one.loss, one.accuracy

    ranked = best_first([Candidate(1, 0.9, 0.5), Candidate(2, 0.8, 0.4)], by_loss)
    assert [one.epoch for one in ranked] == [2, 1]
    soup = greedy_soup(
        ranked, lambda epoch: {"w": torch.tensor([float(epoch)])}, lambda t: (0.3, 0.7), by_loss
    )
    assert soup.epochs == (2, 1)
    assert (soup.loss, soup.accuracy) == (0.3, 0.7)
