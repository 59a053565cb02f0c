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
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

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
class GraphEntry:
    """What the cache knows of the network of a run.

    Attributes:
        graph: Name of the graph's file; None: torch cannot express the backbone in ONNX.
        checksum: CRC-32 of that file.
        weight: Name of the head's weight in the run's tensors.
        bias: Name of its bias, if it has one.
        reason: Why there is no graph.
    """

    graph: str | None
    checksum: int = 0
    weight: str = ""
    bias: str | None = None
    reason: str = ""


def graphs_folder() -> Path:
    """Returns the folder of the graphs."""
    return user_cache_folder() / "graphs"


def entry_file(run: RunFolder) -> Path:
    """Returns the file of a run's entry; raises RunError where the run has no model."""
    try:
        with run.model_file.open("rb") as file:
            digest = hashlib.file_digest(file, "blake2b")
    except OSError as error:
        raise RunError(f"{run.model_file} cannot be read: {error.strerror}.") from error
    config = run.read(run.config_file)
    described = [VERSION, config["model"], config["settings"].get("model_args") or {}]
    digest.update(json.dumps(described, sort_keys=True).encode())
    digest.update(json.dumps(run.read(run.preprocessing_file), sort_keys=True).encode())
    return graphs_folder() / f"{digest.hexdigest()[:32]}.json"


def read_entry(run: RunFolder) -> GraphEntry | None:
    """Returns the entry of a run; None where there is none, or its graph is damaged."""
    try:
        entry = msgspec.json.decode(entry_file(run).read_bytes(), type=GraphEntry)
        if entry.graph is not None:
            content = (graphs_folder() / Path(entry.graph).name).read_bytes()
            if zlib.crc32(content) != entry.checksum:
                return None
    except (OSError, msgspec.MsgspecError):
        return None
    return entry


def open_graph(run: RunFolder) -> OnnxEngine | None:
    """Returns the engine of a run's prepared graph; None where there is none.

    Raises:
        RunError: A file of the run is missing or damaged.
    """
    entry = read_entry(run)
    if entry is None or entry.graph is None:
        return None
    try:
        import onnxruntime  # noqa: F401
    except ImportError:
        return None
    try:
        with safe_open(run.model_file, "numpy") as tensors:
            weight = tensors.get_tensor(entry.weight)
            bias = tensors.get_tensor(entry.bias) if entry.bias else np.zeros(len(weight))
    except (SafetensorError, OSError, TypeError) as error:
        raise RunError(f"{run.model_file} is damaged: {error}.") from error
    head = Head(weight=weight.astype(np.float32), bias=bias.astype(np.float32))
    return OnnxEngine.of_run(run, graphs_folder() / Path(entry.graph).name, head)


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
