"""Speed and memory of glibc's settings that keep freed memory.

    python benchmarks/malloc.py [--model mobilenetv2_100 resnet18 ...] [--rounds 3]

Forward passes (batches of 32) and training steps (batches of 16) at 224 pixels with the defaults
of the C library and with `keep_freed_memory`, each in its own process, interleaved; medians.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

STEPS = 6


def measure(name: str, keep: bool) -> dict[str, float]:
    """Returns milliseconds per photo, peak MB and millions of page faults of this process."""
    import timm
    import torch
    from torch.nn import functional

    import finetune.models.registry  # noqa: F401 - finetune's own networks, by name
    from finetune.malloc import keep_freed_memory

    if keep and not keep_freed_memory():
        raise SystemExit("This C library cannot be told to keep memory, or was told otherwise.")
    module = timm.create_model(name, num_classes=10).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(module.parameters(), 1e-4)

    def photos(count: int) -> torch.Tensor:
        pixels = torch.randn(count, 3, 224, 224)
        return pixels.contiguous(memory_format=torch.channels_last)

    looked_at, learned = photos(32), photos(16)
    targets = torch.randint(10, (16,))

    def forward() -> None:
        module.eval()
        with torch.inference_mode():
            module(looked_at)

    def step() -> None:
        module.train()
        functional.cross_entropy(module(learned), targets).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    found = {"forward": timed(forward) / 32, "step": timed(step) / 16}
    used = resource.getrusage(resource.RUSAGE_SELF)
    return found | {"megabytes": used.ru_maxrss / 1024, "faults": used.ru_minflt / 1e6}


def timed(work: Callable[[], None]) -> float:
    work()
    times = []
    for _ in range(STEPS):
        start = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", nargs="+", default=["mobilenetv2_100", "resnet18", "resnet50"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", choices=["keep", "own"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(arguments.model[0], arguments.child == "keep")))
        return
    print("| network | what | the C library's own | freed memory kept | times as fast |")
    print("|---|---|--:|--:|--:|")
    for name in arguments.model:
        rounds: dict[str, list[dict[str, float]]] = {"own": [], "keep": []}
        for _ in range(arguments.rounds):
            for how, found in rounds.items():
                command = [sys.executable, __file__, "--model", name, "--child", how]
                done = subprocess.run(
                    command, check=True, capture_output=True, text=True, env=os.environ
                )
                found.append(json.loads(done.stdout))
        own, kept = (
            {key: statistics.median(one[key] for one in found) for key in found[0]}
            for found in rounds.values()
        )
        for key, words in (("forward", "forward, ms a photo"), ("step", "step, ms a photo")):
            ratio = own[key] / kept[key]
            print(f"| {name} | {words} | {own[key]:.1f} | {kept[key]:.1f} | {ratio:.2f} |")
        for key, words, digits in (
            ("megabytes", "most memory, MB", 0),
            ("faults", "page faults, millions", 1),
        ):
            shown = [f"{found[key]:,.{digits}f}" for found in (own, kept)]
            print(f"| {name} | {words} | {' | '.join(shown)} | |", flush=True)


if __name__ == "__main__":
    main()
