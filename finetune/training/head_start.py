"""Gives a full network the head that its frozen backbone supports best, before it trains.

A head that knows nothing sends large, random gradients into the backbone and spoils features that
were good (Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features", arXiv 2202.10054). On
cached features the right head costs one pass over the photos.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

from finetune.data.dataset import PhotoDataset
from finetune.models.factory import FROM_SCRATCH
from finetune.models.heads import has_linear_head, write_head
from finetune.photos.collection import Part
from finetune.training.events import Note
from finetune.training.linear_probe.heads import HeadData, train_start_head
from finetune.training.linear_probe.probe import feature_cache, fill
from finetune.training.optimizer import DEFAULT_OPTIMIZER, usual_lr
from finetune.training.prepared import Prepared
from finetune.training.resolve import DEFAULT_EPOCHS

if TYPE_CHECKING:
    from accelerate import Accelerator


def starts_from_features(prepared: Prepared) -> bool:
    """Returns whether the head of a job's full network is one that learns from features first."""
    return (
        prepared.config.training.mode != "head"
        and prepared.config.training.head_epochs is None
        and prepared.config.model.weights != FROM_SCRATCH
        and has_linear_head(prepared.loaded.module)
        and not prepared.continues
    )


def head_epochs(prepared: Prepared) -> int:
    """Returns the number of first epochs in which only the head trains."""
    asked = prepared.config.training.head_epochs
    if asked is None:
        # A network from scratch has no backbone that a head could learn from.
        scratch = prepared.config.model.weights == FROM_SCRATCH
        asked = 0 if scratch or starts_from_features(prepared) else 1
    return min(asked, prepared.config.training.epochs - 1)


def give_head(
    prepared: Prepared, accelerator: Accelerator, datasets: Mapping[Part, PhotoDataset]
) -> None:
    """Writes a head trained on features into the network, which is on its device."""
    # Features of the photos as they are: the head is a start, and views would cost a pass each.
    training = dataclasses.replace(prepared.config.training, views=1)
    plain = dataclasses.replace(
        prepared, config=dataclasses.replace(prepared.config, training=training)
    )
    judged: dict[Part, PhotoDataset] = {
        part: photos for part, photos in datasets.items() if part != "test"
    }
    with feature_cache(plain, judged) as features:
        data = HeadData(
            features=features,
            views=fill(plain, features, judged),
            train=judged["train"],
            validation=judged["validation"],
        )
        if not prepared.world.is_main:
            return
        found = train_start_head(
            plain,
            accelerator,
            data,
            epochs=DEFAULT_EPOCHS["head"],
            lr=usual_lr(DEFAULT_OPTIMIZER),
        )
    weight, bias = found.head.folded()
    write_head(prepared.loaded.module, weight, bias)
    prepared.callback(
        Note(
            text=f"The head starts from what it learns on the frozen backbone: log loss "
            f"{found.loss:.3f} on validation, L2 strength {found.strength:g}."
        )
    )
