from __future__ import annotations

import numpy as np
import pytest
import torch

from finetune.augmentation.mixing import Mix, mix, sample_mix, soft_targets
from finetune.augmentation.recipes import Recipe

MIXUP = Recipe(mix_probability=1.0, cutmix_share=0.0)
CUTMIX = Recipe(mix_probability=1.0, cutmix_share=1.0)


def draws(recipe: Recipe, count: int = 500, batch: int = 8) -> list[Mix]:
    found = [sample_mix(recipe, batch=batch, size=64, key=(0, 0, step)) for step in range(count)]
    return [drawn for drawn in found if drawn is not None]


def test_a_draw_depends_on_seed_epoch_and_step_alone() -> None:
    one = sample_mix(MIXUP, batch=8, size=64, key=(1, 2, 3))
    assert sample_mix(MIXUP, batch=8, size=64, key=(1, 2, 3)) == one
    for key in ((2, 2, 3), (1, 3, 3), (1, 2, 4)):
        assert sample_mix(MIXUP, batch=8, size=64, key=key) != one


def test_steps_are_mixed_with_the_set_probability() -> None:
    recipe = Recipe(mix_probability=0.4, cutmix_share=0.25)
    found = draws(recipe, 4000)
    assert abs(len(found) / 4000 - 0.4) < 0.03
    assert abs(np.mean([drawn.kind == "cutmix" for drawn in found]) - 0.25) < 0.05


def test_nothing_is_mixed_at_probability_0_or_with_one_photo() -> None:
    assert draws(Recipe()) == []
    assert draws(MIXUP, batch=1) == []


def test_no_photo_is_mixed_with_itself_and_every_partner_occurs() -> None:
    assert {drawn.partner for drawn in draws(MIXUP)} == set(range(1, 8))
    assert {drawn.partner for drawn in draws(MIXUP, batch=2)} == {1}


def test_mixup_weights_follow_the_beta_distribution() -> None:
    recipe = Recipe(mix_probability=1.0, cutmix_share=0.0, mixup_alpha=0.4)
    weights = np.array([drawn.weight for drawn in draws(recipe, 4000)])
    # Beta(a, a) has mean 1/2 and variance 1 / (4 (2a + 1)).
    assert abs(weights.mean() - 0.5) < 0.03
    assert abs(weights.var() - 1 / (4 * 1.8)) < 0.01


def test_mixup_is_the_weighted_sum() -> None:
    images, targets = torch.rand(4, 3, 8, 8), torch.eye(4)
    drawn = Mix(kind="mixup", weight=0.7, partner=1)
    mixed, soft = mix(images, targets, drawn)
    for row in range(4):
        other = (row - 1) % 4
        torch.testing.assert_close(mixed[row], 0.7 * images[row] + 0.3 * images[other])
        torch.testing.assert_close(soft[row], 0.7 * targets[row] + 0.3 * targets[other])


def test_cutmix_pastes_a_box_whose_area_is_the_other_labels_share() -> None:
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 64, 64).contiguous()
    before = images.clone()
    for drawn in draws(CUTMIX, 50, batch=4):
        mixed, soft = mix(images, torch.eye(4), drawn)
        for row in range(4):
            other = (row - drawn.partner) % 4
            share = (mixed[row, 0] == row).double().mean()
            assert share == pytest.approx(drawn.weight)
            assert ((mixed[row] == row) | (mixed[row] == other)).all()
            assert soft[row, row] == pytest.approx(drawn.weight)
            assert soft[row, other] == pytest.approx(1 - drawn.weight, abs=1e-6)
    assert torch.equal(images, before)


def test_soft_targets_sum_to_1_and_smooth_as_cross_entropy_does() -> None:
    targets, logits = torch.tensor([2, 0]), torch.randn(2, 5)
    soft = soft_targets(targets, 5, smoothing=0.1)
    torch.testing.assert_close(soft.sum(1), torch.ones(2))
    torch.testing.assert_close(
        torch.nn.functional.cross_entropy(logits, soft),
        torch.nn.functional.cross_entropy(logits, targets, label_smoothing=0.1),
    )
