"""Mixup and cutmix of photos and targets.

Mixup (Zhang et al. 2017, arXiv:1710.09412) adds l times one photo and (1 - l) times another;
cutmix (Yun et al. 2019, arXiv:1905.04899) pastes a rectangle of area 1 - l. Which, l, the partners
and the rectangle depend on (seed, epoch, step) alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from finetune.augmentation.recipes import Recipe


@dataclass(frozen=True, kw_only=True)
class Mix:
    """Parameters that mix the photos of one step.

    Attributes:
        kind: ``"mixup"`` or ``"cutmix"``.
        weight: Share of each photo's own label.
        partner: Photo i is mixed with photo (i - partner) modulo B.
        box: Cutmix only: top, left, bottom, right of the partner's rectangle, in pixels.
    """

    kind: Literal["mixup", "cutmix"]
    weight: float
    partner: int
    box: tuple[int, int, int, int] = (0, 0, 0, 0)


def sample_mix(recipe: Recipe, *, batch: int, size: int, key: tuple[int, int, int]) -> Mix | None:
    """Returns the parameters of a step, or None if its photos are not mixed.

    Args:
        recipe: Its `mix_probability`, `cutmix_share`, `mixup_alpha` and `cutmix_alpha`.
        batch: Photos in the step; fewer than 2 are never mixed.
        size: Side of the images in pixels.
        key: (seed, epoch, step).
    """
    if batch < 2 or recipe.mix_probability == 0:
        return None
    seed, epoch, step = key
    rng = np.random.Generator(np.random.Philox(key=[seed, epoch], counter=step << 64))
    u, which, partner, x, y = rng.random(5)
    if u >= recipe.mix_probability:
        return None
    shift = 1 + int(partner * (batch - 1))
    if which >= recipe.cutmix_share:
        weight = float(rng.beta(recipe.mixup_alpha, recipe.mixup_alpha))
        return Mix(kind="mixup", weight=weight, partner=shift)
    half = size * np.sqrt(1 - rng.beta(recipe.cutmix_alpha, recipe.cutmix_alpha)) / 2
    # The border may cut the rectangle, so the label weight is computed from its area.
    top, bottom = (int(np.clip(np.rint(y * size + side), 0, size)) for side in (-half, half))
    left, right = (int(np.clip(np.rint(x * size + side), 0, size)) for side in (-half, half))
    weight = 1 - (bottom - top) * (right - left) / size**2
    return Mix(kind="cutmix", weight=weight, partner=shift, box=(top, left, bottom, right))


def mix(images: Tensor, targets: Tensor, drawn: Mix) -> tuple[Tensor, Tensor]:
    """Returns mixed images and targets.

    Args:
        images: `(B, 3, H, W)` float, normalized.
        targets: `(B, N)` float, one row of probabilities a photo.
        drawn: Of this step.

    Returns:
        New tensors of the same shapes.
    """
    other = images.roll(drawn.partner, 0)
    soft = drawn.weight * targets + (1 - drawn.weight) * targets.roll(drawn.partner, 0)
    if drawn.kind == "mixup":
        return torch.lerp(other, images, drawn.weight), soft
    top, left, bottom, right = drawn.box
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = other[:, :, top:bottom, left:right]
    return mixed, soft


def soft_targets(targets: Tensor, classes: int, *, smoothing: float = 0.0) -> Tensor:
    """Returns `(B, classes)` float32 probabilities for `(B,)` int64 targets.

    Args:
        targets: Label of each photo.
        classes: N.
        smoothing: Probability spread evenly over all classes.

    Example:
        >>> soft_targets(torch.tensor([1]), 2, smoothing=0.2)
        tensor([[0.1000, 0.9000]])
    """
    hot = nn.functional.one_hot(targets, classes).float()
    return hot * (1 - smoothing) + smoothing / classes
