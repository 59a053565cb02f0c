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
from finetune.runs.defaults import DEFAULT_EPOCHS
from finetune.runs.heads import HeadData, train_start_head
from finetune.runs.job import Job
from finetune.runs.on_features import feature_cache, fill
from finetune.training.events import Note
from finetune.training.optim import DEFAULT_OPTIMIZER, usual_lr

if TYPE_CHECKING:
    from accelerate import Accelerator


def starts_from_features(job: Job) -> bool:
    """Returns whether the head of a job's full network is one that learns from features first."""
    return (
        job.mode != "head"
        and job.config.training.head_epochs is None
        and job.config.model.weights != FROM_SCRATCH
        and has_linear_head(job.loaded.module)
        and not job.continues
    )


def head_epochs(job: Job) -> int:
    """Returns the epochs at the start in which the head trains alone."""
    asked = job.config.training.head_epochs
    if asked is None:
        # A network from scratch has no backbone that a head could learn from.
        scratch = job.config.model.weights == FROM_SCRATCH
        asked = 0 if scratch or starts_from_features(job) else 1
    return min(asked, job.epochs - 1)


def give_head(job: Job, accelerator: Accelerator, datasets: Mapping[Part, PhotoDataset]) -> None:
    """Writes the head that learnt on features into the job's network, which is on its device."""
    # Features of the photos as they are: the head is a start, and views would cost a pass each.
    training = dataclasses.replace(job.config.training, views=1)
    plain = dataclasses.replace(job, config=dataclasses.replace(job.config, training=training))
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
        if not job.team.is_main:
            return
        found = train_start_head(
            plain,
            accelerator,
            data,
            epochs=DEFAULT_EPOCHS["head"],
            lr=usual_lr(DEFAULT_OPTIMIZER),
        )
    weight, bias = found.head.folded()
    write_head(job.loaded.module, weight, bias)
    job.listen(
        Note(
            text=f"The head starts from what it learns on the frozen backbone: log loss "
            f"{found.loss:.3f} on validation, L2 strength {found.strength:g}."
        )
    )
