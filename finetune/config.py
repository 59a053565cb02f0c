"""Settings as frozen dataclasses, one per section; a field has its default, help and bounds.

`finetune.config_io` merges them from file and flags, and checks them. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

Mode = Literal["head", "full", "gradual"]
Fit = Literal["crop", "pad", "squash"]
GroupBy = Literal["duplicates", "burst", "folder", "none"]
Precision = Literal["fp32", "bf16", "fp16"]
MultiLabelLoss = Literal["bce", "asymmetric"]
Balance = Literal["none", "sampling", "loss"]
ScheduleName = Literal["cosine", "one_cycle", "constant"]
NormStatistics = Literal["kept", "batch"]
FinalWeights = Literal["best", "average", "head", "interpolated"]


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
        default: Default value; None means "not set", and the help describes what happens then.
        help: One sentence for ``--help``.
        minimum: Smallest allowed value.
        maximum: Largest allowed value.
        above: The value must be greater than this.
    """
    bounds = {"minimum": minimum, "maximum": maximum, "above": above}
    return field(default=default, metadata={"help": help, **bounds})


PRECISION = 0.95
"""Default precision of sure predictions."""

FALSE_ALARMS = 0.05
"""Default share of photos of known labels that are taken for unknown."""

DEFAULT_SHARE = 0.15
"""Default share of the validation part, and of the test part."""


@dataclass(frozen=True, kw_only=True)
class CollectionConfig:
    """Photos of a training, and their split."""

    min_photos: int | None = option(
        None, "Leave out labels with fewer photos than this, instead of stopping.", minimum=2
    )
    validation: float | None = option(
        None,
        "Share of the photos held out to choose the best epoch and calibrate; not set: 0.15, or "
        "cross-validation of a head.",
        above=0,
        maximum=0.8,
    )
    test: float | None = option(
        None,
        "Share of the photos held out for the final metrics; not set: 0.15, or cross-validation of "
        "a head.",
        minimum=0,
        maximum=0.8,
    )
    group_by: GroupBy = option(
        "duplicates",
        "Photos that stay together in one part of the split: near-duplicates, bursts, folders.",
    )
    catalog: Path | None = option(
        None, "Place of the collection's catalog, instead of PHOTOS/.finetune."
    )

    @property
    def validation_share(self) -> float:
        """Share of a validation part."""
        return DEFAULT_SHARE if self.validation is None else self.validation

    @property
    def test_share(self) -> float:
        """Share of a test part."""
        return DEFAULT_SHARE if self.test is None else self.test

    def with_parts(self) -> Self:
        """Returns the config with both shares set, so that nothing is cross-validated."""
        return replace(self, validation=self.validation_share, test=self.test_share)


