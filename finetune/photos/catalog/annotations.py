"""What people and machines say about photos: labels, crops, groups, decisions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from finetune.photos.catalog import undo_log
from finetune.photos.catalog.store import Store
from finetune.photos.collection import Collection
from finetune.photos.crops import Crop
from finetune.photos.labels import find_parts, nfc, place_of

Source = Literal["folder", "person", "model"]
"""Who said it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """Somebody's word that a photo shows something.

    Attributes:
        label: The label in NFC; empty where a person said that no label fits.
        source: Who said it.
        confidence: A model's probability, else None.
        said_at: UTC in ISO form; for a folder, when the file was first seen in it.
    """

    label: str
    source: Source
    confidence: float | None
    said_at: str


class Words(Store):
    """The part of the catalog that people fill; a machine never overwrites them.

    Every method that speaks for a person has its word on disk before it returns, and can be undone.
    """

    def claims(self, digest: str) -> tuple[Claim, ...]:
        """Returns everybody's word on what a photo shows: a person's first, then folders'."""
        rows = self._all(
            "SELECT label, source, confidence, said_at FROM label WHERE digest = ? "
            "ORDER BY source = 'person' DESC, confidence DESC, label",
            (digest,),
        )
        spoken = [
            Claim(label=label, source=source, confidence=confidence, said_at=said_at)
            for label, source, confidence, said_at in rows
        ]
        files = self._all(
            "SELECT path, first_seen FROM file WHERE digest = ? AND present ORDER BY path",
            (digest,),
        )
        if not files:
            return tuple(spoken)
        parts = find_parts(row[0] for row in self._all("SELECT path FROM file WHERE present"))
        folders: dict[str, str] = {}
        for path, first_seen in files:
            label, _ = place_of(path, parts)
            if label is not None:
                folders[label] = min(first_seen, folders.get(label, first_seen))
        by_person = [claim for claim in spoken if claim.source == "person"]
        by_folder = [
            Claim(label=label, source="folder", confidence=None, said_at=said_at)
            for label, said_at in folders.items()
        ]
        by_model = [claim for claim in spoken if claim.source == "model"]
        return (*by_person, *by_folder, *by_model)

    def set_labels(self, digests: Sequence[str], labels: Sequence[str]) -> None:
        """Writes a person's word on what photos show; on disk when it returns.

        Args:
            digests: The photos.
            labels: All labels that fit; none says that no label does, whatever the folder is.
        """
        names = sorted({nfc(label.strip()) for label in labels} - {""})
        shown = " + ".join(map(repr, names)) or "as none of the labels"
        with self._act(f"label {_photos(len(digests))} {shown}") as recorder:
            for digest in digests:
                for (label,) in self._all(
                    "SELECT label FROM label WHERE digest = ? AND source = 'person'", (digest,)
                ):
                    if label not in names:
                        recorder.remove("label", _label_key(digest, label, "person"))
                for label in names or [""]:
                    recorder.put("label", _label_row(digest, label, "person", None))

    def clear_labels(self, digests: Sequence[str]) -> None:
        """Takes a person's word on photos back, so that their folder's name counts again."""
        with self._act(f"clear the label of {_photos(len(digests))}") as recorder:
            for digest in digests:
                for (label,) in self._all(
                    "SELECT label FROM label WHERE digest = ? AND source = 'person'", (digest,)
                ):
                    recorder.remove("label", _label_key(digest, label, "person"))

    def suggest_labels(self, suggestions: Mapping[str, Mapping[str, float]]) -> None:
        """Replaces a model's guesses for photos; never what a person said.

        Args:
            suggestions: By digest, the probability of each label.
        """
        with self._write() as connection:
            connection.executemany(
                "DELETE FROM label WHERE digest = ? AND source = 'model'",
                [(digest,) for digest in suggestions],
            )
            rows = [
                _label_row(digest, nfc(label), "model", float(confidence))
                for digest, guesses in suggestions.items()
                for label, confidence in guesses.items()
            ]
            connection.executemany(
                "INSERT OR REPLACE INTO label (digest, label, source, confidence, said_at) "
                "VALUES (:digest, :label, :source, :confidence, :said_at)",
                rows,
            )

    def crops(self) -> dict[str, Crop]:
        """Returns the square of every photo that has one, by digest."""
        return {
            digest: Crop(center_x=x, center_y=y, side=side)
            for digest, x, y, side in self._all("SELECT digest, center_x, center_y, side FROM crop")
        }

    def set_crop(self, digest: str, crop: Crop | None, *, source: Source = "person") -> bool:
        """Writes a photo's square; returns False where a person's square is kept instead.

        Args:
            digest: The photo.
            crop: Its square; None takes it away.
            source: A ``model`` never overwrites a person, and its proposals are not journalled.
        """
        return self.set_crops({digest: crop}, source=source) == 1

    def set_crops(self, crops: Mapping[str, Crop | None], *, source: Source = "person") -> int:
        """Writes many squares at once; returns how many, a person's being kept from a machine."""
        if source == "person":
            with self._act(f"crop {_photos(len(crops))}") as recorder:
                for digest, crop in crops.items():
                    if crop is None:
                        recorder.remove("crop", {"digest": digest})
                    else:
                        recorder.put("crop", _crop_row(digest, crop, source))
            return len(crops)
        with self._write() as connection:
            by_person = {
                row[0]
                for row in connection.execute("SELECT digest FROM crop WHERE source = 'person'")
            }
            free = {digest: crop for digest, crop in crops.items() if digest not in by_person}
            connection.executemany("DELETE FROM crop WHERE digest = ?", [(d,) for d in free])
            connection.executemany(
                "INSERT INTO crop (digest, center_x, center_y, side, source, said_at) "
                "VALUES (:digest, :center_x, :center_y, :side, :source, :said_at)",
                [_crop_row(digest, crop, source) for digest, crop in free.items() if crop],
            )
        return len(free)

    def set_group(self, digests: Sequence[str], name: str | None) -> None:
        """Writes a person's word that photos belong together, whatever their hashes say.

        Args:
            digests: The photos.
            name: Name of their group; None takes them out of the group they were put in.
        """
        what = f"group {_photos(len(digests))}" if name else f"ungroup {_photos(len(digests))}"
        with self._act(what) as recorder:
            for digest in digests:
                if name:
                    recorder.put(
                        "membership",
                        {
                            "digest": digest,
                            "name": nfc(name),
                            "source": "person",
                            "said_at": undo_log.now(),
                        },
                    )
                else:
                    recorder.remove("membership", {"digest": digest})

    def crop_sources(self) -> dict[str, Source]:
        """Returns who chose the square of each photo that has one, by digest."""
        return dict(self._all("SELECT digest, source FROM crop"))

    def groups(self) -> dict[str, str]:
        """Returns the group that a person put photos in, by digest."""
        return dict(self._all("SELECT digest, name FROM membership"))

    def decide(self, digests: Sequence[str], kind: str, value: str | None) -> None:
        """Writes a person's decision about photos; on disk when it returns.

        Args:
            digests: The photos.
            kind: What is decided: ``exclude`` leaves a photo out of the collection; other kinds
                are their user's own.
            value: What was decided; None takes the decision back.
        """
        verb = "take back" if value is None else "set"
        with self._act(f"{verb} '{kind}' of {_photos(len(digests))}") as recorder:
            for digest in digests:
                if value is None:
                    recorder.remove("decision", {"digest": digest, "kind": kind})
                else:
                    row: dict[str, undo_log.Value] = {"digest": digest, "kind": kind}
                    row |= {"value": value, "source": "person", "said_at": undo_log.now()}
                    recorder.put("decision", row)

    def decisions(self, kind: str) -> dict[str, str]:
        """Returns what was decided, by digest."""
        return dict(self._all("SELECT digest, value FROM decision WHERE kind = ?", (kind,)))

    def rename_label(self, old: str, new: str, collection: Collection) -> int:
        """Gives every photo of one label another one, or merges it into that; returns how many.

        Folders are left as they are: the new name is a person's word on each photo.
        """
        old, new = nfc(old), nfc(new)
        labels_of = {
            photo.digest: photo.labels for photo in collection.photos if old in photo.labels
        }
        with self._act(f"rename '{old}' to '{new}' ({_photos(len(labels_of))})") as recorder:
            for digest, labels in labels_of.items():
                recorder.remove("label", _label_key(digest, old, "person"))
                for label in {new if label == old else label for label in labels}:
                    recorder.put("label", _label_row(digest, label, "person", None))
        return len(labels_of)

    def labels_said(self) -> dict[str, tuple[str, ...]]:
        """Returns the labels that a person gave, by digest; empty where none fits."""
        found = defaultdict(list)
        for digest, label in self._all(
            "SELECT digest, label FROM label WHERE source = 'person' ORDER BY label"
        ):
            found[digest].append(label)
        return {digest: tuple(filter(None, labels)) for digest, labels in found.items()}


def _label_key(digest: str, label: str, source: Source) -> dict[str, undo_log.Value]:
    return {"digest": digest, "label": label, "source": source}


def _label_row(
    digest: str, label: str, source: Source, confidence: float | None
) -> dict[str, undo_log.Value]:
    key = _label_key(digest, label, source)
    return {**key, "confidence": confidence, "said_at": undo_log.now()}


def _crop_row(digest: str, crop: Crop, source: Source) -> dict[str, undo_log.Value]:
    box = {"center_x": crop.center_x, "center_y": crop.center_y, "side": crop.side}
    return {"digest": digest, **box, "source": source, "said_at": undo_log.now()}


def _photos(count: int) -> str:
    return f"{count:,} photo{'' if count == 1 else 's'}"
