"""Decision on photos: from calibrated probabilities to a status, an ancestor, and ranked labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune.config import FALSE_ALARMS, PRECISION
from finetune.errors import ConfigError
from finetune.evaluation.hierarchy import Ancestor, Hierarchy
from finetune.evaluation.precision_curve import Claim
from finetune.evaluation.status import statuses, sure_threshold
from finetune.photos.crops import DRAFT_MARGIN
from finetune.photos.decode.decoder import MAX_PIXELS
from finetune.prediction.engine import ModelMetadata
from finetune.prediction.inputs import TTA, check_tta
from finetune.prediction.predictions import MOST_STRUCK_OUT, PhotoPrediction, Ranked, rank
from finetune.prediction.restriction import Restriction


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Test-time augmentation, thresholds and possible labels of a predictor.

    Attributes:
        tta: Views of a photo to average: 1, 2 or 10; see `finetune.prediction.inputs`.
        precision: Share of the sure predictions that should be right.
        false_alarms: Share of the photos of known labels that may be taken for unknown; 0: no
            photo is unknown.
        threshold: Probability from which a prediction is sure; None: by the precision.
        level: Level of a tree of labels to predict, by its name or its number from the top; None:
            the labels.
        only: Possible labels; None: all.
        max_pixels: Maximum pixels of a photo; larger ones are rejected.
        decode_margin: Minimum ratio of the decoded size of a JPEG to the needed one, from 1 to 2;
            2, as in training, is exact, and less is faster.

    Raises:
        ConfigError: A value is out of bounds.
    """

    tta: TTA = 1
    precision: float = PRECISION
    false_alarms: float = FALSE_ALARMS
    threshold: float | None = None
    level: str | None = None
    only: Restriction | None = None
    max_pixels: int = MAX_PIXELS
    decode_margin: float = DRAFT_MARGIN

    def __post_init__(self) -> None:
        check_tta(self.tta)
        if not 1 <= self.decode_margin <= DRAFT_MARGIN:
            raise ConfigError(
                f"--decode-margin {self.decode_margin:g} must lie between 1 and {DRAFT_MARGIN}."
            )
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


