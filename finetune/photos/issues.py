"""Issues of a collection, with advice, found before any training."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low
from typing import Literal

from finetune.formatting import count
from finetune.photos.collection import Collection, Photo
from finetune.photos.labels import (
    NO_PARTS,
    beside_parts,
    find_parts,
    label_twins,
    nfc,
    photo_counts,
)
from finetune.photos.near_duplicates.groups import (
    Components,
    NearDuplicateGroup,
    component_members,
    near_duplicate_groups,
)
from finetune.photos.near_duplicates.pairs import (
    BURST_SECONDS,
    NearDuplicateRule,
    burst_pairs,
    compute_fingerprints,
)
from finetune.photos.quality import Fault, faults

Kind = Literal[
    "beside_parts",
    "two_labels",
    "leak",
    "unreadable",
    "similar_labels",
    "one_folder",
    "two_folders",
    "few_photos",
    "imbalance",
    "unlabeled",
    "exact_duplicates",
    "near_duplicates",
    "mirror_images",
    "bursts",
    "dark",
    "bright",
    "plain",
    "blurred",
    "tiny",
    "long",
    "value_range",
    "other_names",
    "other_kinds",
]
"""Kind of an issue, the most harmful first."""

FEW_PHOTOS = 10
"""Number of photos below which a label's metrics are unreliable."""

