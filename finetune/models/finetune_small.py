"""Network of earlier runs: `finetune_small`, the former packaged backbone.

It is a timm `EfficientNet` of fused inverted residuals. A run holds its weights; the package has
none any more.
"""

from __future__ import annotations

from typing import Any

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.efficientnet import EfficientNet, EfficientNetFeatures
from torch import nn

NAME = "finetune_small"
"""Name in timm's registry and on the command line."""

_STAGES = [
    ["er_r1_k3_s2_e4_c24"],
    ["er_r1_k3_s2_e4_c32", "er_r1_k3_s1_e3_c32"],
    ["er_r1_k3_s2_e4_c96", "er_r3_k3_s1_e2_c96"],
    ["er_r1_k3_s2_e3_c160", "er_r2_k3_s1_e2_c160"],
]

default_cfgs = generate_default_cfgs(
    {
        f"{NAME}.photos": {
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
    """Returns the network; it has no pretrained weights."""
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