class Decision:
    """Turns probabilities into predictions by the thresholds of one run, or of several.

    Args:
        metadata: Of each run.
        config: Thresholds.
        limits: Thresholds ``(C,)`` of the labels, where a photo may have several.

    Attributes:
        labels: In class order; with a level, its nodes.
        hierarchy: Tree of the labels, for answers above these; None without one, with a level, or
            with several runs.
        sure_from: Probability from which a label is sure; None: none is.
        measured: Whether sure predictions are those of a measured precision.
        claim: The claim, if there is one.

    Raises:
        ConfigError: There is no such level, or no label is possible.
    """

    def __init__(
        self,
        metadata: Sequence[ModelMetadata],
        config: PredictConfig,
        limits: NDArray[np.float64] | None,
    ) -> None:
        self.config = config
        self.labels = self._leaves = metadata[0].labels
        self._limits = limits
        self.restriction = None
        if config.only is not None:
            if limits is not None:
                raise ConfigError(
                    f"--only {config.only.source} is for runs of one label a photo: the "
                    "probabilities of several labels do not add up to 1."
                )
            self.restriction = config.only.of_labels(self.labels)
        curves = [one.sure for one in metadata]
        tree = metadata[0].hierarchy if len(metadata) == 1 else None
        self._level: tuple[Hierarchy, int] | None = None
        if config.level is not None:
            tree, level = _tree_level(metadata, config.level)
            if level < len(tree.curves):
                self._level = tree, level
                self.labels = tree.taxonomy.nodes[level]
                curves = [tree.curves[level]]
            tree = None
        self.hierarchy = tree
        detectors = [one.unknown for one in metadata]
        sure_from, claim = sure_threshold(curves, detectors, config.precision)
        threshold = config.threshold
        self.measured = len(metadata) == 1 and metadata[0].sure is not None and threshold is None
        self.claim: Claim | None = claim if self.measured else None
        self.sure_from = sure_from if threshold is None else threshold

    @property
    def multi_label(self) -> bool:
        """Whether a photo may have several labels, or none."""
        return self._limits is not None

    def predict(
        self,
        probabilities: NDArray[np.float64],
        unknown: NDArray[np.bool_],
        names: Sequence[str | None],
        possible: NDArray[np.bool_] | None = None,
    ) -> list[PhotoPrediction]:
        """Returns the predictions of photos.

        Args:
            probabilities: Of a run's labels, ``(N, C)``.
            unknown: ``(N,)``, whether a photo is unlike all that was learned.
            names: Paths of the photos.
            possible: ``(N, C)``, the labels that are possible for each photo; None: all.
        """
        struck_out: Sequence[tuple[Ranked, ...]] = [()] * len(probabilities)
        doubtful = np.zeros(len(probabilities), bool)
        if possible is not None:
            before, probabilities = probabilities, restricted(probabilities, possible)
            doubtful = (before * ~possible).sum(axis=1) > MOST_STRUCK_OUT
            struck_out = [
                tuple(one for one in rank(self._leaves, row * ~allowed) if one.probability > 0)
                for row, allowed in zip(before, possible, strict=True)
            ]
        if self._level is not None:
            tree, level = self._level
            probabilities = tree.taxonomy.at(level, probabilities)
        return self.decide(probabilities, unknown, names, struck_out=struck_out, doubtful=doubtful)

    def decide(
        self,
        probabilities: NDArray[np.float64],
        unknown: NDArray[np.bool_],
        names: Sequence[str | None],
        *,
        struck_out: Sequence[tuple[Ranked, ...]],
        doubtful: NDArray[np.bool_],
    ) -> list[PhotoPrediction]:
        """Returns the predictions of photos from final probabilities.

        Args:
            probabilities: Of `labels`, ``(N, labels)``.
            unknown: As for `predict`.
            names: As for `predict`.
            struck_out: Impossible labels of each photo with the probabilities they had.
            doubtful: ``(N,)``, photos that are never sure.
        """
        limits = self._limits
        if limits is None:
            confidence = np.where(doubtful, -1.0, probabilities.max(axis=1))
            found = statuses(confidence, unknown, sure_from=self.sure_from)
        else:
            # With several labels a photo, 1 stands for one that reaches its threshold.
            found = statuses((probabilities >= limits).any(axis=1), unknown, sure_from=1.0)
        ancestors: Sequence[Ancestor | None] = [None] * len(probabilities)
        if self.hierarchy is not None:
            unsure = np.array([status == "unsure" for status in found], bool)
            precision = self.claim.precision if self.claim else self.config.precision
            ancestors = self.hierarchy.roll_up(
                probabilities, ~unsure | doubtful, precision, threshold=self.config.threshold
            )
        return [
            PhotoPrediction(
                photo=name,
                status=status,
                ranked=rank(self.labels, row, limits),
                ancestor=ancestor,
                struck_out=gone,
            )
            for name, row, status, ancestor, gone in zip(
                names, probabilities, found, ancestors, struck_out, strict=True
            )
        ]


def restricted(
    probabilities: NDArray[np.float64], possible: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Returns probabilities ``(N, C)`` of the possible labels, which add up to 1 again.

    Where no label is possible, or all possible ones have the probability 0, nothing is known, and
    each possible label (else each label) has the same.
    """
    kept = probabilities * possible
    total = kept.sum(axis=1, keepdims=True)
    even = np.where(possible.any(axis=1, keepdims=True), possible, True).astype(np.float64)
    even /= even.sum(axis=1, keepdims=True)
    found: NDArray[np.float64] = np.where(total > 0, kept / np.where(total > 0, total, 1), even)
    return found


def _tree_level(metadata: Sequence[ModelMetadata], name: str) -> tuple[Hierarchy, int]:
    """Returns the tree of a run's labels and the index of one of its levels.

    Raises:
        ConfigError: There is no such level, no tree, or several runs.
    """
    tree = metadata[0].hierarchy
    if len(metadata) > 1:
        raise ConfigError(f"--level {name} needs a single --run.")
    if tree is None:
        raise ConfigError(
            f"--level {name}: the labels of {metadata[0].name} have no levels above them. Put the "
            "label folders into folders of groups, or write taxonomy.csv beside them, and train "
            "again."
        )
    levels = [level.casefold() for level in tree.taxonomy.levels]
    wanted = name.strip().casefold()
    if wanted.isdecimal() and 1 <= int(wanted) <= len(levels):
        return tree, int(wanted) - 1
    if wanted not in levels:
        raise ConfigError(
            f"--level {name} is none of the levels of {metadata[0].name}: "
            f"{', '.join(tree.taxonomy.levels)}."
        )
    return tree, levels.index(wanted)
