"""What the embedded backbone is worth: linear probes on frozen features, time and size.

    python benchmarks/embedded.py --photos ../shared/photos --teacher TEACHER.safetensors

Every network goes the same way: `load_square` at the working size of its `pretrained_cfg`, the
center crop, pooled features, and scikit-learn's logistic regression on standardized features, with
C chosen by 5-fold cross-validation inside the training part. Times are wall time on 2 threads,
the fastest of 40 rounds, which a busy machine disturbs least, and their median; and processor time
on one thread.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from finetune.augmentation.center_crop import preprocess
from finetune.errors import DecodeError
from finetune.files import read_json, write_json
from finetune.models import finetune_small
from finetune.models.registry import resolve_preprocessing
from finetune.photos.crops import load_square
from finetune.photos.preprocessing import Preprocessing

THREADS, BATCH, ROUNDS = 2, 16, 40
COLLECTIONS = ("hymenoptera", "birds5")


@dataclass(frozen=True)
class Candidate:
    """A network without a head, what it expects of its pixels, and its file."""

    name: str
    net: nn.Module
    preprocessing: Preprocessing
    file: Path


def candidate(name: str, file: Path, size: int | None = None) -> Candidate:
    """Returns a timm network with a file's weights, its classifier taken off."""
    state = load_file(file)
    net = timm.create_model(name, num_classes=1000 if "classifier.weight" in state else 0)
    net.load_state_dict(state)
    net.reset_classifier(0)
    net.eval().to(memory_format=torch.channels_last)
    return Candidate(name, net, resolve_preprocessing(name, size=size), file)


def features(chosen: Candidate, folder: Path) -> tuple[NDArray[np.float32], NDArray[np.str_]]:
    """Returns `(N, F)` features and `(N,)` labels of a folder with one folder a label."""
    preprocessing, squares, labels = chosen.preprocessing, [], []
    for path in sorted(folder.glob("*/*")):
        try:
            squares.append(
                load_square(
                    path, size=preprocessing.working_size, interpolation=preprocessing.interpolation
                )
            )
        except DecodeError:
            continue
        labels.append(path.parent.name)
    found = []
    with torch.inference_mode():
        for start in range(0, len(squares), BATCH):
            batch = torch.from_numpy(np.stack(squares[start : start + BATCH])).permute(0, 3, 1, 2)
            found.append(chosen.net(preprocess(batch, preprocessing)).numpy())
    return np.concatenate(found), np.array(labels)


def probe(chosen: Candidate, collection: Path) -> tuple[int, int, float]:
    """Returns how many photos of `val/` are right, how many there are, and the chosen C."""
    train, train_labels = features(chosen, collection / "train")
    test, test_labels = features(chosen, collection / "val")
    model = make_pipeline(
        StandardScaler(),
        LogisticRegressionCV(
            Cs=np.logspace(-5, 0, 11),
            cv=StratifiedKFold(5, shuffle=True, random_state=0),
            scoring="neg_log_loss",
            max_iter=2000,
        ),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model.fit(train, train_labels)
    right = int((model.predict(test) == test_labels).sum())
    return right, len(test_labels), float(np.ravel(model[-1].C_)[0])


def milliseconds(chosen: Candidate) -> tuple[float, float, float]:
    """Returns a photo's wall time in a batch of 16, fastest and median, and its CPU time."""
    size = chosen.preprocessing.size
    images = torch.rand(BATCH, 3, size, size).contiguous(memory_format=torch.channels_last)
    wall = times(chosen.net, images, time.perf_counter)
    torch.set_num_threads(1)
    processor = times(chosen.net, images, time.process_time)
    torch.set_num_threads(THREADS)
    return min(wall), statistics.median(wall), statistics.median(processor)


def times(net: nn.Module, images: torch.Tensor, clock: Callable[[], float]) -> list[float]:
    """Returns milliseconds a photo by `clock`, of each round after three."""
    found = []
    with torch.inference_mode():
        for _ in range(ROUNDS + 3):
            start = clock()
            net(images)
            found.append(1000 * (clock() - start) / len(images))
    return found[3:]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photos", type=Path, required=True, help="Holds the collections.")
    parser.add_argument("--teacher", type=Path, required=True, help="mobilenetv2_100 safetensors.")
    parser.add_argument("--weights", type=Path, default=finetune_small.WEIGHTS)
    parser.add_argument("--size", type=int, help="Input size of the student; default: its own.")
    parser.add_argument("--collections", nargs="*", default=COLLECTIONS)
    parser.add_argument(
        "--record", action="store_true", help="Write the figures into the provenance file."
    )
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    candidates = [
        candidate("mobilenetv2_100", arguments.teacher),
        candidate(finetune_small.NAME, arguments.weights, arguments.size),
    ]
    print(
        "| network | input | "
        + " | ".join(arguments.collections)
        + " | ms a photo: fastest (median) | MB |"
    )
    print("|---|---|" + "---|" * (len(arguments.collections) + 2))
    recorded: dict[str, dict[str, float | int]] = {name: {} for name in arguments.collections}
    for chosen in candidates:
        key = "teacher" if chosen is candidates[0] else "linear_probe"
        cells = [chosen.name, f"{chosen.preprocessing.size} px"]
        for name in arguments.collections:
            right, count, c = probe(chosen, arguments.photos / name)
            recorded[name] |= {key: round(right / count, 4), "photos": count}
            cells.append(f"{right}/{count} = {100 * right / count:.1f} % (C {c:.0e})")
        fastest, median, processor = milliseconds(chosen)
        cells += [
            f"{fastest:.1f} ({median:.1f})",
            f"{processor:.1f}",
            f"{chosen.file.stat().st_size / 1e6:.1f}",
        ]
        print("| " + " | ".join(cells) + " |", flush=True)
    if arguments.record:
        file = arguments.weights.with_suffix(".json")
        write_json(file, {**read_json(file), "accuracy": recorded})


if __name__ == "__main__":
    main()
