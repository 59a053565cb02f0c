"""One answer for a burst: log probabilities averaged over its frames."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from finetune.errors import ConfigError
from finetune.photos.analyze import Task
from finetune.photos.bursts import MANY_BURSTS, burst_groups, share_of_followers
from finetune.photos.collection import Photo
from finetune.photos.decode.decoder import photo_exif
from finetune.photos.decode.pool import analyze_all
from finetune.prediction.decision import Decision
from finetune.prediction.predictions import Burst, PhotoPrediction, Ranked

SMALLEST = 1e-12
"""Probability below which frames count as equal, so that no frame has a veto by rounding to 0."""

PEEKED = 60
"""Photos whose times are read before bursts are offered."""

FEWEST = 8
"""Number of photos below which bursts are not offered."""


def find_bursts(
    paths: Sequence[Path], *, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[int]:
    """Returns the burst of each photo; one that cannot be opened is its own.

    Args:
        paths: Photos. Each is decoded for its hashes.
        progress: Called as ``progress(done, total)``.
    """
    tasks = [Task(path=str(path)) for path in dict.fromkeys(paths)]
    photos: dict[str, Photo] = {}
    for done, (task, analysis) in enumerate(analyze_all(tasks, None), start=1):
        found = analysis.metadata
        if found is not None:
            photos[task.path] = Photo(
                path=task.path,
                digest=found.digest,
                width=found.width,
                height=found.height,
                taken_at=found.taken_at,
                camera=found.camera,
                packed_hashes=found.hashes,
            )
        progress(done, len(tasks))
    opened = [str(path) for path in dict.fromkeys(paths) if str(path) in photos]
    number_of = dict(zip(opened, burst_groups([photos[path] for path in opened]), strict=True))
    numbers: dict[tuple[str, int | str], int] = {}
    return [
        numbers.setdefault(
            ("burst", number_of[str(path)]) if str(path) in number_of else ("photo", str(path)),
            len(numbers),
        )
        for path in paths
    ]


def has_many_bursts(paths: Sequence[Path]) -> bool:
    """Returns whether many of the first photos follow another one at once, by their EXIF times."""
    if len(paths) < FEWEST:
        return False
    exifs = [photo_exif(path) for path in paths[:PEEKED]]
    return share_of_followers([(one.taken_at, one.camera) for one in exifs]) >= MANY_BURSTS


def mean_of_frames(probabilities: ArrayLike) -> NDArray[np.float64]:
    """Returns the probabilities ``(C,)`` of a burst: ``softmax(mean(log p))`` of ``(frames, C)``.

    Impossible labels, of probability 0 in all frames, stay so.

    Example:
        >>> mean_of_frames([[0.9, 0.1], [0.5, 0.5]]).round(2).tolist()
        [0.75, 0.25]
    """
    shares = np.asarray(probabilities, np.float64)
    logs = np.log(np.maximum(shares, SMALLEST)).mean(axis=0)
    found = np.exp(logs - logs.max()) * (shares > 0).any(axis=0)
    return np.asarray(found / found.sum())


def answer_by_burst(
    predictions: Sequence[PhotoPrediction], bursts: Sequence[int], decision: Decision
) -> list[PhotoPrediction]:
    """Returns predictions in which each frame has the answer of its burst.

    A burst is unknown if most of its frames are. Photos that could not be opened keep the reason.

    Args:
        predictions: Of photos.
        bursts: Burst of each.
        decision: Of the predictor.

    Raises:
        ConfigError: Photos may have several labels: these have no common probabilities.
    """
    if decision.multi_label:
        raise ConfigError("--by burst is for runs of one label a photo.")
    frames: defaultdict[int, list[int]] = defaultdict(list)
    for index, (prediction, burst) in enumerate(zip(predictions, bursts, strict=True)):
        if prediction.error is None:
            frames[burst].append(index)
    found = list(predictions)
    for members in frames.values():
        if len(members) < 2:
            continue
        rows = [_in_order(predictions[index], decision.labels) for index in members]
        odd = np.mean([predictions[index].status == "unknown" for index in members]) > 0.5
        gone = _struck_out([predictions[index] for index in members])
        (answer,) = decision.decide(
            mean_of_frames(rows)[None],
            np.array([odd]),
            [None],
            struck_out=[gone],
            doubtful=np.array([any(predictions[index].doubtful for index in members)]),
        )
        best = max(members, key=lambda index: predictions[index].probability_of(answer.label or ""))
        burst_of = Burst(frames=len(members), best=str(predictions[best].photo))
        for index in members:
            photo = predictions[index].photo
            found[index] = dataclasses.replace(answer, photo=photo, burst=burst_of)
    return found


def _in_order(prediction: PhotoPrediction, labels: Sequence[str]) -> list[float]:
    shares = {item.label: item.probability for item in prediction.ranked}
    return [shares[label] for label in labels]


def _struck_out(frames: Sequence[PhotoPrediction]) -> tuple[Ranked, ...]:
    """Returns the impossible labels of all frames, each with its highest probability."""
    highest: dict[str, Ranked] = {}
    for item in (item for frame in frames for item in frame.struck_out):
        if item.label not in highest or item.probability > highest[item.label].probability:
            highest[item.label] = item
    return tuple(sorted(highest.values(), key=lambda item: -item.probability))
