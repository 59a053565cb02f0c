"""Speed of the feature backends on the CPU, and the number of photos from which they pay.

    python benchmarks/feature_backends.py --model mobilenetv2_100 resnet50

Features of the same random photos by torch in its default layout, by torch with channels last
(finetune's default) and by onnxruntime; medians of interleaved rounds. The last column is the
number of photos from which the export pays for itself.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

import finetune.models.registry  # noqa: F401 - finetune's own networks, by name
from finetune.malloc import keep_freed_memory
from finetune.models.feature_backends import (
    features_of,
    onnxruntime_features,
    relative_difference,
    torch_backend,
)

BATCH = 32


def plain(module: nn.Module) -> object:
    """Returns torch's features in its default memory layout."""
    copied = copy.deepcopy(module).to(memory_format=torch.contiguous_format)

    @torch.inference_mode()
    def features(pixels: Tensor) -> Tensor:
        return features_of(copied, pixels.contiguous())

    return features


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", nargs="+", default=["mobilenetv2_100"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=224)
    arguments = parser.parse_args()
    keep_freed_memory()
    print(
        "| network | backend | ms a photo | to channels last | differs by | made in, s "
        "| pays from |"
    )
    print("|---|---|--:|--:|--:|--:|--:|")
    for name in arguments.model:
        module = timm.create_model(name).eval()
        pixels = torch.randn(BATCH, 3, arguments.size, arguments.size)
        backends = {"torch": plain(module)}
        module = module.to(memory_format=torch.channels_last)
        backends["torch, channels last"] = torch_backend(module).features
        made = {}
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            graph = Path(folder) / "graph.onnx"
            backends["onnxruntime"] = onnxruntime_features(module, pixels[:8], graph)
            made["onnxruntime"] = time.perf_counter() - start
        wanted = torch_backend(module).features(pixels)
        times: dict[str, list[float]] = {kind: [] for kind in backends}
        for _ in range(arguments.rounds):
            for kind, features in backends.items():
                start = time.perf_counter()
                features(pixels)
                times[kind].append(1000 * (time.perf_counter() - start) / BATCH)
        base = statistics.median(times["torch, channels last"])
        for kind, features in backends.items():
            taken = statistics.median(times[kind])
            cells = [name, kind, f"{taken:.1f}", f"{base / taken:.2f}x"]
            cells.append(f"{relative_difference(features(pixels), wanted):.0e}")
            if kind in made:
                gain = (base - taken) / 1000
                pays = f"{made[kind] / gain:,.0f} photos" if gain > 0 else "never"
                cells += [f"{made[kind]:.1f}", pays]
            else:
                cells += ["", ""]
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
