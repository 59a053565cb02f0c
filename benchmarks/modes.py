"""Accuracy and time of training modes and options on a collection that is already split.

    python benchmarks/modes.py PHOTOS [--model NAME] [--weights FILE] [--size N] [--seeds K]
                               [--epochs N] [--only NAME;NAME]

Trains with each setting and the same seeds, and prints accuracy and log loss on the held-out part
(mean over the seeds), and the time relative to that of the head on cached features.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from finetune.config_io import resolve
from finetune.training.train import train

SETTINGS: dict[str, dict[str, Any]] = {
    "head": {"mode": "head"},
    "full": {"mode": "full"},
    "full, layer decay 0.75": {"mode": "full", "layer_decay": 0.75},
    "gradual": {"mode": "gradual"},
    "full, best epoch as it is": {"mode": "full", "final_weights": "best"},
    "full, statistics of batches": {"mode": "full", "norm_statistics": "batch"},
    "full, frozen norms": {"mode": "full", "freeze_norm": True},
    "full, EMA 0.99": {"mode": "full", "ema": 0.99},
    "full, soup of 3": {"mode": "full", "soup": 3},
    "full, mixup 0.5": {"mode": "full", "mixup": 0.5},
    "full, progressive from 64": {"mode": "full", "progressive_size": 64},
    "full, SGD": {"mode": "full", "optimizer": "sgd"},
    "full, Muon": {"mode": "full", "optimizer": "muon"},
}


def main() -> None:
    """Trains with each setting and prints a row per setting."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--model", default="tf_efficientnet_lite2")
    parser.add_argument("--weights")
    parser.add_argument("--size", type=int)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, help="of all modes but head")
    parser.add_argument("--only", help="names of settings, with semicolons between them")
    given = parser.parse_args()
    chosen = given.only.split(";") if given.only else list(SETTINGS)
    print("| setting | right | log loss | time / head |\n|---|---:|---:|---:|")
    base = 0.0
    with tempfile.TemporaryDirectory(prefix="modes-") as name:
        folder = Path(name)
        for setting in chosen:
            rows = [run(given, SETTINGS[setting], folder, seed) for seed in range(given.seeds)]
            right, loss, seconds = (statistics.mean(column) for column in zip(*rows, strict=True))
            base = base or seconds
            print(f"| {setting} | {right:.1%} | {loss:.3f} | {seconds / base:.1f} |", flush=True)


def run(given: Any, flags: dict[str, Any], folder: Path, seed: int) -> tuple[float, float, float]:
    """Returns accuracy, log loss and seconds of one training."""
    epochs = {} if flags["mode"] == "head" or not given.epochs else {"epochs": given.epochs}
    asked = {
        "model": given.model,
        "weights": given.weights,
        "size": given.size,
        "catalog": str(folder / "catalog"),
        "seed": seed,
        **flags,
        **epochs,
    }
    result = train(given.photos, resolve({}, asked), runs=folder / "runs")
    part = "test" if "test" in result.metrics else "validation"
    figures = result.metrics[part]
    return figures["top1"], figures["log_loss"], result.seconds


if __name__ == "__main__":
    main()
