"""Functions of the commands that work on a collection of photos.

What needs torch is imported when it is called, so that a scan starts at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.config_io import resolve
from finetune.photos.catalog.catalog import open_catalog
from finetune.photos.collection import Collection
from finetune.photos.datasets import export
from finetune.photos.datasets.import_labels import (
    LabelImport,
    apply_import,
    plan_import,
    read_labels,
)
from finetune.photos.near_duplicates.display_groups import (
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

Progress = Callable[[int, int], None]


def scan(
    photos: Path | str, *, catalog: Path | None = None, progress: Progress | None = None
) -> Collection:
    """Returns the photos in a folder with labels, quality and problems; see `finetune scan`.

    Only new and changed files are read.

    Raises:
        CollectionError: The folder is missing, unreadable or without photos.

    Example:
        >>> len(scan("photos"))  # doctest: +SKIP
        288
    """
    return scan_folder(Path(photos), catalog=catalog, progress=progress)


def find_duplicates(
    photos: Path | str,
    *,
    max_distance_bits: int = 8,
    burst_seconds: float | None = None,
    catalog: Path | None = None,
) -> tuple[NearDuplicateGroup, ...]:
    """Returns groups of near-duplicate photos, largest first, the best photo of each first.

    Args:
        photos: The collection's folder.
        max_distance_bits: Most bits, of 64, by which the hashes of near-duplicates differ.
        burst_seconds: Also group frames of one camera with at most this pause; None: do not.
        catalog: Where the catalog is kept; None: in the folder.

    Example:
        >>> find_duplicates("photos")[0].best.path  # doctest: +SKIP
        'heron/0012.jpg'
    """
    rule = NearDuplicateRule(max_distance_bits=max_distance_bits, burst_seconds=burst_seconds)
    return near_duplicate_groups(scan(photos, catalog=catalog).photos, rule)


def find_similar(
    seeds: Sequence[Path | str], pool: Path | str, *, catalog: Path | None = None, **query: Any
) -> Similar:
    """Returns the photos of a folder that look most like a few chosen ones.

    Args:
        seeds: The chosen photos.
        pool: Folder to search.
        catalog: Where its catalog is kept; None: in the folder.
        **query: Fields of `finetune.curation.similar.Query`, such as ``by="hash", top=10``.

    Example:
        >>> find_similar(["heron.jpg"], "archive", top=10).matches  # doctest: +SKIP
    """
    from finetune.curation import similar

    chosen = [Path(seed) for seed in seeds]
    collection = scan(pool, catalog=catalog)
    return similar.find_similar(chosen, collection, similar.Query(**query), catalog=catalog)


def propose_crops(
    photos: Path | str, *, method: Method = "saliency", catalog: Path | None = None
) -> Proposals:
    """Proposes a square crop around the subject of each photo; training uses the crops.

    Crops that a person chose are kept.

    Example:
        >>> len(propose_crops("photos").crops)  # doctest: +SKIP
        271
    """
    from finetune.curation.crop_policy import PolicySpec
    from finetune.curation.crop_proposals import propose_squares

    return propose_squares(Path(photos), PolicySpec(method=method), catalog=catalog)


def split(photos: Path | str, **settings: Any) -> DataSplit:
    """Returns the training, validation and test split that `finetune.train` would use.

    Args:
        photos: The collection's folder.
        **settings: Settings of train, such as ``validation=0.2, seed=1``.

    Raises:
        CollectionError: Too few labels, or too few photos of one.

    Example:
        >>> [row.part for row in split("photos").rows].count("test")  # doctest: +SKIP
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
) -> LabelImport:
    """Imports labels from a CSV file, or from folders of labeled copies, into the catalog.

    Args:
        source: The file or folder.
        photos: The collection's folder.
        overwrite: Also replace labels that a person gave before.
        dry_run: Change nothing.
        catalog: Where the catalog is kept; None: in the folder.

    Returns:
        The changes.

    Example:
        >>> len(import_labels("labels.csv", "photos", dry_run=True).new)  # doctest: +SKIP
        120
    """
    path = Path(source)
    table = read_labels(path)
    collection = scan(photos, catalog=catalog)
    with open_catalog(Path(photos), catalog) as opened:
        plan = plan_import(
            table,
            collection,
            opened.labels_said(),
            beside=path if path.is_dir() else path.parent,
            overwrite=overwrite,
        )
        if not dry_run:
            apply_import(opened, plan)
    return plan


def export_photos(
    photos: Path | str, folder: Path | str, *, catalog: Path | None = None, **options: Any
) -> export.Exported:
    """Writes the photos and labels of a collection to a new folder for other programs.

    Args:
        photos: The collection's folder.
        folder: A new folder outside of it.
        catalog: Where the catalog is kept; None: in the folder.
        **options: Fields of `finetune.photos.datasets.export.ExportOptions`, such as
            ``layout="csv"``.

    Example:
        >>> export_photos("photos", "copy", layout="csv").files  # doctest: +SKIP
        288
    """
    collection = scan(photos, catalog=catalog)
    return export.export_photos(collection, Path(folder), export.ExportOptions(**options))
