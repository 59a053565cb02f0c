"""Layer table of a network: sizes, parameters and multiply-adds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from finetune.errors import ModelError
from finetune.models.classic.base import layer_titles
from finetune.models.registry import check_name


@dataclass(frozen=True, kw_only=True)
class LayerRow:
    """Layer with parameters, pooling, normalization, activation or dropout.

    Attributes:
        name: Its path in the network, as in ``state_dict``.
        title: Name of the layer that it completes in the network's own table, such as ``conv1``;
            empty where there is none.
        kind: The class of the layer.
        kernel: ``"3x3"``, with ``"/2"`` for a stride of 2; None where it has none.
        in_channels: Input channels or features; None where that is not fixed.
        out_channels: Output channels or features.
        output: Shape of its output for one image, without the batch.
        parameters: Number of its own parameters, without the layers inside it; 0 where the image
            passes it again.
        weights: Those in kernels and matrices; the others are biases and norms.
        multiply_adds: For one image; None for other operations, or if the layer around it applies
            the kernel.
    """

    name: str
    kind: str
    kernel: str | None
    in_channels: int | None
    out_channels: int | None
    output: tuple[int, ...]
    parameters: int
    weights: int
    multiply_adds: int | None
    title: str = ""

    @property
    def biases(self) -> int:
        """Parameters that are no weights: biases and norms."""
        return self.parameters - self.weights


@dataclass(frozen=True, kw_only=True)
class NetworkSummary:
    """Layers of a network and their totals.

    Attributes:
        model: Its name.
        input: Channels, height and width of the image.
        labels: Outputs of the last layer.
        rows: Layers in the order in which an image passes them.
        parameters: All parameters.
        weights: Those in kernels and matrices.
        weights_before_head: The same without the last layer.
        multiply_adds: Of convolutions, linear layers and attention products, for one image.
    """

    model: str
    input: tuple[int, int, int]
    labels: int
    rows: tuple[LayerRow, ...]
    parameters: int
    weights: int
    weights_before_head: int
    multiply_adds: int


def summarize(
    name: str, *, size: int | None = None, channels: int | None = None, labels: int | None = None
) -> NetworkSummary:
    """Returns the layer table of a model by name, without initializing or loading weights.

    Args:
        name: A timm model name.
        size: Side of the image in pixels; None: the model's own.
        channels: Channels of the image; None: the model's own.
        labels: Outputs of the last layer; None: the model's own.

    Raises:
        ModelError: There is no such model, or it cannot take images of that size.

    Example:
        >>> summarize("vgg19_mnist", channels=1).weights_before_head
        42988096
    """
    config = timm.get_pretrained_cfg(check_name(name))
    own_channels, own_size, _ = config.input_size if config else (3, 224, 224)
    shape = (channels or own_channels, size or own_size, size or own_size)
    options: dict[str, Any] = {"in_chans": shape[0], "num_classes": labels}
    if size is not None and config is not None and config.fixed_input_size:
        options["img_size"] = size
    try:
        network = _make(name, options)
        rows, operations = _trace(network, torch.zeros(1, *shape, device="meta"))
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        text = f"{name} cannot take images of {shape[1]}x{shape[2]} pixels and {shape[0]} channels"
        raise ModelError(f"{text}: {reason}. Choose another --size or --channels.") from error
    head = {id(parameter) for parameter in _head_parameters(network)}
    parameters = list(network.named_parameters())
    return NetworkSummary(
        model=name,
        input=shape,
        labels=int(network.num_classes),  # type: ignore[arg-type]
        rows=tuple(rows),
        parameters=sum(parameter.numel() for _, parameter in parameters),
        weights=_count_weights(parameters),
        weights_before_head=_count_weights(
            [pair for pair in parameters if id(pair[1]) not in head]
        ),
        multiply_adds=operations // 2,
    )


def _make(name: str, options: dict[str, Any]) -> nn.Module:
    with torch.device("meta"):
        network: nn.Module = timm.create_model(name, **options)
    # The counter follows modules by their gradients, which a plain forward pass does not have.
    return network.eval().requires_grad_(False).to("meta")


def _trace(network: nn.Module, image: Tensor) -> tuple[list[LayerRow], int]:
    """Returns the rows of all layers that `image` passes, and the operations it takes."""
    rows: list[LayerRow] = []
    counted: set[int] = set()
    counter = FlopCounterMode(display=False)
    with _recording(network, rows, counted), counter:
        network(image)
    for name, module in network.named_modules():
        if own := _not_yet(counted, module):
            rows.append(_row(name, module, own, passed=None))
    return rows, int(counter.get_total_flops())


def _not_yet(counted: set[int], module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Returns the module's own parameters that are not in `counted`, and adds them to it."""
    own = [p for p in module.named_parameters(recurse=False) if id(p[1]) not in counted]
    counted.update(id(parameter) for _, parameter in own)
    return own


