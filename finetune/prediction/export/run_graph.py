"""Preparation of the ONNX graph of a run's backbone; see `finetune.prediction.run_graph`."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
from filelock import FileLock
from torch import nn

from finetune.files import storage_errors, write_atomically
from finetune.models.feature_backends import export_backbone
from finetune.photos.preprocessing import Preprocessing
from finetune.prediction.run_graph import (
    Graph,
    find_graph,
    graph_file,
    graphs_folder,
    open_graph,
    read_tensors,
)
from finetune.prediction.torch_engine import TorchEngine
from finetune.runs.folder import RunFolder

TOLERANCE = 1e-3
"""Most that a logit of the graph may differ from torch's, relative to the largest logit."""

MAX_BYTES = 2 << 30
"""Size of all graphs above which the oldest are removed."""


def prepare_graph(run: RunFolder, note: Callable[[str], None] = lambda text: None) -> Graph:
    """Returns the graph of a run's backbone, which is prepared where it is missing.

    Another run on the same backbone has left it, or torch exports it, which takes seconds.

    Args:
        run: The run.
        note: Called with a sentence before an export.

    Raises:
        RunError: A file of the run is missing or damaged.
        StorageError: The cache cannot be written.
    """
    # Of several processes one exports, and the others wait for its graph.
    lock = FileLock(graphs_folder() / "lock")
    with storage_errors(graphs_folder()):
        graphs_folder().mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        known = find_graph(run)
        return _export(run, note) if known is None else known[1]
    finally:
        lock.release()


def _export(run: RunFolder, note: Callable[[str], None]) -> Graph:
    engine = TorchEngine.load(run, device="cpu")
    module = engine.module
    head = module.get_classifier()  # type: ignore[operator]
    name = next((name for name, one in module.named_modules() if one is head), "")
    if not isinstance(head, nn.Linear):
        return Graph(weight="", bias=None, reason=f"{engine.metadata.model} has no linear head")
    graph = Graph(weight=f"{name}.weight", bias=None if head.bias is None else f"{name}.bias")
    tensors = read_tensors(run)
    if tensors is None:
        return dataclasses.replace(graph, reason=f"{run.model_file} cannot be read by NumPy")
    path = graph_file(run, tensors, graph.weight, graph.bias)
    note("Preparing fast predictions, once for this network.")
    try:
        content = export_backbone(module, _shape(engine.metadata.preprocessing))
    except Exception as error:  # noqa: BLE001 - torch's exporter raises many types
        first = (str(error).splitlines() or [type(error).__name__])[0]
        reason = f"{engine.metadata.model} cannot be exported to ONNX: {first}"
        return _write(path, dataclasses.replace(graph, reason=reason))
    write_atomically(path, lambda file: file.write(content))
    graph = _write(path, dataclasses.replace(graph, checksum=zlib.crc32(content)))
    if not _agrees(run, engine):
        path.unlink()
        reason = f"the graph of {engine.metadata.model} differs from torch's network"
        graph = _write(path, dataclasses.replace(graph, reason=reason))
    _remove_oldest()
    return graph


def _write(path: Path, graph: Graph) -> Graph:
    content = msgspec.json.encode(graph)
    write_atomically(path.with_suffix(".json"), lambda file: file.write(content))
    return graph


def _shape(preprocessing: Preprocessing) -> tuple[int, int, int]:
    return preprocessing.channels, preprocessing.size, preprocessing.size


def _agrees(run: RunFolder, engine: TorchEngine) -> bool:
    """Returns whether the graph gives torch's logits for two pictures of noise."""
    graph = open_graph(run)
    if graph is None:
        return True
    side = engine.metadata.preprocessing.working_size
    images = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), np.uint8)
    expected = engine.logits(images)
    difference = np.abs(graph.logits(images) - expected).max()
    return bool(difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())))


def _remove_oldest() -> None:
    """Removes the graphs that were made longest ago, beyond `MAX_BYTES`."""
    files = sorted(graphs_folder().glob("*.onnx"), key=lambda file: -file.stat().st_mtime)
    total = 0
    for file in files:
        total += file.stat().st_size
        if total > MAX_BYTES and file is not files[0]:
            file.unlink(missing_ok=True)
            file.with_suffix(".json").unlink(missing_ok=True)
