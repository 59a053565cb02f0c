"""Correctness and speed on a GPU, in one script of less than 8 minutes.

    python benchmarks/gpu.py [--device cuda] [--minutes 8]
    python benchmarks/gpu.py --device cpu --small      # what the tests run

Draws its own photos and needs no network. First it compares the device with the CPU: augmentation,
resident photos, features, two steps of training, and a training that was interrupted and resumed.
Then it measures augmentation, training steps, whole trainings, features and predictions. Every row
is printed as soon as it is known; rows for which no time is left are named. Ends with 1 if a
comparison exceeds its tolerance.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from finetune import Predictor
from finetune.augmentation.batch_augment import BatchAugment
from finetune.augmentation.recipes import named
from finetune.config_io import resolve
from finetune.data.dataset import DeviceDataset, PhotoDataset
from finetune.data.pixel_cache import PixelCache
from finetune.data.samples import Sample
from finetune.models.factory import ModelRequest, create_model
from finetune.models.features import FeatureCache
from finetune.models.registry import DEFAULT_MODEL
from finetune.photos.preprocessing import Preprocessing
from finetune.photos.scan import scan
from finetune.training.events import EpochDone
from finetune.training.train import resume, train

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Sizes:
    """Sizes of what is compared and measured."""

    network: str
    size: int
    batch: int
    photos: int
    steps: int
    epochs: int
    features: str


LARGE = Sizes("resnet50", 224, 256, 2_048, 30, 4, DEFAULT_MODEL)
SMALL = Sizes("test_resnet", 48, 8, 24, 2, 2, "test_resnet")


class Bench:
    """Rows with a deadline."""

    def __init__(self, device: torch.device, sizes: Sizes, folder: Path, seconds: float) -> None:
        self.device, self.sizes, self.folder = device, sizes, folder
        self.deadline = time.monotonic() + seconds
        self.wrong = 0

    def sync(self) -> None:
        """Waits for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def compare(self, what: str, found: Tensor, expected: Tensor, tolerance: float) -> None:
        """Prints a row of a comparison; the difference is relative to the largest value."""
        scale = float(expected.double().abs().max()) or 1.0
        difference = float((found.double().cpu() - expected.double()).abs().max()) / scale
        good = found.shape == expected.shape and difference <= tolerance
        self.wrong += not good
        verdict = "yes" if good else "NO"
        print(f"| {what} | {difference:.1e} | {tolerance:.0e} | {verdict} |", flush=True)

    def measure(self, what: str, unit: str, work: Callable[[], float]) -> float | None:
        """Prints a row of a measurement, unless the time is over."""
        if time.monotonic() > self.deadline:
            print(f"| {what} | no time left | |", flush=True)
            return None
        value = work()
        print(f"| {what} | {value:,.4g} | {unit} |", flush=True)
        return value

    def seconds_of(self, step: Callable[[], object], *, count: int | None = None) -> float:
        """Returns the median time of a step in seconds, after two steps that warm up."""
        times = []
        for number in range((count or self.sizes.steps) + 2):
            self.sync()
            started = time.perf_counter()
            step()
            self.sync()
            if number >= 2:
                times.append(time.perf_counter() - started)
        return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny networks and few photos")
    parser.add_argument("--minutes", type=float, default=8.0)
    given = parser.parse_args()
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("There is no CUDA device. Try it with --device cpu --small.")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}\n")
    sizes = SMALL if given.small else LARGE
    with tempfile.TemporaryDirectory(prefix="gpu-") as folder:
        bench = Bench(device, sizes, Path(folder), given.minutes * 60)
        draw(bench)
        print("| compared with the CPU | difference | tolerance | holds |\n|---|---:|---:|---|")
        compare_augmentation(bench)
        compare_resident_photos(bench)
        compare_features(bench)
        compare_training(bench)
        compare_resumed(bench)
        print("\n| measured | value | unit |\n|---|---:|---|")
        measure_augmentation(bench)
        measure_steps(bench)
        measure_training(bench)
        measure_features(bench)
        measure_predictions(bench)
        if device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(device) / 2**30
            print(f"| most memory of the device | {peak:,.4g} | GiB |")
    sys.exit(1 if bench.wrong else 0)


