"""Do crops, Möbius maps or another network help? Paired answers on birds and insects.

    python benchmarks/questions.py --shared ../shared

Seven labels (birds5 and hymenoptera of the shared photos, without copies); for each seed two fifths
are held out as test photos. Each row differs from the row that it names in one thing, learns from
the same photos, and is tested on the same photos; its p-value is McNemar's exact test over the test
photos of all seeds. Crops are those that `finetune crop` proposes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from full import draw, measure, share
from probe import gather

from finetune.curation.crop_policy import CropPolicyConfig
from finetune.curation.crop_proposals import propose_crops
from finetune.evaluation.intervals import mcnemar

SETS = ("birds5", "hymenoptera")

LITE0, LITE2 = "tf_efficientnet_lite0", "tf_efficientnet_lite2"

FULL: dict[str, Any] = {"mode": "full", "model": LITE0, "augment": "standard"}
HEAD: dict[str, Any] = {"mode": "head", "model": LITE0}
SCRATCH: dict[str, Any] = {
    "mode": "full",
    "model": "resnet18",
    "weights": "none",
    "augment": "standard",
    "backbone_lr_scale": 1.0,
    "epochs": 30,
    "precision": "bf16",
}

ROWS: dict[str, tuple[str | None, bool, dict[str, Any]]] = {
    "Lite0, full, standard": (None, False, FULL),
    "Lite0, full, no augmentation": ("Lite0, full, standard", False, FULL | {"augment": "none"}),
    "Lite0, full, Möbius": ("Lite0, full, standard", False, FULL | {"augment": "mobius"}),
    "Lite0, full, standard, crops": ("Lite0, full, standard", True, FULL),
    "Lite0, full, Möbius, crops": ("Lite0, full, Möbius", True, FULL | {"augment": "mobius"}),
    "Lite2, full, standard": ("Lite0, full, standard", False, FULL | {"model": LITE2}),
    "Lite2, full, standard, crops": ("Lite2, full, standard", True, FULL | {"model": LITE2}),
    "Lite0, head": ("Lite0, full, standard", False, HEAD),
    "Lite0, head, crops": ("Lite0, head", True, HEAD),
    "Lite2, head": ("Lite0, head", False, HEAD | {"model": LITE2}),
    "Lite2, head, crops": ("Lite2, head", True, HEAD | {"model": LITE2}),
    "ResNet-18 from scratch, standard": ("Lite0, full, standard", False, SCRATCH),
    "ResNet-18 from scratch, no augmentation": (
        "ResNet-18 from scratch, standard",
        False,
        SCRATCH | {"augment": "none"},
    ),
    "ResNet-18 from scratch, Möbius": (
        "ResNet-18 from scratch, standard",
        False,
        SCRATCH | {"augment": "mobius"},
    ),
    "ResNet-18 from scratch, standard, crops": ("ResNet-18 from scratch, standard", True, SCRATCH),
}
"""Name of each row: the row it is compared with, whether crops are used, settings."""


def collection(shared: Path, work: Path, seed: int, *, crops: bool) -> Path:
    """Returns the drawn collection of a seed, with proposed crops or without."""
    both = work / "birds-and-insects"
    if not both.is_dir():
        for folder in gather(shared, work / "sets"):
            if folder.name in SETS:
                shutil.copytree(folder, both, dirs_exist_ok=True)
    target = work / "questions" / f"{seed}-{'crops' if crops else 'whole'}"
    fresh = not target.is_dir()
    draw(both, seed, target)
    if fresh and crops:
        propose_crops(target, CropPolicyConfig(method="saliency"))
    return target


def main() -> None:
    """Trains all rows and seeds, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shared", type=Path, required=True, help="Holds photos/ and data/.")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--work", type=Path, help="Keeps sets and caches for the next time.")
    parser.add_argument("--output", type=Path, help="File of JSON lines; rows in it are kept.")
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        work = given.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        output = given.output or work / "questions.jsonl"
        done: dict[tuple[str, int], dict[str, Any]] = {}
        if output.is_file():
            for line in output.read_text().splitlines():
                row = json.loads(line)
                done[row["row"], row["seed"]] = row
        for seed in given.seeds:
            for name, (_, crops, settings) in ROWS.items():
                if (name, seed) in done:
                    continue
                photos = collection(given.shared, work, seed, crops=crops)
                asked = {"size": given.size, "seed": seed, **settings}
                if settings["mode"] == "full":
                    asked = {"epochs": given.epochs, **asked}
                row = measure(photos, asked, f"row-{list(ROWS).index(name)}-{seed}", work / "runs")
                row |= {"row": name, "seed": seed}
                with output.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                done[name, seed] = row
                print(name, seed, f"{share(row['kept']):.1%}, {row['seconds']:.0f} s", flush=True)
        table(done)


def table(done: dict[tuple[str, int], dict[str, Any]]) -> None:
    """Prints the rows that have been trained."""
    print("| row | right on test | seconds | compared with | difference | p |")
    print("|---|--:|--:|---|--:|--:|")
    for name, (base, _, _) in ROWS.items():
        own = {seed: row for (row_name, seed), row in done.items() if row_name == name}
        if not own:
            continue
        accuracy = 100 * np.mean([share(row["kept"]) for row in own.values()])
        seconds = np.median([row["seconds"] for row in own.values()])
        cells = "| | |"
        if base is not None:
            others = {seed: done[base, seed]["kept"] for seed in own if (base, seed) in done}
            pairs = [
                (own[seed]["kept"][photo], right)
                for seed, other in others.items()
                for photo, right in other.items()
            ]
            better = sum(mine and not other for mine, other in pairs)
            worse = sum(other and not mine for mine, other in pairs)
            gain = 100 * (better - worse) / max(1, len(pairs))
            cells = f"{base} | {gain:+.1f} | {mcnemar(better, worse):.2g} |"
        print(f"| {name} | {accuracy:.1f} % | {seconds:.0f} | {cells}")


if __name__ == "__main__":
    main()
