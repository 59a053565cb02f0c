"""Recommended models and their facts, without torch and timm, whose import takes seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from finetune.models.packaged import packaged_weights

WeightsPlace = Literal["packaged", "on this machine", "download", "none"]


@dataclass(frozen=True)
class ListedModel:
    """One row of `finetune models`.

    Attributes:
        name: The model name.
        parameters: Number of parameters with the model's own head; None where not counted.
        size: Side of its input in pixels.
        weights: Whether pretrained weights are installed, are on this machine, can be downloaded,
            or do not exist.
        source: Distribution or hub repository of the weights.
        license: Of the weights, as timm states it; None where it states none.
    """

    name: str
    parameters: int | None
    size: int
    weights: WeightsPlace
    source: str | None
    license: str | None

    @property
    def megabytes(self) -> float | None:
        """Size of the weights in float32; None where the parameters were not counted."""
        return None if self.parameters is None else self.parameters * 4 / 1e6


# Name, parameters, input size, hub repository, license; a test compares them with timm's.
_FACTS: Sequence[tuple[str, int, int, str, str]] = (
    ("tf_efficientnet_lite0", 4_652_008, 224, "timm/tf_efficientnet_lite0.in1k", "apache-2.0"),
    ("tf_efficientnet_lite1", 5_416_680, 240, "timm/tf_efficientnet_lite1.in1k", "apache-2.0"),
    ("tf_efficientnet_lite2", 6_092_072, 260, "timm/tf_efficientnet_lite2.in1k", "apache-2.0"),
    ("mobilenetv3_large_100", 5_483_032, 224, "timm/mobilenetv3_large_100.ra_in1k", "apache-2.0"),
    (
        *("mobilenetv4_conv_medium", 9_715_512, 256),
        *("timm/mobilenetv4_conv_medium.e500_r256_in1k", "apache-2.0"),
    ),
    ("resnet18.tv_in1k", 11_689_512, 224, "timm/resnet18.tv_in1k", "bsd-3-clause"),
    ("resnet50.tv_in1k", 25_557_032, 224, "timm/resnet50.tv_in1k", "bsd-3-clause"),
    ("efficientnet_b0", 5_288_548, 224, "timm/efficientnet_b0.ra_in1k", "apache-2.0"),
    ("efficientnet_b3", 12_233_232, 288, "timm/efficientnet_b3.ra2_in1k", "apache-2.0"),
    (
        "tf_efficientnetv2_s",
        21_458_488,
        300,
        "timm/tf_efficientnetv2_s.in21k_ft_in1k",
        "apache-2.0",
    ),
    (
        *("convnext_nano.in12k_ft_in1k", 15_593_560, 224),
        *("timm/convnext_nano.in12k_ft_in1k", "apache-2.0"),
    ),
    (
        *("convnext_tiny.in12k_ft_in1k", 28_589_128, 224),
        *("timm/convnext_tiny.in12k_ft_in1k", "apache-2.0"),
    ),
    (
        *("convnext_small.in12k_ft_in1k", 50_223_688, 224),
        *("timm/convnext_small.in12k_ft_in1k", "apache-2.0"),
    ),
    (
        *("vit_small_patch16_224", 22_050_664, 224),
        *("timm/vit_small_patch16_224.augreg_in21k_ft_in1k", "apache-2.0"),
    ),
    (
        *("swin_tiny_patch4_window7_224", 28_288_354, 224),
        *("timm/swin_tiny_patch4_window7_224.ms_in1k", "mit"),
    ),
)

RECOMMENDED = tuple(name for name, *_ in _FACTS)
"""Recommended models for transfer learning, from small to strong, all with permissive licenses."""


def list_recommended() -> list[ListedModel]:
    """Returns a row for each recommended model, as `registry.list_models` does."""
    return [
        ListedModel(name, parameters, size, *_weights(name, repository, terms))
        for name, parameters, size, repository, terms in _FACTS
    ]


def _weights(name: str, repository: str, terms: str) -> tuple[WeightsPlace, str, str]:
    packaged = packaged_weights(name)
    if packaged is not None:
        return "packaged", packaged.distribution, packaged.license
    from huggingface_hub import try_to_load_from_cache

    for file in ("model.safetensors", "pytorch_model.bin"):
        if isinstance(try_to_load_from_cache(repository, file), str):
            return "on this machine", repository, terms
    return "download", repository, terms
