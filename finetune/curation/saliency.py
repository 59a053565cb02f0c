"""Saliency maps: cells whose features differ from the photo's background.

A backbone's feature map describes each cell of a photo by some hundred numbers. What most cells
have in common (sky, water, leaves, blur) is the background, whatever it looks like, and the subject
is what differs from it. No label and no training is needed for that.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from finetune.errors import ModelError

GRID = 24
"""Cells a side of a saliency map."""

RIDGE = 0.3
"""Share of the mean variance that is added to each direction before it is divided by."""


@torch.inference_mode()
def feature_maps(module: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Returns a backbone's last map but one, and its last: ``(B, F, h, w)`` each.

    Args:
        module: A timm backbone in eval mode.
        images: ``(B, 3, H, W)``, normalized.

    Raises:
        ModelError: The network has no maps.
    """
    method: Any = getattr(module, "forward_intermediates", None)
    if method is None:
        final = module.forward_features(images)  # type: ignore[operator]
        if final.ndim != 4:
            raise ModelError(
                f"{type(module).__name__} has no feature maps to find subjects with; "
                "use --method center, or another --model."
            )
        return final, final
    final, (before, last) = method(images, indices=2)
    # Some networks end in tokens, or in maps with the channels last: the map is then the other.
    in_order = final.ndim == 4 and final.shape[-2:] == last.shape[-2:]
    return before, final if in_order else last


def saliency_map(before: NDArray[np.float32], last: NDArray[np.float32]) -> NDArray[np.float64]:
    """Returns the saliency of each cell ``(GRID, GRID)``; 0 for background.

    The finer map shows edges and texture, the coarser one things; what stands out in both is the
    subject, so that their geometric mean is taken. It is about 1 where the photo is remarkable.

    Args:
        before: ``(F, h, w)``, the last feature map but one.
        last: ``(F, h, w)``, the last one.
    """
    fine = _smooth(anomaly(before))
    coarse = anomaly(last)
    combined: NDArray[np.float64] = np.sqrt(_on_grid(_rescaled(fine)) * _on_grid(_rescaled(coarse)))
    return combined


def anomaly(features: NDArray[np.float32], *, ridge: float = RIDGE) -> NDArray[np.float64]:
    """Returns the Mahalanobis distance of each cell from the whole photo, ``(h, w)``.

    The detector of Reed and Yu (1990, "Adaptive multiple-band CFAR detection of an optical pattern
    with unknown spectral distribution"): ``d^2 = (x - m)' (C + a I)^-1 (x - m)`` with mean m and
    covariance C of the photo's own cells. There are fewer cells than features, so a ridge
    ``a = ridge * trace(C) / min(cells, F)`` makes C invertible. Where all cells are alike, all
    distances are 0.

    Args:
        features: ``(F, h, w)``.
        ridge: See above.
    """
    count, height, width = features.shape
    cells = features.reshape(count, -1).T.astype(np.float64)
    apart = cells - cells.mean(axis=0)
    number = len(cells)
    total = float(np.square(apart).sum()) / number
    if total <= 1e-12:
        return np.zeros((height, width))
    a = ridge * total / min(number, count)
    if count <= number:
        covariance = apart.T @ apart / number + a * np.eye(count)
        squared = np.einsum("ij,ji->i", apart, np.linalg.solve(covariance, apart.T))
    else:
        # Woodbury's identity: a system as large as the number of cells, not that of features.
        inner = apart @ apart.T
        solved = np.linalg.solve(inner + number * a * np.eye(number), inner)
        squared = (np.diagonal(inner) - np.einsum("ij,ji->i", inner, solved)) / a
    return np.sqrt(_not_negative(squared)).reshape(height, width)


def _rescaled(values: NDArray[np.float64]) -> NDArray[np.float64]:
    above = _not_negative(values - np.median(values))
    scaled: NDArray[np.float64] = above / (np.percentile(above, 98) + 1e-9)
    return scaled


def _not_negative(values: NDArray[np.float64]) -> NDArray[np.float64]:
    bounded: NDArray[np.float64] = np.maximum(values, 0)
    return bounded


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns a map smoothed by (1, 2, 1) / 4 along both axes."""
    for axis in (0, 1):
        pad = [(1, 1) if axis == i else (0, 0) for i in (0, 1)]
        padded = np.pad(values, pad, mode="edge")
        low, middle, high = (
            np.take(padded, range(start, start + values.shape[axis]), axis=axis)
            for start in range(3)
        )
        values = (low + 2 * middle + high) / 4
    return values


def _on_grid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    resized = functional.interpolate(
        torch.from_numpy(values)[None, None], (GRID, GRID), mode="bilinear"
    )
    array: NDArray[np.float64] = resized[0, 0].numpy()
    return array
