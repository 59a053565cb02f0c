"""Predictor: ranked labels of photos by one run or an ensemble of runs."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from finetune.errors import ConfigError, DecodeError, ModelError
from finetune.evaluation.precision_curve import Claim
from finetune.photos.crops import Crop
from finetune.photos.decode.decoder import bytes_needed, photo_exif
from finetune.photos.decode.exif import Exif
from finetune.photos.preprocessing import Preprocessing
from finetune.prediction.decision import Decision, PredictConfig
from finetune.prediction.engine import Engine
from finetune.prediction.hub_address import is_hub_address
from finetune.prediction.inputs import name_of, source_of, tta_views, working_image
from finetune.prediction.predictions import PhotoPrediction, Ranked
from finetune.prediction.run_graph import EngineName, open_graph, wants_torch
from finetune.prediction.stream import batch_per_core, decode_ahead
from finetune.runs.folder import RunFolder, find_run
from finetune.tasks.multi_label import MultiLabel

if TYPE_CHECKING:
    from finetune.curation.crop_policy import CropPolicy

__all__ = ["PredictConfig", "PhotoPrediction", "Predictor", "Ranked"]

BATCH_SIZE = 32

CORE_BATCH = 8
"""Photos per batch where each core has a batch of its own: larger ones leave its cache."""

FEW_PHOTOS = 8
"""Number of photos below which one batch at a time on all cores is fastest."""

WorkingImages = tuple[NDArray[np.uint8], ...]
"""Working images of one photo, one for each distinct preprocessing of the engines."""

Source = str | Path | RunFolder

ONNX_SUFFIX = ".onnx"


class Predictor:
    """Predicts with one run, or with several whose probabilities are averaged; thread-safe.

    Args:
        engines: Networks with the same labels, in any order.
        config: Test-time augmentation and thresholds.

    Attributes:
        decision: Turns probabilities into predictions.

    Raises:
        ConfigError: No engine, or engines of different labels.

    Example:
        >>> from finetune import Predictor
        >>> predictor = Predictor.load("runs/garden")  # doctest: +SKIP
        >>> predictor("photo.jpg").label  # doctest: +SKIP
        'wren'
    """

    def __init__(self, engines: Sequence[Engine], config: PredictConfig | None = None) -> None:
        if not engines:
            raise ConfigError("A predictor needs at least one run.")
        self.engines = tuple(engines)
        self.config = config or PredictConfig()
        self._orders = [_order(self.engines[0], engine) for engine in self.engines]
        self._limits = self._label_thresholds()
        self.decision = Decision(
            [engine.metadata for engine in self.engines], self.config, self._limits
        )
        specs = [_pixels_key(engine.metadata.preprocessing) for engine in self.engines]
        # Engines with the same preprocessing share one decoded image.
        self._specs = list(dict.fromkeys(specs))
        self._image_of = [self._specs.index(key) for key in specs]
        self._policy: CropPolicy | None = None
        if self.engines[0].metadata.crop_policy is not None:
            # Only for a run trained on proposed crops: this loads the backbone that proposes them.
            from finetune.curation.crop_policy import CropPolicyConfig, load_policy

            self._policy, _ = load_policy(
                CropPolicyConfig.from_dict(self.engines[0].metadata.crop_policy), download=False
            )

    @classmethod
    def load(
        cls,
        run: Source | Sequence[Source] | None = None,
        *,
        device: str | None = "cpu",
        config: PredictConfig | None = None,
        engine: EngineName | None = None,
    ) -> Predictor:
        """Opens a run: a name in ``./runs``, a path, or None for the newest. Runs no code of it.

        Args:
            run: The run, ``hf://OWNER/NAME`` on the Hugging Face hub, an exported ``.onnx`` file
                (for which torch is not imported), or several of these as an ensemble.
            device: ``cpu``, ``cuda``, ``mps`` ..., or None for the best available.
            config: Test-time augmentation and thresholds.
            engine: ``torch``, or ``onnx``, for which torch is not imported; None: ``onnx`` on a
                CPU where the run's graph was prepared before.

        Raises:
            RunError: There is no such run, or a file of it is missing or damaged.
            ConfigError: The runs have different labels.
        """
        several: Sequence[Source | None]
        several = [run] if run is None or isinstance(run, str | Path | RunFolder) else run
        engines = [open_engine(source, device=device, engine=engine) for source in several]
        return cls(engines, config)

    @property
    def name(self) -> str:
        """Names of its runs, joined by ``+``."""
        return "+".join(engine.metadata.name for engine in self.engines)

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels in class order; with a level, its nodes."""
        return self.decision.labels

    @property
    def claim(self) -> Claim | None:
        """Claim that sure predictions are based on, or None."""
        return self.decision.claim

    @property
    def preprocessing(self) -> Preprocessing:
        """Preprocessing of the first engine."""
        return self.engines[0].metadata.preprocessing

    @property
    def multi_label(self) -> bool:
        """Whether a photo may have several labels, or none."""
        return self.decision.multi_label

    def __call__(self, photo: Any, *, crop: Crop | None = None) -> PhotoPrediction:
        """Returns the prediction of a photo: path, bytes, PIL image or ``(H, W, 3) uint8`` pixels.

        Raises:
            DecodeError: The photo cannot be opened.
        """
        images = self.working_images(photo, crop=crop)
        return self.predict_images([images], [name_of(photo)], [self._exif(photo)])[0]

    def predict_batch(self, photos: Sequence[Any]) -> list[PhotoPrediction]:
        """Returns one prediction a photo, in order, with the reason where one cannot be opened."""
        return list(self.predict_stream(photos))

    def predict_stream(
        self, photos: Iterable[Any], *, batch_size: int = BATCH_SIZE
    ) -> Iterator[PhotoPrediction]:
        """Yields one prediction a photo, in order, reading at most three batches ahead.

        On a CPU each core decodes and predicts a batch of its own; before a GPU, photos are decoded
        while it works on others.

        Args:
            photos: As for a single one; may be endless.
            batch_size: Maximum photos in a batch.
        """
        for batch in self.predict_batches(photos, batch_size=batch_size):
            yield from batch

    def predict_batches(
        self, photos: Iterable[Any], *, batch_size: int = BATCH_SIZE
    ) -> Iterator[list[PhotoPrediction]]:
        """Yields the predictions of each batch of `photos_per_batch`; see `predict_stream`."""
        waiting = iter(photos)
        first = list(itertools.islice(waiting, FEW_PHOTOS))
        cores = self._cores()
        everything = itertools.chain(first, waiting)
        size = self.photos_per_batch(batch_size)
        if cores is None or len(first) < FEW_PHOTOS:
            yield from decode_ahead(
                everything, self._images_or_reason, self._predict, batch_size=size
            )
            return
        with ExitStack() as stack:
            own = copy.copy(self)
            own.engines = tuple(stack.enter_context(e.per_thread()) for e in self.engines)

            def predict(batch: Sequence[Any]) -> list[PhotoPrediction]:
                return own._predict(batch, [own._images_or_reason(photo) for photo in batch])

            yield from batch_per_core(everything, predict, batch_size=size, cores=cores)

    def photos_per_batch(self, batch_size: int = BATCH_SIZE) -> int:
        """Returns the number of photos in a batch, on any number of cores."""
        return batch_size if self._cores() is None else min(CORE_BATCH, batch_size)

    def _cores(self) -> int | None:
        """Returns the number of batches computed at once; None: one, on a GPU."""
        cores = [engine.cores for engine in self.engines]
        known = [count for count in cores if count is not None]
        return min(known) if len(known) == len(cores) else None

    def _images_or_reason(self, photo: Any) -> WorkingImages | str:
        try:
            return self.working_images(photo)
        except DecodeError as error:
            return error.reason

    def _predict(
        self, photos: Sequence[Any], images: Sequence[WorkingImages | str]
    ) -> list[PhotoPrediction]:
        """Returns a prediction for each photo, with the reason where one cannot be opened."""
        good = [(photo, x) for photo, x in zip(photos, images, strict=True) if type(x) is tuple]
        predicted = iter(
            self.predict_images(
                [x for _, x in good],
                [name_of(photo) for photo, _ in good],
                [self._exif(photo) for photo, _ in good],
            )
        )
        return [
            PhotoPrediction.failed(name_of(photo), x) if isinstance(x, str) else next(predicted)
            for photo, x in zip(photos, images, strict=True)
        ]

    def working_images(self, photo: Any, *, crop: Crop | None = None) -> WorkingImages:
        """Returns the working images ``(S, S, 3) uint8`` of a photo, made as in training.

        Raises:
            DecodeError: The photo cannot be opened.
        """
        if isinstance(photo, (bytearray, memoryview)):
            photo = bytes(photo)
        if crop is None and self._policy is not None:
            source = source_of(photo)
            if not isinstance(source, np.ndarray):
                # The policy decodes by itself, so the size is checked before.
                bytes_needed(source, max_pixels=self.config.max_pixels)
            crop = self._policy(source)
        return tuple(
            working_image(
                photo,
                preprocessing,
                crop=crop,
                max_pixels=self.config.max_pixels,
                decode_margin=self.config.decode_margin,
            )
            for preprocessing in self._distinct_specs()
        )

    def pixels_of(self, photo: Any) -> NDArray[np.uint8]:
        """Returns the working image of a photo for the first engine; raises DecodeError."""
        return self.working_images(photo)[0]

    def predict_images(
        self,
        photos: Sequence[WorkingImages],
        names: Sequence[str | None] | None = None,
        exifs: Sequence[Exif | None] | None = None,
    ) -> list[PhotoPrediction]:
        """Returns one prediction for the images of each photo, in order.

        Args:
            photos: Working images of each photo.
            names: Paths of the photos.
            exifs: Their dates and places, where the possible labels depend on these.
        """
        if not photos:
            return []
        probabilities, unknown = self.probabilities(photos)
        named = names or [None] * len(photos)
        possible = None
        if self.decision.restriction is not None:
            possible = np.stack([self._possible(exif) for exif in exifs or [None] * len(photos)])
        return self.decision.predict(probabilities, unknown, named, possible)

    def _exif(self, photo: Any) -> Exif | None:
        """Returns the date and place of a photo, if some label is possible only there or then."""
        restriction = self.decision.restriction
        if restriction is None or not restriction.needs_exif:
            return None
        if not isinstance(photo, str | Path | bytes | bytearray | memoryview):
            return None
        source = source_of(photo)
        return None if isinstance(source, np.ndarray) else photo_exif(source)

    def _possible(self, exif: Exif | None) -> NDArray[np.bool_]:
        restriction = self.decision.restriction
        assert restriction is not None
        return restriction.possible(self.engines[0].metadata.labels, exif or Exif())

    def probabilities(
        self, photos: Sequence[WorkingImages]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Returns probabilities ``(N, labels)`` and which photos are unknown, ``(N,)``.

        Views and engines are averaged; a photo is unknown by majority vote.
        """
        stacks = [np.stack(row) for row in zip(*photos, strict=True)]
        total = np.zeros((len(photos), len(self.engines[0].metadata.labels)))
        votes = np.zeros(len(photos))
        for engine, order, which in zip(self.engines, self._orders, self._image_of, strict=True):
            metadata = engine.metadata
            for view in tta_views(stacks[which], metadata.preprocessing.size, self.config.tta):
                limit = metadata.unknown if self.config.false_alarms else None
                distances = None
                if limit is not None and limit.needs_features:
                    logits, features = engine.logits_and_features(view)
                    distances = limit.distances(features)
                else:
                    logits = engine.logits(view)
                total += metadata.task.probabilities(logits)[:, order]
                if limit is not None:
                    scores = limit.scores(logits, distances, temperature=metadata.task.temperature)
                    votes += limit.is_unknown(scores, self.config.false_alarms)
        count = len(self.engines) * self.config.tta
        return total / count, votes > count / 2

    def _label_thresholds(self) -> NDArray[np.float64] | None:
        """Returns the threshold of each label, ``(labels,)``; None where a photo has one label.

        An ensemble averages its probabilities, and so its thresholds.
        """
        tasks = [engine.metadata.task for engine in self.engines]
        several = [task for task in tasks if isinstance(task, MultiLabel)]
        if not several:
            return None
        if len(several) < len(tasks):
            many = [isinstance(task, MultiLabel) for task in tasks]
            one, other = (self.engines[many.index(value)].metadata for value in (False, True))
            raise ConfigError(
                f"--run {one.name} and --run {other.name} cannot be combined: "
                "one was trained for one label a photo, the other for several."
            )
        own = [
            task.limits(len(self.engines[0].metadata.labels))[order]
            for task, order in zip(several, self._orders, strict=True)
        ]
        limits: NDArray[np.float64] = np.maximum(np.mean(own, axis=0), self.config.threshold or 0.0)
        return limits

    def _distinct_specs(self) -> Iterator[Preprocessing]:
        for number in range(len(self._specs)):
            yield self.engines[self._image_of.index(number)].metadata.preprocessing


def open_engine(
    source: str | Path | RunFolder | None,
    *,
    device: str | None = "cpu",
    engine: EngineName | None = None,
) -> Engine:
    """Opens a run (a name, a path, None for the newest), one of the hub, or an ``.onnx`` file.

    An ``.onnx`` file runs in onnxruntime without importing torch.

    Args:
        source: Run or file.
        device: Of a run: ``cpu``, ``cuda``, ``mps`` ..., or None for the best available.
        engine: As in `Predictor.load`.

    Raises:
        RunError: There is no such run or file, or it is damaged.
        ModelError: ONNX cannot express the network, and was asked for.
        MissingExtra: onnxruntime is not installed.
        DeviceError: The device does not exist.
    """
    if is_hub_address(source):
        from finetune.prediction.hub import download_run

        source = download_run(str(source))
    if not isinstance(source, RunFolder) and source is not None:
        path = Path(source)
        if path.suffix.lower() == ONNX_SUFFIX:
            from finetune.prediction.onnx_engine import OnnxEngine

            return OnnxEngine.load(path)
    folder = source if isinstance(source, RunFolder) else find_run(str(source) if source else None)
    if not wants_torch(engine, device):
        found = open_graph(folder)
        if found is None and engine == "onnx":
            from finetune.prediction.export.run_graph import prepare_graph

            reason = prepare_graph(folder).reason
            if reason is not None:
                raise ModelError(f"{reason}. Predict with --engine torch.")
            found = open_graph(folder)
        # The network that proposes crops needs torch anyway.
        if found is not None and (found.metadata.crop_policy is None or engine == "onnx"):
            return found
    from finetune.prediction.torch_engine import TorchEngine

    return TorchEngine.load(folder, device=device)


def _pixels_key(preprocessing: Preprocessing) -> tuple[int, str, str]:
    return preprocessing.working_size, preprocessing.fit, preprocessing.interpolation


def _order(first: Engine, other: Engine) -> list[int]:
    """Returns the indices of the first engine's labels in the other's outputs."""
    mine, theirs = first.metadata, other.metadata
    strange = sorted(set(mine.labels) ^ set(theirs.labels))
    if strange:
        raise ConfigError(
            f"--run {mine.name} and --run {theirs.name} cannot be combined: only one of "
            f"them has the label '{strange[0]}'."
        )
    return [theirs.labels.index(label) for label in mine.labels]
