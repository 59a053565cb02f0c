"""Export to a folder for timm."""

from __future__ import annotations

from pathlib import Path

import timm
from safetensors.torch import save

from finetune.errors import ConfigError, StorageError
from finetune.files import write_atomically, write_json, write_text
from finetune.models.pair import pair_parts
from finetune.prediction.engine import PredictProba
from finetune.prediction.torch_engine import TorchEngine
from finetune.runs.timm_config import timm_config

METADATA_FILE = "finetune.json"
"""File of labels, preprocessing and calibration beside the network."""


def export_timm(engine: TorchEngine, folder: Path) -> Path:
    """Writes a folder that ``timm.create_model("local-dir:FOLDER", pretrained=True)`` opens.

    Raises:
        ConfigError: The network is a pair.
        StorageError: The folder holds other files, or cannot be written.
    """
    if pair_parts(engine.metadata.model):
        raise ConfigError(
            f"--format timm: timm has no pair of networks such as {engine.metadata.model}. Export "
            "it with --format onnx or torchscript."
        )
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


def timm_predict_proba(engine: TorchEngine, target: Path) -> PredictProba:
    """Returns the predict function of a timm folder, calibrated as its engine."""
    # The folder's own config decides, as when it is opened with timm alone.
    module = timm.create_model(f"local-dir:{target}", pretrained=True)
    exported = TorchEngine(module, engine.metadata)
    return lambda images: engine.metadata.task.probabilities(exported.logits(images))
