"""Run folders: file names, creation, lookup and locking."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from finetune.errors import RunError
from finetune.files import parse_json, safe_name, storage_errors, write_json
from finetune.runs.validation import check_labels, is_epoch, read_validated


def drop_weights(run: RunFolder) -> None:
    """Prunes the networks and checkpoints of a run; its metrics stay.

    Raises:
        StorageError: A file cannot be removed.
    """
    with storage_errors(run.path):
        for file in (run.model_file, run.best_file, run.head_file):
            file.unlink(missing_ok=True)
        for folder in (run.timm_folder, run.steps_folder, run.last_checkpoint.parent):
            if folder.is_dir():
                shutil.rmtree(folder)


RUNS_FOLDER = Path("runs")

MAX_LINE = 1 << 20
"""Maximum characters of a line of the log."""


def fitted_head(config: Mapping[str, Any]) -> str | None:
    """Returns the head of a run that was fitted without epochs, in words; None: it has epochs.

    Args:
        config: Content of config.json.

    Example:
        >>> fitted_head({"l2_strength": 0.1})
        'logistic regression with L2 strength 0.1'
    """
    if "l2_strength" in config:
        return f"logistic regression with L2 strength {config['l2_strength']:g}"
    if "lda_shrinkage" in config:
        return f"linear discriminant with shrinkage {config['lda_shrinkage']:g}"
    return None


def headline_part(metrics: Mapping[str, Any]) -> str:
    """Returns the part of metrics.json that a run is known by: test, else folds or validation.

    Raises:
        RunError: There is none of these.
    """
    for part in ("test", "folds", "validation"):
        if part in metrics:
            return part
    raise RunError("metrics.json has no part test, folds or validation. Run: finetune evaluate RUN")


class _File:
    """Path in the run folder, as an attribute of `RunFolder`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, run: RunFolder, owner: type | None = None) -> Path:
        return run.path / self.name


