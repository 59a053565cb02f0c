"""Network creation: any timm classifier by name, its pretrained weights, and a new head."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import safe_open
from timm.layers import DropPath
from torch import Tensor, nn

from finetune.config import Fit
from finetune.errors import ModelError, WeightsUnavailable
from finetune.malloc import keep_freed_memory
from finetune.models import weights as weights_files
from finetune.models.arguments import check_arguments
from finetune.models.checksum import load_checked
from finetune.models.packaged import load_packaged, packaged_weights
from finetune.models.pair import assemble_pair, pair_parts
from finetune.models.registry import check_name, input_channels, resolve_preprocessing
from finetune.photos.preprocessing import Preprocessing

FROM_SCRATCH = "none"
"""Value of `--weights` for random initialization."""


@dataclass(frozen=True, kw_only=True)
class ModelRequest:
    """Arguments of `create_model`.

    Attributes:
        name: A timm model name, with or without a tag.
        weights: A file, ``"none"`` for random initialization, or None for pretrained weights.
        weights_dir: Folder of weights files by model name, used before pretrained weights.
        size: Side of the input in pixels; None: the model's own.
        channels: Channels of the input, 1 for gray and 3 for color; None: the model's own.
        fit: Method to make a photo square.
        seed: Seed of random initialization.
        args: Arguments of the network itself, such as the widths of a `simple_cnn`; only those of
            `models.arguments`.
        download: Whether pretrained weights may be downloaded; False makes no connection.
    """

    name: str
    weights: str | None = None
    weights_dir: Path | None = None
    size: int | None = None
    channels: int | None = None
    fit: Fit = "crop"
    seed: int = 0
    args: Mapping[str, Any] = field(default_factory=dict)
    download: bool = True


@dataclass(frozen=True)
class LoadedModel:
    """Network that is ready to train.

    Attributes:
        module: The network, on the CPU: ``(B, C, size, size) float -> (B, outputs) logits``.
        name: timm's name of its architecture.
        preprocessing: Of its input.
        origin: Where its weights come from: a file, a hub repository or "from scratch".
        head_from_file: Whether the head was read from a user's weights file and may be kept.
    """

    module: nn.Module
    name: str
    preprocessing: Preprocessing
    origin: str
    head_from_file: bool = False


def create_model(request: ModelRequest) -> LoadedModel:
    """Returns the requested network with its weights and their head.

    Raises:
        ModelError: Unknown name (the nearest are offered), or weights that do not fit.
        WeightsUnavailable: Pretrained weights are not on this machine and cannot be downloaded.
    """
    keep_freed_memory()
    name = check_name(request.name)
    if pair_parts(request.name):
        return _create_pair(name, request)
    preprocessing = resolve_preprocessing(
        name, size=request.size, fit=request.fit, channels=request.channels
    )
    head_from_file = False
    weights = request.weights
    if weights is None and request.weights_dir is not None:
        weights = weights_files.file_in(request.weights_dir, name)
    with torch.random.fork_rng(devices=[]), weights_files.quiet_hub():
        torch.manual_seed(request.seed)
        if weights == FROM_SCRATCH:
            module, origin = _build(name, request), "from scratch"
        elif weights is None:
            module, origin = _pretrained(name, request)
        else:
            module = _from_file(name, request, Path(weights))
            origin, head_from_file = weights, True
    return LoadedModel(module, name, preprocessing, origin, head_from_file)


def replace_head(loaded: LoadedModel, labels: int, *, seed: int) -> str | None:
    """Replaces a network's head in place by a new one of `labels` outputs, initialized from `seed`.

    A head of exactly that width in a user's weights file is kept.

    Returns:
        A note for the user if the head in their file is kept or replaced, else None.
    """
    found = loaded.module.num_classes
    if loaded.head_from_file and found == labels:
        return f"The head of {loaded.origin} has one output per label ({labels}) and was kept."
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        loaded.module.reset_classifier(labels)  # type: ignore[operator]
        if loaded.origin != "from scratch":
            head = loaded.module.get_classifier()  # type: ignore[operator]
            for layer in head if isinstance(head, tuple) else (head,):
                if isinstance(layer, nn.Linear):
                    nn.init.normal_(layer.weight, std=0.01)
                    nn.init.zeros_(layer.bias)
    if loaded.head_from_file and found:
        return (
            f"The head of {loaded.origin} ({found} outputs) was replaced by a new one ({labels})."
        )
    return None


def rebuild(
    name: str,
    labels: int,
    size: int,
    tensors: Mapping[str, Tensor] | Path,
    args: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Returns a trained network from its architecture's name, its arguments and its tensors.

    Nothing is allocated before the shapes of all tensors fit the architecture, and no pretrained
    weights are looked for.

    Args:
        name: The model name.
        labels: Outputs of the network.
        size: Side of its input in pixels.
        tensors: By name, or a safetensors file of them.
        args: See `ModelRequest.args`.

    Raises:
        ModelError: The tensors are not those of that architecture or are not finite, or an argument
            is unknown.
        OSError, SafetensorError: The file cannot be read or has another checksum.
    """
    keep_freed_memory()
    name = check_name(name)
    if isinstance(tensors, Path):
        with safe_open(tensors, framework="pt") as file:
            names = file.keys()
            shapes = {key: torch.Size(file.get_slice(key).get_shape()) for key in names}
    else:
        shapes = {key: value.shape for key, value in tensors.items()}
    channels = _channels_of(name, shapes)
    request = ModelRequest(name=name, size=size, channels=channels, args=args or {})
    try:
        with torch.device("meta"):
            module = _build(name, request, num_classes=labels)
    except ModelError:
        raise
    except Exception as error:  # sizes and arguments of a run make a constructor raise anything
        raise ModelError(f"{name} cannot be made as this run describes it: {error}.") from error
    own = module.state_dict()
    _check_shapes(name, {key: value.shape for key, value in own.items()}, shapes)
    state = load_checked(tensors) if isinstance(tensors, Path) else tensors
    for key, value in state.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise ModelError(f"The weights of {name} are damaged: {key} is not finite.")
    if not _all_in_state(module, own):
        module = _build(name, request, num_classes=labels)
        module.load_state_dict(state)
        return module
    # Copied: tensors of a file are backed by it.
    copies = {key: value.to(own[key].dtype, copy=True) for key, value in state.items()}
    module.load_state_dict(copies, assign=True)
    return module


