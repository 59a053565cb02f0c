"""timm's config.json of a trained network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finetune.models.factory import model_arguments
from finetune.photos.preprocessing import Preprocessing

_CROP_MODES = {"crop": "center", "pad": "border", "squash": "squash"}


def timm_config(
    module: Any, name: str, labels: Sequence[str], preprocessing: Preprocessing
) -> dict[str, Any]:
    """Returns timm's config.json of a network, with its own preprocessing."""
    found = getattr(module, "pretrained_cfg", None) or {}
    dropped = ("url", "hf_hub_id", "hf_hub_filename", "file", "state_dict", "source", "label_names")
    config = {
        key: value for key, value in dict(found).items() if key not in dropped and _is_json(value)
    }
    config |= {
        "input_size": [preprocessing.channels, preprocessing.size, preprocessing.size],
        "crop_pct": preprocessing.crop_pct,
        "crop_mode": _CROP_MODES[preprocessing.fit],
        "interpolation": preprocessing.interpolation,
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
        "num_classes": len(labels),
        "label_names": list(labels),
    }
    for key in ("test_input_size", "test_crop_pct", "pool_size"):
        config.pop(key, None)
    content: dict[str, Any] = {
        "architecture": name.partition(".")[0],
        "num_classes": len(labels),
        "num_features": module.num_features,
        "label_names": list(labels),
        "pretrained_cfg": config,
    }
    own = model_arguments(module)
    if _has_fixed_size(module, preprocessing):
        own["img_size"] = preprocessing.size
    if own:
        content["model_args"] = own
    return content


def _has_fixed_size(module: Any, preprocessing: Preprocessing) -> bool:
    found = getattr(module, "pretrained_cfg", None) or {}
    fixed = bool(dict(found).get("fixed_input_size"))
    return fixed and tuple(dict(found).get("input_size") or ())[1:] != (
        preprocessing.size,
        preprocessing.size,
    )


def _is_json(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_json(item) for item in value)
    return value is None or isinstance(value, str | int | float | bool)
