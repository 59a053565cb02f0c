"""A run on the Hugging Face hub: what timm opens, its card, and the facts; no photo, no path."""

from __future__ import annotations

import tempfile
from pathlib import Path

from finetune.errors import FinetuneError, MissingExtra, RunError
from finetune.prediction.export.torch import copy_card, export_timm
from finetune.prediction.torch_engine import TorchEngine
from finetune.runs.folder import RunFolder
from finetune.runs.model_card import CARD, write_model_card

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
        private: Whether only its owner sees a repository that is made for it.

    Returns:
        The address of the model.

    Raises:
        MissingExtra: huggingface_hub is not installed.
        RunError: Nobody is logged in, or the hub refused.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise MissingExtra("huggingface_hub", "hub", "--push") from error
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
    """Writes to a folder all that `push` sends.

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
