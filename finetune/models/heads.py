"""Classifier heads of networks: expansion to new labels, and their parameters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from finetune.errors import ModelError
from finetune.photos.labels import nfc


@dataclass(frozen=True, kw_only=True)
class HeadExpansion:
    """Labels of an expanded head.

    Attributes:
        kept: Labels whose outputs are unchanged.
        new: Labels with randomly initialized outputs.
        dropped: Labels whose outputs were removed.
    """

    kept: tuple[str, ...]
    new: tuple[str, ...]
    dropped: tuple[str, ...]


def expand_head(
    module: nn.Module, before: Sequence[str], after: Sequence[str], *, seed: int
) -> HeadExpansion:
    """Replaces the outputs of a network in place: one for each label of `after`.

    Weights and bias of a label that is also in `before` (compared in NFC) are copied unchanged.
    Those of a new label are initialized: weights from a normal distribution with standard deviation
    0.01, bias 0.

    Args:
        module: A timm network with one output per label of `before`.
        before: Its labels, in the order of its outputs.
        after: The new labels, in the order of the new outputs.
        seed: Of the initialization.

    Raises:
        ModelError: Its classifier does not end in one layer with one output a label.
    """
    learned = [_tensors(layer) for layer in output_layers(module, len(before))]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # By timm's method: some networks keep the number of outputs in several places.
        module.reset_classifier(len(after))  # type: ignore[operator]
        layers = output_layers(module, len(after))
        for layer in layers:
            nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    place = {nfc(label): index for index, label in enumerate(before)}
    rows = [(index, place[nfc(label)]) for index, label in enumerate(after) if nfc(label) in place]
    to, source = [index for index, _ in rows], [index for _, index in rows]
    with torch.no_grad():
        for layer, old in zip(layers, learned, strict=True):
            for name, tensor in _tensors(layer).items():
                if tensor.shape[1:] != old[name].shape[1:]:
                    raise ModelError("The head of this network changes its width with its labels.")
                tensor[to] = old[name][source].to(tensor)
    # The layers of `reset_classifier` are new, and so is whether they train.
    for parameter in head_parameters(module):
        parameter.requires_grad_(True)
    known = {nfc(label) for label in after}
    return HeadExpansion(
        kept=tuple(label for label in after if nfc(label) in place),
        new=tuple(label for label in after if nfc(label) not in place),
        dropped=tuple(label for label in before if nfc(label) not in known),
    )


def output_layers(module: nn.Module, labels: int) -> list[nn.Linear | nn.Conv2d]:
    """Returns the last layer of each classifier of a timm network; distilled ones have two.

    Raises:
        ModelError: It is not a linear layer or convolution with one output a label.
    """
    head = module.get_classifier()  # type: ignore[operator]
    found = []
    for classifier in head if isinstance(head, tuple) else (head,):
        layers = [part for part in classifier.modules() if isinstance(part, nn.Linear | nn.Conv2d)]
        if not layers or layers[-1].weight.shape[0] != labels:
            raise ModelError(
                f"The head of this network does not end in a layer of {labels} outputs, one a "
                "label, so it cannot be given other labels. Start a new run without --from."
            )
        found.append(layers[-1])
    return found


def _tensors(layer: nn.Linear | nn.Conv2d) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in layer.named_parameters()}


def head_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Returns the parameters of a timm network's classifier."""
    head = module.get_classifier()  # type: ignore[operator]
    layers = head if isinstance(head, tuple) else (head,)
    return [parameter for layer in layers for parameter in layer.parameters()]


def backbone_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yields names and parameters of everything except the head."""
    head = {id(parameter) for parameter in head_parameters(module)}
    for name, parameter in module.named_parameters():
        if id(parameter) not in head:
            yield name, parameter


def has_linear_head(module: nn.Module) -> bool:
    """Returns whether the network is a backbone followed by one linear layer."""
    return isinstance(module.get_classifier(), nn.Linear)  # type: ignore[operator]


def write_head(module: nn.Module, weight: Tensor, bias: Tensor) -> None:
    """Puts weight ``(labels, F)`` and bias ``(labels,)`` into a network's linear head."""
    head = module.get_classifier()  # type: ignore[operator]
    if not isinstance(head, nn.Linear) or head.weight.shape != weight.shape:
        raise ModelError("The head of this network is not the linear layer that was trained.")
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)
