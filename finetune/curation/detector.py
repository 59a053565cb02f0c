"""Subject crops from a torchvision object detector."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.errors import ModelError
from finetune.models.weights import read_weights
from finetune.photos.crops import Box, Crop
from finetune.photos.decode.decoder import read_photo

MIN_SCORE = 0.4
"""Minimum score of a box."""

MARGIN = 1.1
"""Margin of the crop around the box."""

LONG_SIDE_PIXELS = 800

ANIMALS = range(16, 26)
"""bird, cat, dog, horse, sheep, cow, elephant, bear, zebra and giraffe in COCO's numbering."""

_CATEGORIES = 91


class Detector:
    """torchvision detector trained on COCO; a `CropPolicy`.

    Args:
        weights: A weights file whose name starts with the detector's, as torchvision's own do:
            ``fasterrcnn_mobilenet_v3_large_320_fpn-907ea3f9.pth``.

    Raises:
        ModelError: The file is missing, has no detector's name, or does not fit.
    """

    def __init__(self, weights: Path) -> None:
        from torchvision.models import detection, list_models

        known = sorted(list_models(detection), key=len, reverse=True)
        name = next((name for name in known if weights.name.startswith(name)), None)
        if name is None:
            usual = ", ".join(sorted(known))
            raise ModelError(
                f"--detector {weights}: the file's name must start with the detector's, one of "
                f"{usual}. Rename it."
            )
        if not weights.is_file():
            raise ModelError(f"--detector {weights}: there is no such file.")
        state = read_weights(weights)
        module = getattr(detection, name)(
            weights=None, weights_backbone=None, num_classes=_CATEGORIES
        )
        try:
            module.load_state_dict(state)
        except RuntimeError as error:
            first = (str(error).splitlines() or ["the shapes differ"])[-1].strip()
            raise ModelError(f"--detector {weights} does not fit {name}: {first}") from error
        self.module = module.eval()

    def __call__(self, photo: Path | bytes | NDArray[np.uint8], /) -> Crop | None:
        """Returns the crop of a photo: a path, the bytes of a file, or ``(H, W, 3) uint8``."""
        return self.crop_of_image(photo) if isinstance(photo, np.ndarray) else self.crop_of(photo)

    def crop_of(self, source: Path | bytes) -> Crop | None:
        """Returns the crop around the subject of a photo file, or None.

        Raises:
            DecodeError: The photo cannot be opened.
        """
        return self.crop_of_image(read_photo(source, min_side_pixels=LONG_SIDE_PIXELS // 2).image)

    def crop_of_image(self, image: NDArray[np.uint8]) -> Crop | None:
        """Returns the crop around the subject of an upright photo ``(H, W, 3) uint8``, or None."""
        pixels = torch.from_numpy(image).permute(2, 0, 1).float() / 255
        with torch.inference_mode(), _quiet():
            found: dict[str, Any] = self.module([pixels])[0]
        box = choose_box(
            found["boxes"].double().numpy(), found["labels"].numpy(), found["scores"].numpy()
        )
        if box is None:
            return None
        height, width = image.shape[:2]
        crop = Crop.from_box(box, width, height)
        side = min(max(crop.side * MARGIN, 0.05), 1.0)
        return Crop(center_x=crop.center_x, center_y=crop.center_y, side=side).inside(width, height)


def choose_box(
    boxes: NDArray[np.float64], labels: NDArray[np.int64], scores: NDArray[np.float32]
) -> Box | None:
    """Returns the box of the most certain and largest animal, or else of any object, or None.

    Args:
        boxes: ``(N, 4)``: left, top, right, bottom in pixels.
        labels: ``(N,)``, COCO's categories.
        scores: ``(N,)`` in [0, 1].
    """
    certain = scores >= MIN_SCORE
    animals = certain & np.isin(labels, list(ANIMALS))
    chosen = animals if animals.any() else certain
    if not chosen.any():
        return None
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    # Weighted by side, not area, so that a large uncertain box does not beat a small certain one.
    weight = np.where(chosen, scores * np.sqrt(np.maximum(areas, 0)), -1.0)
    left, top, right, bottom = boxes[int(weight.argmax())].tolist()
    return left, top, right, bottom


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences torchvision's notes about tensor operations."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
