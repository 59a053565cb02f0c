"""Predictor: ranked labels of photos by one run or an ensemble of runs."""

from __future__ import annotations

import copy
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from finetune.config import FALSE_ALARMS, PRECISION
from finetune.errors import ConfigError, DecodeError
from finetune.evaluation.status import statuses, sure_threshold
from finetune.photos.crops import Crop
from finetune.photos.decode.decoder import MAX_PIXELS, bytes_needed
from finetune.photos.decode.pool import usable_cores
from finetune.photos.preprocessing import Preprocessing
from finetune.prediction.engine import Engine
from finetune.prediction.hub_address import is_hub_address
from finetune.prediction.inputs import TTA, check_tta, name_of, source_of, tta_views, working_image
from finetune.prediction.predictions import PhotoPrediction, Ranked, rank
from finetune.runs.folder import RunFolder, find_run
from finetune.tasks.multi_label import MultiLabel

if TYPE_CHECKING:
    from finetune.curation.crop_policy import CropPolicy

__all__ = ["PredictConfig", "PhotoPrediction", "Predictor", "Ranked"]

BATCH_SIZE = 32

SMALLEST_BATCH = 4
"""Minimum photos per batch if each core has a batch of its own."""

FEW_PHOTOS = 2 * SMALLEST_BATCH
"""Number of photos below which one batch at a time on all cores is fastest."""

WorkingImages = tuple[NDArray[np.uint8], ...]
"""Working images of one photo, one for each distinct preprocessing of the engines."""

Source = str | Path | RunFolder

ONNX_SUFFIX = ".onnx"

Photo = TypeVar("Photo")
Decoded = TypeVar("Decoded")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Test-time augmentation and thresholds of a predictor.

    Attributes:
        tta: Views of a photo to average: 1, 2 or 10; see `finetune.prediction.inputs`.
        precision: Share of the sure predictions that should be right.
        false_alarms: Share of the photos of known labels that may be taken for unknown; 0: no
            photo is unknown.
        threshold: Probability from which a prediction is sure; None: by the precision.
        max_pixels: Maximum pixels of a photo; larger ones are rejected.

    Raises:
        ConfigError: A value is out of bounds.
    """

    tta: TTA = 1
    precision: float = PRECISION
    false_alarms: float = FALSE_ALARMS
    threshold: float | None = None
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        check_tta(self.tta)
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ConfigError(f"--threshold {self.threshold:g} must lie between 0 and 1.")
        if not 0 < self.precision < 1:
            raise ConfigError(
                f"--precision {self.precision:g} must lie above 0 and below 1, such as 0.95."
            )
        if not 0 <= self.false_alarms <= 0.5:
            raise ConfigError(
                f"--false-alarms {self.false_alarms:g} must lie between 0 and 0.5, such as 0.05."
            )


class Predictor:
    """Predicts with one run, or with several whose probabilities are averaged; thread-safe.

    Args:
        engines: Networks with the same labels, in any order.
        config: Test-time augmentation and thresholds.

    Attributes:
        sure_from: Probability from which a label is sure; None: none is.
        measured: Whether sure predictions are those of a measured precision.
        claim: The claim, if there is one.

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
        self.labels = self.engines[0].metadata.labels
        self._orders = [_order(self.engines[0], engine) for engine in self.engines]
        self._limits = self._label_thresholds()
        metadata = [engine.metadata for engine in self.engines]
        sure_from, claim = sure_threshold(
            [one.sure for one in metadata],
            [one.unknown for one in metadata],
            self.config.precision,
        )
        threshold = self.config.threshold
        self.measured = len(metadata) == 1 and metadata[0].sure is not None and threshold is None
        self.claim = claim if self.measured else None
        self.sure_from = sure_from if threshold is None else threshold
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
    ) -> Predictor:
        """Opens a run: a name in ``./runs``, a path, or None for the newest. Runs no code of it.

        Args:
            run: The run, ``hf://OWNER/NAME`` on the Hugging Face hub, an exported ``.onnx`` file
                (for which torch is not imported), or several of these as an ensemble.
            device: ``cpu``, ``cuda``, ``mps`` ..., or None for the best available.
            config: Test-time augmentation and thresholds.

        Raises:
            RunError: There is no such run, or a file of it is missing or damaged.
            ConfigError: The runs have different labels.
        """
        several: Sequence[Source | None]
        several = [run] if run is None or isinstance(run, str | Path | RunFolder) else run
        return cls([open_engine(source, device=device) for source in several], config)

    @property
    def name(self) -> str:
        """Names of its runs, joined by ``+``."""
        return "+".join(engine.metadata.name for engine in self.engines)

    @property
    def preprocessing(self) -> Preprocessing:
        """Preprocessing of the first engine."""
        return self.engines[0].metadata.preprocessing

    @property
    def multi_label(self) -> bool:
        """Whether a photo may have several labels, or none."""
        return self._limits is not None

    def __call__(self, photo: Any, *, crop: Crop | None = None) -> PhotoPrediction:
        """Returns the prediction of a photo: path, bytes, PIL image or ``(H, W, 3) uint8`` pixels.

        Raises:
            DecodeError: The photo cannot be opened.
        """
        return self.predict_images([self.working_images(photo, crop=crop)], names=[name_of(photo)])[
            0
        ]

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
            batch_size: Photos in a batch, of all cores together.
        """
        waiting = iter(photos)
        first = list(itertools.islice(waiting, FEW_PHOTOS))
        cores = min(engine.cores for engine in self.engines)
        everything = itertools.chain(first, waiting)
        if cores == 1 or len(first) < FEW_PHOTOS:
            yield from decode_ahead(
                everything, self._images_or_reason, self._predict, batch_size=batch_size
            )
            return
        size = max(min(SMALLEST_BATCH, batch_size), batch_size // cores)
        with ExitStack() as stack:
            own = copy.copy(self)
            own.engines = tuple(stack.enter_context(e.per_thread()) for e in self.engines)

            def predict(batch: Sequence[Any]) -> list[PhotoPrediction]:
                return own._predict(batch, [own._images_or_reason(photo) for photo in batch])

            yield from batch_per_core(everything, predict, batch_size=size, cores=cores)

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
            self.predict_images([x for _, x in good], names=[name_of(photo) for photo, _ in good])
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
            working_image(photo, preprocessing, crop=crop, max_pixels=self.config.max_pixels)
            for preprocessing in self._distinct_specs()
        )

    def pixels_of(self, photo: Any) -> NDArray[np.uint8]:
        """Returns the working image of a photo for the first engine; raises DecodeError."""
        return self.working_images(photo)[0]

    def predict_images(
        self, photos: Sequence[WorkingImages], names: Sequence[str | None] | None = None
    ) -> list[PhotoPrediction]:
        """Returns one prediction for the images of each photo, in order."""
        if not photos:
            return []
        probabilities, odd = self.probabilities(photos)
        limits = self._limits
        if limits is None:
            found = statuses(probabilities.max(1), odd, sure_from=self.sure_from)
        else:
            # With several labels a photo, 1 stands for one that reaches its threshold.
            found = statuses((probabilities >= limits).any(1), odd, sure_from=1.0)
        return [
            PhotoPrediction(photo=name, status=status, ranked=rank(self.labels, row, limits))
            for name, row, status in zip(
                names or [None] * len(photos), probabilities, found, strict=True
            )
        ]

    def probabilities(
        self, photos: Sequence[WorkingImages]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Returns probabilities ``(N, labels)`` and which photos are unknown, ``(N,)``.

        Views and engines are averaged; a photo is unknown by majority vote.
        """
        stacks = [np.stack(row) for row in zip(*photos, strict=True)]
        total = np.zeros((len(photos), len(self.labels)))
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
            task.limits(len(self.labels))[order]
            for task, order in zip(several, self._orders, strict=True)
        ]
        limits: NDArray[np.float64] = np.maximum(np.mean(own, axis=0), self.config.threshold or 0.0)
        return limits

    def _distinct_specs(self) -> Iterator[Preprocessing]:
        for number in range(len(self._specs)):
            yield self.engines[self._image_of.index(number)].metadata.preprocessing


