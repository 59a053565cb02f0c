"""Arguments of networks that settings and run folders may give.

A run folder can come from a stranger, and timm takes arguments that fetch files
(``pretrained_cfg_overlay``), so only known names with small plain values are passed on.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from finetune.errors import ModelError

TIMM_ARGUMENTS = frozenset(
    (
        "act_layer",
        "attn_drop_rate",
        "class_token",
        "drop_path_rate",
        "drop_rate",
        "dynamic_img_size",
        "global_pool",
        "img_size",
        "init_values",
        "norm_layer",
        "output_stride",
        "patch_drop_rate",
        "patch_size",
        "pos_drop_rate",
        "pre_norm",
        "proj_drop_rate",
        "qk_norm",
        "qkv_bias",
        "reg_tokens",
        "window_size",
    )
)
"""Arguments of timm's networks: rates, sizes and names of layers."""

OWN_ARGUMENTS: dict[str, frozenset[str]] = {}
"""Arguments of finetune's own networks by model name; see `declare`."""

MAX_ITEMS = 64
MAX_NUMBER = 65_536
MAX_CHARACTERS = 40


def declare(name: str, factory: Callable[..., Any], fixed: Mapping[str, Any]) -> None:
    """Declares the keyword-only arguments of an own network, but those that are fixed."""
    parameters = inspect.signature(factory).parameters.values()
    own = {item.name for item in parameters if item.kind is item.KEYWORD_ONLY}
    own -= {"num_classes", "in_chans", *fixed}
    if any(item.kind is item.VAR_KEYWORD for item in parameters):
        own |= TIMM_ARGUMENTS
    OWN_ARGUMENTS[name] = frozenset(own | {"img_size"})


def check_arguments(name: str, args: Mapping[str, Any]) -> None:
    """Checks that a network's arguments are known, plain and small.

    Args:
        name: The model name.
        args: Of `--model-arg`, a file's ``[model_args]``, or a run.

    Raises:
        ModelError: One is not; the message names it.
    """
    allowed = OWN_ARGUMENTS.get(name.partition(".")[0], TIMM_ARGUMENTS)
    for key, value in args.items():
        if key not in allowed:
            raise ModelError(
                f"--model {name} takes no argument {str(key)[:MAX_CHARACTERS]!r}. Its arguments: "
                f"{', '.join(sorted(allowed))}."
            )
        items = value if isinstance(value, list | tuple) else (value,)
        if len(items) > MAX_ITEMS or not all(_is_small(item) for item in items):
            raise ModelError(
                f"--model {name}: the argument {key} must be a number of at most {MAX_NUMBER:,}, "
                f"a word, or a list of up to {MAX_ITEMS} of these."
            )


def _is_small(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_CHARACTERS and value.isascii() and value.isprintable()
    if isinstance(value, bool) or value is None:
        return True
    return (
        isinstance(value, int | float)
        and math.isfinite(value)
        and -MAX_NUMBER <= value <= MAX_NUMBER
    )
