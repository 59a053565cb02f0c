"""Speed of training compared with a PyTorch loop and with the bare steps on tensors.

    python benchmarks/training.py --photos ../shared/photos/hymenoptera
    python benchmarks/training.py --photos ../shared/photos/hymenoptera --device cuda

On the CPU: photos of several sizes are made from those given; a PyTorch loop (ImageFolder, PIL, two
workers), finetune and the bare steps on tensors in memory train ResNet-18 alternately, each in its
own process. With ``--device cuda``: ResNet-50 at 224, batch 256, bf16, compared with the same steps
on random tensors on the device. Rows are Markdown; times are medians of the rounds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

SIDES = {12: (4000, 3000), 2: (1600, 1200)}
"""Width and height of photos by their megapixels."""

BATCH, SIZE, HEAD_EPOCHS = 16, 224, 25

COMMON = """
import json, resource, sys, time
import torch
request = json.loads(sys.argv[1])
def done(**found):
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    workers = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    found["peak_mb"] = (own + request.get("workers", 0) * workers) / 1024
    print(json.dumps(found))
"""

PLAIN = (
    COMMON
    + """
from torch.utils.data import DataLoader
from torchvision import datasets, models, transforms
kept = transforms.Compose([transforms.RandomResizedCrop(request["size"]),
    transforms.RandomHorizontalFlip(), transforms.ToTensor(),
    transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))])
photos = datasets.ImageFolder(request["photos"], kept)
loader = DataLoader(photos, request["batch"], shuffle=True, num_workers=request["workers"],
    persistent_workers=True)
