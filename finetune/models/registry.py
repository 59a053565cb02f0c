"""Model names: lookup, default, pretrained configuration, and the list of `finetune models`.

Importing it registers finetune's own networks with timm.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import timm
import torch
from timm.data import resolve_data_config

from finetune.config import Fit
from finetune.errors import ModelError, WeightsUnavailable
from finetune.models import finetune_small, weights
from finetune.models.classic.base import DEFAULT_RECIPES
from finetune.photos.preprocessing import Preprocessing

DEFAULT_MODEL = "resnet50"

RECOMMENDED = (
    "finetune_small",
    "mobilenetv3_large_100",
    "mobilenetv4_conv_medium",
    "resnet18",
    "resnet50",
    "efficientnet_b0",
    "efficientnet_b3",
    "tf_efficientnetv2_s",
    "convnext_tiny",
    "convnextv2_base",
    "vit_small_patch16_224",
    "vit_base_patch16_dinov3",
    "swin_tiny_patch4_window7_224",
)
"""Recommended models for transfer learning, from small to strong."""

SMALL_PIXELS = 64
"""Up to this input size, photos are assumed to be as small as the input."""


@dataclass(frozen=True)
class ListedModel:
    """One row of `finetune models`.

    Attributes:
        name: The model name.
        parameters: Number of parameters with the model's own head; None where not counted.
        size: Side of its input in pixels.
        weights: Whether pretrained weights are on this machine, can be downloaded, or do not exist.
    """

    name: str
    parameters: int | None
    size: int
    weights: Literal["on this machine", "download", "none"]


def check_name(name: str) -> str:
    """Returns `name` if timm has a model of that name.

    Raises:
        ModelError: It has none; the message offers the nearest names.
    """
    if timm.is_model(name):
        return name
    known = timm.list_models(include_tags=False)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    near += [other for other in known if name and name in other][: 3 - len(near)]
    hint = f"did you mean {', '.join(near)}?" if near else "see: finetune models"
    raise ModelError(f"--model {name}: there is no such model; {hint}")


def default_model() -> tuple[str, str | None]:
    """Returns the default model, and a note for the user, if any.

    It is `DEFAULT_MODEL` where its weights are on this machine or can be downloaded, else the
    embedded backbone, which comes with the package.
    """
    config = timm.get_pretrained_cfg(DEFAULT_MODEL)
    if weights.local_weights(config) is not None:
        return DEFAULT_MODEL, None
    try:
        weights.require_reachable_hub(DEFAULT_MODEL, config)
    except WeightsUnavailable:
        megabytes = finetune_small.WEIGHTS.stat().st_size / 1e6
        note = (
            f"The weights of {DEFAULT_MODEL} cannot be downloaded; using the embedded backbone "
            f"{finetune_small.NAME} ({megabytes:.1f} MB{_measured_accuracy()}). For a better one, "
            "connect to the internet once, or name a file with --model NAME --weights FILE."
        )
        return finetune_small.NAME, note
    return DEFAULT_MODEL, None


def _measured_accuracy() -> str:
    measured = finetune_small.provenance().get("accuracy", {}).get("hymenoptera")
    if not measured:
        return ""
    return f"; linear probe {measured['linear_probe']:.0%} where its teacher has " + (
        f"{measured['teacher']:.0%}"
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

    At another size than its own, and `SMALL_PIXELS` or less, the network sees the whole square: a
    margin around so few pixels would have to be made by enlarging the photo. With another number of
    channels than the model's own, every channel gets the average of its means and deviations.

    Raises:
        ConfigError: Neither 1 nor 3 channels.
    """
    config = timm.get_pretrained_cfg(name)
    resolved = resolve_data_config(pretrained_cfg=config.to_dict() if config else {})
    wanted = channels or input_channels(name)
    own_size = int(resolved["input_size"][-1])
    # Padding or squashing keeps the whole photo; a center crop afterwards would cut it again.
    whole = fit != "crop" or (size is not None and size != own_size and size <= SMALL_PIXELS)
    return Preprocessing(
        size=size or own_size,
        channels=wanted,
        mean=_per_channel(resolved["mean"], wanted),
        std=_per_channel(resolved["std"], wanted),
        interpolation="bilinear" if resolved["interpolation"] == "bilinear" else "bicubic",
        crop_pct=1.0 if whole else float(resolved["crop_pct"]),
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
    return [
        ListedModel(
            name,
            _parameters(name) if count_parameters else None,
            resolve_preprocessing(name).size,
            _weights(name),
        )
        for name in names
        if timm.is_model(name)
    ]


def _parameters(name: str) -> int:
    with torch.device("meta"):
        module = timm.create_model(name)
    return sum(parameter.numel() for parameter in module.parameters())


def _weights(name: str) -> Literal["on this machine", "download", "none"]:
    config = timm.get_pretrained_cfg(name)
    if config is None:
        return "none"
    if weights.local_weights(config) is not None:
        return "on this machine"
    return "download" if config.hf_hub_id or config.url else "none"
