"""Settings as frozen dataclasses, one a concern; default, help and bounds are written in the field.

`finetune.settings` merges them from file and flags, and checks them. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Mode = Literal["head", "full"]
Fit = Literal["crop", "pad", "squash"]
GroupBy = Literal["duplicates", "burst", "folder", "none"]
Precision = Literal["fp32", "bf16", "fp16"]


def option(
    default: Any,
    help: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
) -> Any:
    """Returns a dataclass field with its help text and bounds.

    Args:
        default: The default value; None means "not set", and the help says what happens then.
        help: One sentence, shown by ``--help``.
        minimum: Smallest allowed value.
        maximum: Largest allowed value.
        above: The value must be greater than this.
    """
    bounds = {"minimum": minimum, "maximum": maximum, "above": above}
    return field(default=default, metadata={"help": help, **bounds})


@dataclass(frozen=True, kw_only=True)
class CollectionConfig:
    """Which photos take part, and how they are split."""

    min_photos: int | None = option(
        None, "Leave out labels with fewer photos than this, instead of stopping.", minimum=2
    )
    validation: float = option(
        0.15, "Share of the photos held out to choose and calibrate by.", above=0, maximum=0.8
    )
    test: float = option(
        0.15, "Share of the photos held out for the final figures.", minimum=0, maximum=0.8
    )
    group_by: GroupBy = option(
        "duplicates", "What must stay on one side of the split: near-duplicates, bursts, folders."
    )
    catalog: Path | None = option(
        None, "Where the collection's catalog is kept, instead of PHOTOS/.finetune."
    )


@dataclass(frozen=True, kw_only=True)
class PixelsConfig:
    """How photos become the square images that the network sees."""

    size: int | None = option(
        None, "Side of the network's input in pixels; not set: the model's own.", minimum=8
    )
    fit: Fit = option(
        "crop", "How a photo becomes square: crop its centre, pad its short side, or squash it."
    )
    cache_gb: float = option(
        10.0, "Most disk that the cache of decoded photos may take, in GB; 0: no cache.", minimum=0
    )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which network, and where its weights come from."""

    model: str | None = option(
        None, "Any timm model by name; not set: resnet50, or the best that this machine can have."
    )
    weights: str | None = option(
        None, "A .safetensors or .pth file, or 'none' to start from scratch; not set: pretrained."
    )


@dataclass(frozen=True, kw_only=True)
class AugmentationConfig:
    """What is done to the training photos; single numbers are in the section [recipe]."""

    augment: str | None = option(
        None,
        "none, light, standard, mobius, strong, or a pipeline file; "
        "not set: none for head (light with --views), standard for full.",
    )


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The loop: what trains, for how long, how fast."""

    mode: Mode | None = option(
        None, "Train the new head alone or the full network; not set: chosen for this machine."
    )
    epochs: int | None = option(
        None, "Passes over the training photos; not set: 25 for head, 12 for full.", minimum=1
    )
    head_epochs: int = option(
        1, "Full mode: epochs in which only the new head trains, at the start.", minimum=0
    )
    views: int = option(
        1, "Head mode: views of each photo; those after the first are augmented.", minimum=1
    )
    batch_size: int = option(32, "Photos a step.", minimum=1)
    lr: float | None = option(None, "Learning rate of the head; not set: 0.001.", above=0)
    backbone_lr_scale: float = option(
        0.1, "Full mode: learning rate of the backbone as a share of the head's.", minimum=0
    )
    weight_decay: float = option(
        0.05, "AdamW's weight decay; tensors of one dimension have none.", minimum=0
    )
    warmup: float = option(
        0.1, "Share of the steps in which the learning rate rises.", minimum=0, maximum=1
    )
    label_smoothing: float = option(
        0.1, "Share of the probability spread over the wrong labels.", minimum=0, maximum=0.9
    )


@dataclass(frozen=True, kw_only=True)
class MachineConfig:
    """Device, precision and chance."""

    device: str | None = option(None, "cpu, cuda, cuda:1, mps; not set: the best that is there.")
    precision: Precision | None = option(
        None, "fp32, bf16 or fp16; not set: bf16 on CUDA, fp32 elsewhere."
    )
    workers: int = option(
        0, "Processes that decode photos that the cache does not hold.", minimum=0
    )
    seed: int = option(0, "Seed of every random choice.", minimum=0)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """All that decides what a run becomes.

    `recipe` holds the numbers that a person has set over those of the augmentation recipe; their
    names and bounds are those of `augmentation.recipes.Recipe`.
    """

    collection: CollectionConfig = field(default_factory=CollectionConfig)
    pixels: PixelsConfig = field(default_factory=PixelsConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    machine: MachineConfig = field(default_factory=MachineConfig)
    recipe: Mapping[str, Any] = field(default_factory=dict)
