"""Measures what an augmentation, or any other setting, is worth on a person's own photos."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finetune.config import TrainConfig
from finetune.errors import ConfigError
from finetune.evaluation.intervals import Interval
from finetune.evaluation.paired_tests import accuracy_difference, mcnemar
from finetune.evaluation.predictions import read_predictions
from finetune.experiments.sweep_values import with_value
from finetune.files import safe_name, write_json
from finetune.runs.folder import create_run
from finetune.tasks.task import main_score
from finetune.training.device import require_one_process
from finetune.training.events import Callback, Note, ignore
from finetune.training.train import train

BOOTSTRAP_SEED = 0
_SAID = {"augment": "augmentation"}


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One value of the setting, trained once a seed.

    Attributes:
        value: Recipe or pipeline file, size, model: whatever is varied, as text.
        accuracies: Top-1 of each seed's run, on its held-out photos.
        mean: Their mean.
        spread: Their standard deviation (``n - 1``); None for one seed.
        seconds: Mean time of a training.
    """

    value: str
    accuracies: tuple[float, ...]
    mean: float
    spread: float | None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Two values on the same photos, all seeds together.

    Attributes:
        first: The one compared with: the first of the list.
        second: The other.
        photos: Answers compared: held-out photos of every seed.
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
    """What came out: arms in the order asked for, and each against the first.

    Attributes:
        folder: Where the runs are.
        over: The setting that was varied.
        part: What was compared on: test where there is one, else validation.
        multi_label: Whether a photo may have several labels. Accuracies are then mean average
            precision, and differences those of photos all of whose labels are right.
        arms: One a value.
        differences: Of each but the first.
    """

    folder: Path
    over: str
    part: str
    multi_label: bool
    arms: tuple[Arm, ...]
    differences: tuple[Difference, ...]


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

    A seed fixes the split, the order of the photos and the new head, so that within a seed the
    setting is all that differs.

    Args:
        photos: As for `train`.
        config: Settings of every training.
        values: As a command line has them; the first is what the others are compared with.
        over: The setting, or the number of the recipe, that they are values of.
        seeds: How many times each is trained, with seeds that follow the config's.
        folder: Where the runs go; None takes a new folder in ``./runs``.
        callback: Called with what happens in every training.

    Raises:
        ConfigError: Fewer than two values, or one twice, or one that cannot work, or no seed.
        FinetuneError: As `train`.
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
    # All of them first: a value that cannot work should not cost the trainings before it.
    configs = {value: with_value(config, over, value) for value in values}
    where = create_run(str(folder) if folder else None, "ablation").path
    right: dict[str, list[dict[tuple[int, str], bool]]] = {value: [] for value in values}
    accuracies: dict[str, list[float]] = {value: [] for value in values}
    seconds: dict[str, list[float]] = {value: [] for value in values}
    part = "validation"
    for number in range(seeds):
        seed = config.machine.seed + number
        for value in values:
            callback(Note(text=f"Seed {seed}, {_SAID.get(over, over)} {value}"))
            machine = dataclasses.replace(configs[value].machine, seed=seed)
            own = dataclasses.replace(configs[value], machine=machine)
            name = f"{_run_name(over, value)}-seed{seed}"
            result = train(photos, own, run=str(where / name), callback=callback)
            if result.interrupted:
                raise KeyboardInterrupt
            part = "test" if "test" in result.metrics else "validation"
            rows = read_predictions(result.run.predictions_file)
            right[value].append({(seed, r.path): r.correct for r in rows if r.part == part})
            accuracies[value].append(main_score(result.metrics[part]) or 0.0)
            seconds[value].append(result.seconds)
    ablation = Ablation(
        folder=where,
        over=over,
        part=part,
        multi_label=config.labels.multi_label,
        arms=tuple(_arm(value, accuracies[value], seconds[value]) for value in values),
        differences=tuple(_difference(values[0], value, right) for value in values[1:]),
    )
    write_json(where / "ablation.json", to_dict(ablation))
    return ablation


def to_dict(ablation: Ablation) -> dict[str, Any]:
    """Returns an ablation as plain JSON values."""
    return dataclasses.asdict(ablation) | {"folder": str(ablation.folder)}


def _run_name(over: str, value: str) -> str:
    return safe_name(Path(value).stem if over == "augment" else f"{over}-{value}")


def _arm(value: str, accuracies: Sequence[float], seconds: Sequence[float]) -> Arm:
    return Arm(
        value=value,
        accuracies=tuple(accuracies),
        mean=float(np.mean(accuracies)),
        spread=float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else None,
        seconds=float(np.mean(seconds)),
    )


def _difference(
    first: str, second: str, right: dict[str, list[dict[tuple[int, str], bool]]]
) -> Difference:
    one = {key: value for answers in right[first] for key, value in answers.items()}
    two = {key: value for answers in right[second] for key, value in answers.items()}
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
