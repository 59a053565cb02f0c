"""Which parameters train: the new head alone, or the full network."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from finetune.errors import ModelError


def head_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Returns the parameters of a timm network's classifier."""
    head = module.get_classifier()  # type: ignore[operator]
    layers = head if isinstance(head, tuple) else (head,)
    return [parameter for layer in layers for parameter in layer.parameters()]


def backbone_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yields name and parameter of all that is not the head."""
    head = {id(parameter) for parameter in head_parameters(module)}
    for name, parameter in module.named_parameters():
        if id(parameter) not in head:
            yield name, parameter


def set_backbone_frozen(module: nn.Module, frozen: bool) -> None:
    """Freezes or frees the backbone, and puts a frozen one in eval mode.

    Left in train mode, the batch norms of a frozen backbone would go on moving their running
    statistics, and the features that the head learnt on would drift away beneath it.
    """
    for _, parameter in backbone_parameters(module):
        parameter.requires_grad_(not frozen)
    module.train(not frozen)
    if frozen:
        head = module.get_classifier()  # type: ignore[operator]
        for layer in head if isinstance(head, tuple) else (head,):
            layer.train()


class FeatureHead(nn.Module):
    """A linear head on standardised features, which folds back into a plain linear layer.

    The features of a frozen backbone differ in scale by orders of magnitude from one dimension to
    the next; standardised with the training photos' statistics, one learning rate suits them all.
    ``W (x - m) / s + b`` equals ``(W / s) x + (b - W m / s)``, so the saved network needs no
    extra layer.

    Args:
        mean: ``(F,)`` mean of the training features.
        std: ``(F,)`` their standard deviation.
        labels: Number of labels.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor, labels: int) -> None:
        super().__init__()
        self.register_buffer("mean", mean.clone())
        # A dimension that never varies on the training photos says nothing: it stays as it is.
        self.register_buffer("std", torch.where(std > 1e-6, std, torch.ones_like(std)))
        self.linear = nn.Linear(mean.shape[0], labels)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Returns logits ``(B, labels)`` of features ``(B, F)``."""
        logits: Tensor = self.linear((features - self.mean) / self.std)
        return logits

    def folded(self) -> tuple[Tensor, Tensor]:
        """Returns weight ``(labels, F)`` and bias ``(labels,)`` of the equal plain linear layer."""
        weight = self.linear.weight.detach().double() / self.std.double()
        bias = self.linear.bias.detach().double() - weight @ self.mean.double()
        return weight.float(), bias.float()


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
