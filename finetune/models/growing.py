"""A head that has learnt some labels is given others; what it knows of those that stay, stays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from finetune.errors import ModelError
from finetune.models.heads import head_parameters
from finetune.photos.labels import nfc


@dataclass(frozen=True, kw_only=True)
class Growth:
    """What became of a head's labels.

    Attributes:
        kept: Labels whose outputs go on as they were.
        new: Labels whose outputs were drawn.
        dropped: Labels that the head knew and that are gone.
    """

    kept: tuple[str, ...]
    new: tuple[str, ...]
    dropped: tuple[str, ...]


def grow_head(
    module: nn.Module, before: Sequence[str], after: Sequence[str], *, seed: int
) -> Growth:
    """Gives a network one output a label of `after`, in place.

    Weights and bias of a label that is also in `before` (compared in NFC) are kept to the last bit,
    at its new place. Those of a new label are drawn: weights from a normal distribution of standard
    deviation 0.01, bias 0.

    Args:
        module: A timm network with one output a label of `before`.
        before: Its labels, in the order of its outputs.
        after: The labels that it shall have, in theirs.
        seed: Of what is drawn.

    Raises:
        ModelError: Its classifier does not end in one layer with one output a label.
    """
    learnt = [_tensors(layer) for layer in output_layers(module, len(before))]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # timm's own way, since some networks keep the number of outputs in several places.
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
        for layer, old in zip(layers, learnt, strict=True):
            for name, tensor in _tensors(layer).items():
                if tensor.shape[1:] != old[name].shape[1:]:
                    raise ModelError("The head of this network changes its width with its labels.")
                tensor[to] = old[name][source].to(tensor)
    # The layers of `reset_classifier` are new, and so is whether they train.
    for parameter in head_parameters(module):
        parameter.requires_grad_(True)
    known = {nfc(label) for label in after}
    return Growth(
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