def open_engine(source: str | Path | RunFolder | None, *, device: str | None = "cpu") -> Engine:
    """Opens a run (a name, a path, None for the newest), one of the hub, or an ``.onnx`` file.

    An ``.onnx`` file runs in onnxruntime without importing torch.

    Args:
        source: Run or file.
        device: Of a run: ``cpu``, ``cuda``, ``mps`` ..., or None for the best available.

    Raises:
        RunError: There is no such run or file, or it is damaged.
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


def batch_per_core(
    photos: Iterator[Photo],
    predict: Callable[[Sequence[Photo]], list[Result]],
    *,
    batch_size: int,
    cores: int,
) -> Iterator[Result]:
    """Yields results in order; each core decodes and predicts batches of its own.

    If all cores share one batch, every layer waits for the slowest core, the one that also decodes.
    """
    with ThreadPoolExecutor(max_workers=cores, thread_name_prefix="predict") as pool:
        ahead: deque[Future[list[Result]]] = deque()

        def submit() -> bool:
            batch = list(itertools.islice(photos, batch_size))
            if batch:
                ahead.append(pool.submit(predict, batch))
            return bool(batch)

        try:
            while len(ahead) <= cores and submit():
                pass
            while ahead:
                done = ahead.popleft().result()
                submit()
                yield from done
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def decode_ahead(
    photos: Iterator[Photo],
    decode: Callable[[Photo], Decoded],
    predict: Callable[[Sequence[Photo], Sequence[Decoded]], list[Result]],
    *,
    batch_size: int,
) -> Iterator[Result]:
    """Yields results in order; threads decode the next batches during the current one."""
    with ThreadPoolExecutor(max(2, usable_cores()), thread_name_prefix="decode") as pool:

        def submit(count: int) -> list[tuple[Photo, Future[Decoded]]]:
            batch = list(itertools.islice(photos, count))
            return [(photo, pool.submit(decode, photo)) for photo in batch]

        # The first batches are small, so that the network need not wait for a full one.
        ahead = deque([submit(min(4, batch_size)), submit(min(16, batch_size))])
        try:
            while ahead:
                batch = ahead.popleft()
                decoded = [future.result() for _, future in batch]
                while len(ahead) < 2 and (more := submit(batch_size)):
                    ahead.append(more)
                yield from predict([photo for photo, _ in batch], decoded)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
