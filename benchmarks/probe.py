"""finetune's head on frozen features: beside scikit-learn, with few photos, and its own interval.

    python benchmarks/probe.py probe --shared ../shared       as accurate as a careful linear probe?
    python benchmarks/probe.py few --shared ../shared         1 to 10 photos a label
    python benchmarks/probe.py interval --shared ../shared    does the printed interval hold?

`probe`: of each set a quarter is held out (whole groups of near-duplicates), three times. finetune
trains with its defaults on the rest; so does scikit-learn's logistic regression on the standardized
features of the same photos, C chosen by five folds. Both are evaluated on the held-out photos.

`few`: some photos of each label, eight draws, all others (at most 300) are predicted: by the head
that finetune's cross-validation picks, by its logistic regression of L2 strength 0.1, by the same
with each feature divided by its own deviation, by the nearest class mean of normalized features, by
linear discriminant analysis with shrunken covariance, and by a regression that also learned
mirrored photos.

`interval`: ten draws of half of each of three sets; finetune trains on the half with its defaults.
Counted is how often the 95 % interval of its cross-validated accuracy covers the accuracy on the
other half.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegressionCV
from sklearn.preprocessing import StandardScaler, normalize

from finetune.augmentation.center_crop import preprocess
from finetune.config import CollectionConfig
from finetune.config_io import resolve
from finetune.curation.embedding import load_backbone
from finetune.data.dataset import PhotoDataset
from finetune.data.loaders import load_batches
from finetune.data.pixel_cache import PixelCache
from finetune.data.samples import Sample
from finetune.files import collection_cache_dir
from finetune.models import linear_solver
from finetune.models.feature_backends import features_of
from finetune.models.features import FeatureCache
from finetune.models.linear_solver import LinearSolver
from finetune.photos.collection import Collection
from finetune.photos.scan import scan
from finetune.runs.loading import open_trained
from finetune.tasks.data_split import FOLDS, DataSplit, split_collection
from finetune.tasks.single_label import SingleLabel
from finetune.training.linear_probe.features import ProbePhotos
from finetune.training.linear_probe.heads import HeadFitter, fit_head, strengths_of
from finetune.training.train import train

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

EACH = 60
"""Pictures a label that are taken of the large sets."""

CS = np.logspace(-4, 1, 6)


@dataclass(frozen=True, kw_only=True)
class Set:
    """Photos with their features, and those of their mirror images."""

    folder: Path
    collection: Collection
    features: Floats
    mirrored: Floats
    targets: Integers

    @property
    def labels(self) -> int:
        """Number of labels."""
        return int(self.targets.max()) + 1


def gather(shared: Path, folder: Path) -> list[Path]:
    """Writes the sets with a folder per label, without copies, and returns their folders."""
    for name in ("hymenoptera", "birds5"):
        seen = set()
        for file in sorted((shared / "photos" / name).glob("*/*/*.jp*g")):
            content = file.read_bytes()
            digest = hashlib.blake2b(content).digest()
            if digest not in seen:
                seen.add(digest)
                write(folder / name / file.parent.name / file.name, content)
    for file in sorted((shared / "photos" / "dev").glob("*/*/*.*")):
        name = file.parent.parent.name
        write(folder / name / file.parent.name / file.name, file.read_bytes())
    for name in ("cifar10", "mnist"):
        counts: dict[str, int] = {}
        with zipfile.ZipFile(shared / "data" / f"{name}.zip") as archive:
            for entry in sorted(archive.namelist()):
                parts = entry.split("/")
                label = parts[-2] if len(parts) > 2 else ""
                pictured = entry.endswith((".jpg", ".png")) and any("test" in p for p in parts)
                if pictured and counts.get(label, 0) < EACH:
                    counts[label] = counts.get(label, 0) + 1
                    write(folder / name / label / parts[-1], archive.read(entry))
    return sorted(path for path in folder.iterdir() if path.is_dir())


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def load(folder: Path) -> Set:
    """Returns a set with the features of the default backbone."""
    loaded = load_backbone()
    found = scan(folder)
    photos = tuple(photo for photo in found.photos if photo.labels)
    found = dataclasses.replace(found, photos=photos)
    samples = [
        Sample(path=p.path, digest=p.digest, crop=p.crop, target=found.labels.index(p.labels[0]))
        for p in photos
    ]
    cache_dir = collection_cache_dir(folder)
    kept = cache_dir / "probe.npz"
    if kept.is_file():
        with np.load(kept) as file:
            plain, mirrored = file["plain"], file["mirrored"]
    else:
        own: list[Floats] = []
        other: list[Floats] = []
        with (
            contextlib.closing(PixelCache(cache_dir, loaded.preprocessing, limit_gb=10)) as cache,
            torch.inference_mode(),
        ):
            steps = np.array_split(np.arange(len(samples)), max(1, len(samples) // 32))
            for batch in load_batches(PhotoDataset(folder, samples, cache), steps, workers=0):
                pixels = preprocess(batch.images, loaded.preprocessing)
                own.append(features_of(loaded.module, pixels).numpy())
                other.append(features_of(loaded.module, pixels.flip(3)).numpy())
        plain, mirrored = np.concatenate(own), np.concatenate(other)
        np.savez(kept, plain=plain, mirrored=mirrored)
    return Set(
        folder=folder,
        collection=found,
        features=plain,
        mirrored=mirrored,
        targets=np.array([sample.target for sample in samples], np.int64),
    )


def held_out(photos: Set, seed: int, share: float) -> Integers:
    """Returns the indices of a share of the photos, whole groups."""
    config = CollectionConfig(validation=0.05, test=share)
    split = split_collection(photos.collection, config, seed=seed)
    paths = {sample.path for sample in split.samples["test"]}
    return np.flatnonzero([photo.path in paths for photo in photos.collection.photos])


def train_without(photos: Set, asked: Integers, seed: int, runs: Path) -> tuple[float, list[float]]:
    """Trains with the defaults on the other photos.

    Returns:
        The share of the asked photos that are right, and the interval that the training printed.
    """
    left_out = set(asked.tolist())

    def split(collection: Collection) -> DataSplit:
        kept = [photo for i, photo in enumerate(collection.photos) if i not in left_out]
        part = dataclasses.replace(collection, photos=tuple(kept))
        return split_collection(part, CollectionConfig(), seed=seed, folds=FOLDS)

    name = f"{photos.folder.name}-{seed}-{len(asked)}"
    result = train(photos.folder, resolve({}, {"seed": seed}), run=name, runs=runs, split=split)
    if result.interrupted:
        raise KeyboardInterrupt
    trained = open_trained(result.run)
    # Labels that lost all their photos have no output.
    place = np.array([photos.collection.labels.index(label) for label in trained.labels])
    classifier = trained.module.get_classifier()  # type: ignore[operator]
    with torch.inference_mode():
        logits = classifier(torch.from_numpy(photos.features[asked])).numpy()
    right = place[logits.argmax(1)] == photos.targets[asked]
    return float(right.mean()), list(result.headline["top1_interval"])


def scikit_learns(photos: Set, asked: Integers) -> float:
    """Returns the accuracy of scikit-learn's probe on the asked photos."""
    learned = np.setdiff1d(np.arange(len(photos.targets)), asked)
    scaler = StandardScaler().fit(photos.features[learned])
    x = scaler.transform(photos.features[learned]).astype(np.float64)
    new = scaler.transform(photos.features[asked]).astype(np.float64)
    # Rotated, which changes no penalty, there are at most as many columns as photos.
    axes = np.linalg.svd(x, full_matrices=False)[2].T
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = LogisticRegressionCV(Cs=CS, cv=5, scoring="neg_log_loss", max_iter=1000)
        model.fit(x @ axes, photos.targets[learned])
    return float((model.predict(new @ axes) == photos.targets[asked]).mean())


