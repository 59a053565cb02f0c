"""TensorBoard, Weights & Biases and MLflow, through accelerate's trackers."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from finetune.errors import ConfigError, MissingExtra
from finetune.files import safe_name

KNOWN = ("tensorboard", "wandb", "mlflow")
"""What ``--track`` takes; each is also the name of its package and of the extra that brings it."""

PROJECT = "finetune"
"""Default project (W&B) or experiment (MLflow)."""

logger = logging.getLogger(__name__)


def tracker_names(asked: str | None) -> tuple[str, ...]:
    """Returns the trackers of a setting such as ``tensorboard,wandb``, each once.

    Raises:
        ConfigError: A name that is none of `KNOWN`.
        MissingExtra: The package of one is not installed.

    Example:
        >>> tracker_names("tensorboard, tensorboard")
        ('tensorboard',)
    """
    names = tuple(dict.fromkeys(part.strip() for part in (asked or "").split(",") if part.strip()))
    for name in names:
        if name not in KNOWN:
            raise ConfigError(f"--track {name} is none of {', '.join(KNOWN)}.")
        if importlib.util.find_spec(name) is None:
            raise MissingExtra(name, name, f"--track {name}")
    return names


class Trackers:
    """Open trackers; everything logged goes to each of them.

    A tracker that fails later, such as one whose server is gone, is let go with a warning: a
    training of many hours must not end because nobody can watch it.

    Args:
        names: As `tracker_names` returns them.
        run: Folder of the run. TensorBoard's files go to its ``tensorboard``, W&B's to its
            ``wandb``; MLflow writes where its own settings say.
        first_step: Steps from here on replace what an interrupted part of the training logged.

    Raises:
        ConfigError: A tracker cannot be opened; says why in its own words.
    """

    def __init__(self, names: Sequence[str], run: Path, *, first_step: int = 0) -> None:
        self._open: dict[str, Any] = {}
        for name in names:
            try:
                self._open[name] = _start(name, run, first_step)
            except Exception as error:
                self.close()
                lines = str(error).splitlines() or [type(error).__name__]
                raise ConfigError(f"--track {name} cannot be opened: {lines[0]}") from error

    def __bool__(self) -> bool:
        return bool(self._open)

    def settings(self, values: Mapping[str, Any]) -> None:
        """Logs the settings of the run, ``{name: plain value}``; those that are None are left."""
        known = {
            key: value if isinstance(value, bool | int | float | str) else str(value)
            for key, value in values.items()
            if value is not None
        }
        # accelerate's way for TensorBoard makes further runs beside the one with the curves.
        self._each(
            lambda name, tracker: (
                tracker.log({"settings": _as_table(known)}, step=0)
                if name == "tensorboard"
                else tracker.store_init_configuration(known)
            )
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Logs numbers by name."""
        self._each(lambda name, tracker: tracker.log(dict(values), step=step))

    def picture(self, title: str, pixels: NDArray[np.uint8], step: int) -> None:
        """Logs one picture, ``(H, W, 3) uint8``."""

        def log(name: str, tracker: Any) -> None:
            if name == "tensorboard":
                tracker.log_images({title: pixels[None]}, step=step, dataformats="NHWC")
                # accelerate flushes after numbers only.
                tracker.tracker.flush()
            elif name == "wandb":
                tracker.log_images({title: [Image.fromarray(pixels)]}, step=step)
            else:
                with tempfile.TemporaryDirectory() as folder:
                    file = Path(folder) / f"{safe_name(title)}-{step:06d}.png"
                    Image.fromarray(pixels).save(file)
                    tracker.log_artifact(str(file), artifact_path="pictures")

        self._each(log)

    def histogram(self, title: str, values: NDArray[np.float32], step: int) -> None:
        """Logs a histogram of values ``(N,)`` where the tracker supports it."""

        def log(name: str, tracker: Any) -> None:
            if name == "tensorboard":
                tracker.tracker.add_histogram(title, values, global_step=step)
            elif name == "wandb":
                import wandb

                tracker.log({title: wandb.Histogram(values)}, step=step)

        self._each(log)

    def close(self) -> None:
        """Flushes and closes each tracker."""
        self._each(lambda name, tracker: tracker.finish())
        self._open = {}

    def _each(self, do: Callable[[str, Any], Any]) -> None:
        for name, tracker in list(self._open.items()):
            try:
                do(name, tracker)
            except Exception as error:  # noqa: BLE001 - a service may fail in ways of its own
                del self._open[name]
                logger.warning(
                    "--track %s failed and gets nothing more of this training: %s", name, error
                )


def _start(name: str, run: Path, first_step: int) -> Any:
    from accelerate import tracking

    where = run.absolute()
    tracker: Any
    if name == "tensorboard":
        tracker = tracking.TensorBoardTracker(
            "tensorboard", logging_dir=str(where), purge_step=first_step or None
        )
    elif name == "wandb":
        # One id for all parts of an interrupted training, so that they become one curve.
        tracker = tracking.WandBTracker(
            os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.name,
            id=_stable_id(where),
            resume="allow",
            dir=str(where),
        )
    else:
        tracker = tracking.MLflowTracker(PROJECT, run_name=run.name)
    tracker.start()
    return tracker


def _stable_id(run: Path) -> str:
    return hashlib.blake2b(str(run).encode(), digest_size=8).hexdigest()


def _as_table(values: Mapping[str, Any]) -> str:
    rows = "\n".join(f"| {name} | {value} |" for name, value in values.items())
    return f"| setting | value |\n|---|---|\n{rows}"
