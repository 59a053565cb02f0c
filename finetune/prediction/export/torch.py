"""Export to TorchScript and to timm."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from finetune.errors import ModelError, StorageError
from finetune.files import write_atomically, write_json, write_text
from finetune.prediction.export.torchscript_module import ExportModule
from finetune.prediction.torch_engine import TorchEngine
from finetune.runs.timm_config import timm_config

METADATA_FILE = "finetune.json"
"""Name under which labels, preprocessing and calibration go with a TorchScript or timm export."""


def export_torchscript(
    engine: TorchEngine, path: Path, *, with_preprocessing: bool, with_softmax: bool
) -> Path:
    """Writes a network as TorchScript and returns its path; ``torch.jit.load`` opens it.

    Labels, preprocessing and calibration are in its extra file ``finetune.json``.

    Raises:
        ModelError: Torch cannot trace this network.
        StorageError: The file cannot be written.
    """
    size = engine.metadata.preprocessing.size
    module = engine.module.cpu().eval()
    try:
        with _deprecations_silenced(), torch.no_grad():
            traced = torch.jit.trace(  # type: ignore[no-untyped-call]
                module,
                torch.zeros(2, engine.metadata.preprocessing.channels, size, size),
                check_trace=False,
            )
            whole = torch.jit.script(
                ExportModule(
                    traced,
                    engine.metadata,
                    with_preprocessing=with_preprocessing,
                    with_softmax=with_softmax,
                ).eval()
            )
            buffer = io.BytesIO()
            metadata = json.dumps(engine.metadata.to_dict(), ensure_ascii=False)
            torch.jit.save(whole, buffer, _extra_files={METADATA_FILE: metadata})
    except RuntimeError as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{engine.metadata.model} cannot be traced: {first}") from error
    return write_atomically(path, lambda file: file.write(buffer.getvalue()))


def open_torchscript(path: Path) -> torch.jit.ScriptModule:
    """Returns the module in a TorchScript file; it is code, so open only files that you trust."""
    with _deprecations_silenced():
        return torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call,no-any-return]


def export_timm(engine: TorchEngine, folder: Path) -> Path:
    """Writes a folder that ``timm.create_model("local-dir:FOLDER", pretrained=True)`` opens.

    Raises:
        StorageError: The folder holds other files, or cannot be written.
    """
    names = {"config.json", "model.safetensors", METADATA_FILE, "README.md", "labels.txt"}
    if folder.exists() and (
        not folder.is_dir() or any(item.name not in names for item in folder.iterdir())
    ):
        raise StorageError(f"{folder} holds other files. Name a new folder with --output.")
    metadata = engine.metadata
    write_json(
        folder / "config.json",
        timm_config(engine.module, metadata.model, metadata.labels, metadata.preprocessing),
    )
    tensors = {name: value.contiguous() for name, value in engine.module.state_dict().items()}
    content = save(tensors, {"format": "pt"})
    write_atomically(folder / "model.safetensors", lambda file: file.write(content))
    write_json(folder / METADATA_FILE, metadata.to_dict())
    write_text(folder / "labels.txt", "".join(f"{label}\n" for label in metadata.labels))
    return folder


def copy_card(card: Path, folder: Path) -> None:
    """Copies a run's model card, if any, beside an export; raises StorageError."""
    if card.is_file():
        write_atomically(folder / card.name, lambda file: _copy(card, file))


def _copy(source: Path, target: Any) -> None:
    with source.open("rb") as file:
        shutil.copyfileobj(file, target)


@contextlib.contextmanager
def _deprecations_silenced() -> Iterator[None]:
    """Silences the deprecation warnings of TorchScript."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        yield
