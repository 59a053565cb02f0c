"""Time and size of a report with 77 labels and 6,310 evaluated photos.

The baseline makes a thumbnail of every photo, one after the other, from fully decoded photos, as a
loop over Pillow would.

    python benchmarks/report.py [--photos 6310] [--labels 77] [--rounds 3]
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from finetune.evaluation.predictions import read_predictions
from finetune.reporting.gallery import QUALITY, SHORT_SIDE
from finetune.reporting.report import MAX_PHOTOS, write_report

PHOTO_SIZE, DRAWN = (1024, 768), 40
RUN_MAKER = Path(__file__).resolve().parents[1] / "tests" / "reporting" / "conftest.py"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--photos", type=int, default=6310)
    arguments.add_argument("--labels", type=int, default=77)
    arguments.add_argument("--rounds", type=int, default=3)
    asked = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        maker = load_run_maker()
        run = maker.make_run(
            Path(folder),
            label_count=asked.labels,
            photo_count=asked.photos,
            test_share=0.85,  # with the 15 % of validation, every photo is evaluated
            draw=False,
            skill=7.0,
        )
        draw_photos(maker, run.path, run.photos)
        rows = [row for row in read_predictions(run.path / "predictions.csv") if row.part == "test"]
        ours, report = timed(lambda: write_report(run.path, photos_root=run.photos), asked.rounds)
        chosen = [run.photos / row.path for row in rows[:MAX_PHOTOS]]
        plain, _ = timed(lambda: plain_thumbnails(chosen), asked.rounds)
        opened = opening_seconds(report.path, asked.rounds)
    width, height = PHOTO_SIZE
    print(f"{asked.labels} labels, {asked.photos:,} photos of {width} x {height} pixels,")
    print(f"all evaluated, {report.photos:,} of them in the reported part;")
    print(f"medians of {asked.rounds} rounds\n")
    print("| what | seconds | ratio |")
    print("|---|---:|---:|")
    print(f"| whole report, {report.thumbnails:,} photos in it | {ours:.1f} | 1.0 |")
    print(f"| plain Pillow loop, the same number of thumbnails alone | {plain:.1f} "
          f"| {plain / ours:.1f} |")  # fmt: skip
    print(f"\nThe file has {report.size_bytes / 1e6:.1f} MB.")
    print(f"Chromium shows it in {opened:.2f} s (start of the navigation to its load event).")


def opening_seconds(page: Path, rounds: int) -> float:
    """Returns the median time from the start of a navigation to its load event in Chromium."""
    from playwright.sync_api import sync_playwright

    taken = []
    with sync_playwright() as driver:
        program = shutil.which("chromium") or shutil.which("google-chrome")
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for _ in range(rounds):
            tab = browser.new_page(viewport={"width": 1280, "height": 900})
            tab.goto(page.as_uri())
            entry = "performance.getEntriesByType('navigation')[0].loadEventEnd"
            taken.append(tab.evaluate(entry) / 1000)
            tab.close()
        browser.close()
    return statistics.median(taken)


def load_run_maker():
    """Returns the module of the tests that writes run folders."""
    preprocessing = importlib.util.spec_from_file_location("run_maker", RUN_MAKER)
    module = importlib.util.module_from_spec(preprocessing)
    sys.modules["run_maker"] = module
    preprocessing.loader.exec_module(module)
    return module


def draw_photos(maker, run: Path, folder: Path) -> None:
    """Draws a few photos with noise, and copies them to every path of the run."""
    few = [folder / f"drawn-{k}.jpg" for k in range(DRAWN)]
    for k, path in enumerate(few):
        maker.draw_photo(path, k, k, PHOTO_SIZE)
        pixels = np.asarray(Image.open(path)).astype(np.int16)
        grain = np.random.default_rng(k).normal(0, 10, pixels.shape)
        Image.fromarray((pixels + grain).clip(0, 255).astype(np.uint8)).save(path, quality=90)
    for k, row in enumerate(read_predictions(run / "predictions.csv")):
        path = folder / row.path
        path.parent.mkdir(exist_ok=True)
        os.link(few[k % DRAWN], path)


def timed(work, rounds: int):
    """Returns the median seconds and the result of the last round."""
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        found = work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), found


def plain_thumbnails(paths) -> list[bytes]:
    made = []
    for path in paths:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened).convert("RGB")
        image.thumbnail((SHORT_SIDE * 4 // 3, SHORT_SIDE), Image.Resampling.BICUBIC)
        content = io.BytesIO()
        image.save(content, "JPEG", quality=QUALITY, optimize=True)
        made.append(content.getvalue())
    return made


if __name__ == "__main__":
    main()
