"""Speed and agreement of prediction: finetune, the network alone, ONNX, and timm's inference loop.

    python benchmarks/predict.py RUN PHOTOS [--rounds 3] [--count 320] [--odd FOLDER]

RUN is a run folder, PHOTOS the photos to predict. Speed, by torch and by the graph of ONNX Runtime:
opening the photos alone, the network alone on images in memory, and `Predictor.predict_stream` over
the files; and timm's loop (loader, transform and two workers, as in its inference.py) on the same
files and weights. What the cores allow is opening and network, one after the other, on all of them;
on a busy machine the share of processor time says more. Agreement: predict, the page of
serve, ONNX, timm's folder and the evaluation of training, on the run's photos and on unusual ones
(--odd).
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import resource
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from finetune.data.pixel_cache import PixelCache
from finetune.errors import DecodeError
from finetune.evaluation.probabilities import softmax
from finetune.models.inference import logits_of
from finetune.photos.scan import find_photos
from finetune.prediction.export.export import ExportOptions, export
from finetune.prediction.predictor import CORE_BATCH, PredictConfig, Predictor
from finetune.runs.folder import open_run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--odd", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=320)
    parser.add_argument("--exports", type=Path, help="Keep the exports here between calls.")
    parser.add_argument("--what", choices=["speed", "agreement", "both"], default="both")
    given = parser.parse_args()
    paths = [given.photos / file.path for file in find_photos(given.photos).files]
    with tempfile.TemporaryDirectory() as name:
        where = given.exports or Path(name)
        onnx, folder = where / "model.onnx", where / "timm"
        if not onnx.exists():
            export(open_run(given.run), ExportOptions(), out=onnx)
            export(open_run(given.run), ExportOptions(format="timm"), out=folder)
        if given.what != "agreement":
            print(speed(given.run, folder, paths[: given.count], given.rounds))
        if given.what != "speed":
            odd = []
            if given.odd:
                odd = [given.odd / file.path for file in find_photos(given.odd).files]
            print(agreement(given.run, onnx, folder, paths, odd))


def speed(run: Path, folder: Path, paths: list[Path], rounds: int) -> str:
    torch_one, onnx_one = (Predictor.load(run, engine=name) for name in ("torch", "onnx"))
    good = [
        path for path, row in zip(paths, decoded(torch_one, paths), strict=True) if row is not None
    ]
    images = np.stack([row for row in decoded(torch_one, good) if row is not None])
    cores = onnx_one.engines[0].cores or 1

    def on_cores(work: Callable[[int], object], rows: range) -> None:
        with ThreadPoolExecutor(cores) as pool:
            list(pool.map(work, rows))

    def opening() -> None:
        on_cores(lambda row: onnx_one.working_images(good[row]), range(len(good)))

    quick = copy.copy(onnx_one)
    quick.config = PredictConfig(decode_margin=1.0)

    def opening_smaller() -> None:
        on_cores(lambda row: quick.working_images(good[row]), range(len(good)))

    def alone(predictor: Predictor) -> Callable[[], None]:
        def work() -> None:
            with predictor.engines[0].per_thread() as engine:
                # As many features as predictions need.
                rows = range(0, len(images), CORE_BATCH)
                on_cores(lambda at: engine.logits_and_features(images[at : at + CORE_BATCH]), rows)

        return work

    def files(predictor: Predictor) -> Callable[[], None]:
        def work() -> None:
            assert sum(1 for _ in predictor.predict_stream(good)) == len(good)

        return work

    ways = {
        "opening the photos": opening,
        "the same with --decode-margin 1": opening_smaller,
        "torch: network": alone(torch_one),
        "torch: predict files": files(torch_one),
        "ONNX: network": alone(onnx_one),
        "ONNX: predict files": files(onnx_one),
        "timm: its loader and loop": timm_loop(folder, good),
    }
    elapsed: dict[str, list[float]] = {name: [] for name in ways}
    processor: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, work in ways.items():
            started, used = time.perf_counter(), processor_seconds()
            work()
            took = time.perf_counter() - started
            print(f"round {turn}: {name}: {took:.1f} s", file=sys.stderr)
            if turn:
                elapsed[name].append(took)
                processor[name].append(processor_seconds() - used)
    seconds, used_seconds = (
        {name: statistics.median(values) for name, values in found.items()}
        for found in (elapsed, processor)
    )
    lines = [
        f"{len(good)} photos, {rounds} rounds, medians; {cores} cores",
        "",
        "| way | photos/s | of opening + network | processor, ms a photo | of both |",
        "|---|---:|---:|---:|---:|",
    ]
    for name in ways:
        shares = ["", ""]
        if name.endswith("files"):
            network = name.replace("predict files", "network")
            shares = [
                f"{(cost['opening the photos'] + cost[network]) / cost[name]:.0%}"
                for cost in (seconds, used_seconds)
            ]
        lines.append(
            f"| {name} | {len(good) / seconds[name]:.1f} | {shares[0]} | "
            f"{used_seconds[name] / len(good) * 1e3:.2f} | {shares[1]} |"
        )
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return "\n".join([*lines, "", f"Largest memory of the process: {memory:,.0f} MiB"])


def processor_seconds() -> float:
    """Returns the processor time of this process and of its ended children."""
    return time.process_time() + sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])


def timm_loop(folder: Path, paths: list[Path]) -> Callable[[], None]:
    """Runs timm's dataset, loader and transform as its inference.py does: top 1 of each batch."""
    import timm
    from timm.data import create_loader, resolve_data_config
    from timm.data.dataset import ImageDataset

    with contextlib.redirect_stdout(io.StringIO()):
        module = timm.create_model(f"local-dir:{folder}", pretrained=True)
    module = module.eval().to(memory_format=torch.channels_last)
    config = resolve_data_config({}, model=module)

    class Named:
        def __init__(self) -> None:
            self.samples = [(str(path), 0) for path in paths]

        def __len__(self) -> int:
            return len(self.samples)

        def __getitem__(self, index: int) -> tuple[object, int]:
            path, target = self.samples[index]
            return Path(path).open("rb"), target

    def work() -> None:
        dataset = ImageDataset("", reader=Named())
        loader = create_loader(
            dataset,
            batch_size=32,
            use_prefetcher=True,
            num_workers=2,
            device=torch.device("cpu"),
            persistent_workers=False,
            **{
                key: config[key]
                for key in ("input_size", "interpolation", "mean", "std", "crop_pct")
            },
        )
        seen = 0
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            for images, _ in loader:
                best = module(images.contiguous(memory_format=torch.channels_last)).softmax(-1)
                seen += len(best.topk(1)[1].numpy())
        assert seen == len(paths)

    return work


