from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import ttest_rel
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from finetune.training.averaging import (
    SHARES,
    Candidate,
    Interpolation,
    WeightAverage,
    best_first,
    candidate_file,
    decay_at,
    greedy_soup,
    interpolate,
    interpolate_weights,
    remove_other_candidates,
)


def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def wander(module: nn.Module, rng: np.random.Generator) -> None:
    with torch.no_grad():
        for value in module.state_dict().values():
            if value.is_floating_point():
                value += torch.from_numpy(rng.normal(0, 0.1, value.shape).astype(np.float32))
            else:
                value += 1


def test_the_decay_is_that_of_timm() -> None:
    for decay in (0.5, 0.99, 0.9999):
        theirs = ModelEmaV3(nn.Linear(1, 1), decay=decay, use_warmup=True)
        for update in (0, 1, 2, 10, 1_000, 100_000):
            # timm counts updates from 1.
            expected = theirs.get_decay(update + 1)
            assert decay_at(update, decay) == pytest.approx(expected, abs=1e-12)


def test_the_average_is_the_formula_in_float64() -> None:
    module, rng = net(), np.random.default_rng(0)
    average = WeightAverage(module, 0.9)
    expected = {n: v.numpy().astype(np.float64) for n, v in module.state_dict().items()}
    for update in range(40):
        wander(module, rng)
        average.update(module, update)
        d = min(0.9, 1 - (1 + update) ** (-2 / 3))
        for name, value in module.state_dict().items():
            now = value.numpy().astype(np.float64)
            is_float = value.is_floating_point()
            expected[name] = d * expected[name] + (1 - d) * now if is_float else now
    for name, value in average.tensors.items():
        assert value.numpy() == pytest.approx(expected[name], abs=1e-6), name
    assert int(average.tensors["1.num_batches_tracked"]) == 40
    assert not np.allclose(
        average.tensors["1.running_var"].numpy(), module.state_dict()["1.running_var"].numpy()
    )


def test_it_stands_in_for_the_weights_and_leaves_no_trace() -> None:
    module, rng = net(), np.random.default_rng(1)
    average = WeightAverage(module, 0.9)
    for update in range(5):
        wander(module, rng)
        average.update(module, update)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    averaged = {name: value.clone() for name, value in average.tensors.items()}
    places = {name: value.data_ptr() for name, value in module.state_dict().items()}
    with average.swapped_into(module):
        for name, value in module.state_dict().items():
            assert torch.equal(value, averaged[name]), name
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name
        assert value.data_ptr() == places[name], "an optimizer's kernels keep these addresses"
        assert torch.equal(average.tensors[name], averaged[name])


def test_a_tensor_with_two_names_comes_back_too() -> None:
    module = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    module[1].weight = module.get_parameter("0.weight")
    average = WeightAverage(module, 0.5)
    wander(module, np.random.default_rng(2))
    before = module.get_parameter("0.weight").detach().clone()
    with average.swapped_into(module):
        assert not torch.equal(module.get_parameter("0.weight"), before)
    assert torch.equal(module.get_parameter("0.weight"), before)
    assert module[1].weight is module.get_parameter("0.weight")


def test_it_comes_back_when_the_block_fails() -> None:
    module = net()
    average = WeightAverage(module, 0.5)
    wander(module, np.random.default_rng(2))
    before = module.get_parameter("0.weight").detach().clone()
    with pytest.raises(KeyError), average.swapped_into(module):
        raise KeyError
    assert torch.equal(module.get_parameter("0.weight"), before)


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


def ends(seed: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    start, end = (
        {
            "weight": torch.randn(3, 4, generator=generator),
            "running_var": torch.rand(4, generator=generator),
            "num_batches_tracked": torch.tensor(count),
        }
        for count in (5, 9)
    )
    return start, end


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9])
def test_weights_in_between_are_the_weighted_mean_of_the_ends(share: float) -> None:
    start, end = ends()
    found = interpolate(start, end, share)
    for name in ("weight", "running_var"):
        a, b = start[name].double().numpy(), end[name].double().numpy()
        np.testing.assert_allclose(found[name].numpy(), (1 - share) * a + share * b, atol=1e-6)
    assert found["num_batches_tracked"] == 9


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_ends_are_kept_to_the_last_bit(share: float) -> None:
    start, end = ends()
    expected = end if share else start
    found = interpolate(start, end, share)
    for name in ("weight", "running_var"):
        assert torch.equal(found[name], expected[name])


