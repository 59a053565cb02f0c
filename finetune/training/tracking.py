"""Tracking of a training in TensorBoard, Weights & Biases or MLflow."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.util
import logging
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torchvision.utils import make_grid

from finetune.augmentation.batch_augment import BatchAugment
from finetune.augmentation.center_crop import preprocess
from finetune.augmentation.mixing import mix, sample_mix
from finetune.config import TrackingConfig
from finetune.config_io import to_dict
from finetune.data.loaders import load_batches
from finetune.errors import ConfigError, MissingExtra
from finetune.evaluation.confusion import confusion_matrix, draw_confusion
from finetune.files import safe_name
from finetune.models.classic.base import layer_titles
from finetune.models.summary import is_activation
from finetune.photos.preprocessing import Preprocessing
from finetune.training.data_source import split_epoch
from finetune.training.events import EpochDone, Event, StepDone, Validated
from finetune.training.prepared import Prepared

MAX_VALUES = 50_000
"""Values of a layer that its histogram is made of; the share of zeros counts them all."""


class Activation(NamedTuple):
    """Activations of one layer for a batch.

    Attributes:
        zeros: Share of exact zeros; near 1, most of a ReLU's units are dead.
        values: ``(N,) float32``, at most `MAX_VALUES` of them, evenly spaced.
    """

    layer: str
    zeros: float
    values: NDArray[np.float32]


@torch.no_grad()
def activations(module: nn.Module, inputs: Tensor) -> list[Activation]:
    """Returns the outputs of a network's activation layers and head for inputs ``(B, C, S, S)``.

    Layers have their names in the network's table, such as ``conv1``, or else their paths.
    The forward pass runs in eval mode, without random numbers; the mode is restored afterwards.
    """
    found: list[Activation] = []

    def record(name: str, output: Tensor) -> None:
        flat = output.detach().flatten()
        step = max(1, -(-flat.numel() // MAX_VALUES))
        zeros = float((flat == 0).float().mean())
        found.append(Activation(name, zeros, flat[::step].float().cpu().numpy()))

    titles = layer_titles(module)
    classifier = getattr(module, "get_classifier", lambda: None)()
    handles = [
        layer.register_forward_hook(lambda _, __, output, name=name: record(name, output))
        for path, layer in module.named_modules()
        for name in [titles.get(path, path)]
        if is_activation(layer) or layer is classifier
    ]
    # Layer by layer, since a frozen backbone is in eval mode while its head trains.
    training = {layer: layer.training for layer in module.modules()}
    module.eval()
    try:
        module(inputs)
    finally:
        for handle in handles:
            handle.remove()
        for layer, mode in training.items():
            layer.training = mode
    return found


SAMPLE = 16
"""Augmented photos in the logged image and in the activations batch."""


def check_tracking(config: TrackingConfig) -> tuple[str, ...]:
    """Returns the names of the requested trackers.

    Raises:
        ConfigError: An unknown tracker, or activations without a tracker.
        MissingExtra: A tracker is not installed.
    """
    names = tracker_names(config.track)
    if config.track_activations and not names:
        raise ConfigError("--track-activations needs --track, such as --track tensorboard.")
    return names


@contextlib.contextmanager
def tracked(prepared: Prepared, device: torch.device, *, by_features: bool) -> Iterator[Prepared]:
    """Yields the training with a callback that also logs to the trackers; closes them afterwards.

    Raises:
        ConfigError: A tracker cannot be opened.
    """
    names = check_tracking(prepared.config.tracking)
    if not names:
        yield prepared
        return
    before = [int(line["step"]) for line in prepared.run.read_log() if "step" in line]
    first_step = max(before) + 1 if before else 0
    trackers = Trackers(names, prepared.run.path, first_step=first_step)
    try:
        if not before:
            settings = {
                f"{section}.{name}": value
                for section, content in to_dict(prepared.config).items()
                for name, value in content.items()
            }
            trackers.settings(settings | {"model": prepared.loaded.name})
            inputs = sample_inputs(prepared, device, mixed=not by_features)
            pixels = torch.from_numpy(as_pixels(inputs, prepared.preprocessing))
            columns = math.ceil(math.sqrt(len(pixels)))
            page = make_grid(pixels.permute(0, 3, 1, 2), columns, padding=4, pad_value=255)
            trackers.picture("photos/augmented", page.permute(1, 2, 0).numpy(), step=0)
        tracking = _Tracking(trackers, prepared, device, by_features)

        def callback(event: Event) -> None:
            prepared.callback(event)
            tracking(event)

        yield dataclasses.replace(prepared, callback=callback)
        tracking.finish()
    finally:
        trackers.close()


@dataclass
class _Tracking:
    """Logs events to trackers."""

    trackers: Trackers
    prepared: Prepared
    device: torch.device
    by_features: bool
    _batch: Tensor | None = None
    _backbone_logged: bool = False
    _step: int = 0

    def __call__(self, event: Event) -> None:
        match event:
            case StepDone():
                self._log(
                    event.step,
                    {
                        "step/loss": event.loss,
                        "step/accuracy": event.accuracy,
                        "step/lr": event.lr,
                        "step/photos_per_second": event.images_per_second,
                    },
                )
            case Validated():
                # Handled at once, since the module is valid only until the callback returns.
                step = event.epoch * self.prepared.steps_per_epoch
                self._confusion(event, step)
                if self.prepared.config.tracking.track_activations:
                    self._activations(event, step)
            case EpochDone():
                self._log(
                    event.step,
                    {
                        "epoch": event.epoch,
                        "train/loss": event.train_loss,
                        "train/accuracy": event.train_accuracy,
                        "validation/loss": event.validation_loss,
                        "validation/accuracy": event.validation_accuracy,
                        "train/lr": event.lr,
                        "train/photos_per_second": event.images_per_second,
                        **{f"validation/{name}": v for name, v in event.metrics.items()},
                    },
                )

    def finish(self) -> None:
        """Logs the metrics of the finished run."""
        if not self.prepared.run.metrics_file.is_file():
            return
        metrics: dict[str, Any] = self.prepared.run.read(self.prepared.run.metrics_file)
        self._log(
            self._step,
            {
                f"final/{part}/{name}": float(value)
                for part, figures in metrics.items()
                for name, value in figures.items()
                if isinstance(value, int | float) and not isinstance(value, bool)
            },
        )

    def _log(self, step: int, values: dict[str, float]) -> None:
        self._step = max(self._step, step)
        self.trackers.log(values, step)

    def _confusion(self, event: Validated, step: int) -> None:
        outputs = event.validation.outputs
        if outputs.targets.ndim > 1:
            return
        labels = self.prepared.data_split.labels
        matrix = confusion_matrix(outputs.targets, outputs.logits.argmax(1), len(labels))
        title = f"validation, epoch {event.epoch} (rows: truth)"
        picture = draw_confusion(matrix, labels, title=title)
        self.trackers.picture("validation/confusion", picture, step)

    def _activations(self, event: Validated, step: int) -> None:
        if self.by_features and self._backbone_logged:
            return  # The activations of a frozen backbone never change.
        self._backbone_logged = True
        if self._batch is None:
            self._batch = validation_inputs(self.prepared, self.device)
        module = self.prepared.loaded.module if self.by_features else event.module
        for found in activations(module, self._batch):
            self.trackers.log({f"zeros/{found.layer}": found.zeros}, step)
            self.trackers.histogram(f"activations/{found.layer}", found.values, step)


def sample_inputs(prepared: Prepared, device: torch.device, *, mixed: bool) -> Tensor:
    """Returns the network's inputs for the first training photos in the first epoch.

    They are ``(N, C, S, S)`` float, N at most `SAMPLE`, and `mixed` only where the recipe mixes.
    """
    photos = prepared.datasets()["train"]
    loading = prepared.loading(device)
    first = split_epoch(len(photos), loading, 0, 0)[0]
    augment = prepared.augmentation()
    (batch,) = load_batches(photos, [first.indices])
    inputs: Tensor = augment(batch.images.to(device), batch.indices, 0)
    if mixed and isinstance(augment, BatchAugment):
        key = (loading.seed, 0, first.number)
        drawn = sample_mix(augment.recipe, batch=len(inputs), size=inputs.shape[-1], key=key)
        if drawn is not None:
            inputs, _ = mix(inputs, torch.zeros(len(inputs), 1, device=device), drawn)
    return inputs[:SAMPLE]


def validation_inputs(prepared: Prepared, device: torch.device) -> Tensor:
    """Returns the first validation photos as evaluation sees them: ``(N, C, S, S)`` float."""
    datasets = prepared.datasets()
    # A cross-validated head has no validation part.
    photos = datasets["validation"] if len(datasets["validation"]) else datasets["train"]
    (batch,) = load_batches(photos, [np.arange(min(SAMPLE, len(photos)))])
    preprocessing = prepared.preprocessing
    inputs = preprocess(batch.images.to(device), preprocessing)
    return inputs.contiguous(memory_format=torch.channels_last)


def as_pixels(inputs: Tensor, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Returns a network's inputs as pictures: ``(N, C, S, S)`` float to ``(N, S, S, 3) uint8``."""
    images = inputs.detach().float().cpu()
    if preprocessing.whiten:
        low = images.amin((1, 2, 3), keepdim=True)
        high = images.amax((1, 2, 3), keepdim=True)
        images = (images - low) / (high - low).clamp_min(1e-6)
    else:
        shape = (1, -1, 1, 1)
        images = images * torch.tensor(preprocessing.std).view(shape) + torch.tensor(
            preprocessing.mean
        ).view(shape)
    pixels = (images.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return np.broadcast_to(pixels, (*pixels.shape[:3], 3)).copy()


KNOWN = ("tensorboard", "wandb", "mlflow")
"""Values of ``--track``; each is also the name of its package and of the extra that installs it."""

PROJECT = "finetune"
"""Default project (W&B) or experiment (MLflow)."""

logger = logging.getLogger(__name__)


def tracker_names(requested: str | None) -> tuple[str, ...]:
    """Returns the trackers of a setting such as ``tensorboard,wandb``, each once.

    Raises:
        ConfigError: A name that is not in `KNOWN`.
        MissingExtra: The package of a tracker is not installed.

    Example:
        >>> tracker_names("tensorboard, tensorboard")
        ('tensorboard',)
    """
    names = tuple(
        dict.fromkeys(part.strip() for part in (requested or "").split(",") if part.strip())
    )
    for name in names:
        if name not in KNOWN:
            raise ConfigError(f"--track {name} is not one of {', '.join(KNOWN)}.")
        if importlib.util.find_spec(name) is None:
            raise MissingExtra(name, name, f"--track {name}")
    return names


class Trackers:
    """Open trackers; everything logged goes to each of them.

    A tracker that fails later, for example because its server is down, is dropped with a warning: a
    long training must not end for that.

    Args:
        names: As `tracker_names` returns them.
        run: Folder of the run. TensorBoard's files go to its ``tensorboard``, W&B's to its
            ``wandb``; MLflow uses its own settings.
        first_step: Steps from this one on replace those logged by an interrupted training.

    Raises:
        ConfigError: A tracker cannot be opened; the message is the first line of its error.
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
        """Logs the settings of the run, ``{name: value}``; without those that are None."""
        known = {
            key: value if isinstance(value, bool | int | float | str) else str(value)
            for key, value in values.items()
            if value is not None
        }
        # accelerate's own method for TensorBoard creates further runs.
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
                    "--track %s failed and is not used for the rest of the training: %s",
                    name,
                    error,
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
        # The same id in a resumed training, so that it continues its curves.
        tracker = tracking.WandBTracker(
            os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.name,
            id=hashlib.blake2b(str(where).encode(), digest_size=8).hexdigest(),
            resume="allow",
            dir=str(where),
        )
    else:
        tracker = tracking.MLflowTracker(PROJECT, run_name=run.name)
    tracker.start()
    return tracker


def _as_table(values: Mapping[str, Any]) -> str:
    rows = "\n".join(f"| {name} | {value} |" for name, value in values.items())
    return f"| setting | value |\n|---|---|\n{rows}"
