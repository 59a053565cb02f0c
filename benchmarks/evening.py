"""An evening of labeling in real Chromium by a person who never errs: keys a photo, and cohorts.

Run as ``python benchmarks/evening.py PHOTOS [SEED ...]``; PHOTOS holds birds5, hymenoptera and
unlabelled. 200 photos: 16 of each of 5 birds, 40 ants, 40 bees, and 40 others that are none of
these, in random order. The person presses a label's key, Enter for a right suggestion, A for a
cohort that the page offers, and clicks photos of a cohort that are wrong; a click counts as a key.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from annotate import chromium, serving

from finetune.photos.catalog.catalog import Catalog

BIRDS_A_LABEL, INSECTS_A_LABEL, OTHERS = 16, 40, 40
NONE = ""

_SEEN = """async () => {
  const { photos, suggestionOf, isLabeled } = await import('/static/annotate/photos.js');
  const { queue } = await import('/static/annotate/queue.js');
  const row = photos.get(queue.cursor);
  const done = ![...photos.rows.values()].some((row) => !isLabeled(row) && !row.problem);
  const section = document.querySelector('.cohort');
  const tiles = section ? [...section.querySelectorAll('.tile')] : [];
  return { done, name: row?.path ?? null, suggestion: suggestionOf(row ?? {})?.label ?? null,
           group: queue.groupTargets.map((id) => photos.get(id).path),
           cohort: section && { number: section.dataset.number,
                                labels: tiles.map((tile) => [tile.title, tile.dataset.label]) } };
}"""

_ACTIONS = "async () => (await import('/static/annotate/photos.js')).photos.actionCount"

_SETTLED = """async () => {
  const { photos } = await import('/static/annotate/photos.js');
  return photos.suggestedCount === photos.actionCount;
}"""


def draw(shared: Path, seed: int, folder: Path) -> dict[str, str]:
    """Copies 200 photos in random order and returns the label of each by name."""
    rng = random.Random(seed)
    chosen: list[tuple[Path, str]] = []
    for root, count in (
        (shared / "birds5", BIRDS_A_LABEL),
        (shared / "hymenoptera", INSECTS_A_LABEL),
    ):
        labels = sorted({path.parent.name for path in root.glob("[!.]*/*/*.jpg")})
        for label in labels:
            contents: dict[bytes, Path] = {}
            for path in sorted(root.glob(f"*/{label}/*.jpg")):
                contents.setdefault(path.read_bytes(), path)  # of copies, one
            chosen += [(path, label) for path in rng.sample(sorted(contents.values()), count)]
    others = sorted(path for path in (shared / "unlabelled").rglob("*") if path.suffix == ".jpg")
    chosen += [(path, NONE) for path in rng.sample(others, OTHERS)]
    rng.shuffle(chosen)
    truth = {}
    for number, (path, label) in enumerate(chosen):
        name = f"IMG_{number:04d}{path.suffix}"
        shutil.copyfile(path, folder / name)
        truth[name] = label
    return truth


def play(
    page: Any, truth: dict[str, str], labels: list[str]
) -> tuple[int, list[tuple[int, int, int]]]:
    """Labels all photos; returns the number of keys; labels, photos, right ones of cohorts."""
    keys = 0
    cohorts: dict[str, tuple[int, int, int]] = {}

    def press(key: str) -> None:
        nonlocal keys
        keys += 1
        page.keyboard.press(key)

    while True:
        page.wait_for_function(_SETTLED)
        page.wait_for_timeout(450)
        seen = page.evaluate(_SEEN)
        if seen["done"]:
            return keys, list(cohorts.values())
        count = page.evaluate(_ACTIONS)
        cohort = seen["cohort"]
        if cohort:
            wrong = [name for name, label in cohort["labels"] if truth[name] != label]
            size, kinds = len(cohort["labels"]), len({label for _, label in cohort["labels"]})
            cohorts.setdefault(cohort["number"], (kinds, size, size - len(wrong)))
            for name in wrong:
                keys += 1
                page.click(f'.cohort .tile[title="{name}"]')
            press("a")
        else:
            label = truth[seen["name"]]
            if len(seen["group"]) > 1 and {truth[name] for name in seen["group"]} != {label}:
                press("Escape")
            if label == NONE:
                press("0")
            else:
                press(str(labels.index(label) + 1))
        page.wait_for_function(
            f"async (count) => await ({_ACTIONS})() > count"
            " || document.querySelector('#toast p.bad')",
            arg=count,
        )


def evening(shared: Path, seed: int) -> dict[str, Any]:
    """Returns the measurements of one evening."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "evening"
        folder.mkdir()
        truth = draw(shared, seed, folder)
        labels = sorted(set(truth.values()) - {NONE})
        random.Random(seed).shuffle(labels)
        with serving(folder, labels) as (address, _), chromium() as page:
            page.goto(address)
            page.wait_for_selector("body[data-ready]")
            keys, cohorts = play(page, truth, labels)
        with Catalog(folder / ".finetune" / "catalog.sqlite3") as catalog:
            found = {photo.path: photo for photo in catalog.collection(folder).photos}
    right = sum(
        found[name].labels == ((label,) if label else ()) and found[name].confirmed
        for name, label in truth.items()
    )
    return {
        "seed": seed,
        "photos": len(truth),
        "right": right,
        "keys": keys,
        "keys_a_photo": round(keys / len(truth), 3),
        "cohorts": cohorts,
        "worst_share": min((right / size for _, size, right in cohorts), default=None),
    }


def main() -> None:
    """Prints a line of JSON an evening."""
    shared = Path(sys.argv[1])
    for seed in map(int, sys.argv[2:] or ("0", "1", "2", "3", "4")):
        print(json.dumps(evening(shared, seed)), flush=True)


if __name__ == "__main__":
    main()
