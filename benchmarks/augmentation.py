"""Time of augmentation: finetune, albumentations and torchvision on one core, and in a step.

    python benchmarks/augmentation.py [--steps 6]

All take decoded 256-pixel photos and return normalized 224-pixel float32 tensors, with the same
recipe: random resized crop, flip, brightness, contrast, saturation and hue; one row of each leaves
out the hue, for which the others convert to HSV and back. The rounds of all candidates are
interleaved; each result is the median of its rounds. The table for one core has CPU time, the
training step wall time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import albumentations as A  # noqa: N812
import cv2
import numpy as np
import timm
import torch
from albumentations.pytorch import ToTensorV2
from PIL import Image
from scipy.ndimage import geometric_transform
from torchvision.transforms import v2

from finetune.augmentation import mobius, sampling, warp
from finetune.augmentation import sampling as chance
from finetune.augmentation.batch_augment import BatchAugment
from finetune.augmentation.random_mobius import RandomMobius
from finetune.augmentation.recipes import named

SIZE, WORKING, BATCH = 224, 256, 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STRENGTH, HUE = 0.2, 0.05


def photos(count: int) -> torch.Tensor:
    """Returns `(count, 3, 256, 256)` uint8, channels_last: blurred noise, smooth as photos."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (count * WORKING, WORKING, 3), dtype=np.uint8)
    smooth = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)
    return torch.from_numpy(smooth.reshape(count, WORKING, WORKING, 3)).permute(0, 3, 1, 2)


def candidates(images: torch.Tensor) -> dict[str, tuple[Callable[[], object], int]]:
    """Returns each candidate's name with (one call, photos in it)."""
    arrays = [np.ascontiguousarray(image) for image in images.permute(0, 2, 3, 1).numpy()]
    pil = [Image.fromarray(array) for array in arrays]
    tensors = list(images)
    indices = torch.arange(len(images))
    epoch = iter(range(10**9))

    def ours(**numbers: object) -> Callable[[], object]:
        recipe = named("standard", {"color_probability": 1.0, "hue": HUE, **numbers})
        augment = BatchAugment(recipe, size=SIZE, mean=MEAN, std=STD, seed=0)
        return lambda: augment(images, indices, next(epoch))

    steps = [
        A.RandomResizedCrop(size=(SIZE, SIZE), scale=(0.3, 1.0), ratio=(3 / 4, 4 / 3), p=1.0),
        A.HorizontalFlip(p=0.5),
    ]
    jitter = (1 - STRENGTH, 1 + STRENGTH)

    def alb(hue: float, *extra: object) -> Callable[[], object]:
        color = A.ColorJitter(jitter, jitter, jitter, hue=(-hue, hue), p=1.0)
        pipeline = A.Compose([*steps, *extra, color, A.Normalize(MEAN, STD), ToTensorV2()])
        return lambda: torch.stack([pipeline(image=array)["image"] for array in arrays])

    def vision(sources: list[object], hue: float) -> Callable[[], object]:
        pipeline = v2.Compose(
            [
                v2.RandomResizedCrop(SIZE, scale=(0.3, 1.0), ratio=(3 / 4, 4 / 3), antialias=True),
                v2.RandomHorizontalFlip(),
                v2.ColorJitter(STRENGTH, STRENGTH, STRENGTH, hue or None),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, STD),
            ]
        )
        return lambda: torch.stack([pipeline(source) for source in sources])

    matrix = mobius.admissible(np.full(6, 0.7), bound=2, max_rotation_degrees=15, max_shift=0.1)

    def scipy_map(place: tuple[int, int, int]) -> tuple[float, float, int]:
        z = complex(2 * place[1] / SIZE - 1, 2 * place[0] / SIZE - 1)
        w = mobius.apply(matrix, z)
        return (w.imag + 1) * SIZE / 2, (w.real + 1) * SIZE / 2, place[2]

    return {
        "finetune: crop, flip, color": (ours(), BATCH),
        "finetune: without hue": (ours(hue=0.0), BATCH),
        "finetune: crop, flip, color, Möbius on top of each": (
            ours(mobius_probability=1.0, mobius_mode="on_top"), BATCH
        ),
        "finetune: color, Möbius instead of crop and flip": (
            ours(mobius_probability=1.0), BATCH
        ),
        "finetune: recipe mobius (20 % instead)": (ours(mobius_probability=0.2), BATCH),
        "albumentations: crop, flip, color": (alb(HUE), BATCH),
        "albumentations: without hue": (alb(0.0), BATCH),
        "albumentations with RandomMobius on top of each": (alb(HUE, RandomMobius(p=1.0)), BATCH),
        "torchvision v2 on uint8 tensors": (vision(tensors, HUE), BATCH),
        "torchvision v2 on uint8 tensors: without hue": (vision(tensors, 0.0), BATCH),
        "torchvision v2 on PIL images": (vision(pil, HUE), BATCH),
        "torchvision v2 on PIL images: without hue": (vision(pil, 0.0), BATCH),
        "scipy geometric_transform, a Möbius map alone": (
            lambda: geometric_transform(arrays[0][:SIZE, :SIZE], scipy_map, order=1), 1
        ),
    }  # fmt: skip


