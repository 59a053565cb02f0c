"""Training in head mode: a linear head on features that a frozen backbone computes once."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from finetune.data.loaders import evaluation_batches
from finetune.formatting import percent
from finetune.models.features import FeatureCache
from finetune.models.heads import write_head
from finetune.models.linear_solver import LinearHead
from finetune.tasks.data_split import FOLDS_PART
from finetune.training.checkpoints import Position
from finetune.training.events import EpochDone, Note, Validated
from finetune.training.linear_probe.features import (
    FitInterruptedError,
    LostPhotosError,
    feature_cache,
    fill_features,
)
from finetune.training.linear_probe.heads import (
    FittedHead,
    HeadFitter,
    fit_head,
    head_fitter,
    strengths_of,
)
from finetune.training.linear_probe.held_out import hold_out
from finetune.training.linear_probe.learning_curve import training_curve
from finetune.training.prepared import Prepared
from finetune.training.results import TrainingOutput
from finetune.training.validation import score_outputs

if TYPE_CHECKING:
    from accelerate import Accelerator


def train_on_features(
    prepared: Prepared, accelerator: Accelerator, stop: Callable[[], bool]
) -> TrainingOutput:
    """Returns the network with a head fitted on its features of the training photos.

    Nothing is written before the head is fitted, since the features are cached: an interrupted run
    is resumed from them.

    Raises:
        KeyboardInterrupt: The person interrupted the fit.
    """
    device = accelerator.device
    module = prepared.loaded.module.to(device).eval()
    datasets = prepared.datasets()
    with feature_cache(prepared, datasets) as features:
        start = None
        if prepared.continues:
            parent = module.get_classifier()  # type: ignore[operator]
            start = LinearHead(parent.weight.detach(), parent.bias.detach())
        try:
            photos = fill_features(prepared, features, datasets, stop=stop)
            started = time.monotonic()
            fitter = head_fitter(prepared, photos, device, start=start)
            fitted = fit_head(
                fitter,
                strengths_of(prepared.config.training.head_l2),
                progress=prepared.progress("Fitting heads", "heads"),
                stop=stop,
            )
            position = _emit(prepared, fitter, fitted, seconds=time.monotonic() - started)
            held_out = hold_out(prepared, fitter, fitted, stop=stop)
            curve = training_curve(prepared, fitter, fitted, stop=stop)
        except LostPhotosError as error:
            rest = train_on_features(prepared.without(error.lost), accelerator, stop)
            return dataclasses.replace(rest, left_out=rest.left_out | set(error.lost))
        except FitInterruptedError as error:
            resume = f"finetune train --resume {prepared.run.path}"
            prepared.callback(Note(text=f"The features so far are kept. Continue with: {resume}"))
            raise KeyboardInterrupt from error
        head = fitter.head(fitted.solution)
        write_head(module, head.weight.to(device), head.bias.to(device))
        classifier = module.get_classifier()  # type: ignore[operator]
        logits: dict[str, NDArray[np.float32]] = {
            part: head_logits(classifier, features, features.keys(asked))
            for part, asked in datasets.items()
            if part != "train" and len(asked)
        }
        if prepared.data_split.folds is not None:
            logits = {FOLDS_PART: fitted.held_out.logits}
    return TrainingOutput(
        module=module,
        logits=logits,
        position=position,
        finished=True,
        held_out=held_out,
        strength=fitted.strength,
        curve=curve,
    )


@torch.inference_mode()
def head_logits(head: nn.Module, features: FeatureCache, keys: list[bytes]) -> NDArray[np.float32]:
    """Returns logits ``(N, C)`` of photos by their features."""
    device = next(head.parameters()).device
    rows = [
        head(features.read([keys[i] for i in step]).to(device)).float().cpu()
        for step in evaluation_batches(len(keys), 1024)
    ]
    found: NDArray[np.float32] = torch.cat(rows).numpy()
    return found


def _emit(
    prepared: Prepared, fitter: HeadFitter, fitted: FittedHead, *, seconds: float
) -> Position:
    """Emits the events of a fitted head, which counts as one epoch; returns the position."""
    learned = fitted.learned
    objective = fitter.objective
    loss, accuracy = objective.score(
        torch.from_numpy(fitter.logits(fitted.solution, learned)),
        torch.from_numpy(fitter.photos.targets[learned]),
    )
    validation = score_outputs(fitted.held_out, objective, prepared.metrics)
    part = "validation" if prepared.data_split.folds is None else "held-out photos"
    task, count = prepared.data_split.task, len(fitted.held_out.logits)
    share = f"{percent(validation.accuracy)} {task.score_name}"
    if not task.multi_label:
        share = f"{round(validation.accuracy * count):,} of {count:,} right"
    prepared.callback(Note(text=f"Head: {fitted.describe(part)}; {share}."))
    head = fitter.head(fitted.solution)
    layer = nn.Linear(head.weight.shape[1], head.weight.shape[0])
    layer.load_state_dict({"weight": head.weight, "bias": head.bias})
    prepared.callback(Validated(epoch=1, module=layer, validation=validation))
    prepared.log(
        EpochDone(
            epoch=1,
            epochs=1,
            step=prepared.steps_per_epoch,
            train_loss=loss,
            train_accuracy=accuracy,
            validation_loss=validation.loss,
            validation_accuracy=validation.accuracy,
            lr=0.0,
            images_per_second=len(learned) / max(seconds, 1e-9),
            seconds=seconds,
            best=False,
            metrics=validation.metrics,
        )
    )
    return Position(
        epoch=1,
        best_accuracy=validation.accuracy,
        best_loss=validation.loss,
        best_epoch=1,
        seconds=seconds,
    )
