"""Trained runs, ready to say what is on a photo."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from finetune.errors import ConfigError
from finetune.photos.crops import Crop
from finetune.photos.decode.decoder import MAX_PIXELS, decode_photo
from finetune.photos.preprocessing import Preprocessing
from finetune.prediction import stream
from finetune.prediction.engine import Engine, open_engine
from finetune.prediction.inputs import (
    Views,
    check_views,
    name_of,
    source_of,
    views_of,
    working_square,
)
from finetune.prediction.predictions import PhotoPrediction, Ranked, rank
from finetune.runs.folder import RunFolder
from finetune.tasks.task import MultiLabel

if TYPE_CHECKING:
    from finetune.curation.crop_policy import CropPolicy

__all__ = ["PredictConfig", "PhotoPrediction", "Predictor", "Ranked"]

BATCH_SIZE = 32

Squares = tuple[NDArray[np.uint8], ...]
"""One photo's working squares, one for each way in which the engines want their pixels."""

Source = str | Path | RunFolder


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """How a predictor makes an answer of probabilities.

    Attributes:
        views: Views of a photo that are averaged: 1, 2 or 10; see `finetune.prediction.inputs`.
        threshold: Below this probability of the likeliest label the answer is "none of these"; of
            several labels, none below it is said.
        heed_unknown: Whether to heed the threshold that the run itself fitted for that.
        max_pixels: A photo with more pixels is refused.

    Raises:
        ConfigError: A value is out of bounds.
    """

    views: Views = 1
    threshold: float = 0.0
    heed_unknown: bool = True
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        check_views(self.views)
        if not 0 <= self.threshold <= 1:
            raise ConfigError(f"--threshold {self.threshold:g} must lie between 0 and 1.")


