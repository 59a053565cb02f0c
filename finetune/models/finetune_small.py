"""Embedded backbone `finetune_small`, installed with the package and never downloaded.

It is a timm `EfficientNet` of fused inverted residuals: dense 3 x 3 convolutions, which a CPU runs
nearer to its peak than depthwise ones. Its stages end in 24, 32 and 96 channels at 1/4, 1/8 and
1/16 of the input, and its features are 1,280 numbers a photo. Its training is described in
`embedded/finetune_small.json`, and `recipes/embedded_backbone.py` repeats it.

Example:
    >>> import timm
    >>> import finetune.models.finetune_small
    >>> timm.create_model("finetune_small", pretrained=False, num_classes=5).num_features
    1280
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.efficientnet import EfficientNet, EfficientNetFeatures
from torch import nn

from finetune.files import read_json

NAME = "finetune_small"
"""Name in timm's registry and on the command line."""

WEIGHTS = Path(__file__).parent / "embedded" / f"{NAME}.safetensors"
"""Packaged weights: fp16, without a classifier."""

_STAGES = [
    ["er_r1_k3_s2_e4_c24"],
    ["er_r1_k3_s2_e4_c32", "er_r1_k3_s1_e3_c32"],
    ["er_r1_k3_s2_e4_c96", "er_r3_k3_s1_e2_c96"],
    ["er_r1_k3_s2_e3_c160", "er_r2_k3_s1_e2_c160"],
]

default_cfgs = generate_default_cfgs(
    {
        f"{NAME}.photos": {
            "file": str(WEIGHTS),
            "num_classes": 0,
            "input_size": (3, 224, 224),
            "pool_size": (7, 7),
            "crop_pct": 0.875,
            "interpolation": "bicubic",
            "mean": IMAGENET_DEFAULT_MEAN,
            "std": IMAGENET_DEFAULT_STD,
            "first_conv": "conv_stem",
            "classifier": "classifier",
            "license": "apache-2.0",
        }
    }
)


@register_model  # type: ignore[untyped-decorator]
def finetune_small(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """Returns the embedded backbone; `pretrained` loads the packaged weights, with no network.

    Args:
        pretrained: Load `WEIGHTS`. The classifier, where one is asked for, is always new.
        **kwargs: As for every timm model: `num_classes`, `in_chans`, `drop_rate`,
            `features_only` ...
    """
    features_only = kwargs.pop("features_only", False)
    return build_model_with_cfg(
        EfficientNetFeatures if features_only else EfficientNet,
        NAME,
        pretrained,
        pretrained_strict=not features_only,
        kwargs_filter=("num_classes", "num_features", "head_conv", "global_pool")
        if features_only
        else None,
        block_args=decode_arch_def(_STAGES),
        num_features=1280,
        stem_size=16,
        fix_stem=True,
        act_layer=nn.ReLU,
        **kwargs,
    )


def provenance() -> dict[str, Any]:
    """Returns how the packaged weights were made: data, teacher, steps, hours, accuracy.

    Raises:
        OSError: The package was installed without them.
    """
    found: dict[str, Any] = read_json(WEIGHTS.with_suffix(".json"))
    return found
