"""Subject crops by saliency: the cells whose features differ from the photo's background.

A backbone's feature map describes each cell of a photo by some hundred numbers. Most cells belong
to the background (sky, water, leaves); the subject is an outlier. Needs no labels and no training.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from finetune.augmentation.center_crop import center_crop
from finetune.errors import ModelError
from finetune.models.factory import LoadedModel
from finetune.photos.crops import Crop, crop_and_resize
from finetune.photos.decode.decoder import read_photo

GRID = 24
"""Cells a side of a saliency map."""

SCALE, STEP = 1.5, 32
"""Size of the photo in units of the backbone's input size, and the multiple it is rounded to."""

RIDGE = 0.3
"""Ridge of the covariance, as a share of the mean variance."""


@torch.inference_mode()
def feature_maps(module: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Returns a backbone's last two feature maps: ``(B, F, h, w)`` each.

    Args:
        module: A timm backbone in eval mode.
        images: ``(B, 3, H, W)``, normalized.

    Raises:
        ModelError: The network has no feature maps.
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
    # Some networks end in tokens or in channels-last maps; `last` is then the feature map.
    in_order = final.ndim == 4 and final.shape[-2:] == last.shape[-2:]
    return before, final if in_order else last


def saliency_map(before: NDArray[np.float32], last: NDArray[np.float32]) -> NDArray[np.float64]:
    """Returns the saliency of each cell ``(GRID, GRID)``: 0 for background, about 1 for subjects.

    It is the geometric mean of the anomalies of a finer map (edges, texture) and a coarser one
    (objects).

    Args:
        before: ``(F, h, w)``, the last feature map but one.
        last: ``(F, h, w)``, the last feature map.
    """
    fine = _smooth(anomaly(before))
    coarse = anomaly(last)
    combined: NDArray[np.float64] = np.sqrt(_on_grid(_rescaled(fine)) * _on_grid(_rescaled(coarse)))
    return combined


def anomaly(features: NDArray[np.float32], *, ridge: float = RIDGE) -> NDArray[np.float64]:
    """Returns the Mahalanobis distance of each cell from all cells of the photo, ``(h, w)``.

    The detector of Reed and Yu (1990, "Adaptive multiple-band CFAR detection of an optical pattern
    with unknown spectral distribution"): ``d^2 = (x - m)' (C + a I)^-1 (x - m)`` with mean m and
    covariance C of the photo's own cells. There are fewer cells than features, so a ridge
    ``a = ridge * trace(C) / min(cells, F)`` makes C invertible. If all cells are equal, all
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
        # Woodbury's identity: solves a system of the number of cells, not of features.
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


BACKGROUND_LEVEL = 0.2
"""Saliency that a cell needs to be in the box; see `salient_box`."""

MARGIN = 1.1
"""Margin of the crop around the salient box."""

MIN_SIDE = 0.2
"""Minimum side of a crop, as a share of the photo's shorter side."""

Box = tuple[float, float, float, float]


class SubjectFinder:
    """Crops photos to their subjects; a `CropPolicy`. Safe to call from several threads.

    The photo is squashed to a square of about `SCALE` times the backbone's size: padding would be
    salient.

    Args:
        backbone: See `finetune.curation.embedding.load_backbone`.

    Example:
        >>> import numpy as np
        >>> from finetune.curation.embedding import load_backbone
        >>> finder = SubjectFinder(load_backbone())
        >>> photo = np.full((400, 600, 3), 200, np.uint8)
        >>> photo[50:200, 50:200] = np.random.default_rng(0).integers(0, 99, (150, 150, 3))
        >>> crop = finder.crop_of_image(photo)
        >>> crop.center_x < 0.5 and crop.center_y < 0.5
        True
    """

    def __init__(self, backbone: LoadedModel) -> None:
        self.backbone = backbone
        config = getattr(backbone.module, "pretrained_cfg", None) or {}
        fixed = bool(config.get("fixed_input_size"))
        own = backbone.preprocessing.size
        self.size = own if fixed else round(own * SCALE / STEP) * STEP

    def crop_of(self, source: Path | bytes) -> Crop:
        """Returns the crop around the subject of a photo file.

        Raises:
            DecodeError: The photo cannot be opened.
            ModelError: The backbone has no feature maps.
        """
        decoded = read_photo(source, min_side_pixels=2 * self.size)
        return self._crop(decoded.image, decoded.width, decoded.height)

    def __call__(self, photo: Path | bytes | NDArray[np.uint8], /) -> Crop:
        """Returns the crop of a photo: a path, the bytes of a file, or ``(H, W, 3) uint8``."""
        return self.crop_of_image(photo) if isinstance(photo, np.ndarray) else self.crop_of(photo)

    def crop_of_image(self, image: NDArray[np.uint8]) -> Crop:
        """Returns the crop around the subject of an upright photo ``(H, W, 3) uint8``."""
        return self._crop(image, image.shape[1], image.shape[0])

    def saliency_of(self, image: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Returns the saliency map ``(GRID, GRID)`` of a photo ``(H, W, 3) uint8``."""
        preprocessing = self.backbone.preprocessing
        squashed = crop_and_resize(
            image, size=self.size, fit="squash", interpolation=preprocessing.interpolation
        )
        pixels = torch.from_numpy(squashed).permute(2, 0, 1)[None]
        normalized = center_crop(
            pixels, self.size, preprocessing.mean, preprocessing.std, whiten=preprocessing.whiten
        )
        before, last = feature_maps(self.backbone.module, normalized)
        return saliency_map(before[0].float().numpy(), last[0].float().numpy())

    def _crop(self, image: NDArray[np.uint8], width: int, height: int) -> Crop:
        return crop_around(salient_box(self.saliency_of(image)), width, height)


def salient_box(saliency: NDArray[np.float64], *, level: float = BACKGROUND_LEVEL) -> Box:
    """Returns left, top, right, bottom, in [0, 1], of the salient box.

    It is the rectangle with the largest sum of ``saliency - level``, found among all by an integral
    image: a distant speck does not outweigh the background between. Without a salient cell it is
    the full photo.
    """
    if saliency.max() <= level:
        return 0.0, 0.0, 1.0, 1.0
    rows, columns = saliency.shape
    integral = np.zeros((rows + 1, columns + 1))
    integral[1:, 1:] = (saliency - level).cumsum(axis=0).cumsum(axis=1)
    top, bottom = np.triu_indices(rows + 1, 1)
    left, right = np.triu_indices(columns + 1, 1)
    bands = integral[bottom] - integral[top]  # (bands of rows, columns + 1)
    sums = bands[:, right] - bands[:, left]
    band, span = np.unravel_index(int(sums.argmax()), sums.shape)
    return (
        float(left[span] / columns),
        float(top[band] / rows),
        float(right[span] / columns),
        float(bottom[band] / rows),
    )


def crop_around(box: Box, width: int, height: int, *, margin: float = MARGIN) -> Crop:
    """Returns the square crop around a box, given as shares of the photo's sides."""
    left, top, right, bottom = box
    pixels = (left * width, top * height, right * width, bottom * height)
    tight = Crop.from_box(pixels, width, height)
    side = min(max(tight.side * margin, MIN_SIDE), 1.0)
    crop = Crop(center_x=tight.center_x, center_y=tight.center_y, side=side)
    return crop.inside(width, height)