def draw(bench: Bench) -> None:
    """Writes photos of two labels and random weights."""
    rng = np.random.default_rng(0)
    side = bench.sizes.size * 3 // 2
    for number in range(bench.sizes.photos):
        target = bench.folder / "photos" / "ab"[number % 2] / f"{number:05}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(0, 256, (7, 9, 3), np.uint8)
        coarse[:, :, number % 2] //= 2
        image = Image.fromarray(coarse).resize((side * 4 // 3, side), Image.Resampling.BICUBIC)
        image.save(target, quality=90)
    torch.manual_seed(0)
    for network in {bench.sizes.network, bench.sizes.features} - {DEFAULT_MODEL}:
        module = timm.create_model(network)
        save_file(module.state_dict(), bench.folder / f"{network}.safetensors")


def images_of(bench: Bench, count: int) -> Tensor:
    """Returns `(count, 3, S, S) uint8` smooth random images, a little larger than the input."""
    side = round(bench.sizes.size / 0.875)
    rng = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 9, 9, generator=rng) * 255
    images = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic")
    return images.clamp(0, 255).to(torch.uint8)


def augmentation(bench: Bench, recipe: str) -> BatchAugment:
    """Returns the augmentation of a recipe."""
    return BatchAugment(named(recipe), size=bench.sizes.size, mean=MEAN, std=STD, seed=0)


def compare_augmentation(bench: Bench) -> None:
    """Compares the batch form on the device with that on the CPU."""
    images, indices = images_of(bench, 16), torch.arange(16)
    for recipe in ("standard", "mobius", "strong"):
        augment = augmentation(bench, recipe)
        found = augment.as_batch(images.to(bench.device), indices, 1)
        expected = augment.as_batch(images, indices, 1)
        bench.compare(f"augmentation, recipe {recipe}", found, expected, 2e-3)


def dataset(bench: Bench) -> PhotoDataset:
    """Returns the drawn photos as a dataset whose pixels are cached."""
    root = bench.folder / "photos"
    cache = PixelCache(bench.folder / "cache", Preprocessing(size=bench.sizes.size), limit_gb=10)
    photos = scan(root, sink=cache).photos
    cache.records.flush()
    labels = sorted({photo.labels[0] for photo in photos})
    samples = [
        Sample(path=p.path, digest=p.digest, crop=p.crop, target=labels.index(p.labels[0]))
        for p in photos
    ]
    return PhotoDataset(root, samples, cache)


def compare_resident_photos(bench: Bench) -> None:
    """Compares batches of photos in the device's memory with those of the cache."""
    photos = dataset(bench)
    chosen = np.random.default_rng(0).permutation(len(photos))[:16].tolist()
    found = DeviceDataset(photos, bench.device).__getitems__(chosen)
    expected = photos.__getitems__(chosen)
    bench.compare("photos resident on the device", found.images, expected.images, 0.0)
    bench.compare("their targets", found.targets, expected.targets, 0.0)


def backbone(bench: Bench, device: torch.device) -> FeatureCache:
    """Returns the features of the default network on a device."""
    file = bench.folder / f"{bench.sizes.features}.safetensors"
    weights = str(file) if file.exists() else None
    size = None if weights is None else bench.sizes.size
    loaded = create_model(
        ModelRequest(name=bench.sizes.features, weights=weights, size=size, download=False)
    )
    module = loaded.module.eval().to(device=device, memory_format=torch.channels_last)
    return FeatureCache(bench.folder / f"features-{device.type}", module, loaded.preprocessing)


def working_images(bench: Bench, features: FeatureCache, count: int) -> Tensor:
    """Returns `(count, 3, S, S) uint8` images of the working size."""
    side = features.preprocessing.working_size
    return torch.nn.functional.interpolate(images_of(bench, count).float(), (side, side)).to(
        torch.uint8
    )


def compare_features(bench: Bench) -> None:
    """Compares features; on a GPU, TF32 rounds them."""
    on_cpu, on_device = backbone(bench, torch.device("cpu")), backbone(bench, bench.device)
    images = working_images(bench, on_cpu, 16)
    found = torch.from_numpy(on_device.compute(images))
    bench.compare("features", found, torch.from_numpy(on_cpu.compute(images)), 5e-3)


def flags_of(bench: Bench, device: torch.device, **more: Any) -> dict[str, Any]:
    """Returns the settings of a training of the whole network."""
    return {
        "model": "test_resnet",
        "weights": "none",
        "mode": "full",
        "size": 48,
        "device": str(device),
        "precision": "fp32",
        "group_by": "none",
        "validation": 0.2,
        "test": 0.0,
        "batch_size": 8,
        "augment": "light",
        **more,
    }


def train_one(bench: Bench, name: str, flags: dict[str, Any], **options: Any) -> Path:
    """Trains on the drawn photos and returns the run's folder."""
    config = resolve({}, flags)
    result = train(bench.folder / "photos", config, run=str(bench.folder / name), **options)
    return result.run.path


def losses(bench: Bench, name: str, device: torch.device) -> Tensor:
    """Returns the training losses of two epochs of one step each."""
    found: list[float] = []

    def note(event: object) -> None:
        if isinstance(event, EpochDone):
            found.append(event.train_loss)

    flags = flags_of(bench, device, epochs=2, batch_size=bench.sizes.photos)
    train_one(bench, name, flags, callback=note)
    return torch.tensor(found)


def compare_training(bench: Bench) -> None:
    """Compares the losses of two steps: the second depends on the gradients of the first."""
    expected = losses(bench, "steps-cpu", torch.device("cpu"))
    found = losses(bench, "steps-device", bench.device)
    bench.compare("loss of two steps, augmented", found, expected, 1e-2)


def compare_resumed(bench: Bench) -> None:
    """Compares a training that was interrupted and resumed with one that was not."""
    flags = flags_of(bench, bench.device, epochs=4)

    def stop(event: object) -> None:
        if isinstance(event, EpochDone) and event.epoch == 2:
            signal.raise_signal(signal.SIGTERM)

    whole = train_one(bench, "whole", flags)
    stopped = train_one(bench, "stopped", flags, callback=stop)
    resume(stopped)
    one, other = (load_file(run / "model.safetensors") for run in (whole, stopped))
    assert one.keys() == other.keys()
    flat = [
        torch.cat([run[name].double().flatten() for name in sorted(run)]) for run in (other, one)
    ]
    # A GPU adds in another order each time.
    tolerance = 0.0 if bench.device.type == "cpu" else 1e-2
    bench.compare("weights of a resumed training", flat[0], flat[1], tolerance)


def measure_augmentation(bench: Bench) -> None:
    """Measures the augmentation of a batch."""
    batch = bench.sizes.batch
    images, indices = images_of(bench, batch).to(bench.device), torch.arange(batch)
    for recipe in ("standard", "mobius", "strong"):
        augment = augmentation(bench, recipe)
        bench.measure(
            f"augmentation, recipe {recipe}, batch {batch}",
            "ms a photo",
            lambda augment=augment: (
                1e3 * bench.seconds_of(lambda: augment(images, indices, 0)) / batch
            ),
        )


def measure_steps(bench: Bench) -> None:
    """Measures training steps in the device's precision, without and with augmentation."""
    sizes, device = bench.sizes, bench.device
    module = timm.create_model(sizes.network, num_classes=2).to(device)
    module = module.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(module.parameters(), 1e-3, fused=device.type == "cuda")
    kind = torch.bfloat16 if device.type == "cuda" else torch.float32
    images = images_of(bench, sizes.batch).to(device)
    targets = torch.zeros(sizes.batch, dtype=torch.long, device=device)
    indices = torch.arange(sizes.batch)
    pixels = augmentation(bench, "standard")(images, indices, 0)

    def step(pixels: Tensor) -> None:
        with torch.autocast(device.type, dtype=kind, enabled=kind != torch.float32):
            loss = torch.nn.functional.cross_entropy(module(pixels), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    name = f"step of {sizes.network}, batch {sizes.batch}, {str(kind).rpartition('.')[2]}"
    for what, make in {
        "bare": lambda: pixels,
        "with recipe standard": lambda: augmentation(bench, "standard")(images, indices, 0),
        "with recipe mobius": lambda: augmentation(bench, "mobius")(images, indices, 0),
    }.items():
        bench.measure(
            f"{name}, {what}",
            "photos/s",
            lambda make=make: sizes.batch / bench.seconds_of(lambda: step(make())),
        )


def measure_training(bench: Bench) -> None:
    """Measures whole trainings: photos a second of their best epoch."""
    sizes = bench.sizes
    kinds = {"": {}, ", --compile": {"compile": True}} if bench.device.type == "cuda" else {"": {}}
    for number, (what, more) in enumerate(kinds.items()):

        def work(number: int = number, more: dict[str, Any] = more) -> float:
            found: list[float] = []

            def note(event: object) -> None:
                if isinstance(event, EpochDone):
                    found.append(event.images_per_second)

            flags = flags_of(bench, bench.device, **more) | {
                "model": sizes.network,
                "size": sizes.size,
                "batch_size": sizes.batch,
                "epochs": sizes.epochs,
                "augment": "standard",
                "precision": "bf16" if bench.device.type == "cuda" else "fp32",
            }
            train_one(bench, f"speed-{number}", flags, callback=note)
            return max(found[1:])

        bench.measure(f"finetune train, {sizes.network}{what}, best epoch", "photos/s", work)


def measure_features(bench: Bench) -> None:
    """Measures the features of images in memory."""
    features = backbone(bench, bench.device)
    for batch in dict.fromkeys((32, bench.sizes.batch)):
        images = working_images(bench, features, batch)
        bench.measure(
            f"features, {bench.sizes.features}, batch {batch}, from the host's memory",
            "photos/s",
            lambda images=images: len(images) / bench.seconds_of(lambda: features.compute(images)),
        )


def measure_predictions(bench: Bench) -> None:
    """Measures the predictions of files, decoding included."""
    flags = {"mode": "head", "device": str(bench.device), "group_by": "none", "validation": 0.2}
    file = bench.folder / f"{bench.sizes.features}.safetensors"
    flags["model"] = bench.sizes.features
    if file.exists():
        flags |= {"weights": str(file), "size": bench.sizes.size}
    run = train_one(bench, "head", flags)
    predictor = Predictor.load(run, device=str(bench.device), engine="torch")
    paths = sorted((bench.folder / "photos").rglob("*.jpg"))
    for batch in dict.fromkeys((32, bench.sizes.batch)):

        def work(batch: int = batch) -> float:
            predicted = sum(1 for _ in predictor.predict_stream(paths[:batch], batch_size=batch))
            started = time.perf_counter()
            predicted = sum(1 for _ in predictor.predict_stream(paths, batch_size=batch))
            return predicted / (time.perf_counter() - started)

        bench.measure(f"predict, {bench.sizes.features}, batch {batch}, files", "photos/s", work)


if __name__ == "__main__":
    main()
