"""Warm start from a parent run: its network, preprocessing and split."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection as AnyOf
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm

from finetune.config import TrainConfig
from finetune.config_io import settings
from finetune.errors import ConfigError, RunError
from finetune.models import factory
from finetune.models.factory import LoadedModel
from finetune.models.heads import HeadExpansion, expand_head
from finetune.models.registry import resolve_preprocessing
from finetune.photos.preprocessing import Preprocessing
from finetune.runs.folder import RunFolder
from finetune.runs.loading import load_network

INHERITED = (
    *("min_photos", "validation", "test", "group_by", "size", "fit"),
    *("multi_label", "negatives", "label_precision"),
)
"""Settings inherited from the parent run unless set: those that decide what
the network sees and how photos are split. How it trains is decided anew."""


@dataclass(frozen=True, kw_only=True)
class ParentRun:
    """A finished run to go on from.

    Attributes:
        run: Its folder.
        description: What its config.json says.
        labels: In the order of its network's outputs.
        preprocessing: What its network expects of its pixels.
        crop_policy: How its predictions choose their square.
    """

    run: RunFolder
    description: dict[str, Any]
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    crop_policy: dict[str, Any] | None

    @property
    def model(self) -> str:
        """Timm's name of its architecture."""
        return str(self.description["model"])

    def photos(self) -> Path:
        """Returns the folder that its photos were in.

        Raises:
            RunError: It is not there any more.
        """
        root = Path(self.description["photos"])
        if not root.is_dir():
            raise RunError(
                f"The photos of {self.run.path} are no longer in {root}. "
                f"Say where they are: finetune train --from {self.run.path} PHOTOS"
            )
        return root


