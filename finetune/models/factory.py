"""Makes a network: any timm classifier by name, its pretrained weights, and a new head."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from finetune.config import Fit
from finetune.errors import ModelError, WeightsUnavailable
from finetune.models import weights as weights_files
from finetune.models.malloc import keep_freed_memory
from finetune.models.names import check_name
from finetune.photos.preprocessing import Preprocessing

FROM_SCRATCH = "none"
SMALL_PIXELS = 64
"""Up to this side, photos are taken to be as small as the network's input already."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ModelRequest:
    """What network is wanted.

    Attributes:
        name: A timm model name, with or without a tag.
        weights: A file, ``"none"`` for random initialization, or None for pretrained weights.
        size: Side of the input in pixels; None takes the model's own.
        channels: Channels of the input, 1 for gray and 3 for color; None takes the model's own.
        fit: How a photo becomes square.
        seed: Seed of weights from scratch.
        args: Arguments of the network itself, such as the widths of a `simple_cnn`.
    """

    name: str
    weights: str | None = None
    size: int | None = None
    channels: int | None = None
    fit: Fit = "crop"
    seed: int = 0
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LoadedModel:
    """A network that is ready to train.

    Attributes:
        module: The network, on the CPU: ``(B, C, size, size) float -> (B, outputs) logits``.
        name: timm's name of its architecture.
        preprocessing: What it expects of its pixels.
        origin: Where its weights come from, in words.
        own_head: Whether the head comes from a person's own file, and may be what they want.
    """

    module: nn.Module
    name: str
    preprocessing: Preprocessing
    origin: str
    own_head: bool = False


def create(request: ModelRequest) -> LoadedModel:
    """Returns the network that was asked for, with its weights and the head they came with.

    Raises:
        ModelError: Unknown name (the nearest are offered), or weights that do not fit (says which).
        WeightsUnavailable: Pretrained weights are neither on this machine nor to be had.
    """
    keep_freed_memory()
    name = check_name(request.name)
    preprocessing = input_spec(name, size=request.size, fit=request.fit, channels=request.channels)
    own_head = False
    with torch.random.fork_rng(devices=[]), weights_files.quiet_hub():
        torch.manual_seed(request.seed)
        if request.weights == FROM_SCRATCH:
            module, origin = _build(name, request), "from scratch"
        elif request.weights is None:
            module, origin = _pretrained(name, request)
        else:
            module = _from_file(name, request, Path(request.weights))
            origin, own_head = request.weights, True
    return LoadedModel(module, name, preprocessing, origin, own_head)


def replace_head(loaded: LoadedModel, labels: int, *, seed: int) -> str | None:
    """Gives a network a new head of `labels` outputs, drawn from `seed`, in place.

    A head of just that width in a person's own weights file is kept.

    Returns:
        What was done, where a person should know it, else None.
    """
    found = loaded.module.num_classes
    if loaded.own_head and found == labels:
        return f"The head of {loaded.origin} has one output a label ({labels}) and was kept."
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        loaded.module.reset_classifier(labels)  # type: ignore[operator]
        if loaded.origin != "from scratch":
            _draw_head(loaded.module)
    if loaded.own_head and found:
        return (
            f"The head of {loaded.origin} ({found} outputs) was dropped for a new one ({labels})."
        )
    return None


def input_spec(
    name: str, *, size: int | None = None, fit: Fit = "crop", channels: int | None = None
) -> Preprocessing:
    """Returns the InputSpec of a timm architecture, at `size` pixels if that is given.

    At another size than its own, and `SMALL_PIXELS` or less, it sees the whole square: a margin
    around so few pixels would come of enlarging the photo. Where the network gets another number of
    channels than it was made for, all of them have the average of its means, and of its deviations.

    Raises:
        ConfigError: Neither 1 nor 3 channels.
    """
    from timm.data import resolve_data_config

    config = timm.get_pretrained_cfg(name)
    resolved = resolve_data_config(pretrained_cfg=config.to_dict() if config else {})
    wanted = channels or _own_channels(name)
    mean, std = (_for_channels(resolved[key], wanted) for key in ("mean", "std"))
    own_size = int(resolved["input_size"][-1])
    # Padding or squashing keeps the whole photo; a center crop afterwards would cut it again.
    whole = fit != "crop" or (size is not None and size != own_size and size <= SMALL_PIXELS)
    return Preprocessing(
        size=size or own_size,
        channels=wanted,
        mean=mean,
        std=std,
        interpolation="bilinear" if resolved["interpolation"] == "bilinear" else "bicubic",
        crop_pct=1.0 if whole else float(resolved["crop_pct"]),
        fit=fit,
    )


