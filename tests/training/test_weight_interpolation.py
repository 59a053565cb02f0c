from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import ttest_rel
from torch import Tensor

from finetune.training.averaging import SHARES, Interpolation, interpolate, interpolate_weights


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
            "The network is kept as it was trained: log loss 0.250 on validation, 0.500 at its "
            "start.",
        ),
        (
            {0.0: 0.1, 0.5: 0.09, 1.0: 0.25},
            "The network is kept as it started, with the head that learned on the frozen backbone: "
            "log loss 0.100 on validation, and 0.090 at best on the way to the trained network "
            "(0.250), which is no more than chance would give.",
        ),
        (
            {0.0: 0.1, 0.5: 0.11, 1.0: 0.25},
            "The network is kept as it started, with the head that learned on the frozen backbone: "
            "log loss 0.100 on validation, and nowhere lower by 0.001 on the way to the trained "
            "network (0.250).",
        ),
        (
            {0.0: 0.5, 0.5: 0.2, 1.0: 0.25},
            "The network is kept at 50% of the way from its start: log loss 0.200 on validation, "
            "0.500 at the start, 0.250 at the end.",
        ),
    ],
)
def test_what_is_kept_is_said(losses: dict[float, float], text: str) -> None:
    spread = np.array([-0.05, 0.05])
    interpolation = {
        share: np.full(2, loss) + (spread if share == 0 else 0) for share, loss in losses.items()
    }
    assert Interpolation(losses=interpolation).describe() == text