def _check_shapes(
    name: str, own: Mapping[str, torch.Size], given: Mapping[str, torch.Size]
) -> None:
    """Raises ModelError if tensors are missing, unknown, or of other shapes."""
    found = {
        "Missing": own.keys() - given.keys(),
        "Unexpected": given.keys() - own.keys(),
        "Other shape": {key for key in own.keys() & given.keys() if own[key] != given[key]},
    }
    lines = [f"{kind}: {', '.join(sorted(keys))}" for kind, keys in found.items() if keys]
    if lines:
        raise ModelError(f"The weights of this run do not fit {name}: {_shortened(lines)}")


def _all_in_state(module: nn.Module, state: Mapping[str, Tensor]) -> bool:
    """Returns whether a network has the tensors that it saves and no others, each of them once."""
    own: list[Tensor] = []
    for part in module.modules():
        if any(isinstance(value, Tensor) for value in vars(part).values()):
            return False
        parts = (*part._parameters.values(), *part._buffers.values())
        own += [value for value in parts if value is not None]
    return len({id(value) for value in own}) == len(own) == len(state)


def model_arguments(module: nn.Module) -> dict[str, Any]:
    """Returns the `ModelRequest.args` that a network was made with; empty for nearly all."""
    return dict(getattr(module, "_finetune_args", None) or {})


def check_drop_path(name: str, rate: float) -> None:
    """Raises ModelError if a network has no stochastic depth to which a rate could apply."""
    try:
        module = _on_meta(name, drop_path_rate=rate)
        has_some = any(
            isinstance(layer, DropPath) and layer.drop_prob > 0 for layer in module.modules()
        )
    except TypeError:
        has_some = False
    if not has_some:
        raise ModelError(
            f"--drop-path {rate:g}: {name} has no blocks that can be skipped (stochastic depth). "
            "Leave --drop-path out, or use a ResNet, ConvNeXt or ViT."
        )


def check_smaller_input(
    name: str, *, size: int, smaller: int, args: Mapping[str, Any] | None = None
) -> None:
    """Checks, on the meta device, that a network made for `size` also takes `smaller` pixels.

    Raises:
        ModelError: It does not, or `smaller` is not smaller.
    """
    if smaller >= size:
        raise ModelError(
            f"--progressive-size {smaller} must be smaller than the input's full size, {size} "
            "pixels."
        )
    config = timm.get_pretrained_cfg(name)
    fixed = {"img_size": size} if config and config.fixed_input_size else {}
    try:
        module = _on_meta(name, **{**(args or {}), **fixed}).eval()
        channels = next(p for p in module.parameters() if p.ndim == 4).shape[1]
        with torch.inference_mode():
            module(torch.zeros(1, channels, smaller, smaller, device="meta"))
    except (RuntimeError, AssertionError, ValueError, ModelError) as error:
        raise ModelError(
            f"--progressive-size {smaller}: {name} takes photos of {size} pixels only. Leave it "
            "out, or use a convolutional network."
        ) from error


