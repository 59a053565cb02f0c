"""Files of a run, read for reports and comparisons."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from finetune.errors import RunError
from finetune.evaluation.predictions import Prediction, read_predictions
from finetune.photos.split.split import SplitRow, read_split
from finetune.runs.folder import RunFolder, fitted_head
from finetune.tasks.base import Task
from finetune.tasks.factory import task_of_config

PART_ORDER = ("test", "folds", "validation", "train")
"""Parts in order of preference: a run is reported on the first that has photos."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """Content of a run's files.

    Attributes:
        name: The folder's name.
        config: Content of config.json.
        labels: In class order.
        metrics: By part, as `finetune.evaluation.metrics.evaluate_logits` describes them.
        predictions: Of all parts.
        split: Empty if the run has no split.csv.
        epochs: Events of the log, in order, one per epoch.
        calibration: Content of calibration.json; empty if there is none.
        preprocessing: Content of preprocessing.json; empty if there is none.
        parameters: Number of parameters, without running statistics of norms; None if the run has
            no model file.
        size_bytes: Size of the model file; None if there is none.
    """

    name: str
    config: Mapping[str, Any]
    labels: tuple[str, ...]
    metrics: Mapping[str, Mapping[str, Any]]
    predictions: tuple[Prediction, ...]
    split: tuple[SplitRow, ...]
    epochs: tuple[Mapping[str, Any], ...]
    calibration: Mapping[str, Any]
    parameters: int | None
    size_bytes: int | None
    preprocessing: Mapping[str, Any] = field(default_factory=dict)

    @property
    def task(self) -> Task:
        """Uncalibrated task of the run: one label per photo, or several."""
        return task_of_config(self.config)

    @property
    def fitted(self) -> bool:
        """Whether the head was fitted to its minimum, without epochs."""
        return fitted_head(self.config) is not None

    def part(self, wanted: str | None = None) -> str:
        """Returns the part to report on: `wanted`, or the first of `PART_ORDER` with photos.

        Raises:
            RunError: The run was not evaluated on it, or on no part at all.
        """
        known = {name for name, part in self.metrics.items() if part.get("photos")}
        if wanted is not None:
            if wanted not in known:
                raise RunError(
                    f"{self.name} was not evaluated on '{wanted}', only on "
                    f"{', '.join(sorted(known)) or 'nothing'}. Name one of these with --part."
                )
            return wanted
        for name in (*PART_ORDER, *sorted(known)):
            if name in known:
                return name
        raise RunError(
            f"{self.name} was evaluated on no photos. Run: finetune evaluate {self.name}"
        )

    def predictions_of(self, part: str) -> list[Prediction]:
        """Returns the predictions of one part, in the order of the file."""
        return [row for row in self.predictions if row.part == part]


def read_run(path: Path) -> RunRecord:
    """Reads the run in `path`.

    Raises:
        RunError: A file that must be there is missing or damaged.
        CollectionError: split.csv is damaged.
    """
    run = RunFolder(path)
    config, labels = run.read(run.config_file), run.read(run.labels_file)
    metrics = run.read(run.metrics_file)
    return RunRecord(
        name=path.resolve().name,
        config=config,
        labels=tuple(labels),
        metrics=metrics,
        predictions=tuple(read_predictions(run.predictions_file)),
        split=read_split(run.split_file) if run.split_file.is_file() else (),
        epochs=_epochs(run),
        calibration=run.read(run.calibration_file) if run.calibration_file.is_file() else {},
        parameters=_count_parameters(run.model_file),
        size_bytes=run.model_file.stat().st_size if run.model_file.is_file() else None,
        preprocessing=run.read(run.preprocessing_file) if run.preprocessing_file.is_file() else {},
    )


def photos_root(path: Path) -> Path | None:
    """Returns the root of the collection that a run was trained on; None if it is gone.

    Raises:
        RunError: The folder has no readable config.json.
    """
    run = RunFolder(path)
    root = run.read(run.config_file).get("photos")
    return Path(root) if isinstance(root, str) and Path(root).is_dir() else None


def find_setting(config: Mapping[str, Any], name: str) -> Any:
    """Returns the value of `name` nearest the top of a nested config, or None."""
    level: list[Mapping[str, Any]] = [config]
    while level:
        for section in level:
            if name in section and not isinstance(section[name], Mapping):
                return section[name]
        level = [v for section in level for v in section.values() if isinstance(v, Mapping)]
    return None


def setting_text(value: Any) -> str:
    """Returns a setting's value as text, with ``~`` for the home folder.

    Reports are shared, and the path of the home folder is private.
    """
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return " ".join(setting_text(item) for item in value) if value else "none"
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    home = str(Path.home())
    return shown.replace(home, "~") if len(home) > 1 else shown


def setting_sections(config: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Returns a config as titled rows of text."""

    def walk(title: str, section: Mapping[str, Any]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
        plain = [
            (str(k), setting_text(v)) for k, v in section.items() if not isinstance(v, Mapping)
        ]
        if plain:
            yield title, plain
        for name, inner in section.items():
            if isinstance(inner, Mapping):
                yield from walk(str(name), inner)

    return list(walk("run", config))


def _count_parameters(file: Path) -> int | None:
    """Returns the number of parameters in the header of a model file; no tensor is read."""
    try:
        with safe_open(file, framework="numpy") as tensors:
            names = tensors.offset_keys()
            shapes: dict[str, list[int]] = {n: tensors.get_slice(n).get_shape() for n in names}
    except (OSError, SafetensorError):
        return None
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    return sum(math.prod(s) for name, s in shapes.items() if not name.endswith(buffers))


def _epochs(run: RunFolder) -> tuple[Mapping[str, Any], ...]:
    # A run that was killed and resumed logs some epochs twice; the last event is kept.
    by_epoch = {
        event["epoch"]: event
        for event in run.read_log()
        if event.get("event", "epoch") == "epoch" and "epoch" in event
    }
    return tuple(by_epoch[epoch] for epoch in sorted(by_epoch))