class Predictor:
    """One run, or several whose probabilities are averaged. May be called from several threads.

    Args:
        engines: The networks; all know the same labels, in any order.
        answering: How their probabilities become answers.

    Raises:
        ConfigError: No engine, or engines of different labels.

    Example:
        >>> from finetune import Predictor
        >>> predictor = Predictor.load("runs/garden")  # doctest: +SKIP
        >>> predictor("photo.jpg").label  # doctest: +SKIP
        'wren'
    """

    def __init__(self, engines: Sequence[Engine], answering: PredictConfig | None = None) -> None:
        if not engines:
            raise ConfigError("A predictor needs one run at least.")
        self.engines = tuple(engines)
        self.answering = answering or PredictConfig()
        self.labels = self.engines[0].metadata.labels
        self._orders = [_order(self.engines[0], engine) for engine in self.engines]
        self._limits = self._said_from()
        specs = [_pixels_key(engine.metadata.preprocessing) for engine in self.engines]
        # Engines that want the same pixels share one decoded square.
        self._specs = list(dict.fromkeys(specs))
        self._square_of = [self._specs.index(key) for key in specs]
        self._policy: CropPolicy | None = None
        if self.engines[0].metadata.crop_policy is not None:
            # Only where a run was trained on squares: this loads the backbone that finds them.
            from finetune.curation.crop_policy import PolicySpec, load_policy

            self._policy, _ = load_policy(
                PolicySpec.from_dict(self.engines[0].metadata.crop_policy)
            )

    @classmethod
    def load(
        cls,
        run: Source | Sequence[Source] | None = None,
        *,
        device: str | None = "cpu",
        answering: PredictConfig | None = None,
    ) -> Predictor:
        """Opens a run: a name in ``./runs``, a path, or None for the newest. Runs no code of it.

        Args:
            run: The run, an exported ``.onnx`` file (for which torch is not imported), or several
                of these, which answer together.
            device: ``cpu``, ``cuda``, ``mps`` ..., or None for the best that is there.
            answering: How probabilities become answers.

        Raises:
            RunError: There is no such run, or a file of it is missing or damaged.
            ConfigError: The runs know different labels.
        """
        several: Sequence[Source | None]
        several = [run] if run is None or isinstance(run, str | Path | RunFolder) else run
        return cls([open_engine(source, device=device) for source in several], answering)

    @property
    def name(self) -> str:
        """The names of its runs, joined by ``+``."""
        return "+".join(engine.metadata.name for engine in self.engines)

    @property
    def preprocessing(self) -> Preprocessing:
        """What the first engine expects of its pixels."""
        return self.engines[0].metadata.preprocessing

    @property
    def multi_label(self) -> bool:
        """Whether a photo may have several labels, or none."""
        return self._limits is not None

    def __call__(self, photo: Any, *, crop: Crop | None = None) -> PhotoPrediction:
        """Returns what is on one photo: a path, bytes, a PIL image or ``(H, W, 3) uint8`` pixels.

        Raises:
            DecodeError: The photo cannot be opened.
        """
        return self.answers([self.squares_of(photo, crop=crop)], names=[name_of(photo)])[0]

    def predict_batch(self, photos: Sequence[Any]) -> list[PhotoPrediction]:
        """Returns one prediction a photo, in their order; a bad one has its reason."""
        return list(self.predict_stream(photos))

    def predict_stream(
        self, photos: Iterable[Any], *, batch_size: int = BATCH_SIZE
    ) -> Iterator[PhotoPrediction]:
        """Yields one prediction a photo, in their order, in memory for three batches.

        `photos` may be endless: it is read no further than that. On a CPU each core decodes and
        answers a batch of its own; before a GPU photos are decoded while it works on others.

        Args:
            photos: As for a single one.
            batch_size: Photos that the networks are given at once, by all cores together.
        """
        return stream.predict_stream(self, photos, batch_size=batch_size)

    def squares_of(self, photo: Any, *, crop: Crop | None = None) -> Squares:
        """Returns the working squares ``(S, S, 3) uint8`` of a photo, made as in training.

        Raises:
            DecodeError: The photo cannot be opened.
        """
        if isinstance(photo, (bytearray, memoryview)):
            photo = bytes(photo)
        if crop is None and self._policy is not None:
            source = source_of(photo)
            if not isinstance(source, np.ndarray):
                # The policy decodes by itself: what is too large is refused before it does.
                decode_photo(source, min_side_pixels=1, max_pixels=self.answering.max_pixels)
            crop = self._policy(source)
        return tuple(
            working_square(photo, preprocessing, crop=crop, max_pixels=self.answering.max_pixels)
            for preprocessing in self._distinct_specs()
        )

    def pixels_of(self, photo: Any) -> NDArray[np.uint8]:
        """Returns the working square of a photo for the first engine; raises DecodeError."""
        return self.squares_of(photo)[0]

    def answers(
        self, photos: Sequence[Squares], names: Sequence[str | None] | None = None
    ) -> list[PhotoPrediction]:
        """Returns one prediction for each photo's squares, in their order."""
        if not photos:
            return []
        probabilities, refused = self.probabilities(photos)
        limits = self._limits
        if limits is None:
            unknown = refused | (probabilities.max(1) < self.answering.threshold)
        else:
            unknown = refused | ~(probabilities >= limits).any(1)
        return [
            PhotoPrediction(
                photo=name, status="ok", ranked=rank(self.labels, row, limits), unknown=bool(odd)
            )
            for name, row, odd in zip(
                names or [None] * len(photos), probabilities, unknown, strict=True
            )
        ]

    def probabilities(
        self, photos: Sequence[Squares]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Returns probabilities ``(N, labels)`` and whether the runs refuse a photo, ``(N,)``.

        Views and engines are averaged; a photo is refused where more than half of all views and
        engines refuse it.
        """
        stacks = [np.stack(row) for row in zip(*photos, strict=True)]
        total = np.zeros((len(photos), len(self.labels)))
        votes = np.zeros(len(photos))
        for engine, order, which in zip(self.engines, self._orders, self._square_of, strict=True):
            metadata = engine.metadata
            for view in views_of(stacks[which], metadata.preprocessing.size, self.answering.views):
                limit = metadata.unknown if self.answering.heed_unknown else None
                distances = None
                if limit is not None and limit.needs_features:
                    logits, features = engine.logits_and_features(view)
                    distances = limit.distances(features)
                else:
                    logits = engine.logits(view)
                total += metadata.task.probabilities(logits)[:, order]
                if limit is not None:
                    scores = limit.scores(logits, distances, temperature=metadata.temperature)
                    votes += limit.refuses(scores)
        asked = len(self.engines) * self.answering.views
        return total / asked, votes > asked / 2

    def _said_from(self) -> NDArray[np.float64] | None:
        """Returns from which probability each label is said; None where a photo has just one.

        Several engines answer by the mean of their probabilities, and so of their thresholds.
        """
        tasks = [engine.metadata.task for engine in self.engines]
        several = [task for task in tasks if isinstance(task, MultiLabel)]
        if not several:
            return None
        if len(several) < len(tasks):
            one = next(e for e in self.engines if not e.metadata.task.multi_label)
            other = next(e for e in self.engines if e.metadata.task.multi_label)
            raise ConfigError(
                f"--run {one.metadata.name} and --run {other.metadata.name} cannot answer together: the "
                "one says a single label of a photo, the other several."
            )
        own = [
            task.limits(len(self.labels))[order]
            for task, order in zip(several, self._orders, strict=True)
        ]
        limits: NDArray[np.float64] = np.maximum(np.mean(own, axis=0), self.answering.threshold)
        return limits

    def _distinct_specs(self) -> Iterator[Preprocessing]:
        for number in range(len(self._specs)):
            yield self.engines[self._square_of.index(number)].metadata.preprocessing


def _pixels_key(preprocessing: Preprocessing) -> tuple[int, str, str]:
    return preprocessing.working_size, preprocessing.fit, preprocessing.interpolation


def _order(first: Engine, other: Engine) -> list[int]:
    """Returns where in the other's outputs the first one's labels are."""
    mine, theirs = first.metadata, other.metadata
    strange = sorted(set(mine.labels) ^ set(theirs.labels))
    if strange:
        raise ConfigError(
            f"--run {mine.name} and --run {theirs.name} cannot answer together: only one of them "
            f"knows the label '{strange[0]}'."
        )
    return [theirs.labels.index(label) for label in mine.labels]