def _create_pair(name: str, request: ModelRequest) -> LoadedModel:
    """Returns a pair of networks, each with its own weights, without a head."""
    parts = pair_parts(request.name) or ("", "")
    if request.weights not in (None, FROM_SCRATCH):
        raise ModelError(
            f"--model {request.name} --weights {request.weights}: one file cannot hold the weights "
            "of both. Put a file of each into a folder and name it with --weights-dir."
        )
    if request.args:
        given = ", ".join(request.args)
        raise ModelError(f"--model {request.name}: a pair takes no --model-arg ({given}).")
    own = [create_model(dataclasses.replace(request, name=part)) for part in parts]
    # The images have the first network's size.
    size = own[0].preprocessing.size
    preprocessings = tuple(dataclasses.replace(member.preprocessing, size=size) for member in own)
    pair = assemble_pair(name, (own[0].module, own[1].module), preprocessings)
    pair._finetune_args = {}  # type: ignore[assignment]
    origin = " + ".join(member.origin for member in own)
    return LoadedModel(pair, name, own[0].preprocessing, origin)


def _on_meta(name: str, **args: Any) -> nn.Module:
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        module: nn.Module = timm.create_model(name, **args)
    return module


def _build(name: str, request: ModelRequest, **extra: Any) -> nn.Module:
    config = timm.get_pretrained_cfg(name)
    fixed = bool(config and config.fixed_input_size)
    if fixed and request.size and request.size != config.input_size[-1]:
        extra["img_size"] = request.size
    if request.channels and request.channels != input_channels(name):
        extra["in_chans"] = request.channels
    check_arguments(name, request.args)
    extra = {"pretrained": False, **extra}
    try:
        module: nn.Module = timm.create_model(name, **request.args, **extra)
    except (TypeError, ValueError) as error:
        # Without --model-arg values it is a bug, not a mistake of the user.
        if not request.args:
            raise
        given = ", ".join(f"{key}={value}" for key, value in request.args.items())
        raise ModelError(f"--model {name} cannot be made with {given}: {error}.") from error
    module._finetune_args = dict(request.args)  # type: ignore[assignment]
    return module


def _channels_of(name: str, shapes: Mapping[str, torch.Size]) -> int | None:
    """Returns the input channels of a trained network, from its first convolution's weights."""
    config = timm.get_pretrained_cfg(name)
    first = config.first_conv if config else None
    if isinstance(first, tuple | list):
        first = first[0] if first else None
    shape = shapes.get(f"{first}.weight", ())
    return int(shape[1]) if len(shape) == 4 else None


def _pretrained(name: str, request: ModelRequest) -> tuple[nn.Module, str]:
    config = timm.get_pretrained_cfg(name)
    if config is None:
        raise WeightsUnavailable(
            f"There are no pretrained weights of {name}. "
            "Give a file with --weights FILE, or start from scratch with --weights none."
        )
    file = weights_files.local_weights(config)
    overlay: dict[str, Any] | None = None
    packaged = packaged_weights(name)
    if packaged is not None:
        overlay = {"state_dict": load_packaged(name, _on_meta(name))}
    elif file is not None:
        weights_files.check_hash(file)
        overlay = {"file": str(file)}
    elif not request.download:
        raise weights_files.unavailable(name, "a run is opened without any connection")
    else:
        weights_files.require_reachable_hub(name, config)
    try:
        module = _build(name, request, pretrained=True, pretrained_cfg_overlay=overlay)
    except (OSError, RuntimeError) as error:
        # huggingface_hub's and urllib's failures are OSErrors; timm wraps some in RuntimeError.
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise weights_files.unavailable(name, reason) from error
    if packaged is not None:
        return module, packaged.distribution
    return module, str(config.hf_hub_id or config.url)


def _from_file(name: str, request: ModelRequest, path: Path) -> nn.Module:
    state = weights_files.read_weights(path)
    config = timm.get_pretrained_cfg(name)
    head = config.classifier if config and isinstance(config.classifier, str) else None
    head_weight = state.get(f"{head}.weight")
    found = 0 if head_weight is None else head_weight.shape[0]
    # The file is loaded strictly with the head it was saved with, so that a key that does not fit
    # is an error; timm's own non-strict loading would ignore it silently.
    overlay = {"state_dict": state, "num_classes": found}
    try:
        return _build(
            name, request, num_classes=found, pretrained=True, pretrained_cfg_overlay=overlay
        )
    except (RuntimeError, KeyError) as error:
        raise ModelError(f"--weights {path} does not fit {name}: {_first_keys(error)}") from error


def _first_keys(error: BaseException) -> str:
    """Shortens a load_state_dict error to one line with the first keys of each kind."""
    return _shortened(str(error).splitlines()[1:] or [str(error)])


def _shortened(lines: Sequence[str], most: int = 3) -> str:
    """Joins lines of the form ``kind: key, key``, with the first keys of each."""
    parts = []
    for line in lines:
        text = line.strip().rstrip(".")
        kind, colon, keys = text.partition(": ")
        names = keys.split(", ")
        if colon and len(names) > most:
            text = f"{kind}: {', '.join(names[:most])} and {len(names) - most} more"
        parts.append(text)
    more = f"; and {len(parts) - most} more" if len(parts) > most else ""
    return "; ".join(parts[:most]) + more + "."