@dataclass(frozen=True, kw_only=True)
class PixelsConfig:
    """Square images of photos for the network."""

    size: int | None = option(None, "Image size in pixels; not set: the model's own.", minimum=8)
    channels: int | None = option(
        None,
        "Channels of the network's input: 3 for color, 1 for gray; not set: the model's own.",
        minimum=1,
        maximum=3,
    )
    fit: Fit = option(
        "crop", "Make a photo square: crop its center, pad its short side, or squash it."
    )
    cache_gb: float = option(
        10.0, "Largest size of the cache of decoded photos on disk, in GB; 0: no cache.", minimum=0
    )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Network and its weights."""

    model: str | None = option(
        None,
        "A timm model, a pair A+B, or auto (tries those here); not set: tf_efficientnet_lite2.",
    )
    weights: str | None = option(
        None, "A .safetensors or .pth file, or none to train from scratch; not set: pretrained."
    )
    budget: str | None = option(
        None, "Time for the search of --model auto, such as 90s, 5m or 1h; not set: 5m."
    )
    weights_dir: Path | None = option(
        None, "Folder of weights files, named as their model: resnet18.safetensors."
    )
    download: bool = option(
        False,
        "Without --model: use convnext_nano (convnext_tiny on a GPU), and download its weights "
        "if they are not on this machine.",
    )


@dataclass(frozen=True, kw_only=True)
class AugmentationConfig:
    """Augmentation of the training photos; single numbers are in the section [recipe]."""

    augment: str | None = option(
        None,
        "none, light, standard, mobius, strong, cifar, tutorial, digits, or a pipeline file; not "
        "set: none in head mode (light with --views), else the network's own or standard.",
    )
    mixup: float | None = option(
        None, "Probability of blending the photos of a batch in pairs; not set: the recipe's.",
        minimum=0, maximum=1,
    )  # fmt: skip
    cutmix: float | None = option(
        None, "Probability of pasting a part of one photo into another; not set: the recipe's.",
        minimum=0, maximum=1,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Mode, duration, and learning rates."""

    mode: Mode | None = option(
        None,
        "Train the head, the full network, or stage by stage from the head backwards (gradual); "
        "not set: chosen for machine and photos.",
    )
    epochs: int | None = option(
        None,
        "Passes over the photos; not set: 25 or 12 by mode.",
        minimum=1,
    )
    head_epochs: int | None = option(
        None,
        "Full mode: first epochs in which only the head trains; not set: none, since the head is "
        "trained on cached features before (1 where that is impossible).",
        minimum=0,
    )
    views: int = option(
        1, "Head mode: views of each photo; those after the first are augmented.", minimum=1
    )
    head_l2: str | None = option(
        None,
        "Head on cached features: L2 strengths to try, such as 0.01,0.1; validation picks one. "
        "Not set: six from 0.001 to 1.",
    )
    batch_size: int | None = option(
        None,
        "Photos per step; not set: 32, more on a GPU.",
        minimum=1,
    )
    lr: float | None = option(None, "Learning rate of the head; not set: by optimizer.", above=0)
    backbone_lr_scale: float | None = option(
        None,
        "Learning rate of the backbone as a share of the head's; "
        "not set: 0.1, or 1 with --weights none.",
        minimum=0,
    )
    weight_decay: float = option(
        0.05, "The optimizer's weight decay; tensors of one dimension have none.", minimum=0
    )
    warmup: float | None = option(
        None,
        "Share of the steps in which the learning rate rises; not set: 0.1, 0.3 for one_cycle.",
        minimum=0,
        maximum=1,
    )
    label_smoothing: float | None = option(
        None,
        "Share of the probability spread over the wrong labels; "
        "not set: 0.1 for a new head on augmented photos and for a network from scratch, else 0.",
        minimum=0,
        maximum=0.9,
    )


