"""Ablation: trains with each of several values of one setting and compares them photo by photo."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from finetune.augmentation.recipes import Recipe
from finetune.config import TrainConfig
from finetune.config_io import resolve, settings, strip_none, to_dict
from finetune.errors import ConfigError
from finetune.evaluation.intervals import Interval, accuracy_difference, mcnemar
from finetune.evaluation.predictions import read_predictions
from finetune.files import safe_name, write_json
from finetune.runs.folder import create_run, headline_part
from finetune.tasks.base import Task
from finetune.tasks.factory import main_score, task_for
from finetune.training.device import require_one_process
from finetune.training.events import Callback, Note, ignore
from finetune.training.prepare import create_network
from finetune.training.resolve import resolve_network
from finetune.training.train import train

BOOTSTRAP_SEED = 0

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
"""Names of tensors of batch norms that are no parameters."""

RECIPE_FIELDS = frozenset(item.name for item in fields(Recipe))


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One value of the setting, trained once per seed.

    Attributes:
        accuracies: Top-1 accuracy of each seed's run on its held-out photos (multi-label: mAP).
        spread: Standard deviation of `accuracies` (``n - 1``); None for one seed.
        seconds: Mean duration of a training.
        parameters: Of the trained network.
    """

    value: str
    accuracies: tuple[float, ...]
    mean: float
    spread: float | None
    seconds: float
    parameters: int


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Paired comparison of two values on the same photos, all seeds pooled.

    Attributes:
        first: The baseline: the first value of the list.
        second: The value that is compared with it.
        photos: Compared predictions: the held-out photos of every seed.
        points: Percentage points by which the second is right more often.
        interval: Paired bootstrap interval of `points`, 95 %.
        p_value: McNemar's exact test. Photos that several seeds hold out count each time, which
            makes it somewhat too small.
    """

    first: str
    second: str
    photos: int
    points: float
    interval: Interval
    p_value: float


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """Result of an ablation: one arm per value, and each compared with the first.

    Attributes:
        part: Photos that were compared: ``test`` where there are any, else ``validation``.
    """

    folder: Path
    over: str
    part: str
    task: Task
    arms: tuple[Arm, ...]
    differences: tuple[Difference, ...]


@dataclass(frozen=True, kw_only=True)
class _Run:
    """Result of one training; `correct` is keyed by seed and path."""

    part: str
    score: float
    seconds: float
    parameters: int
    correct: Mapping[tuple[int, str], bool]


def ablate(
    photos: Path,
    config: TrainConfig,
    values: Sequence[str],
    *,
    over: str = "augment",
    seeds: int = 3,
    folder: Path | None = None,
    callback: Callback = ignore,
) -> Ablation:
    """Trains with each value of a setting under the same budget and compares photo by photo.

    A seed fixes the split, the order of the photos and the new head, so that within a seed only
    the setting differs.

    Args:
        photos: As for `train`.
        config: Settings that all runs share.
        values: As given on the command line; the first is the baseline.
        over: The setting to vary, or a field of the recipe.
        seeds: Trainings per value, with consecutive seeds from the config's.
        folder: Folder for the runs; None creates one in ``./runs``.
        callback: Receives the events of every training.

    Raises:
        ConfigError: Fewer than two values, a repeated or invalid one, or no seed.
        ModelError: A network does not exist, or its weights cannot be loaded; before the first
            training.
        FinetuneError: As `train`.

    Example:
        >>> from finetune.config import TrainConfig
        >>> ablate(Path("photos"), TrainConfig(), ["none", "mobius"])  # doctest: +SKIP
    """
    require_one_process("finetune ablate")
    if len(values) < 2 or len(set(values)) < len(values):
        raise ConfigError(
            "--augment needs two or more different recipes, such as none,standard,mobius."
            if over == "augment"
            else f"--over {over}={','.join(values)} needs two or more different values."
        )
    if seeds < 1:
        raise ConfigError(f"--seeds {seeds} must be at least 1.")
    # The same held-out photos for every value, whatever it trains.
    config = dataclasses.replace(config, collection=config.collection.with_parts())
    # An invalid value must not cost the trainings before it.
    configs = {value: with_value(config, over, value) for value in values}
    for item in configs.values():
        create_network(resolve_network(item)[0])
    root = create_run(str(folder) if folder else None, "ablation").path
    runs: dict[str, list[_Run]] = {value: [] for value in values}
    setting = "augmentation" if over == "augment" else over
    for seed in range(config.machine.seed, config.machine.seed + seeds):
        for value in values:
            callback(Note(text=f"Seed {seed}, {setting} {value}"))
            machine = dataclasses.replace(configs[value].machine, seed=seed)
            own = dataclasses.replace(configs[value], machine=machine)
            name = safe_name(Path(value).stem if over == "augment" else f"{over}-{_short(value)}")
            runs[value].append(_train(photos, own, root / f"{name}-seed{seed}", callback))
    ablation = Ablation(
        folder=root,
        over=over,
        part=runs[values[-1]][-1].part,
        task=task_for(config.labels),
        arms=tuple(_arm(value, runs[value]) for value in values),
        differences=tuple(_difference(values[0], value, runs) for value in values[1:]),
    )
    write_json(root / "ablation.json", to_json(ablation))
    return ablation


def to_json(ablation: Ablation) -> dict[str, Any]:
    """Returns an ablation as JSON values."""
    return {
        "folder": str(ablation.folder),
        "over": ablation.over,
        "part": ablation.part,
        "multi_label": ablation.task.multi_label,
        "arms": [dataclasses.asdict(arm) for arm in ablation.arms],
        "differences": [dataclasses.asdict(item) for item in ablation.differences],
    }


def parse_sweep(text: str) -> tuple[str, list[str]]:
    """Returns the setting and the values of ``NAME=VALUE,VALUE``.

    Raises:
        ConfigError: The text has another form or names no setting.

    Example:
        >>> parse_sweep("size=32,128,224")
        ('size', ['32', '128', '224'])
    """
    name, equals, rest = text.partition("=")
    name = name.strip().lstrip("-").replace("-", "_")
    values = [value.strip() for value in rest.split(",")]
    if not equals or not all(values):
        raise ConfigError(f"--over {text} is not NAME=VALUE,VALUE, such as size=32,128,224.")
    if name not in RECIPE_FIELDS and name not in {setting.name for setting in settings()}:
        raise ConfigError(
            f"--over {text}: there is no setting '{name}'. See: finetune train --help"
        )
    if name == "seed":
        raise ConfigError("--over seed: every value is trained with several seeds; see --seeds.")
    return name, values


def with_value(config: TrainConfig, name: str, text: str) -> TrainConfig:
    """Returns the config with another value of one setting or of one field of the recipe.

    A value of `model` may have its weights after a colon, ``resnet18:resnet18.safetensors``.

    Raises:
        ConfigError: The value is invalid.

    Example:
        >>> with_value(TrainConfig(), "size", "64").pixels.size
        64
        >>> with_value(TrainConfig(), "model", "resnet18:none").model.weights
        'none'
    """
    mapping = to_dict(config)
    if name == "model" and ":" in text:
        model, _, weights = text.partition(":")
        return resolve(mapping, {"model": model, "weights": weights})
    if name in RECIPE_FIELDS:
        kind: Any = bool if text.lower() in ("true", "false") else float
        mapping["recipe"] = {**mapping.get("recipe", {}), name: _converted(text, kind)}
        return resolve(mapping)
    kind = next(strip_none(setting.type) for setting in settings() if setting.name == name)
    return resolve(mapping, {name: _converted(text, kind)})


def _short(value: str) -> str:
    """Returns a value for the name of a run: of a network's weights only the file's name."""
    model, colon, weights = value.partition(":")
    return f"{model}{colon and '-'}{Path(weights).stem}"


def _converted(text: str, kind: Any) -> Any:
    """Returns the value of a text, or the text itself if `resolve` must reject it."""
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    if kind not in (int, float):
        return text
    try:
        return kind(text)
    except ValueError:
        return text


def _train(photos: Path, config: TrainConfig, folder: Path, callback: Callback) -> _Run:
    result = train(photos, config, run=str(folder), callback=callback)
    if result.interrupted:
        raise KeyboardInterrupt
    part = headline_part(result.metrics)
    rows = read_predictions(result.run.predictions_file)
    return _Run(
        part=part,
        score=main_score(result.metrics[part]) or 0.0,
        seconds=result.seconds,
        parameters=_count_parameters(result.run.model_file),
        correct={(config.machine.seed, r.path): r.correct for r in rows if r.part == part},
    )


def _arm(value: str, runs: Sequence[_Run]) -> Arm:
    scores = [run.score for run in runs]
    return Arm(
        value=value,
        accuracies=tuple(scores),
        mean=statistics.fmean(scores),
        spread=statistics.stdev(scores) if len(scores) > 1 else None,
        seconds=statistics.fmean(run.seconds for run in runs),
        parameters=runs[0].parameters,
    )


def _count_parameters(file: Path) -> int:
    """Returns the number of parameters in a model file, without the statistics of norms."""
    with safe_open(file, framework="np") as tensors:
        return sum(
            math.prod(tensors.get_slice(name).get_shape())
            for name in tensors.keys()  # noqa: SIM118 - the file is no mapping
            if not name.endswith(BUFFERS)
        )


def _difference(first: str, second: str, runs: Mapping[str, Sequence[_Run]]) -> Difference:
    one = {key: correct for run in runs[first] for key, correct in run.correct.items()}
    two = {key: correct for run in runs[second] for key, correct in run.correct.items()}
    keys = sorted(one)
    a = np.array([one[key] for key in keys])
    b = np.array([two[key] for key in keys])
    difference, interval = accuracy_difference(a, b, rng=np.random.default_rng(BOOTSTRAP_SEED))
    return Difference(
        first=first,
        second=second,
        photos=len(keys),
        points=100 * difference,
        interval=(100 * interval[0], 100 * interval[1]),
        p_value=mcnemar(int((a & ~b).sum()), int((b & ~a).sum())),
    )
