"""Preprocessing: size, fit and normalization of a network's input (imports no torch)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from finetune.config import Fit
from finetune.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Preprocessing from a photo to a network's input.

    A photo is made square by `fit` at `working_size`; the network's input is the center `size`
    pixels of that image, divided by 255, minus `mean`, divided by `std`. A network of one channel
    sees the luma of the same pixels (`finetune.photos.decode.color.to_gray`).

    Attributes:
        size: Side of the network's input in pixels.
        mean: Mean of each channel in [0, 1], as many as `channels`.
        std: Standard deviation of each channel in [0, 1], likewise.
        interpolation: ``"bicubic"`` or ``"bilinear"``.
        crop_pct: Share of the working image's side that the network sees.
        fit: Method to make a photo square: crop, pad or squash.
        whiten: Whether each photo is normalized to mean 0 and deviation 1 by itself instead.
        channels: Channels of the network's input: 3 for color, 1 for gray.

    Raises:
        ConfigError: Another number of channels, or of means or deviations.
    """

    size: int
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: str = "bicubic"
    crop_pct: float = 0.875
    fit: Fit = "crop"
    whiten: bool = False
    channels: int = 3

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise ConfigError(
                f"--channels {self.channels}: a network sees photos in 1 channel (gray) or 3."
            )
        if not len(self.mean) == len(self.std) == self.channels:
            raise ConfigError(
                f"preprocessing has {len(self.mean)} means and {len(self.std)} deviations for "
                f"{self.channels} channels."
            )

    @property
    def working_size(self) -> int:
        """Side in pixels of the image that is cached and augmented: ``round(size / crop_pct)``."""
        return round(self.size / self.crop_pct)

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocessing:
        """Inverse of `to_dict`; ignores unknown keys, so that newer runs open too."""
        names = {item.name for item in dataclasses.fields(cls)}
        known = {name: value for name, value in values.items() if name in names}
        for name in ("mean", "std"):
            if name in known:
                known[name] = tuple(known[name])
        return cls(**known)