@dataclass(frozen=True, kw_only=True)
class LabelsConfig:
    """Labels of a photo, and their weights."""

    multi_label: bool = option(
        False, "A photo may have several labels, or none; each label is predicted on its own."
    )
    multi_label_loss: MultiLabelLoss = option(
        "bce", "Several labels: binary cross-entropy, or the asymmetric loss."
    )
    asymmetric_negative: float = option(
        4.0, "Asymmetric loss: focusing of absent labels; higher values ignore easy ones more.",
        minimum=0, maximum=10,
    )  # fmt: skip
    asymmetric_positive: float = option(
        0.0, "Asymmetric loss: focusing of present labels; higher values ignore easy ones more.",
        minimum=0, maximum=10,
    )  # fmt: skip
    asymmetric_margin: float = option(
        0.05, "Asymmetric loss: probability below which an absent label costs nothing.",
        minimum=0, maximum=0.5,
    )  # fmt: skip
    label_precision: float | None = option(
        None,
        "Several labels: choose each label's threshold so that this share of predictions is right; "
        "not set: for the best F1.",
        above=0,
        maximum=1,
    )
    negatives: str | None = option(
        None,
        "Several labels: folder in PHOTOS whose photos have none of the labels; "
        "'.' for those in no folder.",
    )
    balance: Balance = option(
        "none", "Give labels with few photos more weight: by sampling, or in the loss."
    )
    balance_beta: float = option(
        0.999, "--balance loss: 0 weighs nothing, 1 by the inverse of a label's photos.",
        minimum=0, maximum=1,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class OptimizationConfig:
    """Optimizer, schedule, checkpoints, and the weights that are kept."""

    optimizer: str = option("adamw", "Any optimizer of timm: adamw, sgd, lamb, muon, ...")
    schedule: ScheduleName = option(
        "cosine", "Learning rate schedule after the warm-up; one_cycle rises and falls."
    )
    layer_decay: float | None = option(
        None,
        "Learning rate of each layer as a share of that of the layer after it, such as 0.75; "
        "not set: one rate for the backbone.",
        above=0,
        maximum=1,
    )
    freeze_norm: bool = option(False, "Freeze the backbone's norm layers, statistics included.")
    norm_statistics: NormStatistics | None = option(
        None,
        "Batch-norm statistics: pretrained (kept) or per batch; not set: kept with pretrained "
        "weights.",
    )
    drop_path: float = option(
        0.0, "Probability that a photo skips a block of the network (stochastic depth).",
        minimum=0, maximum=0.9,
    )  # fmt: skip
    ema: float | None = option(
        None, "Keep a moving average of the weights with this decay, such as 0.999.",
        above=0, maximum=0.99999,
    )  # fmt: skip
    clip_norm: float | None = option(
        None, "Largest norm of a step's gradient; longer ones are clipped.", above=0
    )
    accumulate: int = option(
        1, "Batches whose gradients are added up for one step: a larger batch in little memory.",
        minimum=1,
    )  # fmt: skip
    progressive_size: int | None = option(
        None, "Image size in the first epoch, in pixels; it grows to the full size.",
        minimum=8,
    )  # fmt: skip
    patience: int | None = option(
        None, "Stop after this many epochs in a row without improvement.", minimum=1
    )
    final_weights: FinalWeights | None = option(
        None,
        "Weights of the model: the best epoch's, the head on the frozen backbone, the average of "
        "both, or those between both with the lowest validation loss (interpolated); not set: the "
        "average, unless one of the two is significantly better.",
    )
    soup: int = option(
        1, "Average up to this many best epochs, as long as validation improves.",
        minimum=1,
    )  # fmt: skip
    checkpoint_steps: int | None = option(
        None, "Steps between two checkpoints, besides those after each epoch.",
        minimum=1,
    )  # fmt: skip
    keep_checkpoints: int = option(
        0, "Keep the weights of this many latest checkpoints in the run's folder steps.", minimum=0
    )
    checkpoint_minutes: float | None = option(
        None, "Minutes between two checkpoints, besides those after each epoch.", above=0
    )


@dataclass(frozen=True, kw_only=True)
class MachineConfig:
    """Device, precision and seed."""

    device: str | None = option(None, "cpu, cuda, cuda:1 or mps; not set: the best.")
    precision: Precision | None = option(
        None, "fp32, bf16 or fp16; not set: bf16 on CUDA, fp32 elsewhere."
    )
    threads: int | None = option(
        None, "Threads of the CPU; not set: one a core, and one for a small head.", minimum=1
    )
    workers: int = option(0, "Processes that decode photos missing in the cache.", minimum=0)
    compile: bool = option(
        False, "Full network: compile it with torch; a slower start, then faster steps."
    )
    seed: int = option(0, "Seed of every random choice.", minimum=0)


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Experiment trackers; ``log.jsonl`` in the run is always written."""

    track: str | None = option(
        None, "Also write to these, separated by commas: tensorboard, wandb, mlflow."
    )
    track_activations: bool = option(
        False,
        "Log histograms of the activations, and their share of zeros, to --track.",
    )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """All settings of a training.

    `recipe` overrides fields of the augmentation recipe (`augmentation.recipes.Recipe`);
    `model_args` are arguments of the network, such as the widths of a `simple_cnn`.
    """

    collection: CollectionConfig = field(default_factory=CollectionConfig)
    pixels: PixelsConfig = field(default_factory=PixelsConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    optimization: OptimizationConfig = field(default_factory=OptimizationConfig)
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    machine: MachineConfig = field(default_factory=MachineConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    model_args: Mapping[str, Any] = field(default_factory=dict)