@dataclass(frozen=True)
class RunFolder:
    """Folder of a run."""

    path: Path

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.path.name

    config_file = _File("config.json")
    """Resolved settings, versions, seed, device."""
    labels_file = _File("labels.json")
    """Labels in the order of the network's outputs."""
    split_file = _File("split.csv")
    """Path, digest, label, group and part of every photo."""
    preprocessing_file = _File("preprocessing.json")
    """Preprocessing of the photos."""
    model_file = _File("model.safetensors")
    """Tensors of the network."""
    best_file = _File("best.safetensors")
    """Tensors of the best epoch of a full network, whichever weights are those of the model."""
    head_file = _File("head.safetensors")
    """Tensors of the frozen backbone with the head from which a full network started."""
    timm_folder = _File("timm")
    """Network for timm: ``timm.create_model("local-dir:RUN/timm")``."""
    calibration_file = _File("calibration.json")
    """Temperature and unknown threshold."""
    distance_file = _File("distance.safetensors")
    """Distance of the unknown threshold, in head mode."""
    metrics_file = _File("metrics.json")
    """Metrics by part."""
    curve_file = _File("learning_curve.json")
    """Accuracy by the number of photos, in head mode."""
    predictions_file = _File("predictions.csv")
    """Predictions of the held-out photos."""
    confusion_file = _File("confusion_matrix.csv")
    """Confusion matrix of the test part, else of validation."""
    model_search_file = _File("model_search.json")
    """Models that ``--model auto`` tried."""
    log_file = _File("log.jsonl")
    """One JSON object per epoch."""
    last_checkpoint = _File("checkpoints/last.safetensors")
    """Checkpoint that ``--resume`` loads."""
    steps_folder = _File("steps")
    """Weights of the latest checkpoints, such as ``step-000400.safetensors``."""
    start_checkpoint = _File("checkpoints/start.safetensors")
    """Initial network, needed by a resume and by the choice of the final weights."""
    best_checkpoint = _File("checkpoints/best.safetensors")
    """Weights of the best epoch."""
    lock_file = _File("checkpoints/training.lock")
    """Held by the process that trains the run."""

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Locks the run while it trains; the lock ends with the process, even if that is killed.

        Raises:
            RunError: Another process is training it.
            StorageError: The folder cannot be written.
        """
        with storage_errors(self.lock_file):
            self.lock_file.parent.mkdir(parents=True, exist_ok=True)
            # `is_held` takes the lock for a moment.
            lock = FileLock(self.lock_file, timeout=2)
            try:
                lock.acquire()
            except Timeout as error:
                raise RunError(
                    f"{self.path} is being trained by another process. "
                    f"Watch it with: finetune watch {self.path}"
                ) from error
        try:
            yield
        finally:
            lock.release()

    @property
    def is_held(self) -> bool:
        """Whether a process is training it now."""
        if not self.lock_file.is_file():
            return False
        try:
            with FileLock(self.lock_file, timeout=0):
                return False
        except (Timeout, PermissionError):
            # The lock of another user's run cannot be tried: the run counts as running.
            return True

    def read(self, file: Path) -> Any:
        """Returns the validated value of one of the run's JSON files.

        Raises:
            RunError: The file is missing or damaged.
        """
        try:
            return read_validated(file)
        except FileNotFoundError as error:
            raise RunError(
                f"{self.path} has no {file.name}: it is not a finished run. "
                f"If it was interrupted, resume it with: finetune train --resume {self.path}"
            ) from error

    def log(self, event: dict[str, Any]) -> None:
        """Appends one event to the log."""
        line = json.dumps(event, ensure_ascii=False) + "\n"
        with storage_errors(self.log_file), self.log_file.open("ab") as file:
            content = line.encode(errors="backslashreplace")
            if file.tell() and not _ends_with_newline(self.log_file):
                content = b"\n" + content  # after the part of a line that a full disk took
            file.write(content)

    def read_log(self) -> Iterator[dict[str, Any]]:
        """Yields the events of the log; skips damaged lines, such as one that a kill truncated."""
        if not self.log_file.is_file():
            return
        with self.log_file.open(encoding="utf-8", errors="replace") as file:
            for line in iter(lambda: file.readline(MAX_LINE), ""):
                try:
                    event = parse_json(line)
                except ValueError:
                    continue
                if is_epoch(event):
                    yield event


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def create_run(name: str | None, default_name: str, runs: Path = RUNS_FOLDER) -> RunFolder:
    """Creates a run folder: ``runs/name``, or ``runs/default_name``, numbered if that exists.

    Raises:
        RunError: `name` exists; a run is never overwritten.
        StorageError: The folder cannot be created.
    """
    if name is not None:
        path = Path(name) if len(Path(name).parts) > 1 else runs / safe_name(name)
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                path.mkdir()
            except FileExistsError as error:
                raise RunError(
                    f"--name {name}: {path} exists, and a run is never overwritten. Choose another "
                    f"name, or resume it with: finetune train --resume {path}"
                ) from error
        return RunFolder(path)
    base = safe_name(default_name)
    with storage_errors(runs / base):
        runs.mkdir(parents=True, exist_ok=True)
        for number in range(1, 10_000):
            path = runs / (base if number == 1 else f"{base}-{number}")
            try:
                path.mkdir()
                return RunFolder(path)
            except FileExistsError:
                continue
    raise RunError(f"{runs} holds too many runs named {base}. Give a name with --name.")


def open_run(path: Path) -> RunFolder:
    """Returns the run in `path`.

    Raises:
        RunError: There is no such folder, or it is not a run.
    """
    if not path.is_dir():
        raise RunError(f"{path} is not a folder, so it is not a run. See your runs with: ls runs")
    run = RunFolder(path)
    if not run.config_file.is_file():
        raise RunError(
            f"{path} is not a run: it has no config.json. Make one with: finetune train PHOTOS"
        )
    return run


def check_photos_are_there(photos: Path, run: Path, command: str) -> None:
    """Checks that the folder of a run's photos exists.

    Args:
        photos: The folder.
        run: The run, for the message.
        command: Command that names another folder.

    Raises:
        RunError: It does not.
    """
    if not photos.is_dir():
        raise RunError(
            f"{photos}, the folder of the photos of {run}, is not there. If it was moved, name its "
            f"new place: {command}"
        )


def find_run(name: str | None, runs: Path = RUNS_FOLDER) -> RunFolder:
    """Returns the run called `name` (a path, or a folder of `runs`), or the newest finished one.

    Raises:
        RunError: There is none.
    """
    if name is not None:
        path = Path(name)
        return open_run(path if path.exists() or len(path.parts) > 1 else runs / name)
    finished = sorted(
        (file for file in runs.glob("*/model.safetensors")),
        key=lambda file: file.stat().st_mtime_ns,
    )
    if not finished:
        raise RunError(
            f"There is no finished run in {runs.absolute()}. Train one with: "
            "finetune train PHOTOS, or name one with --run."
        )
    return RunFolder(finished[-1].parent)


def write_labels(run: RunFolder, labels: tuple[str, ...]) -> None:
    """Writes labels.json, the only record of the class order.

    Raises:
        RunError: A label is empty, too long or has control characters.
    """
    try:
        check_labels(labels)
    except ValueError as error:
        raise RunError(f"{run.path}: {error}. Rename it and train again.") from error
    write_json(run.labels_file, list(labels))
