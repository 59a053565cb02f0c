"""Peak memory of a training with 1,000 and with 10,000 small photos.

    python benchmarks/memory.py [--mode head|full]

Prints the peak resident memory of the training process; it should hardly differ.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

CHILD = """
import json, resource, sys
from pathlib import Path
from finetune import train
from finetune.config_io import resolve
photos, mode = Path(sys.argv[1]), sys.argv[2]
flags = {"model": "tf_efficientnet_lite2", "mode": mode, "epochs": 1, "size": 64, "head_epochs": 0}
result = train(photos, resolve({}, flags), runs=photos.parent / "runs")
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"peak_kb": peak, "seconds": result.seconds}))
"""


def draw(root: Path, count: int) -> None:
    """Writes `count` small JPEGs of two labels."""
    rng = np.random.default_rng(count)
    for number in range(count):
        folder = root / ("red" if number % 2 else "green")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)
        pixels[..., 0 if number % 2 else 1] //= 2
        image = Image.fromarray(pixels).resize((96, 72), Image.Resampling.BICUBIC)
        image.save(folder / f"{number:05d}.jpg", quality=85)


def main() -> None:
    """Trains on both collections, each in its own process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", default="head", choices=["head", "full"])
    mode = parser.parse_args().mode
    peaks = {}
    for count in (1_000, 10_000):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder) / "photos"
            draw(root, count)
            done = subprocess.run(
                [sys.executable, "-c", CHILD, str(root), mode],
                capture_output=True,
                text=True,
                check=True,
            )
            result = json.loads(done.stdout.splitlines()[-1])
            peaks[count] = result["peak_kb"] / 1024
            print(
                f"| {mode} | {count:,} photos | {peaks[count]:.1f} MB | {result['seconds']:.1f} s |"
            )
    print(f"growth: {peaks[10_000] - peaks[1_000]:.1f} MB")


if __name__ == "__main__":
    main()
