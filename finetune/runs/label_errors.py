"""Likely wrong labels of the collection that a run was trained on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from finetune.curation.label_errors import (
    LabelError,
    find_label_errors,
    find_multi_label_errors,
)
from finetune.data.dataset import PhotoDataset, Sample
from finetune.data.pixel_cache import PixelCache
from finetune.files import collection_cache_dir
from finetune.models.features import FeatureCache
from finetune.photos.split.split import read_split
from finetune.runs.loading import TrainedRun

Progress = Callable[[int, int], None]


def suspects(
    trained: TrainedRun, root: Path, *, progress: Progress | None = None
) -> list[tuple[str, LabelError]]:
    """Returns (path, label error) of a run's photos, the strongest first.

    Heads are cross-validated on the network's features of all photos of the split, near-duplicates
    kept together. If the whole network was trained on these photos, its features depend on their
    labels, and fewer wrong ones are found. Missing photos are left out.

    Args:
        trained: The run.
        root: Where its photos are.
        progress: Called with how many of the features that are new are done, and of how many.

    Raises:
        RunError: The run has no split.csv.
        ConfigError: The labels have too few groups of photos to hold any out.
    """
    several = trained.task.multi_label
    rows = [
        row
        for row in read_split(trained.folder.split_file)
        if (several or len(row.labels) == 1) and (root / row.path).is_file()
    ]
    samples = [Sample(path=r.path, digest=r.digest, crop=None, target=0) for r in rows]
    cache_dir = collection_cache_dir(root)
    with (
        contextlib.closing(PixelCache(cache_dir, trained.preprocessing, limit_gb=10)) as pixels,
        contextlib.closing(
            FeatureCache(cache_dir, trained.module, trained.preprocessing)
        ) as features,
    ):
        photos = PhotoDataset(root, samples, pixels)
        features.fill(photos, progress=progress)
        found = np.asarray(features.read(features.keys(photos)))
    groups = [r.group for r in rows]
    if several:
        check = find_multi_label_errors(found, [r.labels for r in rows], groups)
    else:
        check = find_label_errors(found, [r.labels[0] for r in rows], groups)
    return [(rows[error.position].path, error) for error in check.errors]