def probe(sets: list[Set], runs: Path) -> None:
    """Prints finetune beside scikit-learn."""
    print("| set | photos | finetune | scikit-learn | mean difference |")
    print("|---|--:|--:|--:|--:|")
    gains = []
    for photos in sets:
        ours, theirs = [], []
        for seed in range(3):
            asked = held_out(photos, seed, 0.25)
            ours.append(train_without(photos, asked, seed, runs)[0])
            theirs.append(scikit_learns(photos, asked))
        gains.append(100 * (np.mean(ours) - np.mean(theirs)))
        cells = [", ".join(f"{100 * value:.1f}" for value in values) for values in (ours, theirs)]
        print(
            f"| {photos.folder.name} | {len(photos.targets)} | {cells[0]} | {cells[1]} | "
            f"{gains[-1]:+.2f} |",
            flush=True,
        )
    print(f"| mean | | | | {np.mean(gains):+.2f} |")


def interval(sets: list[Set], runs: Path) -> None:
    """Prints how often the interval of a training covers the accuracy on other photos."""
    covered = 0
    for photos in sets:
        hits = 0
        for seed in range(10):
            asked = held_out(photos, seed, 0.5)
            accuracy, (low, high) = train_without(photos, asked, seed, runs)
            hits += low <= accuracy <= high
            print(
                f"{photos.folder.name} {seed}: {low:.1%} to {high:.1%}, other half {accuracy:.1%}"
            )
        print(f"{photos.folder.name}: covered in {hits} of 10", flush=True)
        covered += hits
    print(f"covered in {covered} of {10 * len(sets)}")


def solved(x: Floats, y: Integers, new: Floats, labels: int, strength: float) -> Floats:
    """Returns logits of new photos by finetune's head of one strength."""
    loss = SingleLabel().objective().loss
    solver = LinearSolver(
        torch.from_numpy(x.copy()), torch.from_numpy(y), outputs=labels, loss=loss
    )
    head = solver.head(solver.solve(strength))
    found: Floats = head(torch.from_numpy(new)).numpy()
    return found


