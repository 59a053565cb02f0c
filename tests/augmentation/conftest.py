from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from finetune.augmentation.recipes import Recipe

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture
def photos() -> Tensor:
    """Eight smooth colorful pictures, (8, 3, 80, 80) uint8 in channels_last memory."""
    rng = np.random.default_rng(5)
    noise = rng.integers(0, 256, (8, 80, 80, 3), dtype=np.uint8)
    smooth = [
        cv2.normalize(blurred, np.empty_like(blurred), 0, 255, cv2.NORM_MINMAX)
        for blurred in (cv2.GaussianBlur(image, (0, 0), 3) for image in noise)
    ]
    return torch.from_numpy(np.stack(smooth)).permute(0, 3, 1, 2)


@pytest.fixture
def everything() -> Recipe:
    """Every step of a recipe, always."""
    return Recipe(
        crop_probability=1.0,
        flip_probability=0.5,
        vertical_flip_probability=0.5,
        rotation_degrees=40.0,
        zoom=1.3,
        mobius_probability=0.5,
        mobius_mode="on_top",
        color_probability=1.0,
        brightness=0.3,
        contrast=0.3,
        saturation=0.3,
        hue=0.1,
        gray_probability=0.1,
        erase_probability=0.5,
    )
