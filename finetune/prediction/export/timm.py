"""Export to a timm folder, and its upload to the Hugging Face hub."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import timm
from safetensors.torch import save

from finetune.errors import ConfigError, FinetuneError, RunError, StorageError
from finetune.files import write_atomically, write_json, write_text
from finetune.models.pair import pair_parts
from finetune.prediction.engine import PredictProba
from finetune.prediction.torch_engine import TorchEngine
from finetune.runs.folder import RunFolder
from finetune.runs.model_card import CARD, write_model_card
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


def copy_card(card: Path, folder: Path) -> None:
    """Copies a run's model card, if any, beside an export; raises StorageError."""
    if card.is_file():
        write_atomically(folder / card.name, lambda file: _copy(card, file))


def _copy(source: Path, target: Any) -> None:
    with source.open("rb") as file:
        shutil.copyfileobj(file, target)


def timm_predict_proba(engine: TorchEngine, target: Path) -> PredictProba:
    """Returns the predict function of a timm folder, calibrated as its engine."""
    # The folder's own config decides, as when it is opened with timm alone.
    module = timm.create_model(f"local-dir:{target}", pretrained=True)
    exported = TorchEngine(module, engine.metadata)
    return lambda images: engine.metadata.task.probabilities(exported.logits(images))


_SHARED = (
    "labels.json",
    "preprocessing.json",
    "calibration.json",
    "distance.safetensors",
    "metrics.json",
)


def push(run: RunFolder, repository: str, *, private: bool = True) -> str:
    """Uploads a run as a model that ``timm.create_model("hf-hub:REPOSITORY")`` opens.

    Names of photos and folders stay here: split.csv, predictions.csv and config.json are not sent.

    Args:
        run: The run.
        repository: ``USER/NAME``.
        private: Whether a new repository is visible to its owner only.

    Returns:
        The address of the model.

    Raises:
        RunError: Nobody is logged in, or the hub refused.
    """
    import huggingface_hub

    if repository.count("/") != 1 or not all(repository.split("/")):
        raise RunError(f"--push {repository}: the hub names a model USER/NAME.")
    if huggingface_hub.get_token() is None:
        raise RunError(
            "--push: you are not logged in to the Hugging Face hub, and nothing was sent. Log in "
            "with: hf auth login"
        )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        gather(run, folder)
        try:
            api = huggingface_hub.HfApi()
            api.create_repo(repository, private=private, exist_ok=True)
            api.upload_folder(
                repo_id=repository, folder_path=folder, commit_message=f"Upload {run.name}"
            )
        except FinetuneError:
            raise
        except Exception as error:  # the hub's client raises its own, requests' and OS errors
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise RunError(f"--push {repository}: the hub refused: {reason}") from error
    return f"https://huggingface.co/{repository}"


def gather(run: RunFolder, folder: Path) -> None:
    """Writes everything that `push` uploads to a folder.

    Raises:
        RunError: The run is not finished.
        StorageError: The folder cannot be written.
    """
    engine = TorchEngine.load(run, device="cpu")
    export_timm(engine, folder)
    copy_card(write_model_card(run), folder)
    for name in _SHARED:
        copy_card(run.path / name, folder)
    if not (folder / CARD).is_file():
        raise RunError(f"{run.path} has no {CARD}.")
