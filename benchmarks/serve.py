"""How the server stands 32 clients, hostile requests and a kill.

    python benchmarks/serve.py RUN PHOTOS [--requests 1000] [--clients 32]

Starts `finetune serve` as a process of its own and asks over loopback: every answer is compared
with what the library says of that photo. Then come bodies that are broken, too large, too slow or
claim to be a million times what they are, and the server's memory is read before and after.
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
from finetune.photos.walk import find_photos
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
    given = parser.parse_args()
    predictor = Predictor.load(given.run)
    expected: dict[bytes, list[tuple[str, float]]] = {}
    for file in find_photos(given.photos).files[:100]:
        path = given.photos / file.path
        try:
            answer = predictor(path)
        except DecodeError:
            continue
        expected[path.read_bytes()] = [(item.label, item.probability) for item in answer.ranked]
    command = [sys.executable, "-c", START, given.run, "--port", "0", "--no-access-log"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        address = line.split(" at ")[1].strip()
        asyncio.run(everything(address, process.pid, expected, given.requests, given.clients))
        process.send_signal(signal.SIGTERM)
        print(f"\nStopped by SIGTERM with exit code {process.wait(30)}")
    finally:
        if process.poll() is None:
            process.kill()


async def everything(
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
    wrong = errors = again = 0

    async def client() -> None:
        nonlocal wrong, errors, again
        async with httpx.AsyncClient(base_url=address, timeout=60) as session:
            for number in numbers:
                photo = photos[number % len(photos)]
                started = time.perf_counter()
                while True:
                    try:
                        given = await session.post("v1/predict", content=photo)
                    except httpx.HTTPError:
                        errors += 1
                        break
                    if given.status_code == 503:
                        again += 1
                        await asyncio.sleep(float(given.headers["Retry-After"]))
                        continue
                    if given.status_code != 200:
                        errors += 1
                        break
                    found = {i["label"]: i["probability"] for i in given.json()[0]["ranked"]}
                    if any(abs(found[label] - share) > 1e-4 for label, share in expected[photo]):
                        wrong += 1
                    break
                seconds.append(time.perf_counter() - started)

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    taken = time.perf_counter() - started
    cuts = statistics.quantiles(seconds, n=100)
    return (
        "| requests | clients | errors | asked again (503) | wrong | requests/s "
        "| p50 | p90 | p99 |\n"
        f"|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n"
        f"| {requests} | {clients} | {errors} | {again} | {wrong} | {requests / taken:.0f} | "
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
        "a broken form": (b"--x\r\nnonsense", "multipart/form-data; boundary=y"),
        "100 MB of zeros": (b"\0" * 100_000_000, "image/png"),
        f"a PNG of {len(bomb) / 1e3:.0f} kB and 144 megapixels": (
            png(12_000, 12_000, bomb),
            "image/png",
        ),
        "a PNG that claims 3.6 gigapixels": (png(60_000, 60_000, b""), "image/png"),
    }
    lines = ["| sent (each 8 times at once) | answered |", "|---|---|"]
    async with httpx.AsyncClient(base_url=address, timeout=120) as session:
        for name, (body, kind) in bodies.items():

            async def ask(body: bytes = body, kind: str = kind) -> str:
                try:
                    given = await session.post(
                        "v1/predict", content=body, headers={"Content-Type": kind}
                    )
                except httpx.HTTPError as error:
                    return type(error).__name__
                return str(given.status_code)

            several = 1 if len(body) > 1e7 else 8
            statuses = sorted(set(await asyncio.gather(*(ask() for _ in range(several)))))
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
        answer = asyncio.create_task(reader.read(200))
        while not answer.done():
            writer.write(b"X-A: b\r\n" if head else b"x")
            await asyncio.wait([answer], timeout=1)
        writer.close()
        found = answer.result().split(b" ")
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
