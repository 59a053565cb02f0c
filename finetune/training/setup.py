"""What a new run begins with: its network, its split, its head, and what its config.json says."""

from __future__ import annotations

import dataclasses
import datetime
import platform
from collections.abc import Callable
from typing import Any

import torch

from finetune import __version__
from finetune.config import TrainConfig
from finetune.config_io import to_dict
from finetune.models import factory
from finetune.models.registry import DEFAULT_MODEL
from finetune.photos.collection import Collection
from finetune.tasks.data_split import DataSplit, split_collection
from finetune.tasks.task import MULTI_LABEL
from finetune.training.device import choose_device
from finetune.training.split_pinning import split_beside
from finetune.training.warm_start import ParentRun, grow, lineage

Splitter = Callable[[Collection], DataSplit]
"""Splits a collection; must do so in the same way each time."""


def new_network(config: TrainConfig) -> factory.LoadedModel:
    """Returns the network that a config asks for, with the head that its weights came with."""
    return factory.create_model(
        factory.ModelRequest(
            name=config.model.model or DEFAULT_MODEL,
            weights=config.model.weights,
            size=config.pixels.size,
            channels=config.pixels.channels,
            fit=config.pixels.fit,
            seed=config.machine.seed,
            args=config.model_args,
        )
    )


def usual_split(config: TrainConfig, parent: ParentRun | None) -> Splitter:
    """Returns how a collection is split: as the config says, beside what an earlier run has had."""

    def split(collection: Collection) -> DataSplit:
        seed = config.machine.seed
        if parent is not None:
            return split_beside(
                collection, parent.run, config.collection, seed=seed, labels=config.labels
            )
        return split_collection(collection, config.collection, seed=seed, labels=config.labels)

    return split


def new_head(
    loaded: factory.LoadedModel,
    parent: ParentRun | None,
    labels: tuple[str, ...],
    config: TrainConfig,
) -> tuple[dict[str, Any], str | None]:
    """Gives the network its head; returns what config.json and a person should know of it."""
    seed = config.machine.seed
    if parent is None:
        return {}, factory.replace_head(loaded, len(labels), seed=seed)
    growth, note = grow(loaded, parent, labels, seed=seed)
    return {"from": lineage(parent, growth)}, note


def describe(
    config: TrainConfig,
    loaded: factory.LoadedModel,
    parts: DataSplit,
    started: datetime.datetime,
) -> dict[str, Any]:
    """Returns what config.json says of a run before its first step."""
    import timm

    return {
        "photos": str(parts.root.absolute()),
        "model": loaded.name,
        "weights": loaded.origin,
        "started": started.isoformat(timespec="seconds"),
        "versions": {
            "finetune": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "timm": timm.__version__,
        },
        "device": str(choose_device(config.machine.device)),
        "settings": to_dict(config),
        "split": dataclasses.asdict(parts.proof) if parts.proof else None,
        **({"task": MULTI_LABEL} if parts.task.multi_label else {}),
        "finished": False,
    }
