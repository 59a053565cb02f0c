"""Labeling in the browser: response times; `evening.py` counts keys.

Run as ``python benchmarks/annotate.py [first [PHOTOS]] [next]``; needs Chromium and playwright.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from finetune.photos.scan import scan
from finetune.web import security
from finetune.web.annotate.app import annotate_app
from finetune.web.annotate.session import Session
from finetune.web.annotate.workers import ScanWorker, SuggestionWorker
from finetune.web.server import Server, listen

PHOTOS_A_LABEL = 40
LABELS = 5
MANY = 10_000
PICTURES = 200
STARTS = 3
LARGE = (4000, 3000)
SIZE = (480, 320)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]


@contextmanager
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    program = os.environ.get("FINETUNE_CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=FLAGS)
        yield browser.new_page(viewport={"width": 1280, "height": 800})
        browser.close()


@contextmanager
def serving(root: Path, labels: list[str]) -> Iterator[tuple[str, Session]]:
    session = Session(root, labels=labels)
    listening = listen("127.0.0.1", 0)
    port = listening.getsockname()[1]
    policy = security.policy_for("127.0.0.1", port, security.new_token())
    suggestion_worker, scan_worker = SuggestionWorker(session), ScanWorker(session)
    server = Server(annotate_app(session, policy, suggestion_worker), listening)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    scan_worker.start()
    scan_worker.done.wait()
    suggestion_worker.start()
    while session.index.jobs.suggestions.state != "done":
        time.sleep(0.1)
    yield security.address_of("127.0.0.1", port, policy.token), session
    server.stop()
    thread.join()
    suggestion_worker.stop()
    scan_worker.stop()
    session.close()


def make_many(folder: Path, many: int) -> None:
    """Writes small photos with as many different contents: a comment differs."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(min(many, PICTURES)):
        small = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8))
        buffer = io.BytesIO()
        small.resize((320, 240), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
        pictures.append(buffer.getvalue())
    for number in range(many):
        picture, comment = pictures[number % len(pictures)], f"{number:08d}".encode()
        size = (len(comment) + 2).to_bytes(2, "big")
        data = picture[:2] + b"\xff\xfe" + size + comment + picture[2:]
        (folder / f"IMG_{number:06d}.jpg").write_bytes(data)


def first_photo(many: int) -> dict[str, Any]:
    """Times the start of the command until the first of many photos is on screen.

    With a new catalog, and again with the catalog of a session in which all photos were read.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "many"
        make_many(folder, many)
        with chromium() as page:
            times = [
                _time_first_photo(page, folder, Path(place) / f"{n}.db") for n in range(STARTS)
            ]
            scan(folder)
            again = [_time_first_photo(page, folder, None) for _ in range(STARTS)]
            frames = _scroll(page, folder)
    return {
        "photos": many,
        "first_photo_seconds": statistics.median(times),
        "again_seconds": statistics.median(again),
        **frames,
    }


@contextmanager
def command(
    folder: Path, catalog: Path | None = None
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Runs the command on a folder, for a first start with a new catalog."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    call = [sys.executable, "-c", _COMMAND, str(folder)]
    if catalog is not None:
        environment["FINETUNE_CACHE"] = f"{catalog}-cache"
        call.append(str(catalog))
    with subprocess.Popen(call, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[-1], process
        finally:
            process.kill()


_COMMAND = (
    "import sys; from pathlib import Path; from finetune.cli.annotate import annotate; "
    "annotate(Path(sys.argv[1]), catalog=Path(sys.argv[2]) if sys.argv[2:] else None, "
    "port=0, open_browser=False, quiet=True)"
)


def _time_first_photo(page: Any, folder: Path, catalog: Path | None) -> float:
    started = time.perf_counter()
    with command(folder, catalog) as (address, _):
        page.goto(address, wait_until="commit")
        page.wait_for_selector("body[data-ready]")
        page.wait_for_selector(".holder .photo")
        page.evaluate("() => document.querySelector('.holder .photo').decode()")
        seconds = time.perf_counter() - started
        page.goto("about:blank")
    return seconds


_ALL_HERE = """async () => {
  const { photos } = await import('/static/annotate/photos.js');
  const { scan } = photos.jobs;
  return scan.state === 'done' || scan.done > 0;
}"""


def _scroll(page: Any, folder: Path) -> dict[str, float]:
    with command(folder) as (address, process):
        page.goto(address)
        page.wait_for_selector("body[data-ready]")
        page.wait_for_function(_ALL_HERE)
        page.click("#to-grid")
        page.wait_for_selector(".cell.loaded")
        gaps = page.evaluate(
            """() => new Promise((done) => {
                const grid = document.getElementById('grid');
                const gaps = []; let last = performance.now(); const end = last + 4000;
                const step = (now) => {
                    gaps.push(now - last); last = now; grid.scrollTop += 60;
                    if (now < end) requestAnimationFrame(step); else done(gaps.slice(2));
                };
                requestAnimationFrame(step);
            })"""
        )
        cells = page.locator(".cell").count()
        page.goto("about:blank")
        status = Path(f"/proc/{process.pid}/status").read_text()
        peak = int(status.split("VmHWM:")[1].split()[0]) / 1e6
    return {
        "server_gb": round(peak, 2),
        "frame_ms_median": statistics.median(gaps),
        "frame_ms_95": _percentile(gaps, 95),
        "cells_in_page": cells,
    }


def next_photo() -> dict[str, float]:
    """Times the step to the next photo, once a second, with photos of 12 megapixels."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "large"
        folder.mkdir()
        rng = np.random.default_rng(1)
        for number in range(40):
            small = Image.fromarray(rng.integers(0, 256, (60, 80, 3), np.uint8))
            small.resize(LARGE, Image.Resampling.BICUBIC).save(folder / f"IMG_{number:03d}.jpg")
        with chromium() as page, command(folder) as (address, _):
            page.goto(address + "#view=single&show=all&sort=path")
            page.wait_for_selector("body[data-ready]")
            page.wait_for_timeout(4000)
            times = []
            for _ in range(36):
                page.wait_for_timeout(1000)
                times.append(page.evaluate(_NEXT))
            page.goto("about:blank")
    return {"next_ms_median": statistics.median(times), "next_ms_95": _percentile(times, 95)}


_NEXT = """() => new Promise((done) => {
  const before = document.querySelector('.holder .photo');
  const started = performance.now();
  const check = () => {
    const photo = document.querySelector('.holder .photo');
    if (photo && photo !== before && photo.complete && photo.naturalWidth > 0)
      photo.decode().then(() => requestAnimationFrame(() => done(performance.now() - started)));
    else requestAnimationFrame(check);
  };
  const key = { key: 'ArrowRight', code: 'ArrowRight', bubbles: true };
  document.activeElement.dispatchEvent(new KeyboardEvent('keydown', key));
  check();
})"""


def _percentile(values: list[float], percent: float) -> float:
    return float(np.percentile(values, percent))


def main() -> None:
    """Prints the chosen measurements as Markdown rows."""
    chosen = set(sys.argv[1:]) or {"first", "next"}
    if "first" in chosen:
        many = next((int(text) for text in sys.argv if text.isdecimal()), MANY)
        print(json.dumps(first_photo(many)), flush=True)
    if "next" in chosen:
        print(json.dumps(next_photo()), flush=True)


if __name__ == "__main__":
    main()
