"""Classifier heads: expansion to new labels, and linear heads on cached features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

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


class FeatureHead(nn.Module):
    """Linear head on standardized features, which folds back into a linear layer.

    The features of a frozen backbone differ in scale by orders of magnitude from one dimension to
    the next; standardized with the training photos' statistics, one learning rate suits them all.
    ``W (x - m) / s + b`` equals ``(W / s) x + (b - W m / s)``, so the saved network needs no
    extra layer.

    Args:
        mean: ``(F,)`` mean of the training features.
        std: ``(F,)`` standard deviation of the training features.
        labels: Number of labels.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor, labels: int) -> None:
        super().__init__()
        self.register_buffer("mean", mean.clone())
        # A dimension that is constant on the training photos is left unscaled.
        self.register_buffer("std", torch.where(std > 1e-6, std, torch.ones_like(std)))
        self.linear = nn.Linear(mean.shape[0], labels)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Returns logits ``(B, labels)`` of features ``(B, F)``."""
        logits: Tensor = self.linear((features - self.mean) / self.std)
        return logits

    def folded(self) -> tuple[Tensor, Tensor]:
        """Returns weight ``(labels, F)`` and bias ``(labels,)`` of the equivalent linear layer."""
        weight = self.linear.weight.detach().double() / self.std.double()
        bias = self.linear.bias.detach().double() - weight @ self.mean.double()
        return weight.float(), bias.float()

    def unfold(self, weight: Tensor, bias: Tensor) -> None:
        """Sets the weights from a linear layer on raw features: the inverse of `folded`.

        Args:
            weight: ``(labels, F)``.
            bias: ``(labels,)``.
        """
        raw = weight.detach().double()
        mean, std = self.mean.double(), self.std.double()
        with torch.no_grad():
            self.linear.weight.copy_((raw.to(std) * std).float())
            self.linear.bias.copy_((bias.detach().double().to(mean) + raw.to(mean) @ mean).float())


class FeatureHeads(nn.Module):
    """Heads trained in parallel on the same features, each with its own L2 strength and rate.

    Reading features costs more than a linear layer, so that several heads train in little more than
    the time of one. The heads are independent: the targets of a batch are repeated for each head,
    and each gets the gradient of its own mean loss.

    Args:
        mean: ``(F,)`` mean of the training features.
        std: ``(F,)`` standard deviation of the training features.
        labels: Number of labels.
        strengths: L2 strength of each head, for `parameter_groups`.
        rates: Factor of the learning rate of each head; None: 1 for all.
    """

    chosen: Tensor

    def __init__(
        self,
        mean: Tensor,
        std: Tensor,
        labels: int,
        *,
        strengths: Sequence[float],
        rates: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.strengths = tuple(strengths)
        self.rates = tuple(rates or [1.0] * len(self.strengths))
        self.register_buffer("chosen", torch.zeros((), dtype=torch.int64))
        self.heads = nn.ModuleList(FeatureHead(mean, std, labels) for _ in strengths)
        count = len(self.strengths)
        for parameter in self.parameters():
            # The loss is the mean over the rows of all heads; this makes it the mean of each head.
            parameter.register_hook(lambda gradient: gradient * count)  # type: ignore[no-untyped-call]

    def forward(self, features: Tensor) -> Tensor:
        """Returns logits ``(heads * B, labels)`` of features ``(B, F)``, head by head."""
        first = self.first
        standard = (features - first.mean) / first.std
        return torch.cat([head.linear(standard) for head in self])

    @torch.no_grad()
    def choose(self, losses: Sequence[float]) -> FeatureHead:
        """Marks the head with the lowest loss as chosen and returns it.

        Among equal losses, the strongest penalty wins: the simplest head that is as good.
        """
        index = min(range(len(self)), key=lambda k: (losses[k], -self.strengths[k]))
        self.chosen.fill_(index)
        return self[index]

    def __len__(self) -> int:
        return len(self.strengths)

    def __iter__(self) -> Iterator[FeatureHead]:
        for head in self.heads:
            yield cast(FeatureHead, head)

    def __getitem__(self, index: int) -> FeatureHead:
        """Returns one of the heads."""
        return cast(FeatureHead, self.heads[index])

    @property
    def first(self) -> FeatureHead:
        """First head; the standardization of all is the same."""
        return self[0]

    def parameter_groups(self, *, lr: float) -> list[dict[str, Any]]:
        """Returns an optimizer's groups: each head's weight decays by its strength, no bias does.

        With an optimizer whose decay is part of the gradient (Adam, SGD), head ``k`` minimizes
        ``mean cross-entropy + strength_k / 2 * |W_k|^2``: scikit-learn's logistic regression of
        ``C = 1 / (strength * N)``.
        """
        groups: list[dict[str, Any]] = []
        free: dict[float, list[nn.Parameter]] = {}
        for head, strength, rate in zip(self, self.strengths, self.rates, strict=True):
            own = {"base_lr": lr * rate, "lr": lr * rate, "part": "head"}
            groups.append({"params": [head.linear.weight], "weight_decay": strength, **own})
            free.setdefault(lr * rate, []).append(head.linear.bias)
        for own_lr, biases in free.items():
            shared = {"base_lr": own_lr, "lr": own_lr, "part": "head"}
            groups.append({"params": biases, "weight_decay": 0.0, **shared})
        return groups


def chosen_head(state: Mapping[str, Tensor]) -> FeatureHead | None:
    """Returns the chosen head of a checkpoint of `FeatureHeads`; None for a full network's."""
    if "chosen" not in state:
        return None
    prefix = f"heads.{int(state['chosen'])}."
    own = {
        name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
    }
    head = FeatureHead(own["mean"], own["std"], len(own["linear.bias"]))
    head.load_state_dict(own)
    return head


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