IMBALANCE_RATIO = 10
"""Smallest ratio of photos between the largest and the smallest label that is an issue."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """Photos that belong together in an issue.

    Attributes:
        paths: Paths below the root; empty if the issue is about labels.
        note: A reason, the labels, or a count.
    """

    paths: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Issue:
    """One kind of issue with all its photos.

    Attributes:
        title: A sentence with the count.
        advice: The next step.
    """

    kind: Kind
    title: str
    advice: str
    items: tuple[Item, ...]


ADVICE: Mapping[Kind, str] = {
    "beside_parts": "Move it out of the collection, or into one of the parts; until then training "
    "stops.",
    "two_labels": "One of the labels is wrong, or both fit: decide with 'finetune annotate', or "
    "delete the wrong file.",
    "leak": "A photo used in training cannot test the model: delete one side, or "
    "move all photos out of the part folders and let finetune split them.",
    "unreadable": "They are left out of everything. Export them again, or delete them.",
    "similar_labels": "If they mean the same, rename one folder to the other's name.",
    "one_folder": "To leave it out of the labels, give that folder instead of the one above it.",
    "two_folders": "They count as one label. Nothing needs to be done.",
    "few_photos": "Add photos, or leave these labels out with --min-photos.",
    "imbalance": "Add photos to the small labels; a model may otherwise forget them.",
    "unlabeled": "Put them into a folder that names what they show, or label them with "
    "'finetune annotate'.",
    "exact_duplicates": "When finetune splits, copies stay together. To clear them out: "
    "'finetune duplicates --quarantine DIR'.",
    "near_duplicates": "When finetune splits, they stay together. To look at them and clear them "
    "out: 'finetune duplicates'.",
    "mirror_images": "When finetune splits, they stay together. One of each is enough: "
    "augmentation mirrors photos anyway.",
    "bursts": "When finetune splits, they stay together; each counts as one scene.",
    "dark": "Delete photos that you could not name either.",
    "bright": "Delete photos that you could not name either.",
    "plain": "They show next to nothing: delete them.",
    "blurred": "Delete photos that you could not name either; a few do no harm.",
    "tiny": "Find larger versions; enlarging adds nothing.",
    "long": "A crop shows a small part of them: choose it with 'finetune crop', or keep all with "
    "--fit pad.",
    "value_range": "They are read with that range. If one looks wrong in 'finetune annotate', "
    "export it again with 8 bits.",
    "other_names": "Each counts as one photo. Nothing needs to be done.",
    "other_kinds": "They are not read. Export raw photos as JPEG to use them.",
}

_FAULTS: Mapping[Fault, str] = {
    "dark": "too dark",
    "bright": "too bright",
    "plain": "plain",
    "blurred": "blurred",
    "tiny": "tiny",
    "long": "very long",
}


def find_issues(collection: Collection, *, max_distance_bits: int = 8) -> tuple[Issue, ...]:
    """Returns the issues of a collection, the most harmful first.

    Args:
        collection: A scanned collection.
        max_distance_bits: Maximum distance of the perceptual hashes of near-duplicates.

    Raises:
        ConfigError: `max_distance_bits` is out of bounds.
    """
    groups = near_duplicate_groups(
        collection.photos,
        NearDuplicateRule(max_distance_bits=max_distance_bits),
        other_names=collection.other_names,
    )
    found = [
        *_about_groups(collection, groups),
        *_about_labels(collection),
        *_about_files(collection),
    ]
    order = list(ADVICE)
    return tuple(sorted(found, key=lambda issue: order.index(issue.kind)))


def _about_groups(collection: Collection, groups: Sequence[NearDuplicateGroup]) -> Iterator[Issue]:
    contradicting = [group for group in groups if group.contradicts]
    if contradicting:
        items = [_labeled_item(group) for group in contradicting]
        yield _issue(
            "two_labels", items, count(len(items), "photo is", "photos are"), "under two labels"
        )
    if collection.has_parts:
        leaking = [group for group in groups if len({i.photo.part for i in group.photos}) > 1]
        if leaking:
            items = [_group_item(group) for group in leaking]
            title = count(len(items), "photo is", "photos are")
            yield _issue("leak", items, title, "in more than one part")
    copies = [
        Item(paths=tuple(photo.path for photo in same))
        for same in _copies([p for p in collection.photos if p.path not in collection.other_names])
    ]
    if copies:
        extra = sum(len(item.paths) - 1 for item in copies)
        yield _issue("exact_duplicates", copies, count(extra, "file is a copy", "files are copies"))
    for kind, sort, text in (
        ("near_duplicates", "similar", "of nearly the same photo"),
        ("mirror_images", "mirror", "of a photo and its mirror image"),
    ):
        chosen = [group for group in groups if any(i.kind == sort for i in group.photos)]
        if chosen:
            items = [_group_item(group) for group in chosen]
            title = count(len(items), "group", "groups")
            yield _issue(kind, items, title, text)  # type: ignore[arg-type] # both are kinds
    bursts = _bursts(collection.photos)
    if bursts:
        yield _issue("bursts", bursts, count(len(bursts), "burst", "bursts"), "of one camera")


def _about_labels(collection: Collection) -> Iterator[Issue]:
    counts = photo_counts(collection.photos)
    spellings = label_twins(collection.labels)
    if spellings:
        items = [Item(note=" / ".join(map(repr, names))) for names in spellings]
        title = count(len(items), "pair of labels differs", "sets of labels differ")
        yield _issue("similar_labels", items, title, "in case, blanks or punctuation alone")
    outer = {photo.path.partition("/")[0] for photo in collection.photos}
    nested = all(photo.path.count("/") > 1 for photo in collection.photos)
    if len(outer) == 1 and nested and not collection.has_parts and len(counts) > 1:
        items = [Item(note=repr(name)) for name in outer]
        yield _issue("one_folder", items, "All photos lie below one folder,", "part of each label")
    folders = _folders_of_one_label(collection)
    if folders:
        items = [Item(note=f"{label!r}: {len(names)} folders") for label, names in folders]
        title = count(len(items), "label has a folder", "labels have a folder")
        yield _issue("two_folders", items, title, "in each of two Unicode spellings")
    few = [label for label, n in counts.items() if n < FEW_PHOTOS]
    if few:
        items = [Item(note=f"{label!r}: {count(counts[label], 'photo')}") for label in few]
        title = count(len(few), "label has", "labels have")
        yield _issue("few_photos", items, title, f"fewer than {FEW_PHOTOS} photos")
    if counts and max(counts.values()) >= IMBALANCE_RATIO * min(counts.values()):
        largest = max(counts, key=counts.__getitem__)
        smallest = min(counts, key=counts.__getitem__)
        ratio = counts[largest] / counts[smallest]
        items = [
            Item(note=f"{name!r}: {count(counts[name], 'photo')}") for name in (largest, smallest)
        ]
        yield _issue(
            "imbalance",
            items,
            f"The largest label has {ratio:.0f} times the photos",
            "of the smallest",
        )
    # A photo that was answered with "none of the labels" waits for nothing.
    bare = [photo.path for photo in collection.photos if not photo.labels and not photo.confirmed]
    if bare and counts:
        items = [Item(paths=(path,)) for path in bare]
        yield _issue("unlabeled", items, count(len(bare), "photo has", "photos have"), "no label")


def _about_files(collection: Collection) -> Iterator[Issue]:
    beside = beside_parts(collection)
    if beside:
        items = [Item(note=repr(folder)) for folder in beside]
        title = count(len(items), "folder lies", "folders lie")
        yield _issue("beside_parts", items, title, "beside the ready-made parts")
    if collection.other_names:
        names = sorted(collection.other_names.items())
        items = [Item(paths=(path,), note=f"another name of {own}") for path, own in names]
        title = count(len(items), "file is a link to", "files are links to")
        yield _issue("other_names", items, title, "another photo of the collection")
    if collection.other_kinds:
        kinds = sorted(collection.other_kinds.items())
        items = [Item(note=f".{kind}: {count(number, 'file')}") for kind, number in kinds]
        title = count(sum(collection.other_kinds.values()), "camera file is", "camera files are")
        yield _issue("other_kinds", items, title, "of a kind that is not read")
    if collection.problems:
        items = [Item(paths=(bad.path,), note=bad.reason) for bad in collection.problems]
        title = count(len(items), "file", "files")
        yield _issue("unreadable", items, title, "cannot be opened")
    ranges = [photo for photo in collection.photos if photo.value_range is not None]
    if ranges:
        items = [Item(paths=(photo.path,), note=photo.value_range or "") for photo in ranges]
        title = count(len(items), "photo has", "photos have")
        yield _issue("value_range", items, title, "another range of values than its format")
    by_fault: defaultdict[Fault, list[Item]] = defaultdict(list)
    for photo in collection.photos:
        for fault in faults(photo.quality, photo.width, photo.height):
            note = f"{photo.width} x {photo.height}" if fault in ("tiny", "long") else ""
            by_fault[fault].append(Item(paths=(photo.path,), note=note))
    for fault, items in by_fault.items():
        title = count(len(items), "photo is", "photos are")
        yield _issue(fault, items, title, _FAULTS[fault])


def _issue(kind: Kind, items: Iterable[Item], *title: str) -> Issue:
    return Issue(kind=kind, title=" ".join(title) + ".", advice=ADVICE[kind], items=tuple(items))


def _group_item(group: NearDuplicateGroup) -> Item:
    return Item(paths=tuple(item.photo.path for item in group.photos))


def _labeled_item(group: NearDuplicateGroup) -> Item:
    """Returns a group with several labels, and the number of photos of each."""
    counts = Counter(label for item in group.photos for label in item.photo.labels)
    note = ", ".join(f"{label} ({n})" for label, n in sorted(counts.items()))
    return Item(paths=tuple(item.photo.path for item in group.photos), note=note)


def _copies(photos: Sequence[Photo]) -> list[list[Photo]]:
    by_digest = defaultdict(list)
    for photo in photos:
        by_digest[photo.digest].append(photo)
    return [same for same in by_digest.values() if len(same) > 1]


def _bursts(photos: Sequence[Photo]) -> list[Item]:
    rule = NearDuplicateRule()
    pairs = burst_pairs(
        compute_fingerprints(photos), within_seconds=BURST_SECONDS, max_bits=rule.burst_bits
    )
    joined = Components(len(photos))
    joined.join(pairs[:, 0], pairs[:, 1])
    found = []
    for part in component_members(joined.ids()):
        frames = sorted((photos[index] for index in part.tolist()), key=lambda f: f.taken_at or "")
        if len({frame.digest for frame in frames}) > 1:
            note = f"{frames[0].camera or 'unknown camera'}, {frames[0].taken_at}"
            found.append(Item(paths=tuple(frame.path for frame in frames), note=note))
    return found


def _folders_of_one_label(collection: Collection) -> list[tuple[str, set[str]]]:
    """Returns the folders whose names are one label in NFC, in two spellings on disk."""
    spelled = defaultdict(set)
    for photo in collection.photos:
        spelled[nfc(photo.folder)].add(photo.folder)
    return [(label, names) for label, names in spelled.items() if len(names) > 1]


UNLABELED = ""
"""Label of the row of photos without a label."""


@dataclass(frozen=True, kw_only=True)
class LabelRow:
    """Summary of one label.

    Attributes:
        label: The label; `UNLABELED` for photos that have none.
        photos: Photos that can be opened.
        groups: Groups of two or more near-duplicates.
        scenes: Distinct photos: each group counts once.
        bad: Files in the label's folder that cannot be opened.
        smallest_side: Shorter side of the smallest photo in pixels; None without a photo.
        median_side: Median of the shorter sides.
        largest_side: Shorter side of the largest photo.
    """

    label: str
    photos: int
    groups: int
    scenes: int
    bad: int
    smallest_side: int | None
    median_side: int | None
    largest_side: int | None


def summarize_labels(collection: Collection, groups: Sequence[str]) -> tuple[LabelRow, ...]:
    """Returns a row for each label, sorted; photos without a label are the last row, if any.

    Args:
        collection: A scanned collection.
        groups: The group of each photo, as `finetune.photos.split.grouping.photo_groups` gives it.
    """
    photos: defaultdict[str, list[Photo]] = defaultdict(list)
    scenes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for photo, group in zip(collection.photos, groups, strict=True):
        for label in photo.labels or (UNLABELED,):
            photos[label].append(photo)
            scenes[label][group] += 1
    bad = _bad_files(collection)
    names = sorted({*photos, *bad}, key=lambda name: (name == UNLABELED, name))
    return tuple(_row(name, photos[name], scenes[name], bad[name]) for name in names)


def _row(label: str, photos: Sequence[Photo], scenes: Counter[str], bad: int) -> LabelRow:
    sides = [min(photo.width, photo.height) for photo in photos]
    return LabelRow(
        label=label,
        photos=len(photos),
        groups=sum(n > 1 for n in scenes.values()),
        scenes=len(scenes),
        bad=bad,
        smallest_side=min(sides, default=None),
        median_side=median_low(sides) if sides else None,
        largest_side=max(sides, default=None),
    )


def _bad_files(collection: Collection) -> Counter[str]:
    paths = [photo.path for photo in collection.photos]
    parts = find_parts(paths) if collection.has_parts else NO_PARTS
    counts: Counter[str] = Counter()
    for problem in collection.problems:
        label, _ = parts.place(problem.path)
        counts[nfc(label) if label else UNLABELED] += 1
    return counts