@contextlib.contextmanager
def own_deviations() -> Iterator[None]:
    """Divides each feature by its own deviation alone."""
    before = linear_solver.SHRINKAGE
    linear_solver.SHRINKAGE = 0
    try:
        yield
    finally:
        linear_solver.SHRINKAGE = before


class Rows:
    """Stands in for a feature cache: a key is the number of a row."""

    def __init__(self, rows: Floats) -> None:
        self.rows = torch.from_numpy(rows)

    def read(self, keys: Sequence[bytes]) -> torch.Tensor:
        """Returns the rows."""
        return self.rows[[int(key) for key in keys]]


def picked(x: Floats, y: Integers, new: Floats, labels: int) -> Floats:
    """Returns logits of new photos by the head that cross-validation picks."""
    numbers = np.zeros(len(y), np.int64)
    for label in range(labels):
        numbers[y == label] = np.arange((y == label).sum()) % 5
    probe = ProbePhotos(
        features=cast(FeatureCache, Rows(x.copy())),
        views=[[b"%d" % index for index in range(len(x))]],
        targets=y,
        folds=numbers if numbers.any() else np.arange(len(y)) % 2,
    )
    device, objective = torch.device("cpu"), SingleLabel().objective()
    fitter = HeadFitter(probe, labels=labels, objective=objective, device=device)
    head = fitter.head(fit_head(fitter, strengths_of(None)).solution)
    found: Floats = head(torch.from_numpy(new)).numpy()
    return found


def nearest_mean(x: Floats, y: Integers, new: Floats, labels: int) -> Floats:
    """Returns the cosine of new photos with the mean of each label's normalized features."""
    unit = normalize(x)
    means = normalize(np.stack([unit[y == label].mean(0) for label in range(labels)]))
    found: Floats = new @ means.T
    return found


def methods(photos: Set, learned: Integers, asked: Integers) -> dict[str, Floats]:
    """Returns the logits of each method."""
    x, y, new = photos.features[learned], photos.targets[learned], photos.features[asked]
    both = np.concatenate([x, photos.mirrored[learned]])
    found = {"picked head": picked(x, y, new, photos.labels)}
    found["regression"] = solved(x, y, new, photos.labels, 0.1)
    with own_deviations():
        found["regression, own deviations"] = solved(x, y, new, photos.labels, 0.1)
    found["nearest mean"] = nearest_mean(x, y, new, photos.labels)
    if len(x) > photos.labels:
        axes = np.linalg.svd(x - x.mean(0), full_matrices=False)[2].T
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.3).fit(x @ axes, y)
        found["LDA, shrinkage 0.3"] = model.predict_log_proba(new @ axes)
    found["regression, mirrored photos too"] = solved(both, np.tile(y, 2), new, photos.labels, 0.1)
    return found


def few(sets: list[Set]) -> None:
    """Prints the accuracy of each method with few photos a label."""
    print("| photos a label | method |", " | ".join(s.folder.name for s in sets), "| mean |")
    print("|--:|---|" + "--:|" * (len(sets) + 1))
    for each in (1, 2, 3, 5, 10, 25):
        rows: dict[str, list[float]] = {}
        for photos in sets:
            right: dict[str, list[float]] = {}
            for seed in range(8):
                rng = np.random.default_rng(seed)
                by_label = [np.flatnonzero(photos.targets == k) for k in range(photos.labels)]
                learned = np.concatenate(
                    [rng.choice(own, min(each, len(own) - 3), replace=False) for own in by_label]
                )
                asked = np.setdiff1d(np.arange(len(photos.targets)), learned)
                asked = rng.permutation(asked)[:300]
                for name, logits in methods(photos, learned, asked).items():
                    hits = logits.argmax(1) == photos.targets[asked]
                    right.setdefault(name, []).append(100 * float(hits.mean()))
            for name, values in right.items():
                rows.setdefault(name, []).append(float(np.mean(values)))
        for name, values in rows.items():
            cells = " | ".join(f"{value:.1f}" for value in [*values, float(np.mean(values))])
            print(f"| {each} | {name} | {cells} |", flush=True)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("study", choices=("probe", "few", "interval"))
    parser.add_argument("--shared", type=Path, required=True, help="Holds photos/ and data/.")
    parser.add_argument("--sets", nargs="*", help="Names of sets; not given: all.")
    parser.add_argument("--work", type=Path, help="Keeps sets and caches for the next time.")
    options = parser.parse_args()
    names = options.sets
    if options.study == "interval" and not names:
        names = ["cifar10", "mnist", "hymenoptera"]
    with contextlib.ExitStack() as stack:
        work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folders = gather(options.shared, work / "sets")
        sets = [load(folder) for folder in folders if not names or folder.name in names]
        runs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if options.study == "few":
            few(sets)
        else:
            {"probe": probe, "interval": interval}[options.study](sets, runs)


if __name__ == "__main__":
    main()