def agreement(run: Path, onnx: Path, folder: Path, paths: list[Path], odd: list[Path]) -> str:
    import timm

    chosen = [*odd, *paths[:: max(1, len(paths) // 200)]]
    one, exported = Predictor.load(run, engine="torch"), Predictor.load(onnx)
    chosen = [
        path for path, row in zip(chosen, decoded(one, chosen), strict=True) if row is not None
    ]
    chosen = chosen[:200] if len(chosen) > 200 else chosen
    labels, metadata = one.labels, one.engines[0].metadata

    def table(answers: object) -> np.ndarray:
        return np.array([[a.probability_of(label) for label in labels] for a in answers])

    with contextlib.redirect_stdout(io.StringIO()):
        module = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    pixels = np.stack([one.pixels_of(path) for path in chosen])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    by_timm = np.concatenate(
        [
            logits_of(module, metadata.preprocessing, images[at : at + 32]).numpy()
            for at in range(0, len(images), 32)
        ]
    )
    base = table(one.predict_stream(chosen))
    smaller = Predictor.load(run, engine="torch", config=PredictConfig(decode_margin=1.0))
    ways = {
        "bytes (as served)": table(one.predict_batch([path.read_bytes() for path in chosen])),
        "--decode-margin 1": table(smaller.predict_stream(chosen)),
        "ONNX": table(exported.predict_stream(chosen)),
        "timm folder": softmax(by_timm, temperature=metadata.task.temperature),
    }
    same = all(
        np.array_equal(one.pixels_of(path), image)
        and np.array_equal(one.pixels_of(path.read_bytes()), image)
        and np.array_equal(exported.pixels_of(path), image)
        for path, image in zip(chosen, pixels, strict=True)
    )
    lines = [
        f"{len(chosen)} photos, what opens of {len(odd)} odd files among them; "
        "pixels into the network are "
        f"{'bit-equal' if same else 'DIFFERENT'} in all ways",
        "",
        "| way | largest difference of a probability from predict | same label |",
        "|---|---:|---:|",
    ]
    for name, rows in ways.items():
        same_label = (rows.argmax(axis=1) == base.argmax(axis=1)).sum()
        lines.append(f"| {name} | {np.abs(rows - base).max():.1e} | {same_label} of {len(base)} |")
    trained, count, equal = training_time(run, one)
    lines.append(f"| training's evaluation, its {count} photos | {trained:.1e} | |")
    lines += ["", f"Squares of the training's cache bit-equal to predict's: {equal}"]
    return "\n".join(lines)


def training_time(run: Path, predictor: Predictor) -> tuple[float, int, str]:
    """Compares with predictions.csv, and the cached images with those of predict."""
    import csv

    folder = open_run(run)
    root = Path(json.loads(folder.config_file.read_text())["photos"])
    cache = PixelCache(root / ".finetune", predictor.preprocessing, limit_gb=10)
    worst, count, equal, cached = 0.0, 0, 0, 0
    with folder.predictions_file.open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file):
            path = root / row["path"]
            answer = predictor(path)
            found = answer.probability_of(row["label_1"])
            worst = max(worst, abs(found - float(row["probability_1"])))
            count += 1
            key = cache.key(row["digest"], None)
            if key in cache.records:
                cached += 1
                equal += bool(
                    np.array_equal(cache.records.read([key])[0], predictor.pixels_of(path))
                )
    return worst, count, f"{equal} of {cached}"


def decoded(predictor: Predictor, paths: list[Path]) -> Iterator[np.ndarray | None]:
    for path in paths:
        try:
            yield predictor.pixels_of(path)
        except DecodeError:
            yield None


if __name__ == "__main__":
    main()
