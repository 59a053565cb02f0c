"""Crop policy: the method that proposed crops, saved in a run so that predictions use it too."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from finetune.errors import ConfigError
from finetune.files import collection_cache_dir, read_json, write_json
from finetune.photos.crops import Crop

Method = Literal["center", "saliency", "detector"]
METHODS: tuple[Method, ...] = ("saliency", "center", "detector")

FILE = "crop-policy.json"

logger = logging.getLogger(__name__)


class CropPolicy(Protocol):
    """Function that returns the crop of a photo, or None to crop by the run's preprocessing."""

    def __call__(self, photo: Path | bytes | NDArray[np.uint8], /) -> Crop | None:
        """Returns the crop of a photo: a path, the bytes of a file, or ``(H, W, 3) uint8``.

        Raises:
            DecodeError: The photo cannot be opened.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class CropPolicyConfig:
    """Method, model and weights of a crop policy, as JSON values.

    Attributes:
        method: ``saliency``, ``center`` or ``detector``.
        model: Backbone of ``saliency``.
        weights: Weights file of the backbone or detector; None: the model's own weights.
        digest: Digest of the backbone's tensors when the crops were proposed.
    """

    method: Method
    model: str | None = None
    weights: str | None = None
    digest: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON values; `from_dict` is its inverse."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> CropPolicyConfig:
        """Inverse of `to_dict`; ignores unknown keys.

        Raises:
            ConfigError: An unknown method.
        """
        if value.get("method") not in METHODS:
            raise ConfigError(
                f"the crop policy {value.get('method')!r} is not one of {', '.join(METHODS)}."
            )
        names = {item.name for item in dataclasses.fields(cls)}
        return cls(**{name: item for name, item in value.items() if name in names})


def load_policy(
    config: CropPolicyConfig, *, download: bool = True
) -> tuple[CropPolicy, CropPolicyConfig]:
    """Returns a loaded policy, and its config with the digest of the weights.

    Logs a warning if the weights differ from those that proposed the crops.

    Args:
        config: The policy.
        download: Whether weights may be downloaded; False for the policy of a run.

    Raises:
        ModelError: The backbone or detector cannot be loaded.
        WeightsUnavailable: Its weights are neither on disk nor can be downloaded.
    """
    if config.method == "center":
        return _middle, config
    if config.method == "detector":
        from finetune.curation.detector import Detector

        return Detector(Path(config.weights or "")), config
    from finetune.curation.embedding import DEFAULT_BACKBONE, load_backbone
    from finetune.curation.saliency import SubjectFinder
    from finetune.models import finetune_small
    from finetune.models.features import weights_digest

    name = config.model or DEFAULT_BACKBONE
    if name == finetune_small.NAME and config.weights is None:
        # The default of earlier versions; its weights no longer come with the package.
        logger.warning(
            "The crops were proposed by %s, which finetune no longer has; %s proposes new crops, "
            "which may differ.",
            name,
            DEFAULT_BACKBONE,
        )
        config = dataclasses.replace(config, digest=None)
        name = DEFAULT_BACKBONE
    backbone = load_backbone(name, config.weights, download=download)
    digest = weights_digest(backbone.module)
    if config.digest is not None and config.digest != digest:
        logger.warning(
            "The crops were proposed by other weights of %s than the installed ones; new crops may "
            "differ a little.",
            name,
        )
    return SubjectFinder(backbone), dataclasses.replace(config, model=name, digest=digest)


def save_policy(root: Path, config: CropPolicyConfig | None, catalog: Path | None = None) -> None:
    """Saves the crop policy of a collection beside its caches; None deletes it.

    Raises:
        StorageError: The file cannot be written.
    """
    path = collection_cache_dir(root, catalog) / FILE
    if config is None:
        path.unlink(missing_ok=True)
    else:
        write_json(path, config.to_dict())


def read_policy(root: Path, catalog: Path | None = None) -> CropPolicyConfig | None:
    """Returns the saved crop policy of a collection, or None."""
    try:
        return CropPolicyConfig.from_dict(read_json(collection_cache_dir(root, catalog) / FILE))
    except (OSError, ValueError, TypeError, AttributeError, ConfigError):
        return None


def _middle(photo: Path | bytes | NDArray[np.uint8], /) -> Crop:
    return Crop()
