"""Choice of the weights of a finished run: trained network, head, or average of both."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from finetune.config_io import resolve
from finetune.data.pixel_cache import PixelCache
from finetune.files import collection_cache_dir, write_json
from finetune.models.factory import LoadedModel
from finetune.photos.scan import scan
from finetune.photos.split.split import read_split
from finetune.runs.folder import RunFolder
from finetune.runs.loading import open_trained
from finetune.runs.model_card import write_model_card
from finetune.tasks.data_split import replay_split
from finetune.training.checkpoints import Position
from finetune.training.data_source import predict_sharded
from finetune.training.device import choose_device
from finetune.training.events import Callback, ignore
from finetune.training.final_weights import SHARES, read_choice
from finetune.training.prepared import LEFT_OUT, Prepared
from finetune.training.resolve import ResolvedConfig
from finetune.training.results import TrainingOutput, write_results
from finetune.training.validation_features import hold_out_validation


def choose_weights(
    run: RunFolder, choice: str, *, device: str | None = None, callback: Callback = ignore
) -> dict[str, Any]:
    """Replaces the model of a finished run by another of its networks; returns the new metrics.

    Calibration, metrics, predictions and the model card are those of the new model; reports,
    exports and evaluations made before are not.

    Args:
        run: The run.
        choice: ``best``, ``average`` or ``head``.
        device: As ``--device``; None: the best.
        callback: Receives events.

    Raises:
        ConfigError: There is no such choice.
        RunError: The run does not have these weights, or its photos have changed.
    """
    tensors = read_choice(run, choice)
    trained = open_trained(run, device=choose_device(device))
    trained.module.load_state_dict(tensors)
    description, preprocessing = trained.description, trained.preprocessing
    config = ResolvedConfig.of(resolve(description["settings"]))
    root = Path(description["photos"])
    cache_dir = collection_cache_dir(root, config.collection.catalog)
    cache = PixelCache(cache_dir, preprocessing, limit_gb=config.pixels.cache_gb)
    lost = {event["path"] for event in run.read_log() if event.get("event") == LEFT_OUT}
    with run.held(), contextlib.closing(cache):
        collection = scan(root, catalog=config.collection.catalog, sink=cache)
        split = replay_split(
            collection, read_split(run.split_file), trained.labels, trained.task, left_out=lost
        )
        loaded = LoadedModel(
            trained.module, description["model"], preprocessing, description["weights"]
        )
        prepared = Prepared(
            run=run,
            config=config,
            loaded=loaded,
            preprocessing=preprocessing,
            data_split=split.without(lost),
            cache=cache,
            cache_dir=cache_dir,
            callback=callback,
        )
        datasets = prepared.datasets()
        loading = prepared.loading(choose_device(device))
        logits: dict[str, Any] = {
            part: predict_sharded(
                trained.module,
                preprocessing,
                photos,
                loading,
                progress=prepared.progress(f"Evaluating {part}"),
            )
            for part, photos in datasets.items()
            if part != "train" and len(photos)
        }
        output = TrainingOutput(
            module=trained.module,
            logits=logits,
            position=Position(),
            finished=True,
            held_out=hold_out_validation(prepared, trained.module, datasets, logits["validation"]),
        )
        metrics = write_results(run, description["model"], prepared.data_split, output)
        description["share_of_training"] = SHARES[choice]  # type: ignore[index]
        write_json(run.config_file, description)
        write_model_card(run)
    return metrics