def open_parent(run: RunFolder) -> ParentRun:
    """Returns a run to go on from.

    Raises:
        RunError: It is not finished, or a file of it is missing or damaged.
    """
    description = run.read(run.config_file)
    if not description.get("finished"):
        raise RunError(
            f"--from {run.path}: its training is not finished. "
            f"Go on with it first: finetune train --resume {run.path}"
        )
    pixels = run.read(run.preprocessing_file)
    labels = run.read(run.labels_file)
    try:
        return ParentRun(
            run=run,
            description={**description, "model": description["model"]},
            labels=tuple(labels),
            preprocessing=Preprocessing.from_dict(pixels),
            crop_policy=pixels.get("crop_policy"),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise RunError(f"--from {run.path}: a file of the run is damaged ({error!r}).") from error


def inherit(
    config: TrainConfig, parent: ParentRun, *, said: AnyOf[str] = (), same_photos: bool = False
) -> TrainConfig:
    """Returns a config with unset settings inherited from a parent run.

    Args:
        config: What was asked for.
        parent: Where to take the rest from.
        said: Names of settings that were asked for even where they have their default value.
        same_photos: Whether the photos are in the folder of that run, so that its catalog serves.

    Raises:
        ConfigError: Weights were asked for as well, or another network.
    """
    asked = config.model
    if asked.weights is not None:
        raise ConfigError(
            f"--from {parent.run.path} starts from the weights of that run, and "
            f"--weights {asked.weights} from others. Leave one of them out."
        )
    if asked.model is not None and _architecture(asked.model) != _architecture(parent.model):
        raise ConfigError(
            f"--model {asked.model}: {parent.run.path} is a {parent.model}, and --from goes on "
            "with its network. Leave --model out, or start a new run without --from."
        )
    channels = config.pixels.channels
    if channels is not None and channels != parent.preprocessing.channels:
        raise ConfigError(
            f"--channels {channels}: the network of {parent.run.path} takes "
            f"{parent.preprocessing.channels}, and --from goes on with it. Leave --channels out."
        )
    changed: dict[str, dict[str, Any]] = {"model": {"model": parent.model}}
    before = parent.description.get("settings", {})
    for setting in settings():
        section = before.get(setting.concern, {})
        name, asked_value = setting.name, getattr(getattr(config, setting.concern), setting.name)
        untouched = asked_value == setting.default and name not in said
        if name in INHERITED and name in section and untouched:
            changed.setdefault(setting.concern, {})[name] = section[name]
    replaced: dict[str, Any] = {
        concern: dataclasses.replace(getattr(config, concern), **values)
        for concern, values in changed.items()
    }
    catalog = before.get("collection", {}).get("catalog")
    if same_photos and catalog and config.collection.catalog is None:
        replaced["collection"] = dataclasses.replace(
            replaced.get("collection", config.collection), catalog=Path(catalog)
        )
    arguments = before.get("model_args") or {}
    if config.model_args and dict(config.model_args) != dict(arguments):
        raise ConfigError(
            f"--model-arg: the network of {parent.run.path} is made already, and --from goes on "
            "with it. Leave --model-arg out."
        )
    replaced["model_args"] = arguments
    if parent.preprocessing.whiten:
        replaced["recipe"] = {"whiten": True, **config.recipe}
    return dataclasses.replace(config, **replaced)


def load_parent(parent: ParentRun, config: TrainConfig) -> LoadedModel:
    """Returns the network of an earlier run, with its head, for the pixels of `config`.

    Raises:
        RunError: Its weights are missing or damaged.
        ModelError: They do not fit its architecture, or not the size that is asked for.
    """
    preprocessing = parent.preprocessing
    if config.pixels.channels not in (None, preprocessing.channels):
        raise ConfigError(
            f"--channels {config.pixels.channels}: the run {parent.run.name} has a network of "
            f"{preprocessing.channels}. Leave it out."
        )
    module = load_network(parent.run, parent.model, len(parent.labels), preprocessing, device="cpu")
    size, fit = config.pixels.size or preprocessing.size, config.pixels.fit
    usual = resolve_preprocessing(parent.model, size=size, fit=fit)
    pretrained = timm.get_pretrained_cfg(parent.model)
    if size != preprocessing.size and pretrained and pretrained.fixed_input_size:
        request = factory.ModelRequest(
            name=parent.model,
            weights=str(parent.run.model_file),
            size=size,
            channels=preprocessing.channels,
            fit=fit,
        )
        module = factory.create_model(request).module
    crop_pct = preprocessing.crop_pct if fit == preprocessing.fit else usual.crop_pct
    preprocessing = dataclasses.replace(preprocessing, size=size, fit=fit, crop_pct=crop_pct)
    return LoadedModel(module, parent.model, preprocessing, f"the run {parent.run.name}")


def expand_parent_head(
    loaded: LoadedModel, parent: ParentRun, labels: Sequence[str], *, seed: int
) -> tuple[HeadExpansion, str]:
    """Expands the head of a parent run's network for new labels; returns a note about it."""
    growth = expand_head(loaded.module, parent.labels, labels, seed=seed)
    where = f"Goes on from {parent.run.path}"
    if not growth.kept:
        return growth, f"{where}: none of its labels is left, so only its backbone goes on."
    text = (
        f"{where}: {_count(growth.kept)} {'keeps its' if len(growth.kept) == 1 else 'keep their'}"
    )
    text += " part of the head"
    if growth.new:
        text += f"; new: {_named(growth.new)}"
    if growth.dropped:
        text += f"; dropped, since no photo has them now: {_named(growth.dropped)}"
    return growth, text + "."


def lineage(parent: ParentRun, growth: HeadExpansion) -> dict[str, Any]:
    """Returns the lineage entry of config.json."""
    digest = hashlib.blake2b(parent.run.model_file.read_bytes(), digest_size=16).hexdigest()
    return {
        "run": str(parent.run.path.absolute()),
        "started": parent.description.get("started"),
        "model_digest": digest,
        "labels": {name: list(value) for name, value in vars(growth).items()},
    }


def _architecture(name: str) -> str:
    return name.partition(".")[0]


def _count(labels: Sequence[str]) -> str:
    return f"{len(labels)} {'label' if len(labels) == 1 else 'labels'}"


def _named(labels: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(labels[:most])
    return shown if len(labels) <= most else f"{shown} and {len(labels) - most} more"
