"""ONNX graphs of the backbones of runs, kept in the user's cache (imports no torch).

A run is predicted without torch, which takes seconds to import, where the graph of its backbone was
prepared before: by `finetune.prediction.export.run_graph`, at the end of a training or after the
first prediction. The graph gives features; head, labels and calibration are read from the run. So
all heads on one backbone share a graph. It is no part of the run: a graph from elsewhere could
answer otherwise than the run's own weights.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from safetensors import SafetensorError, safe_open

from finetune.errors import RunError
from finetune.files import user_cache_folder
from finetune.prediction.onnx_engine import Head, OnnxEngine
from finetune.runs.folder import RunFolder

EngineName = Literal["torch", "onnx"]

ENGINE_VARIABLE = "FINETUNE_ENGINE"
"""Environment variable that names the engine where none is asked for."""

VERSION = 1
"""Version of the graphs; a graph of another version is prepared anew."""


@dataclass(frozen=True, kw_only=True)
class Graph:
    """Graph of a backbone in the cache, or why there is none.

    Attributes:
        weight: Name of the head's weight in the run's tensors; all others are the backbone's.
        bias: Name of its bias, if it has one.
        checksum: CRC-32 of the graph's file.
        reason: Why torch cannot express the backbone in ONNX; None: the graph is there.
    """

    weight: str
    bias: str | None
    checksum: int = 0
    reason: str | None = None


def graphs_folder() -> Path:
    """Returns the folder of the graphs."""
    return user_cache_folder() / "graphs"


def graph_file(run: RunFolder, weight: str, bias: str | None) -> Path:
    """Returns the file of the graph of a run's backbone, whether it is there or not.

    Args:
        run: The run.
        weight: Name of the head's weight.
        bias: Name of its bias, if it has one.

    Raises:
        RunError: A file of the run is missing or damaged.
    """
    config = run.read(run.config_file)
    preprocessing = run.read(run.preprocessing_file)
    args = config["settings"].get("model_args") or {}
    described = [VERSION, config["model"], args, preprocessing["size"], preprocessing["channels"]]
    digest = hashlib.blake2b(json.dumps(described, sort_keys=True).encode(), digest_size=16)
    with _tensors(run) as tensors:
        for name in sorted(set(tensors.keys()) - {weight, bias}):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(tensors.get_tensor(name)).data)
    return graphs_folder() / f"{digest.hexdigest()}.onnx"


def find_graph(run: RunFolder) -> tuple[Path, Graph] | None:
    """Returns the graph of a run's backbone; None where it was not prepared, or is damaged.

    Raises:
        RunError: A file of the run is missing or damaged.
    """
    if not run.model_file.is_file():
        # The engine of torch says which command goes on.
        return None
    described = [_read(file) for file in sorted(graphs_folder().glob("*.json"))]
    # Networks name their heads in few ways: classifier, fc, head.
    for weight, bias in dict.fromkeys((graph.weight, graph.bias) for graph in described if graph):
        path = graph_file(run, weight, bias)
        graph = _read(path.with_suffix(".json"))
        if graph is not None and (graph.reason is not None or _is_sound(path, graph)):
            return path, graph
    return None


def open_graph(run: RunFolder) -> OnnxEngine | None:
    """Returns the engine of a run's prepared graph; None where there is none.

    Raises:
        RunError: A file of the run is missing or damaged.
    """
    found = find_graph(run)
    if found is None or found[1].reason is not None:
        return None
    path, graph = found
    with _tensors(run) as tensors:
        weight = tensors.get_tensor(graph.weight).astype(np.float32)
        bias = np.zeros(len(weight), np.float32)
        if graph.bias is not None:
            bias = tensors.get_tensor(graph.bias).astype(np.float32)
    return OnnxEngine.of_run(run, path, Head(weight=weight, bias=bias))


@contextlib.contextmanager
def _tensors(run: RunFolder) -> Iterator[Any]:
    try:
        with safe_open(run.model_file, "numpy") as tensors:
            yield tensors
    except (SafetensorError, OSError, TypeError) as error:
        raise RunError(f"{run.model_file} cannot be read: {error}.") from error


def _read(file: Path) -> Graph | None:
    try:
        return msgspec.json.decode(file.read_bytes(), type=Graph)
    except (OSError, msgspec.MsgspecError):
        return None


def _is_sound(path: Path, graph: Graph) -> bool:
    try:
        return zlib.crc32(path.read_bytes()) == graph.checksum
    except OSError:
        return False


def wants_torch(engine: EngineName | None, device: str | None) -> bool:
    """Returns whether torch is to predict: asked for, or on a device that only torch uses.

    Args:
        engine: The engine asked for; None: by `ENGINE_VARIABLE`, else by the device.
        device: As in `Predictor.load`; None stands for a GPU if there may be one.
    """
    chosen = engine or os.environ.get(ENGINE_VARIABLE)
    if chosen in ("torch", "onnx"):
        return chosen == "torch"
    return device != "cpu" and (device is not None or _may_have_gpu())


def _may_have_gpu() -> bool:
    """Returns whether a GPU may be here; torch, which knows, takes seconds to import."""
    if sys.platform == "darwin":
        return os.uname().machine == "arm64"
    if sys.platform == "win32":
        return bool(shutil.which("nvidia-smi"))
    return any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd"))
