"""Nested state of any kind as JSON beside named tensors, and back to the last bit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def to_plain(value: Any, tensors: dict[str, Tensor], *, name: str, home: torch.device) -> Any:
    """Returns `value` as JSON, and puts its tensors into `tensors`.

    Args:
        value: Numbers, text, None, tensors, their types, and lists, tuples and dicts of such.
        tensors: Gets the tensors, on the CPU and contiguous.
        name: What their names begin with.
        home: The device that they are expected on; it is noted of each that lies elsewhere.

    Raises:
        TypeError: There is something else in it.
    """
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu().contiguous()
        plain: dict[str, Any] = {"tensor": name}
        if value.device != home:
            plain["device"] = str(value.device)
        if not value.is_contiguous():
            # How a tensor lies in memory decides the order of a sum over it, and so its last bits.
            plain["stride"] = list(value.stride())
        return plain
    if isinstance(value, dict):
        items = enumerate(value.items())
        return {
            "dict": [
                [key, to_plain(item, tensors, name=f"{name}.{place}", home=home)]
                for place, (key, item) in items
            ]
        }
    if isinstance(value, list | tuple):
        parts = [
            to_plain(item, tensors, name=f"{name}.{place}", home=home)
            for place, item in enumerate(value)
        ]
        return {"tuple": parts} if isinstance(value, tuple) else parts
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{name} is {type(value).__name__}, which no checkpoint can hold")


def from_plain(plain: Any, tensors: dict[str, Tensor], *, home: torch.device) -> Any:
    """Returns the value of which `to_plain` made `plain`.

    Args:
        plain: JSON.
        tensors: By name.
        home: The device of tensors that were at home.

    Raises:
        KeyError: A tensor is missing.
    """
    if isinstance(plain, list):
        return [from_plain(item, tensors, home=home) for item in plain]
    if not isinstance(plain, dict):
        return plain
    if "dtype" in plain:
        return getattr(torch, plain["dtype"])
    if "tuple" in plain:
        return tuple(from_plain(item, tensors, home=home) for item in plain["tuple"])
    if "dict" in plain:
        return {key: from_plain(item, tensors, home=home) for key, item in plain["dict"]}
    value = tensors[plain["tensor"]]
    device = plain.get("device", home)
    if "stride" not in plain:
        return value.to(device, copy=True)
    laid = torch.empty_strided(value.shape, plain["stride"], dtype=value.dtype, device=device)
    return laid.copy_(value)
