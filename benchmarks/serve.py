"""Load and robustness of the prediction server: 32 clients, hostile requests, SIGTERM.

    python benchmarks/serve.py RUN PHOTOS [--requests 1000] [--clients 32]

Starts `finetune serve` in its own process and compares each prediction with that of the library.
Then sends malformed, too large, too slow, and decompression-bomb bodies, and measures the memory of
the server before and after.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import statistics
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import httpx

from finetune.errors import DecodeError
from finetune.photos.scan import find_photos
from finetune.prediction.predictor import Predictor

START = (
    "import sys\n"
    "from finetune.cli.serve import register\n"
    "import typer\n"
    "app = typer.Typer()\n"
    "register(app)\n"
    "app()\n"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("photos", type=Path)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=32)
    arguments = parser.parse_args()
    predictor = Predictor.load(arguments.run)
    expected: dict[bytes, list[tuple[str, float]]] = {}
    for file in find_photos(arguments.photos).files[:100]:
        path = arguments.photos / file.path
        try:
            prediction = predictor(path)
        except DecodeError:
            continue
        expected[path.read_bytes()] = [(item.label, item.probability) for item in prediction.ranked]
    command = [sys.executable, "-c", START, arguments.run, "--port", "0", "--no-access-log"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        address = line.split(" at ")[1].strip()
        asyncio.run(measure(address, process.pid, expected, arguments.requests, arguments.clients))
        process.send_signal(signal.SIGTERM)
        print(f"\nStopped by SIGTERM with exit code {process.wait(30)}")
    finally:
        if process.poll() is None:
            process.kill()


async def measure(
    address: str, process: int, expected: dict[bytes, list], requests: int, clients: int
) -> None:
    await load(address, expected, 2 * clients, clients)
    start = memory(process)
    print(await load(address, expected, requests, clients))
    print(f"\nMemory of the server: {start:.0f} MiB before, {memory(process):.0f} MiB after\n")
    before = memory(process)
    print(await hostile(address))
    print(f"\nMemory of the server: {before:.0f} MiB before, {memory(process):.0f} MiB after")
    print(await load(address, expected, 2 * clients, clients))


async def load(address: str, expected: dict[bytes, list], requests: int, clients: int) -> str:
    photos = list(expected)
    numbers = iter(range(requests))
    seconds: list[float] = []
    wrong = errors = retries = 0

    async def client() -> None:
        nonlocal wrong, errors, retries
        async with httpx.AsyncClient(base_url=address, timeout=60) as session:
            for number in numbers:
                photo = photos[number % len(photos)]
                started = time.perf_counter()
                while True:
                    try:
                        response = await session.post("v1/predict", content=photo)
                    except httpx.HTTPError:
                        errors += 1
                        break
                    if response.status_code == 503:
                        retries += 1
                        await asyncio.sleep(float(response.headers["Retry-After"]))
                        continue
                    if response.status_code != 200:
                        errors += 1
                        break
                    found = {i["label"]: i["probability"] for i in response.json()[0]["ranked"]}
                    if any(
                        abs(found[label] - probability) > 1e-4
                        for label, probability in expected[photo]
                    ):
                        wrong += 1
                    break
                seconds.append(time.perf_counter() - started)

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    taken = time.perf_counter() - started
    cuts = statistics.quantiles(seconds, n=100)
    return (
        "| requests | clients | errors | retries (503) | wrong | requests/s "
        "| p50 | p90 | p99 |\n"
        f"|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n"
        f"| {requests} | {clients} | {errors} | {retries} | {wrong} | {requests / taken:.0f} | "
        f"{1000 * cuts[49]:.0f} ms | {1000 * cuts[89]:.0f} ms | {1000 * cuts[98]:.0f} ms |"
    )


def png(width: int, height: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


async def hostile(address: str) -> str:
    packer = zlib.compressobj(9)
    row = b"\0" * (3 * 12_000 + 1)
    bomb = b"".join([*(packer.compress(row) for _ in range(12_000)), packer.flush()])
    bodies = {
        "not a photo": (b"no photo at all", "image/jpeg"),
        "half a PNG": (png(100, 100, zlib.compress(b"\0" * 99)), "image/png"),
        "a JSON document": (b"{}", "application/json"),
        "a malformed form": (b"--x\r\nnonsense", "multipart/form-data; boundary=y"),
        "100 MB of zeros": (b"\0" * 100_000_000, "image/png"),
        f"a PNG of {len(bomb) / 1e3:.0f} kB and 144 megapixels": (
            png(12_000, 12_000, bomb),
            "image/png",
        ),
        "a PNG that claims 3.6 gigapixels": (png(60_000, 60_000, b""), "image/png"),
    }
    lines = ["| body (each sent 8 times at once) | status |", "|---|---|"]
    async with httpx.AsyncClient(base_url=address, timeout=120) as session:
        for name, (body, kind) in bodies.items():

            async def send(body: bytes = body, kind: str = kind) -> str:
                try:
                    response = await session.post(
                        "v1/predict", content=body, headers={"Content-Type": kind}
                    )
                except httpx.HTTPError as error:
                    return type(error).__name__
                return str(response.status_code)

            several = 1 if len(body) > 1e7 else 8
            statuses = sorted(set(await asyncio.gather(*(send() for _ in range(several)))))
            lines.append(f"| {name} | {', '.join(statuses)} |")
    host, port = address.removeprefix("http://").strip("/").split(":")
    lines.append(f"| 50 heads that never end | {await loris(host, int(port), head=True)} |")
    lines.append(f"| 50 bodies that never end | {await loris(host, int(port), head=False)} |")
    return "\n".join(lines)


async def loris(host: str, port: int, *, head: bool) -> str:
    async def one() -> tuple[str, float]:
        started = time.perf_counter()
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(f"POST /v1/predict HTTP/1.1\r\nHost: {host}\r\n".encode())
        if not head:
            writer.write(b"Content-Type: image/png\r\nContent-Length: 9000\r\n\r\n")
        response = asyncio.create_task(reader.read(200))
        while not response.done():
            writer.write(b"X-A: b\r\n" if head else b"x")
            await asyncio.wait([response], timeout=1)
        writer.close()
        found = response.result().split(b" ")
        return (found[1].decode() if len(found) > 1 else "closed"), time.perf_counter() - started

    rows = await asyncio.gather(*(one() for _ in range(50)))
    statuses = ", ".join(sorted({status for status, _ in rows}))
    return f"{statuses} after {max(seconds for _, seconds in rows):.0f} s at most"


def memory(process: int) -> float:
    """Returns the resident memory of a process in MiB."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    main()
