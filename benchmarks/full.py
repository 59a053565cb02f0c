"""Full fine-tuning compared with a head on the frozen backbone, and with fastai's `fine_tune`.

    python benchmarks/full.py --shared ../shared                       the default rate
    python benchmarks/full.py --shared ../shared --scales 0.03 0.1     rates of the backbone
    python benchmarks/full.py --shared ../shared --fastai PYTHON       fastai of an environment

For each seed, two fifths of each set, whole groups of near-duplicates, are held out as test photos.
`finetune train --mode head` and `--mode full` learn from the same other photos. A line of JSON is
written per training: accuracy on the test photos of the kept model, of the trained network, of the
average and of the head that it began with, the epochs' validation losses, and seconds. The table
has the mean over the seeds; its p-value is McNemar's exact test over all test photos of the set.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from probe import gather

from finetune.config import CollectionConfig
from finetune.config_io import resolve
from finetune.curation.embedding import load_backbone
from finetune.evaluation.intervals import mcnemar
from finetune.photos.scan import scan
from finetune.runs.folder import RunFolder
from finetune.tasks.data_split import split_collection
from finetune.training.choice import choose_weights
from finetune.training.resolve import DEFAULT_EPOCHS
from finetune.training.train import train

TEST_SHARE = 0.4

FASTAI = """
import json, sys, time
from pathlib import Path
import timm, torch
from fastai.vision.all import *
request = json.loads(sys.argv[1])
torch.set_num_threads(1)
set_seed(request["seed"], reproducible=True)
start = time.perf_counter()
body = timm.create_model(request["model"], pretrained=False)
mean, std = body.pretrained_cfg["mean"], body.pretrained_cfg["std"]
size, photos = request["size"], Path(request["photos"])
data = ImageDataLoaders.from_folder(photos, train="train", valid_pct=0.2, seed=request["seed"],
    item_tfms=Resize(size * 8 // 7), num_workers=0, bs=32,
    batch_tfms=[*aug_transforms(size=size), Normalize.from_stats(mean, std)])
learner = vision_learner(data, request["model"], pretrained=False, metrics=accuracy,
    path=Path(request["work"]))
learner.model[0].model.load_state_dict(torch.load(request["weights"]), strict=False)
with learner.no_bar(), learner.no_logging():
    learner.fine_tune(request["epochs"])
seconds = time.perf_counter() - start
files = sorted(file for file in (photos / "test").rglob("*") if file.is_file())
logits, _ = learner.get_preds(dl=data.test_dl(files))
names = [data.vocab[index] for index in logits.argmax(1)]
right = {f.relative_to(photos).as_posix(): f.parent.name == n for f, n in zip(files, names)}
print(json.dumps({"seconds": seconds, "kept": right}))
"""


def draw(folder: Path, seed: int, target: Path) -> Path:
    """Writes a set as train/ and test/ with a folder per label; returns the folder."""
    if target.is_dir():
        return target
    found = scan(folder)
    split = split_collection(found, CollectionConfig(validation=0.05, test=TEST_SHARE), seed=seed)
    test = {sample.path for sample in split.samples["test"]}
    for photo in found.photos:
        if photo.labels:
            part = "test" if photo.path in test else "train"
            place = target / part / photo.path
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / photo.path, place)
    return target


def right(run: RunFolder) -> dict[str, bool]:
    """Returns which test photos a run predicts right."""
    with run.predictions_file.open(newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.DictReader(file) if row["part"] == "test"]
    return {row["path"]: row["correct"] == "true" for row in rows}


def measure_fastai(
    python: Path, photos: Path, seed: int, given: argparse.Namespace, work: Path
) -> dict[str, Any]:
    """Fine-tunes the same network with fastai's `fine_tune`, from the same weights."""
    weights = work / f"{given.model}.pth"
    loaded = load_backbone(given.model)
    torch.save(loaded.module.state_dict(), weights)
    request = {
        "photos": str(photos),
        "seed": seed,
        "model": given.model,
        "weights": str(weights),
        "size": given.size or loaded.preprocessing.size,
        "epochs": given.epochs or DEFAULT_EPOCHS["full"],
        "work": str(work),
    }
    command = [str(python), "-c", FASTAI, json.dumps(request)]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def share(found: dict[str, bool]) -> float:
    """Returns the share of right answers."""
    return float(np.mean(list(found.values())))


def measure(photos: Path, settings: dict[str, Any], name: str, runs: Path) -> dict[str, Any]:
    """Trains, and returns what is known of the run."""
    shutil.rmtree(runs / name, ignore_errors=True)
    start = time.perf_counter()
    result = train(photos, resolve({}, settings), run=name, runs=runs)
    if result.interrupted:
        raise KeyboardInterrupt
    row: dict[str, Any] = {"seconds": time.perf_counter() - start, "kept": right(result.run)}
    if settings["mode"] == "full":
        row["choice"] = json.loads(result.run.config_file.read_text())["share_of_training"]
        row["losses"] = [
            event["validation_loss"]
            for event in result.run.read_log()
            if "validation_loss" in event
        ]
        row["notes"] = json.loads(result.run.config_file.read_text())["notes"]
        for choice in ("best", "average", "head"):
            choose_weights(result.run, choice)
            row[choice] = right(result.run)
    shutil.rmtree(runs / name)
    return row


def main() -> None:
    """Trains on all sets and seeds, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shared", type=Path, required=True, help="Holds photos/ and data/.")
    parser.add_argument("--sets", nargs="*", help="Names of sets; not given: all.")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--scales", type=float, nargs="*", default=[None], help="Backbone rates.")
    parser.add_argument("--model", default="tf_efficientnet_lite0")
    parser.add_argument("--size", type=int)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--fastai", type=Path, help="Python of an environment with fastai.")
    parser.add_argument("--set", nargs="*", default=[], help="More settings: name=JSON.")
    parser.add_argument("--work", type=Path, help="Keeps sets and caches for the next time.")
    parser.add_argument("--output", type=Path, help="File of JSON lines; rows in it are kept.")
    given = parser.parse_args()
    common: dict[str, Any] = {"model": given.model, "size": given.size}
    common = {name: value for name, value in common.items() if value is not None}
    more = {entry.split("=")[0]: json.loads(entry.split("=", 1)[1]) for entry in given.set}
    with contextlib.ExitStack() as stack:
        work = given.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        output = given.output or work / "full.jsonl"
        done = {}
        if output.is_file():
            rows = [json.loads(line) for line in output.read_text().splitlines()]
            done = {row["key"]: row for row in rows}
        for seed in given.seeds:
            for folder in gather(given.shared, work / "sets"):
                if given.sets and folder.name not in given.sets:
                    continue
                photos = draw(folder, seed, work / "drawn" / f"{folder.name}-{seed}")
                for scale in ["head", *(["fastai"] if given.fastai else []), *given.scales]:
                    key = f"{folder.name}-{seed}-{scale}"
                    if scale not in ("head", "fastai") and more:
                        key += f"-{json.dumps(more)}"
                    if key in done:
                        continue
                    settings = {**common, "seed": seed, "mode": "head"}
                    if scale != "head":
                        settings |= {"mode": "full", **more}
                        settings |= {} if scale is None else {"backbone_lr_scale": scale}
                        settings |= {} if given.epochs is None else {"epochs": given.epochs}
                    if scale == "fastai":
                        row = measure_fastai(given.fastai, photos, seed, given, work)
                    else:
                        name = re.sub(r"[^\w.-]", "-", key)[:60]
                        row = measure(photos, settings, name, work / "runs")
                    row |= {"key": key, "set": folder.name, "seed": seed, "scale": str(scale)}
                    with output.open("a") as file:
                        file.write(json.dumps(row) + "\n")
                    done[key] = row
                    shown = {
                        name: f"{share(row[name]):.1%}"
                        for name in ("kept", "head", "average", "best")
                        if name in row
                    }
                    print(key, shown, f"{row['seconds']:.0f} s", flush=True)
        table(list(done.values()))


def table(rows: list[dict[str, Any]]) -> None:
    """Prints the mean accuracies of each set and scale, and the test against the head."""
    print("| set | backbone rate | head | full, kept | average | full | p | time / head |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    heads = {(row["set"], row["seed"]): row for row in rows if row["scale"] == "head"}
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        if row["scale"] != "head":
            groups.setdefault((row["set"], row["key"].split("-", 2)[2]), []).append(row)
    for (name, scale), own in sorted(groups.items()):
        better = worse = 0
        for row in own:
            head = heads[row["set"], row["seed"]]["kept"]
            better += sum(row["kept"][photo] and not head[photo] for photo in head)
            worse += sum(head[photo] and not row["kept"][photo] for photo in head)
        before = [heads[row["set"], row["seed"]] for row in own]
        cells = [
            f"{100 * np.mean([share(row[part]) for row in group]):.1f}"
            for group, part in ((before, "kept"), (own, "kept"), (own, "average"), (own, "best"))
            if part in group[0]
        ]
        ratio = np.median([a["seconds"] / b["seconds"] for a, b in zip(own, before, strict=True)])
        p = mcnemar(better, worse)
        print(f"| {name} | {scale} | {' | '.join(cells)} | {p:.2g} | {ratio:.1f} |")


if __name__ == "__main__":
    main()
