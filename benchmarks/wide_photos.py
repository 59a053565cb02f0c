"""Memory and time of small files with very many pixels, on the server and in a scan.

    python benchmarks/wide_photos.py runs/NAME [--files 200]

Six PNGs of 64 megapixels and 16 bits go to `finetune serve` at once, and a normal photo after them;
then a folder of PNGs of 178 megapixels is scanned. Prints the peak of the resident memory of all
processes, what remains of it, and times. Needs a finished run; the photos are made here.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
from PIL import Image


def wide_png(width: int, height: int) -> bytes:
    """Returns a gray PNG of 16 bits a pixel, all black: about 2 kB a megapixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    packer, row = zlib.compressobj(9), bytes(1 + 2 * width)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


class Memory:
    """Peak of the resident memory of a process and its children, sampled."""

    def __init__(self, pid: int) -> None:
        self.process, self.peak = psutil.Process(pid), 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def now(self) -> int:
        """Returns the resident bytes of all processes now."""
        total = 0
        for process in (self.process, *self.process.children(recursive=True)):
            try:
                total += process.memory_info().rss
            except psutil.Error:
                continue
        return total

    def _sample(self) -> None:
        while not self._stopped.wait(0.02):
            try:
                self.peak = max(self.peak, self.now())
            except psutil.Error:
                return

    def stop(self) -> None:
        """Stops sampling."""
        self._stopped.set()
        self._thread.join()


def serve(run: Path) -> None:
    """Prints the memory of a server that gets six wide photos and a normal one."""
    command = [sys.executable, "-m", "finetune", "serve", str(run), "--port", "8931"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        file = io.BytesIO()
        Image.new("RGB", (1200, 900), (90, 120, 60)).save(file, "JPEG")

        def send(content: bytes) -> tuple[float, str]:
            request = urllib.request.Request(
                "http://127.0.0.1:8931/v1/predict",
                content,
                {"Content-Type": "application/octet-stream"},
            )
            started = time.perf_counter()
            with urllib.request.urlopen(request) as answer:
                status = json.load(answer)[0]["status"]
            return time.perf_counter() - started, status

        for _ in range(600):
            try:
                send(file.getvalue())
                break
            except OSError:
                time.sleep(0.2)
        memory = Memory(process.pid)
        before = memory.now()
        wide = wide_png(8000, 8000)
        with ThreadPoolExecutor(7) as pool:
            answers = [pool.submit(send, wide) for _ in range(6)]
            time.sleep(0.5)
            normal = send(file.getvalue())
            times = [answer.result()[0] for answer in answers]
        time.sleep(1.0)
        after = memory.now()
        memory.stop()
        print(
            f"serve: six PNGs of {len(wide) / 1e3:.0f} kB: peak {memory.peak / 1e6:,.0f} MB, "
            f"before {before / 1e6:,.0f} MB, after {after / 1e6:,.0f} MB; the last after "
            f"{max(times):.1f} s; a normal photo meanwhile after {normal[0]:.2f} s"
        )
    finally:
        process.terminate()
        process.wait()


def scan(files: int) -> None:
    """Prints the memory and time of a scan of wide photos."""
    with tempfile.TemporaryDirectory() as folder:
        content = wide_png(13377, 13377)
        for number in range(files):
            # A byte after the end makes each another content.
            (Path(folder) / f"{number}.png").write_bytes(content + number.to_bytes(4, "big"))
        command = [sys.executable, "-m", "finetune", "scan", folder, "--json"]
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=dict(os.environ))
        memory = Memory(process.pid)
        document = json.loads(process.communicate()[0])
        memory.stop()
        print(
            f"scan: {files} PNGs of {len(content) / 1e3:.0f} kB: "
            f"{time.perf_counter() - started:.0f} s, peak {memory.peak / 1e6:,.0f} MB, "
            f"{document['photos']} read, problems: "
            f"{document['problems'] or 'none'}"
        )


def main() -> None:
    """Runs both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--files", type=int, default=200)
    options = parser.parse_args()
    serve(options.run)
    if options.files:
        scan(options.files)


if __name__ == "__main__":
    main()
