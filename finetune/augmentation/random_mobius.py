"""Albumentations transform `RandomMobius`.

The one module that imports albumentations (2.0.8, the last under the MIT license); others take `A`
from here.

Example:
    >>> photo = np.zeros((48, 64, 3), np.uint8)
    >>> A.Compose([RandomMobius(p=1.0)])(image=photo)["image"].shape
    (48, 64, 3)
"""

from __future__ import annotations

import os

# Before the import, which would query PyPI for a newer version.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

from typing import Annotated, Any

import albumentations as A  # noqa: N812 - its conventional name
import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from finetune.augmentation import mobius, warp

__all__ = ["A", "RandomMobius"]

_EDGE_POINTS = 17
"""Points along each side of a box, ends included, whose images the new box holds. Its sides become
arcs of circles; between two of 17 points such an arc bulges by less than 1/1000 of the side."""


class RandomMobius(A.DualTransform):  # type: ignore[misc]
    """Random Möbius map with a local magnification between 1/`bound` and `bound`.

    The map acts on the square around the picture, so that angles stay angles also in a picture that
    is not square. Borders reflect. Boxes and keypoints follow exactly; a keypoint's angle turns and
    its scale grows with the map's derivative.

    Args:
        bound: M of arXiv:2002.02917; 1 allows rotation and shift only.
        max_rotation_degrees: Largest turn of the picture's center, either way.
        max_shift: Largest move of the picture's center, in half sides.
        p: Probability of the transform.

    Targets:
        image, mask, bboxes, keypoints, volume, mask3d

    Image types:
        uint8, float32
    """

    _targets = A.core.type_definitions.ALL_TARGETS

    class InitSchema(A.core.transforms_interface.BaseTransformInitSchema):  # type: ignore[misc]
        """Bounds of the arguments."""

        bound: Annotated[float, Field(ge=1, le=8)]
        max_rotation_degrees: Annotated[float, Field(ge=0, le=180)]
        max_shift: Annotated[float, Field(ge=0, le=1)]

    def __init__(
        self,
        bound: float = 2.0,
        max_rotation_degrees: float = 15.0,
        max_shift: float = 0.1,
        p: float = 0.5,
    ) -> None:
        super().__init__(p=p)
        self.bound = bound
        self.max_rotation_degrees = max_rotation_degrees
        self.max_shift = max_shift

    def get_params_dependent_on_data(
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, Any]:
        """Samples the map and computes its pixel maps."""
        height, width = params["shape"][:2]
        # An open interval, as required by `admissible`.
        numbers = np.clip(self.random_generator.random(6), 1e-12, 1 - 1e-12)
        matrix = mobius.admissible(
            numbers,
            bound=self.bound,
            max_rotation_degrees=self.max_rotation_degrees,
            max_shift=self.max_shift,
        )
        longer = max(height, width)
        affine = np.array([[longer / width, 0, 0], [0, longer / height, 0]])
        polynomials = warp.rational(matrix[None], affine[None])
        pixels = warp.pixel_polynomials(polynomials, height, width)[0]
        map_x, map_y = warp.PixelMaps(height, width).fill(pixels)
        return {"matrix": matrix, "map_x": map_x, "map_y": map_y}

    def apply(
        self,
        img: NDArray[Any],
        map_x: NDArray[np.float32],
        map_y: NDArray[np.float32],
        **params: Any,
    ) -> NDArray[Any]:
        """Returns the picture resampled bilinearly, `(H, W)` or `(H, W, C)`."""
        return _remap(img, map_x, map_y, cv2.INTER_LINEAR)

    def apply_to_mask(
        self,
        mask: NDArray[Any],
        map_x: NDArray[np.float32],
        map_y: NDArray[np.float32],
        **params: Any,
    ) -> NDArray[Any]:
        """Returns the mask with its own values only."""
        return _remap(mask, map_x, map_y, cv2.INTER_NEAREST)

    def apply_to_keypoints(
        self, keypoints: NDArray[Any], matrix: mobius.Complex, **params: Any
    ) -> NDArray[Any]:
        """Returns moved `(N, 4+)` keypoints: x, y in pixels, z, angle in radians, scale."""
        if not len(keypoints):
            return keypoints
        moved = keypoints.astype(np.float64)
        height, width = params["shape"][:2]
        forward, half = mobius.inverse(matrix), max(height, width) / 2
        # A keypoint at x lies on the middle of pixel x.
        center = complex(width - 1, height - 1) / 2
        points = (moved[:, 0] + 1j * moved[:, 1] - center) / half
        target = mobius.apply(forward, points) * half + center
        slope = mobius.derivative(forward, points)
        moved[:, 0], moved[:, 1] = target.real, target.imag
        if moved.shape[1] > 4:
            moved[:, 3] = (moved[:, 3] + np.angle(slope)) % (2 * np.pi)
            moved[:, 4] *= np.abs(slope)
        return moved.astype(keypoints.dtype)

    def apply_to_bboxes(
        self, bboxes: NDArray[Any], matrix: mobius.Complex, **params: Any
    ) -> NDArray[Any]:
        """Returns the upright boxes around the moved `(N, 4+)` boxes, relative to the picture."""
        if not len(bboxes):
            return bboxes
        height, width = params["shape"][:2]
        half = max(height, width) / 2
        scale = np.array([width, height, width, height]) / half
        left, top, right, bottom = ((bboxes[:, :4].astype(np.float64) - 0.5) * scale).T[..., None]
        along = np.linspace(0, 1, _EDGE_POINTS)
        x, y = left + (right - left) * along, top + (bottom - top) * along  # (N, points)
        outline = np.concatenate([x + 1j * top, x + 1j * bottom, left + 1j * y, right + 1j * y], 1)
        moved = mobius.apply(mobius.inverse(matrix), outline)
        corners = [
            part(axis, axis=1) for part in (np.min, np.max) for axis in (moved.real, moved.imag)
        ]
        result = bboxes.copy()
        result[:, :4] = np.stack(corners, axis=-1) / scale + 0.5
        return result


def _remap(
    image: NDArray[Any], map_x: NDArray[np.float32], map_y: NDArray[np.float32], how: int
) -> NDArray[Any]:
    border = cv2.BORDER_REFLECT
    if image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8:
        # Four channels take half the time of three (benchmarks/results/augmentation.md).
        four = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)
        warped = cv2.remap(four, map_x, map_y, how, borderMode=border)
        return np.asarray(cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB))
    if image.ndim == 2 or image.shape[2] <= 4:
        return np.asarray(cv2.remap(image, map_x, map_y, how, borderMode=border)).reshape(
            image.shape
        )
    # OpenCV takes four channels at most.
    groups = np.split(image, range(4, image.shape[2], 4), axis=2)
    parts = [_remap(np.ascontiguousarray(group), map_x, map_y, how) for group in groups]
    return np.concatenate(parts, axis=-1)
