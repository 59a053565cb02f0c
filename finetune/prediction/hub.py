"""Runs on the Hugging Face hub: upload with ``export --push``, download of ``hf://OWNER/NAME``.

A model on the hub has the tensors, labels, preprocessing and calibration of a run, but no name of a
photo or folder. Only safetensors and JSON files are downloaded, and what they hold is checked as
that of any run folder.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from finetune.errors import RunError
from finetune.files import (
    NO_SPACE,
    read_json,
    safe_name,
    user_cache_folder,
    write_atomically,
    write_json,
)
from finetune.prediction.export.timm import export_timm
from finetune.prediction.hub_address import SCHEME, HubAddress
from finetune.prediction.torch_engine import TorchEngine
from finetune.runs.folder import RunFolder
from finetune.runs.model_card import write_model_card
from finetune.runs.validation import MAX_JSON_BYTES

logger = logging.getLogger(__name__)

SETTINGS_FILE = "run.json"
"""Name of a run's config.json on the hub, where config.json is timm's."""

MAX_TENSOR_BYTES = 8 << 30

NETWORK_FILE = "model.safetensors"

SHARED_FILES = (
    "labels.json",
    "preprocessing.json",
    "calibration.json",
    "metrics.json",
    "distance.safetensors",
)
"""Files of a run that name no photo and no folder; the last is not in every run."""


def download_run(text: str) -> RunFolder:
    """Returns a run of the hub as a folder in the user's cache.

    Without a connection it is the one that was downloaded last, with a warning.

    Args:
        text: ``hf://OWNER/NAME``, or ``hf://OWNER/NAME@REVISION``.

    Raises:
        RunError: There is no such model, it was not made by finetune, or it is too large.
        StorageError: The cache cannot be written.
    """
    import huggingface_hub

    address = HubAddress.parse(text)
    owner, name = address.repository.split("/")
    place = user_cache_folder() / "hub" / safe_name(f"{owner}--{name}")
    latest = place / safe_name(f"{address.revision or 'main'}.json")
    try:
        files, commit = _listed(address)
    except _UnreachableError as error:
        try:
            folder = place / safe_name(str(read_json(latest)["commit"])) / safe_name(name)
        except (OSError, ValueError, TypeError, KeyError):
            raise RunError(f"{text}: {error}, and it was not downloaded before.") from error
        logger.warning("%s: %s; using the copy that was downloaded before.", text, error)
        return RunFolder(folder)
    folder = place / safe_name(commit) / safe_name(name)
    with _hub_errors(text):
        found = {
            file: Path(huggingface_hub.hf_hub_download(address.repository, file, revision=commit))
            for file in files
        }
    config = _config(text, found.pop(SETTINGS_FILE))
    for file, path in found.items():
        _copy(path, folder / file)
    write_json(folder / "config.json", config)
    write_json(latest, {"commit": commit})
    return RunFolder(folder)


def _copy(source: Path, target: Path) -> None:
    if target.is_file() and target.stat().st_size == source.stat().st_size:
        return
    with source.open("rb") as content:
        write_atomically(target, lambda file: shutil.copyfileobj(content, file))


def _config(text: str, settings_file: Path) -> dict[str, Any]:
    """Returns config.json of a run from the hub; `RunFolder.read` checks it as that of any run."""
    try:
        content = read_json(settings_file)
    except ValueError as error:
        raise RunError(f"{text}: {SETTINGS_FILE} cannot be read: {error}.") from error
    if not isinstance(content, dict):
        raise RunError(f"{text}: {SETTINGS_FILE} cannot be read: it is not an object.")
    return content | {"photos": text}


class _UnreachableError(Exception):
    """The hub did not answer."""


def _listed(address: HubAddress) -> tuple[tuple[str, ...], str]:
    """Returns the files to download, and their commit."""
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError

    if constants.HF_HUB_OFFLINE:
        raise _UnreachableError("HF_HUB_OFFLINE is set")
    try:
        info = huggingface_hub.HfApi().model_info(
            address.repository, revision=address.revision, files_metadata=True
        )
    except HfHubHTTPError as error:
        raise _refusal(str(address), error) from error
    except Exception as error:
        raise _UnreachableError("the hub cannot be reached") from error
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    every = (SETTINGS_FILE, NETWORK_FILE, *SHARED_FILES)
    for name in every:
        limit = MAX_TENSOR_BYTES if name.endswith(".safetensors") else MAX_JSON_BYTES
        if name not in sizes and name != SHARED_FILES[-1]:
            raise RunError(
                f"{address} has no {name}: it was not pushed by finetune. timm opens other models."
            )
        if sizes.get(name, 0) > limit:
            raise RunError(f"{address}: {name} is larger than {limit >> 20} MB.")
    return tuple(name for name in every if name in sizes), str(info.sha)


def push_run(run: RunFolder, repository: str, *, private: bool = True) -> str:
    """Uploads a run as a model that finetune opens by its address, and timm as any of its models.

    Names of photos and folders stay here: split.csv, predictions.csv and config.json are not sent.

    Args:
        run: The run.
        repository: ``OWNER/NAME``.
        private: Whether a new repository is visible to its owner only.

    Returns:
        The address of the model, ``hf://OWNER/NAME``.

    Raises:
        RunError: Nobody is logged in, or the hub refused.
    """
    import huggingface_hub

    address = _address_to_push(repository)
    if huggingface_hub.get_token() is None:
        raise RunError(
            "--push: you are not logged in to the Hugging Face hub, and nothing was sent. Log in "
            "with: hf auth login"
        )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        gather(run, folder)
        with _hub_errors(f"--push {repository}"):
            api = huggingface_hub.HfApi()
            api.create_repo(repository, private=private, exist_ok=True)
            api.upload_folder(
                repo_id=repository, folder_path=folder, commit_message=f"Upload {run.name}"
            )
    return str(address)


def _address_to_push(repository: str) -> HubAddress:
    try:
        return HubAddress.parse(f"{SCHEME}{repository}")
    except RunError as error:
        raise RunError(f"--push {repository}: the hub names a model OWNER/NAME.") from error


def gather(run: RunFolder, folder: Path) -> None:
    """Writes everything that `push_run` uploads to a folder.

    Raises:
        RunError: The run is not finished.
        StorageError: The folder cannot be written.
    """
    engine = TorchEngine.load(run, device="cpu")
    if (engine.metadata.crop_policy or {}).get("weights"):
        raise RunError(
            f"{run.path} finds crops with a weights file of this machine, which a model on the hub "
            "cannot have. Train without it."
        )
    export_timm(engine, folder)
    _copy(write_model_card(run), folder / "README.md")
    for name in SHARED_FILES:
        if (run.path / name).is_file():
            _copy(run.path / name, folder / name)
    config = run.read(run.config_file)
    write_json(
        folder / SETTINGS_FILE,
        {
            "model": config["model"],
            "settings": {"model_args": config["settings"].get("model_args")},
            "versions": config.get("versions", {}),
        },
    )


@contextmanager
def _hub_errors(what: str) -> Iterator[None]:
    """Turns errors of the hub's client, which raises its own and those of its HTTP library."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            raise
        raise _refusal(what, error) from error


def _refusal(what: str, error: Exception) -> RunError:
    reason = next((line for line in str(error).splitlines() if line.strip()), None)
    return RunError(f"{what}: the hub refused: {reason or type(error).__name__}")