@pytest.mark.parametrize(("best", "nearest"), [(-3, 0.0), (0.3, 0.25), (0.6, 0.5), (0.95, 1.0)])
def test_the_share_nearest_to_the_bottom_of_a_valley_is_kept(best: float, nearest: float) -> None:
    start, end = {"w": torch.tensor([0.0])}, {"w": torch.tensor([2.0])}
    depths = np.linspace(0.9, 1.1, 30)
    interpolation = interpolate_weights(
        start, end, lambda tensors: depths * float((tensors["w"] - 2 * best) ** 2)
    )
    assert interpolation.share == nearest
    for share in SHARES:
        assert interpolation.loss(share) == pytest.approx((2 * share - 2 * best) ** 2, abs=1e-5)


def test_of_equals_the_one_nearest_to_the_end_is_kept() -> None:
    losses = dict.fromkeys((0.25, 0.5, 1.0), np.linspace(0.1, 0.2, 9))
    assert Interpolation(losses={0.0: np.full(9, 0.3), **losses}).share == 1


@pytest.mark.parametrize("seed", range(8))
def test_the_start_is_left_for_more_than_one_standard_error_alone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    start = rng.exponential(1, 50)
    noise = rng.normal(0, 0.4, 50)
    # scipy's t is the mean difference in standard errors.
    for wanted in (0.9, 1.1):
        gains = noise - noise.mean() + wanted * noise.std(ddof=1) / np.sqrt(50)
        end = start - gains
        assert ttest_rel(start, end).statistic == pytest.approx(wanted)
        interpolation = Interpolation(losses={0.0: start, 0.5: start + 0.2, 1.0: end})
        assert interpolation.share == (1.0 if wanted > 1 else 0.0)


def test_photos_that_are_all_right_are_no_reason_to_be_surer_of_them() -> None:
    start = np.linspace(1e-4, 9e-4, 12)
    assert ttest_rel(start, start / 100).pvalue < 0.001
    assert Interpolation(losses={0.0: start, 1.0: start / 100}).share == 0
    assert Interpolation(losses={0.0: 10 * start, 1.0: start / 10}).share == 1


def test_a_single_photo_decides_by_its_loss() -> None:
    assert Interpolation(losses={0.0: np.array([0.5]), 1.0: np.array([0.4])}).share == 1
    assert Interpolation(losses={0.0: np.array([0.4]), 1.0: np.array([0.5])}).share == 0


@pytest.mark.parametrize(
    ("losses", "text"),
    [
        (
            {0.0: 0.5, 0.5: 0.3, 1.0: 0.25},
            "The trained network is kept: log loss 0.250 on validation, 0.500 at its start.",
        ),
        (
            {0.0: 0.1, 0.5: 0.09, 1.0: 0.25},
            "The initial network is kept, with the head trained on the frozen backbone: "
            "log loss 0.100 on validation, and 0.090 at best on the way to the trained network "
            "(0.250), which may be due to chance.",
        ),
        (
            {0.0: 0.1, 0.5: 0.11, 1.0: 0.25},
            "The initial network is kept, with the head trained on the frozen backbone: "
            "log loss 0.100 on validation, and no loss lower by 0.001 on the way to the trained "
            "network (0.250).",
        ),
        (
            {0.0: 0.5, 0.5: 0.2, 1.0: 0.25},
            "The network is interpolated at 50\u202f% from start to end: log loss 0.200 on "
            "validation, 0.500 at the start, 0.250 at the end.",
        ),
    ],
)
def test_description_names_the_kept_weights(losses: dict[float, float], text: str) -> None:
    spread = np.array([-0.05, 0.05])
    interpolation = {
        share: np.full(2, loss) + (spread if share == 0 else 0) for share, loss in losses.items()
    }
    assert Interpolation(losses=interpolation).describe() == text