@contextmanager
def _recording(network: nn.Module, rows: list[LayerRow], counted: set[int]) -> Iterator[None]:
    """Appends a row after each layer that has one."""
    handles = []
    titles = layer_titles(network)
    for name, module in network.named_modules():
        if next(module.parameters(recurse=False), None) is None and not _is_listed(module):
            continue

        def record(module: nn.Module, inputs: Any, output: Any, name: str = name) -> None:
            row = _row(name, module, _not_yet(counted, module), passed=(inputs, output))
            rows.append(dataclasses.replace(row, title=titles.get(name, "")))

        handles.append(module.register_forward_hook(record))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _is_listed(module: nn.Module) -> bool:
    """Returns whether a layer without parameters has a row."""
    if next(module.children(), None) is not None:
        return False
    if isinstance(module, nn.Dropout):
        return module.p > 0
    kind = type(module).__name__
    return "Pool" in kind or kind == "LocalResponseNorm" or is_activation(module)


def is_activation(layer: nn.Module) -> bool:
    """Returns whether a layer is an activation function of torch or timm."""
    name = type(layer).__module__
    if name == nn.ReLU.__module__:
        return not isinstance(layer, nn.MultiheadAttention)
    return name.startswith("timm.layers.activations")


def _row(
    name: str,
    module: nn.Module,
    own: list[tuple[str, nn.Parameter]],
    *,
    passed: tuple[Any, Any] | None,
) -> LayerRow:
    """Returns the row of a layer from its input and output, or from its parameters alone."""
    taken, shape = _shapes(passed)
    operations: int | None = None
    if shape and isinstance(module, nn.Conv2d):
        operations = module.weight.numel() * shape[1] * shape[2]
    elif shape and isinstance(module, nn.Linear):
        operations = module.weight.numel() * math.prod(shape[:-1])
    return LayerRow(
        name=name or "(network)",
        kind=type(module).__name__,
        kernel=_kernel(module),
        in_channels=_channels(taken),
        out_channels=_channels(shape),
        output=shape,
        parameters=sum(parameter.numel() for _, parameter in own),
        weights=_count_weights(own),
        multiply_adds=operations,
    )


def _shapes(passed: tuple[Any, Any] | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the shapes of a layer's first input and output, the batch left out."""
    shapes: list[tuple[int, ...]] = []
    for value in passed or ((), ()):
        first = value[0] if isinstance(value, tuple) and value else value
        shapes.append(tuple(first.shape[1:]) if isinstance(first, Tensor) else ())
    return shapes[0], shapes[1]


def _channels(shape: tuple[int, ...]) -> int | None:
    # Maps are (C, H, W); tokens (N, C) and vectors (C,) have their channels last.
    return None if not shape else shape[0] if len(shape) == 3 else shape[-1]


def _kernel(module: nn.Module) -> str | None:
    size: Any = getattr(module, "kernel_size", None)
    if size is None:
        return None
    text = "x".join(str(side) for side in (size if isinstance(size, tuple) else (size, size)))
    stride: Any = getattr(module, "stride", 1)
    step = stride[0] if isinstance(stride, tuple) else stride
    return text + (f"/{step}" if step != 1 else "")


def _head_parameters(network: nn.Module) -> list[nn.Parameter]:
    head = network.get_classifier()  # type: ignore[operator]
    layers = head if isinstance(head, tuple) else (head,)
    return [parameter for layer in layers for parameter in layer.parameters()]


def _count_weights(parameters: list[tuple[str, nn.Parameter]]) -> int:
    return sum(
        parameter.numel()
        for name, parameter in parameters
        if name.endswith("weight") and parameter.ndim >= 2
    )