def medians(calls: dict[str, tuple[Callable[[], object], int]], rounds: int) -> dict[str, float]:
    """Returns CPU milliseconds per photo, which other programs affect less than wall time.

    The slow scipy row runs in one round.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(-1, rounds):
        for name, (call, count) in calls.items():
            if count == 1 and turn > 0:
                continue
            start = time.process_time()
            call()
            if turn >= 0:
                times[name].append((time.process_time() - start) / count * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def worst_map_error(count: int = 500) -> float:
    """Returns the largest difference in source pixels between float32 and float64 maps."""
    recipe = named("strong", {"mobius_probability": 1.0, "mobius_bound": 2.0})
    frame = sampling.Frame(height=WORKING, width=WORKING, size=SIZE)
    drawn = sampling.sample_params(recipe, frame, seed=0, epoch=0, indices=np.arange(count))
    pixels = warp.pixel_polynomials(warp.rational(drawn.mobius, drawn.affine), WORKING, WORKING)
    axis = (2 * np.arange(SIZE) + 1) / SIZE - 1
    w = axis[None, :] + 1j * axis[:, None]
    maps, worst = warp.PixelMaps(SIZE, SIZE), 0.0
    for row in range(count):
        # The reference goes the plain way: complex arithmetic, then the affine map, in float64.
        z = mobius.apply(drawn.mobius[row], w)
        affine = drawn.affine[row]
        exact = [
            (line[0] * z.real + line[1] * z.imag + line[2] + 1) * WORKING / 2 - 0.5
            for line in affine
        ]
        for got, wanted in zip(maps.fill(pixels[row]), exact, strict=True):
            worst = max(worst, float(np.abs(got - wanted).max()))
    return worst


def training_step(steps: int, batch: int = 16) -> dict[str, float]:
    """Returns milliseconds of an augmented ResNet-18 step on all cores, forward and backward."""
    torch.manual_seed(0)
    network = timm.create_model("resnet18", num_classes=10).train()
    network = network.to(memory_format=torch.channels_last)
    images, indices = photos(batch), torch.arange(batch)
    targets = indices % 10
    times: dict[str, list[float]] = {"without": [], "with": [], "augment": [], "augment Möbius": []}
    augments = {
        key: BatchAugment(named(recipe, numbers), size=SIZE, mean=MEAN, std=STD, seed=0)
        for key, recipe, numbers in (
            ("without", "standard", {}),
            ("with", "standard", {"mobius_probability": 1.0, "mobius_mode": "on_top"}),
        )
    }
    for turn in range(-1, steps):
        # The order alternates, so that what drifts hits both alike.
        for key in ("without", "with") if turn % 2 else ("with", "without"):
            start = time.perf_counter()
            pixels = augments[key](images, indices, turn + 1)
            between = time.perf_counter()
            torch.nn.functional.cross_entropy(network(pixels), targets).backward()
            network.zero_grad(set_to_none=True)
            if turn >= 0:
                times[key].append((time.perf_counter() - start) * 1e3)
                part = "augment" if key == "without" else "augment Möbius"
                times[part].append((between - start) * 1e3)
    return {key: statistics.median(values) for key, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=10)
    arguments = parser.parse_args()
    cores = torch.get_num_threads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    times = medians(candidates(photos(BATCH)), arguments.rounds)
    base = times["finetune: crop, flip, color"]
    print(f"One core, {WORKING} to {SIZE} pixels, batches of {BATCH}, {arguments.rounds} rounds:\n")
    print("| what | CPU ms a photo | to finetune's crop, flip, color |\n|---|---:|---:|")
    for name, value in times.items():
        print(f"| {name} | {value:.3f} | {value / base:.2f} |")
    added = times["finetune: crop, flip, color, Möbius on top of each"] - base
    print(f"\nMöbius on top of each photo adds {added:.3f} ms.")
    print(f"Worst map error of float32 against float64: {worst_map_error():.5f} pixels.")
    start = time.perf_counter()
    for epoch in range(100):
        chance.uniforms(0, epoch, np.arange(BATCH), 27)
    print(f"All random numbers of {BATCH} photos: {(time.perf_counter() - start) * 1e4:.0f} µs.")
    torch.set_num_threads(cores)
    step = training_step(arguments.steps)
    print(
        f"\nResNet-18, 224 pixels, batch 16, {cores} cores, {arguments.steps} steps each:\n\n"
        "| step (augment, forward, backward) | ms | of it augmentation |\n|---|---:|---:|\n"
        f"| standard | {step['without']:.0f} | {step['augment']:.1f} |\n"
        f"| standard, Möbius on top of each | {step['with']:.0f} | {step['augment Möbius']:.1f} |\n"
        f"\nStep with Möbius to step without: {step['with'] / step['without']:.3f}; by the "
        "augmentation's own times "
        f"{1 + (step['augment Möbius'] - step['augment']) / step['without']:.4f}."
    )


if __name__ == "__main__":
    main()
