"""Proposes the square around a photo's subject, from the backbone's own feature maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.augmentation.center_crop import center_crop
from finetune.curation.saliency import feature_maps, saliency_map
from finetune.models.factory import LoadedModel
from finetune.photos.crops import Crop, square
from finetune.photos.decode.decoder import read_photo

BACKGROUND_LEVEL = 0.2
"""Saliency that a cell needs to be in the box; see `salient_box`."""

MARGIN = 1.1
"""Margin of the crop around the salient box."""

LEAST_SIDE = 0.2
"""No square is smaller than this share of a photo's shorter side: a cell is not a subject."""

Box = tuple[float, float, float, float]


class SubjectFinder:
    """Finds the square around the subject of any photo. May be called from several threads.

    The photo is squashed to a square of twice the backbone's input size, so that all of it is seen
    and no padding stands out.

    Args:
        backbone: What `finetune.curation.embedding.load_backbone` returned.

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
        self.size = backbone.preprocessing.size * (1 if fixed else 2)

    def crop_of(self, source: Path | bytes) -> Crop:
        """Returns the square around the subject of a photo file.

        Raises:
            DecodeError: The photo cannot be opened.
            ModelError: The backbone has no feature maps.
        """
        decoded = read_photo(source, min_side_pixels=2 * self.size)
        return self._crop(decoded.image, decoded.width, decoded.height)

    def __call__(self, photo: Path | bytes | NDArray[np.uint8], /) -> Crop:
        """Returns the square of a photo in whatever form it comes: a `CropPolicy`."""
        return self.crop_of_image(photo) if isinstance(photo, np.ndarray) else self.crop_of(photo)

    def crop_of_image(self, image: NDArray[np.uint8]) -> Crop:
        """Returns the square around the subject of an upright photo ``(H, W, 3) uint8``."""
        return self._crop(image, image.shape[1], image.shape[0])

    def saliency_of(self, image: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Returns the saliency map ``(GRID, GRID)`` of a photo ``(H, W, 3) uint8``."""
        preprocessing = self.backbone.preprocessing
        whole = square(
            image, size=self.size, fit="squash", interpolation=preprocessing.interpolation
        )
        pixels = torch.from_numpy(whole).permute(2, 0, 1)[None]
        normalized = center_crop(
            pixels, self.size, preprocessing.mean, preprocessing.std, whiten=preprocessing.whiten
        )
        before, last = feature_maps(self.backbone.module, normalized)
        return saliency_map(before[0].float().numpy(), last[0].float().numpy())

    def _crop(self, image: NDArray[np.uint8], width: int, height: int) -> Crop:
        return crop_around(salient_box(self.saliency_of(image)), width, height)


def salient_box(saliency: NDArray[np.float64], *, level: float = BACKGROUND_LEVEL) -> Box:
    """Returns left, top, right, bottom, in [0, 1], of the salient box.

    It is the rectangle of the largest sum of ``saliency - level``: a speck far from the subject
    does not pay for the background between them. All rectangles are compared, by an integral image.
    Where nothing stands out it is the whole photo.
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
    """Returns the square inside a photo that holds a box, given as shares of its sides."""
    left, top, right, bottom = box
    pixels = (left * width, top * height, right * width, bottom * height)
    tight = Crop.from_box(pixels, width, height)
    side = min(max(tight.side * margin, LEAST_SIDE), 1.0)
    crop = Crop(center_x=tight.center_x, center_y=tight.center_y, side=side)
    return crop.inside(width, height)
