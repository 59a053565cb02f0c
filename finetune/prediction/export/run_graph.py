"""Preparation of the ONNX graph of a run's backbone; see `finetune.prediction.run_graph`."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
from torch import nn

from finetune.errors import ModelError
from finetune.files import write_atomically, write_text
from finetune.models.feature_backends import export_backbone
from finetune.models.features import weights_digest
from finetune.prediction.run_graph import (
    VERSION,
    GraphEntry,
    entry_file,
    graphs_folder,
    open_graph,
    read_entry,
)
from finetune.prediction.torch_engine import TorchEngine
from finetune.runs.folder import RunFolder

TOLERANCE = 1e-3
"""Most that a logit of the graph may differ from torch's, relative to the largest logit."""

MAX_BYTES = 2 << 30
"""Size of all graphs above which the oldest are removed."""


def prepare_graph(run: RunFolder, note: Callable[[str], None] = lambda text: None) -> GraphEntry:
    """Returns the entry of a run's graph, which is prepared where it is missing.

    Another run on the same backbone has left it, or torch exports it, which takes seconds.

    Args:
        run: The run.
        note: Called with a sentence before an export.

    Raises:
        MissingExtra: onnx or onnxscript is not installed.
        RunError: A file of the run is missing or damaged.
        StorageError: The cache cannot be written.
    """
    known = read_entry(run)
    if known is not None:
        return known
    engine = TorchEngine.load(run, device="cpu")
    try:
        entry = _entry(engine, note)
    except ModelError as error:
        entry = GraphEntry(graph=None, reason=str(error))
    _write_entry(run, entry)
    if entry.graph is not None and not _agrees(run, engine):
        reason = f"the graph of {engine.metadata.model} differs from torch's network"
        entry = GraphEntry(graph=None, reason=reason)
        _write_entry(run, entry)
    _remove_oldest()
    return entry


def _write_entry(run: RunFolder, entry: GraphEntry) -> None:
    write_atomically(entry_file(run), lambda file: file.write(msgspec.json.encode(entry)))


def _entry(engine: TorchEngine, note: Callable[[str], None]) -> GraphEntry:
    """Returns the entry of a network and writes its graph; raises ModelError."""
    module, metadata = engine.module, engine.metadata
    head = module.get_classifier()  # type: ignore[operator]
    name = next((name for name, one in module.named_modules() if one is head), "")
    if not isinstance(head, nn.Linear):
        raise ModelError(f"{metadata.model} has no linear head")
    preprocessing = metadata.preprocessing
    key = [VERSION, metadata.model, preprocessing.size, weights_digest(module)]
    digest = hashlib.blake2b(json.dumps(key).encode(), digest_size=16).hexdigest()
    path = graphs_folder() / f"{digest}.onnx"
    if not _is_sound(path):
        note("Preparing fast predictions, once for this network.")
        side = preprocessing.size
        try:
            content = export_backbone(module, (preprocessing.channels, side, side))
        except Exception as error:  # torch's exporter raises many types
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise ModelError(f"{metadata.model} cannot be exported to ONNX: {first}") from error
        write_atomically(path, lambda file: file.write(content))
        write_text(path.with_suffix(".crc32"), str(zlib.crc32(content)))
    return GraphEntry(
        graph=path.name,
        checksum=zlib.crc32(path.read_bytes()),
        weight=f"{name}.weight",
        bias=None if head.bias is None else f"{name}.bias",
    )


def _is_sound(path: Path) -> bool:
    """Returns whether a graph is there and has the checksum beside it."""
    try:
        return path.with_suffix(".crc32").read_text() == str(zlib.crc32(path.read_bytes()))
    except OSError:
        return False


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