def rebuild(
    name: str,
    labels: int,
    size: int,
    state: dict[str, Tensor],
    args: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Returns a trained network from its architecture's name, its arguments and its tensors.

    Raises:
        ModelError: The tensors are not those of that architecture.
    """
    keep_freed_memory()
    channels = _channels_of(name, state)
    request = ModelRequest(name=name, size=size, channels=channels, args=args or {})
    module = _build(check_name(name), request, num_classes=labels)
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(
            f"The weights of this run do not fit {name}: {_first_keys(error)}"
        ) from error
    return module


def _build(name: str, request: ModelRequest, **extra: Any) -> nn.Module:
    config = timm.get_pretrained_cfg(name)
    fixed = bool(config and config.fixed_input_size)
    if fixed and request.size and request.size != config.input_size[-1]:
        extra["img_size"] = request.size
    if request.channels and request.channels != _own_channels(name):
        extra["in_chans"] = request.channels
    try:
        module: nn.Module = timm.create_model(name, **request.args, **extra)
    except (TypeError, ValueError) as error:
        # Without arguments of a person's own, it is no mistake of theirs.
        if not request.args:
            raise
        given = ", ".join(f"{key}={value}" for key, value in request.args.items())
        raise ModelError(f"--model {name} cannot be made with {given}: {error}.") from error
    module._finetune_args = dict(request.args)  # type: ignore[assignment]
    return module


def own_arguments(module: nn.Module) -> dict[str, Any]:
    """Returns the arguments of its own that a network was made with; empty for nearly all."""
    return dict(getattr(module, "_finetune_args", None) or {})


def _own_channels(name: str) -> int:
    config = timm.get_pretrained_cfg(name)
    return int(config.input_size[0]) if config else 3


def _for_channels(values: Sequence[float], channels: int) -> tuple[float, ...]:
    if len(values) == channels:
        return tuple(float(value) for value in values)
    return (sum(map(float, values)) / len(values),) * channels


def _channels_of(name: str, state: Mapping[str, Tensor]) -> int | None:
    """Returns the channels of a trained network's input, by its first convolution."""
    config = timm.get_pretrained_cfg(name)
    first = config.first_conv if config else None
    if isinstance(first, tuple | list):
        first = first[0] if first else None
    weight = state.get(f"{first}.weight")
    return int(weight.shape[1]) if weight is not None and weight.ndim == 4 else None


def _pretrained(name: str, request: ModelRequest) -> tuple[nn.Module, str]:
    config = timm.get_pretrained_cfg(name)
    if config is None:
        raise WeightsUnavailable(
            f"There are no pretrained weights of {name}. "
            "Give a file with --weights FILE, or start from scratch with --weights none."
        )
    file = weights_files.weights_on_this_machine(config)
    overlay = None
    if file is not None:
        overlay = {"file": str(file)}
    else:
        weights_files.require_reachable_hub(name, config)
    try:
        module = _build(name, request, pretrained=True, pretrained_cfg_overlay=overlay)
    except (OSError, RuntimeError) as error:
        # huggingface_hub's and urllib's failures are OSErrors; timm wraps some in RuntimeError.
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise weights_files.unavailable(name, reason) from error
    return module, str(file.name if config.file and file else config.hf_hub_id or config.url)


def _from_file(name: str, request: ModelRequest, path: Path) -> nn.Module:
    state = weights_files.read_weights(path)
    config = timm.get_pretrained_cfg(name)
    head = config.classifier if config and isinstance(config.classifier, str) else None
    head_weight = state.get(f"{head}.weight")
    found = 0 if head_weight is None else head_weight.shape[0]
    # The file is loaded strictly with the head it was saved with: a key that does not fit is
    # then an error, where timm's own non-strict loading would pass over it in silence.
    overlay = {"state_dict": state, "num_classes": found}
    try:
        return _build(
            name, request, num_classes=found, pretrained=True, pretrained_cfg_overlay=overlay
        )
    except (RuntimeError, KeyError) as error:
        raise ModelError(f"--weights {path} does not fit {name}: {_first_keys(error)}") from error


def _draw_head(module: nn.Module) -> None:
    head = module.get_classifier()  # type: ignore[operator]
    for layer in head if isinstance(head, tuple) else (head,):
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)


def _first_keys(error: BaseException, most: int = 3) -> str:
    """Shortens a load_state_dict error to a line that names the first keys of each kind."""
    parts = []
    for line in str(error).splitlines()[1:] or [str(error)]:
        text = line.strip().rstrip(".")
        kind, colon, keys = text.partition(": ")
        names = keys.split(", ")
        if colon and len(names) > most:
            text = f"{kind}: {', '.join(names[:most])} and {len(names) - most} more"
        parts.append(text)
    more = f"; and {len(parts) - most} more" if len(parts) > most else ""
    return "; ".join(parts[:most]) + more + "."
