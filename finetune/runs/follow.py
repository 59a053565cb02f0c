"""Evaluates a training from beside it: each new best epoch, as it appears."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from finetune.models.factory import rebuild
from finetune.models.heads import FeatureHead, write_head
from finetune.photos.spec import InputSpec
from finetune.runs.evaluate import Evaluation, EvaluationRequest, evaluate_trained
from finetune.runs.folder import RunFolder
from finetune.runs.trained import TrainedRun, open_trained

POLL_SECONDS = 2.0


def follow_run(
    run: RunFolder,
    request: EvaluationRequest,
    *,
    wait: Callable[[float], None] = time.sleep,
) -> Iterator[tuple[int, Evaluation]]:
    """Yields (epoch, evaluation) for each new best epoch, and ends with the finished run.

    An epoch that is better than the one being evaluated is not waited for: only the newest counts.
    """
    seen = 0
    while True:
        finished = bool(run.read(run.config_file).get("finished"))
        epoch = _best_epoch(run.best_checkpoint)
        if epoch is not None and epoch != seen:
            trained = _open_checkpoint(run, request.device)
            if trained is not None:
                seen = epoch
                yield epoch, evaluate_trained(trained, request)
        if finished:
            description = run.read(run.config_file)
            if description.get("best_epoch") != seen:
                trained = open_trained(run, device=request.device)
                yield description["best_epoch"], evaluate_trained(trained, request)
            return
        wait(POLL_SECONDS)


def _best_epoch(path: Path) -> int | None:
    try:
        with safe_open(path, framework="pt") as file:
            return int(file.metadata()["epoch"])
    except (OSError, SafetensorError):
        return None


def _open_checkpoint(run: RunFolder, device: str) -> TrainedRun | None:
    """Returns the network of the best epoch so far, or None if the training just ended."""
    try:
        state = load_file(run.best_checkpoint)
        start = load_file(run.start_checkpoint)
    except (OSError, SafetensorError):
        return None
    description = run.read(run.config_file)
    labels = tuple(run.read(run.labels_file))
    spec = InputSpec.from_dict(run.read(run.preprocessing_file))
    on_features = "linear.weight" in state
    module = rebuild(description["model"], len(labels), spec.size, start if on_features else state)
    if on_features:
        head = FeatureHead(state["mean"], state["std"], len(labels))
        head.load_state_dict(state)
        write_head(module, *head.folded())
    module = module.to(device).eval().to(memory_format=torch.channels_last)
    return TrainedRun(
        folder=run,
        module=module,
        spec=spec,
        labels=labels,
        temperature=1.0,
        unknown=None,
        description=description,
    )
