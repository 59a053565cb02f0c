"""F1 on new photos of thresholds fitted on few photos, by the weight of the probabilities.

Labels are sampled from known probabilities, which are used as they are or with logits shifted by
1, as by a biased network. Thresholds are fitted on N photos and evaluated on 3,000 others; mean of
macro F1 over 60 samples of 5 labels.

    python benchmarks/label_thresholds.py
"""

from __future__ import annotations

import numpy as np

from finetune.evaluation.thresholds import fit_thresholds

LABELS = np.array([-2.5, -2.0, -1.5, -1.0, -0.5])
NEW_PHOTOS = 3000
PRIORS = (0.0, 10.0, 20.0, 40.0)
DRAWS = 60


def macro_f1(truth: np.ndarray, said: np.ndarray) -> float:
    """Returns the mean over labels of ``2·TP / (photos + predicted)``."""
    both = truth.sum(axis=0) + said.sum(axis=0)
    return float(np.mean(2 * (truth & said).sum(axis=0) / np.maximum(both, 1)))


def trial(skill: float, shift: float, photos: int, rng: np.random.Generator) -> list[float]:
    """Returns macro F1 on new photos at 0.5, and for each prior."""
    logits = LABELS + skill * rng.normal(size=(photos + NEW_PHOTOS, len(LABELS)))
    truth = rng.random(logits.shape) < 1 / (1 + np.exp(-logits))
    shares = 1 / (1 + np.exp(-(logits + shift)))
    found = [macro_f1(truth[photos:], shares[photos:] >= 0.5)]
    for prior in PRIORS:
        limits = fit_thresholds(shares[:photos], truth[:photos], prior_photos=prior)
        found.append(macro_f1(truth[photos:], shares[photos:] >= np.array(limits)))
    return found


def main() -> None:
    """Prints a row per setting."""
    names = " | ".join(f"prior {prior:g}" for prior in PRIORS)
    print(f"| network | probabilities | validation photos | always 0.5 | {names} |")
    print("|---|---|---:|---:|" + "---:|" * len(PRIORS))
    for network, skill in (("weak", 1.0), ("good", 2.5)):
        for leaning, shift in (("honest", 0.0), ("too high", 1.0), ("too low", -1.0)):
            for photos in (20, 60, 200, 1000):
                rng = np.random.default_rng(photos)
                rows = [trial(skill, shift, photos, rng) for _ in range(DRAWS)]
                cells = " | ".join(f"{value:.3f}" for value in np.mean(rows, axis=0))
                print(f"| {network} | {leaning} | {photos:,} | {cells} |")


if __name__ == "__main__":
    main()