net = models.resnet18(num_classes=len(photos.classes))
optimizer = torch.optim.AdamW(net.parameters(), 1e-3)
seconds = []
for epoch in range(request["epochs"]):
    start, loss_sum, right = time.perf_counter(), 0.0, 0
    for images, targets in loader:
        logits = net(images)
        loss = torch.nn.functional.cross_entropy(logits, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss_sum += loss.item()
        right += (logits.argmax(1) == targets).sum().item()
    seconds.append(time.perf_counter() - start)
del loader
done(rate=len(photos) / min(seconds[1:]), seconds=min(seconds[1:]))
"""
)

BARE = (
    COMMON
    + """
import timm
from finetune.malloc import keep_freed_memory
keep_freed_memory()
net = timm.create_model("resnet18", num_classes=2).to(memory_format=torch.channels_last).train()
optimizer = torch.optim.AdamW(net.parameters(), 1e-3)
shape = (request["batch"], 3, request["size"], request["size"])
images = torch.randn(shape).contiguous(memory_format=torch.channels_last)
targets = torch.randint(0, 2, (request["batch"],))
seconds = []
for step in range(request["steps"] + 1):
    start = time.perf_counter()
    torch.nn.functional.cross_entropy(net(images), targets).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    seconds.append(time.perf_counter() - start)
done(rate=request["batch"] / (sum(seconds[1:]) / request["steps"]))
"""
)

OURS = (
    COMMON
    + """
from pathlib import Path
from finetune import train
from finetune.config_io import resolve
from finetune.training.events import EpochDone
flags = {"model": "resnet18", "weights": "none", "mode": "full", "size": request["size"],
    "batch_size": request["batch"], "epochs": request["epochs"], "device": "cpu",
    "group_by": "none", "validation": 0.1, "test": 0.0}
epochs = []
train(request["photos"], resolve({}, flags), runs=Path(request["runs"]),
    callback=lambda event: epochs.append(event) if isinstance(event, EpochDone) else None)
done(rate=max(event.images_per_second for event in epochs[1:]))
"""
)

HEAD = (
    COMMON
    + """
from pathlib import Path
from finetune import train
from finetune.config_io import resolve
from finetune.training.events import EpochDone, Progressed
flags = {"model": request["model"], "weights": request["weights"], "mode": "head",
    "epochs": request["epochs"], "device": "cpu", "group_by": "none"}
times, epochs = {}, []
def listen(event):
    if isinstance(event, Progressed) and event.stage.startswith("Features"):
        times["features"] = time.perf_counter()
    if isinstance(event, EpochDone):
        epochs.append(event.seconds)
from finetune.models.features import FeatureCache
plain, spent = FeatureCache.fill, []
def timed(self, *arguments, **keywords):
    start = time.perf_counter()
    count = plain(self, *arguments, **keywords)
    spent.append((count, time.perf_counter() - start))
    return count
FeatureCache.fill = timed
train(request["photos"], resolve({}, flags), runs=Path(request["runs"]), callback=listen)
done(features=sum(s for _, s in spent), photos=sum(c for c, _ in spent), head=sum(epochs))
"""
)

CUDA = (
    COMMON
    + """
from pathlib import Path
import timm
from finetune import train
from finetune.config_io import resolve
from finetune.training.events import EpochDone
flags = {"model": "resnet50", "weights": "none", "mode": "full", "size": 224, "batch_size": 256,
    "epochs": request["epochs"], "device": "cuda", "precision": "bf16", "group_by": "none",
    "compile": request["compile"], "validation": 0.1, "test": 0.0}
epochs = []
train(request["photos"], resolve({}, flags), runs=Path(request["runs"]),
    callback=lambda event: epochs.append(event) if isinstance(event, EpochDone) else None)
net = timm.create_model("resnet50", num_classes=2).cuda().to(memory_format=torch.channels_last)
optimizer = torch.optim.AdamW(net.parameters(), 1e-3, fused=True)
if request["compile"]:
    net.compile()
images = torch.randn(256, 3, 224, 224, device="cuda").contiguous(memory_format=torch.channels_last)
targets = torch.randint(0, 2, (256,), device="cuda")
def step():
    with torch.autocast("cuda", dtype=torch.bfloat16):
        loss = torch.nn.functional.cross_entropy(net(images), targets)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
for _ in range(10):
    step()
torch.cuda.synchronize()
start = time.perf_counter()
for _ in range(request["steps"]):
    step()
torch.cuda.synchronize()
bare = 256 * request["steps"] / (time.perf_counter() - start)
done(rate=statistics_median([e.images_per_second for e in epochs[1:]]), bare=bare)
"""
).replace("import torch\n", "import torch\nfrom statistics import median as statistics_median\n", 1)


def run(code: str, **request: Any) -> dict[str, float]:
    """Returns the measurements of a child process."""
    child = subprocess.run(
        [sys.executable, "-c", code, json.dumps(request)],
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode:
        raise SystemExit(child.stderr)
    found: dict[str, float] = json.loads(child.stdout.splitlines()[-1])
    return found


def make_photos(source: Path, folder: Path, megapixels: int, count: int) -> Path:
    """Writes `count` JPEGs of `megapixels` in two label folders."""
    files = sorted(file for file in source.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg"))
    picked = files[:: max(1, len(files) // count)]
    for number, file in enumerate(itertools.islice(itertools.cycle(picked), count)):
        target = folder / "ab"[number % 2] / f"{number:05d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(file) as image:
            large = image.convert("RGB").resize(SIDES[megapixels], Image.Resampling.BICUBIC)
        large.save(target, quality=92)
    return folder


def beside_a_plain_loop(arguments: argparse.Namespace, folder: Path) -> None:
    """Prints the time of training ResNet-18, of a PyTorch loop, and of the bare steps."""
    print(
        "| photos | plain loop, photos/s | finetune, photos/s | ratio (bar) | bare steps, photos/s "
        "| share of these (90 %) | peak MB, plain | peak MB, finetune |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|--:|", flush=True)
    bars = {12: 1.5, 2: 1.15}
    for megapixels in arguments.megapixels:
        photos = make_photos(
            arguments.photos, folder / f"{megapixels}mp", megapixels, arguments.count
        )
        shared = {"photos": str(photos), "size": SIZE, "batch": BATCH, "epochs": arguments.epochs}
        rounds = []
        for number in range(arguments.rounds):
            rounds.append(
                {
                    "plain": run(PLAIN, workers=2, **shared),
                    "ours": run(OURS, runs=str(folder / f"runs-{megapixels}-{number}"), **shared),
                    "bare": run(BARE, steps=4, **shared),
                }
            )
            # The plain loop takes every folder for a label.
            shutil.rmtree(photos / ".finetune", ignore_errors=True)

        def middle(name: str, figure: str, rounds: list[Any] = rounds) -> float:
            return statistics.median(r[name][figure] for r in rounds)

        plain, ours, bare = (middle(name, "rate") for name in ("plain", "ours", "bare"))
        print(
            f"| {arguments.count} of {megapixels} MP | {plain:.1f} | {ours:.1f} | "
            f"{ours / plain:.2f} ({bars.get(megapixels, 1)}) | {bare:.1f} | {ours / bare:.0%} | "
            f"{middle('plain', 'peak_mb'):.0f} | {middle('ours', 'peak_mb'):.0f} |",
            flush=True,
        )
        if arguments.weights and megapixels == arguments.megapixels[0]:
            plain_seconds = middle("plain", "seconds")
            of_head(arguments, photos, folder, plain_seconds)
            whole = shutil.copytree(arguments.photos, folder / "whole")
            of_head(arguments, whole, folder, None)


def of_head(
    arguments: argparse.Namespace, photos: Path, folder: Path, plain_seconds: float | None
) -> None:
    """Prints the time of 25 epochs of head training and of one pass of the backbone."""
    rounds = []
    for number in range(arguments.rounds):
        shutil.rmtree(photos / ".finetune", ignore_errors=True)
        rounds.append(
            run(
                HEAD,
                photos=str(photos),
                runs=str(folder / f"head-{photos.name}-{number}"),
                model=arguments.model,
                weights=str(arguments.weights),
                epochs=HEAD_EPOCHS,
            )
        )
    passed = statistics.median(r["features"] for r in rounds)
    head = statistics.median(r["head"] for r in rounds)
    total = passed + head
    print(
        f"\n{arguments.model}, {rounds[0]['photos']:,.0f} photos: one pass of the backbone "
        f"{passed:.2f} s, {HEAD_EPOCHS} epochs of its head {head:.2f} s; together "
        f"{total / passed:.3f} passes (bar: 1.15). The backbone in every epoch would take "
        f"{HEAD_EPOCHS * passed + head:.1f} s: {(HEAD_EPOCHS * passed + head) / total:.1f}x "
        "(bar: 20)."
    )
    if plain_seconds is not None:
        print(
            f"{HEAD_EPOCHS} epochs of the head take {head / plain_seconds:.3f} of one epoch of the "
            f"plain loop, {plain_seconds:.2f} s (bar: 0.35); with the pass over the photos "
            f"{total / plain_seconds:.2f}."
        )
    print(flush=True)


def on_cuda(arguments: argparse.Namespace, folder: Path) -> None:
    """Prints the training rate of ResNet-50 on a GPU and that of its bare steps."""
    photos = make_photos(arguments.photos, folder / "12mp", 12, 64)
    for file in sorted(photos.rglob("*.jpg")):
        # Camera photos in number: copies under other names, each with a byte of its own.
        for copy in range(arguments.count // 64):
            content = file.read_bytes() + bytes([copy % 256, copy // 256])
            file.with_name(f"{file.stem}-{copy}.jpg").write_bytes(content)
    print("| network | finetune, photos/s | bare steps, photos/s | share (bar: 90 %) |")
    print("|---|--:|--:|--:|")
    for compiled in (False, True):
        rounds = [
            run(
                CUDA,
                photos=str(photos),
                runs=str(folder / f"cuda-{compiled}-{number}"),
                epochs=arguments.epochs,
                steps=50,
                compile=compiled,
            )
            for number in range(arguments.rounds)
        ]
        ours = statistics.median(r["rate"] for r in rounds)
        bare = statistics.median(r["bare"] for r in rounds)
        name = "ResNet-50, bf16, 256" + (", compiled" if compiled else "")
        print(f"| {name} | {ours:,.0f} | {bare:,.0f} | {ours / bare:.0%} |", flush=True)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photos", type=Path, required=True, help="JPEGs to make photos from.")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--count", type=int, default=48, help="Photos to train on.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--megapixels", type=int, nargs="*", default=[12, 2], choices=SIDES)
    parser.add_argument("--model", default="mobilenetv2_100", help="Network of the head.")
    parser.add_argument("--weights", type=Path, help="Its weights file; not given: no head.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.device == "cuda":
            on_cuda(arguments, folder)
        elif arguments.megapixels:
            beside_a_plain_loop(arguments, folder)
        else:
            copied = folder / "photos"
            shutil.copytree(
                arguments.photos, copied, ignore=shutil.ignore_patterns(".finetune", "runs")
            )
            of_head(arguments, copied, folder, None)


if __name__ == "__main__":
    main()
