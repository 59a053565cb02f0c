"""Functions that work on a collection of photos.

Torch is imported only by the functions that need it, so that a scan starts at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.config_io import resolve
from finetune.photos.catalog.catalog import open_catalog
from finetune.photos.collection import Collection
from finetune.photos.datasets import export
from finetune.photos.datasets import import_labels as label_import
from finetune.photos.near_duplicates.groups import (
    NearDuplicateGroup,
    near_duplicate_groups,
)
from finetune.photos.near_duplicates.pairs import NearDuplicateRule
from finetune.photos.scan import scan as scan_folder

if TYPE_CHECKING:
    from finetune.curation.crop_policy import Method
    from finetune.curation.crop_proposals import Proposals
    from finetune.curation.similar import Similar
    from finetune.tasks.data_split import DataSplit


def scan(
    photos: Path | str,
    *,
    catalog: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Collection:
    """Returns the photos in a folder with their labels, quality and problems.

    Raises:
        CollectionError: The folder is missing, unreadable or without photos.

    Example:
        >>> len(scan("photos").photos)
        288
    """
    return scan_folder(Path(photos), catalog=catalog, progress=progress)


def find_duplicates(
    photos: Path | str, *, catalog: Path | None = None, **rule: Any
) -> tuple[NearDuplicateGroup, ...]:
    """Returns groups of near-duplicate photos, largest first, the best photo of each first.

    Args:
        photos: The collection's folder.
        catalog: Where the catalog is kept; None: in the folder.
        **rule: Fields of `NearDuplicateRule`, such as ``max_distance_bits=8, burst_seconds=30``.

    Example:
        >>> find_duplicates("photos")[0].best.path
        'Crow/crow-0007.jpg'
    """
    found = scan(photos, catalog=catalog)
    return near_duplicate_groups(
        found.photos, NearDuplicateRule(**rule), other_names=found.other_names
    )


def find_similar(
    seeds: Sequence[Path | str], photos: Path | str, *, catalog: Path | None = None, **query: Any
) -> Similar:
    """Returns the photos of a folder that look most like a few chosen ones.

    Args:
        seeds: The chosen photos.
        photos: Folder to search.
        catalog: Where its catalog is kept; None: in the folder.
        **query: Fields of `finetune.curation.similar.Query`, such as ``by="hash", top=10``.

    Example:
        >>> len(find_similar(["unseen/unseen_01.jpg"], "photos", by="hash", top=3).matches)
        3
    """
    from finetune.curation import similar

    chosen = [Path(seed) for seed in seeds]
    pool = scan(photos, catalog=catalog)
    return similar.find_similar(chosen, pool, similar.Query(**query), catalog=catalog)


def propose_crops(
    photos: Path | str, *, method: Method = "saliency", catalog: Path | None = None
) -> Proposals:
    """Proposes a square crop around the subject of each photo; training uses the crops.

    Crops set by a person are kept.

    Example:
        >>> len(propose_crops("photos", method="center").crops)
        288
    """
    from finetune.curation import crop_policy, crop_proposals

    config = crop_policy.CropPolicyConfig(method=method)
    return crop_proposals.propose_crops(Path(photos), config, catalog=catalog)


def split(photos: Path | str, **settings: Any) -> DataSplit:
    """Returns the training, validation and test split that `finetune.train` would use.

    Args:
        photos: The collection's folder.
        **settings: Settings of `finetune.train`, such as ``validation=0.2, seed=1``.

    Raises:
        CollectionError: Too few labels, or too few photos of one.

    Example:
        >>> [row.part for row in split("photos").rows].count("test")
        43
    """
    from finetune.tasks.data_split import split_collection

    config = resolve({}, settings)
    collection = scan(photos, catalog=config.collection.catalog)
    return split_collection(
        collection, config.collection, seed=config.machine.seed, labels=config.labels
    )


def import_labels(
    source: Path | str,
    photos: Path | str,
    *,
    overwrite: bool = False,
    dry_run: bool = False,
    catalog: Path | None = None,
) -> label_import.LabelImport:
    """Imports labels from a table, or from folders of labeled copies, and returns the changes.

    Args:
        source: A CSV or JSON Lines file, or a folder.
        photos: The collection's folder.
        overwrite: Also replace labels assigned before.
        dry_run: Change nothing.
        catalog: Where the catalog is kept; None: in the folder.

    Example:
        >>> import_labels("photos", "photos", dry_run=True).same
        282
    """
    path = Path(source)
    table = label_import.read_labels(path)
    collection = scan(photos, catalog=catalog)
    with open_catalog(Path(photos), catalog) as opened:
        plan = label_import.plan_import(
            table,
            collection,
            opened.assigned_labels(),
            beside=path if path.is_dir() else path.parent,
            overwrite=overwrite,
        )
        if not dry_run:
            label_import.apply_import(opened, plan)
    return plan


def export_photos(
    photos: Path | str, folder: Path | str, *, catalog: Path | None = None, **options: Any
) -> export.Exported:
    """Writes the photos and labels of a collection to a new folder for other programs.

    Args:
        photos: The collection's folder.
        folder: A new folder outside of it.
        catalog: Where the catalog is kept; None: in the folder.
        **options: Fields of `finetune.photos.datasets.export.ExportOptions`.

    Example:
        >>> export_photos("photos", "copy", layout="csv").files
        288
    """
    collection = scan(photos, catalog=catalog)
    return export.export_photos(collection, Path(folder), export.ExportOptions(**options))
