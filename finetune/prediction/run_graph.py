"""ONNX graphs of the backbones of runs, kept in the user's cache (imports no torch).

A run is predicted without torch, which takes seconds to import, where the graph of its backbone was
prepared before: by `finetune.prediction.export.run_graph`, at the end of a training or after the
first prediction. The graph gives features; head, labels and calibration are read from the run. So
all heads on one backbone share a graph. It is no part of the run: a graph from elsewhere could
answer otherwise than the run's own weights.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from finetune.files import user_cache_folder
from finetune.models.checksum import CHECKSUM_KEY, checksum_of_bytes
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


Tensors = Mapping[str, NDArray[Any]]


def read_tensors(run: RunFolder) -> Tensors | None:
    """Returns the tensors of a run; None where torch, which also tries, will say what is wrong."""
    try:
        with safe_open(run.model_file, "numpy") as file:
            stated = (file.metadata() or {}).get(CHECKSUM_KEY)
            names = file.keys()
            tensors = {name: np.ascontiguousarray(file.get_tensor(name)) for name in names}
    except (SafetensorError, OSError, TypeError):
        return None
    parts = ((name, tensors[name].reshape(-1).view(np.uint8)) for name in sorted(tensors))
    if stated is not None and stated != checksum_of_bytes(parts):
        return None
    floats = [value for value in tensors.values() if value.dtype.kind == "f"]
    return tensors if all(np.isfinite(value).all() for value in floats) else None


def graph_file(run: RunFolder, tensors: Tensors, weight: str, bias: str | None) -> Path:
    """Returns the file of the graph of a run's backbone, whether it is there or not.

    Args:
        run: The run.
        tensors: Its tensors.
        weight: Name of the head's weight.
        bias: Name of its bias, if it has one.

    Raises:
        RunError: A file of the run is missing or damaged.
    """
    config = run.read(run.config_file)
    preprocessing = run.read(run.preprocessing_file)
    args = config["settings"].get("model_args") or {}
    channels = preprocessing.get("channels", 3)
    described = [VERSION, config["model"], args, preprocessing["size"], channels]
    digest = hashlib.blake2b(json.dumps(described, sort_keys=True).encode(), digest_size=16)
    for name in sorted(set(tensors) - {weight, bias}):
        digest.update(name.encode())
        digest.update(tensors[name].reshape(-1).view(np.uint8).data)
    return graphs_folder() / f"{digest.hexdigest()}.onnx"


def find_graph(run: RunFolder, tensors: Tensors | None = None) -> tuple[Path, Graph] | None:
    """Returns the graph of a run's backbone; None where it was not prepared, or is damaged.

    Args:
        run: The run.
        tensors: Its tensors; None: they are read.

    Raises:
        RunError: A file of the run is missing or damaged.
    """
    described = [_read(file) for file in sorted(graphs_folder().glob("*.json"))]
    # Networks name their heads in few ways: classifier, fc, head.
    heads = dict.fromkeys((graph.weight, graph.bias) for graph in described if graph)
    tensors = read_tensors(run) if heads and tensors is None else tensors
    if tensors is None:
        return None
    for weight, bias in heads:
        path = graph_file(run, tensors, weight, bias)
        graph = _read(path.with_suffix(".json"))
        if graph is not None and (graph.reason is not None or _is_sound(path, graph)):
            return path, graph
    return None


def open_graph(run: RunFolder) -> OnnxEngine | None:
    """Returns the engine of a run's prepared graph; None where there is none.

    None too where the run is damaged in a way that torch, which is then tried, describes better.

    Raises:
        RunError: A file of the run is missing or damaged.
    """
    tensors = read_tensors(run)
    found = None if tensors is None else find_graph(run, tensors)
    if tensors is None or found is None or found[1].reason is not None:
        return None
    path, graph = found
    weight = tensors.get(graph.weight, np.zeros(()))
    bias = np.zeros(len(weight)) if graph.bias is None else tensors.get(graph.bias, np.zeros(()))
    labels = len(run.read(run.labels_file))
    if weight.ndim != 2 or weight.shape[0] != labels or bias.shape != (labels,):
        return None
    head = Head(weight=weight.astype(np.float32), bias=bias.astype(np.float32))
    engine = OnnxEngine.of_run(run, path, head)
    return engine if engine.width == weight.shape[1] else None


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
