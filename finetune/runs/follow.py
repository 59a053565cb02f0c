"""Evaluates a training from beside it: each new best epoch, as it appears."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from finetune.models.factory import rebuild
from finetune.models.heads import chosen_head, write_head
from finetune.photos.preprocessing import Preprocessing
from finetune.runs.evaluate import Evaluation, EvaluationRequest, evaluate_trained
from finetune.runs.folder import RunFolder
from finetune.runs.loading import TrainedRun, model_args, open_trained
from finetune.tasks.task import uncalibrated_task

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
    shown: dict[str, Tensor] | None = None
    while True:
        if run.read(run.config_file).get("finished"):
            trained = open_trained(run, device=request.device)
            # What becomes of the best epoch's weights at the end may be something else.
            if shown is None or not _equal(shown, trained.module.state_dict()):
                yield trained.description["best_epoch"], evaluate_trained(trained, request)
            return
        found = newest(run, seen=seen, device=request.device)
        if found is not None:
            seen, trained = found
            shown = trained.module.state_dict()
            yield seen, evaluate_trained(trained, request)
        wait(POLL_SECONDS)


def evaluate_newest(
    run: RunFolder, request: EvaluationRequest, *, seen: int
) -> tuple[int, Evaluation] | None:
    """Returns (epoch, evaluation) of the best epoch so far; None where it is `seen`, or none is."""
    found = newest(run, seen=seen, device=request.device)
    return None if found is None else (found[0], evaluate_trained(found[1], request))


def newest(run: RunFolder, *, seen: int, device: str) -> tuple[int, TrainedRun] | None:
    """Returns (epoch, network) of the best epoch so far; None where it is `seen`, or none is."""
    epoch = _best_epoch(run.best_checkpoint)
    if epoch is None or epoch == seen:
        return None
    trained = _open_checkpoint(run, device)
    return None if trained is None else (epoch, trained)


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


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
    preprocessing = Preprocessing.from_dict(run.read(run.preprocessing_file))
    head = chosen_head(state)
    tensors = state if head is None else start
    module = rebuild(
        description["model"], len(labels), preprocessing.size, tensors, model_args(run)
    )
    if head is not None:
        write_head(module, *head.folded())
    module = module.to(device).eval().to(memory_format=torch.channels_last)
    return TrainedRun(
        folder=run,
        module=module,
        preprocessing=preprocessing,
        labels=labels,
        temperature=1.0,
        unknown=None,
        description=description,
        task=uncalibrated_task(description),
    )
