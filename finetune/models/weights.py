"""Pretrained weights: from the local cache, the hub, or a file."""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor

from finetune.errors import ModelError, WeightsUnavailable
from finetune.models.checksum import load_checked

CONNECT_TIMEOUT_SECONDS = 3.0
_FILE_NAMES = ("model.safetensors", "pytorch_model.bin")
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


def local_weights(pretrained_cfg: Any) -> Path | None:
    """Returns the weights file of a timm `pretrained_cfg` if it is on this machine, else None.

    It searches the caches of timm and huggingface_hub and makes no connection.
    """
    if pretrained_cfg.hf_hub_id:
        from huggingface_hub import try_to_load_from_cache

        repository, _, revision = pretrained_cfg.hf_hub_id.partition("@")
        names = (pretrained_cfg.hf_hub_filename,) if pretrained_cfg.hf_hub_filename else _FILE_NAMES
        for name in names:
            found = try_to_load_from_cache(repository, name, revision=revision or None)
            if isinstance(found, str):
                return Path(found)
    if pretrained_cfg.url:
        from timm.models._hub import get_cache_dir

        file = Path(get_cache_dir()) / Path(urlparse(pretrained_cfg.url).path).name
        return file if file.is_file() else None
    return None


def file_in(folder: Path, model: str) -> str | None:
    """Returns the weights file of a model in a folder, named with or without its tag, or None.

    Raises:
        ModelError: There is no such folder.
    """
    if not folder.is_dir():
        raise ModelError(f"--weights-dir {folder}: there is no such folder.")
    for name in dict.fromkeys((model, model.partition(".")[0])):
        for suffix in _SUFFIXES:
            if (folder / f"{name}{suffix}").is_file():
                return str(folder / f"{name}{suffix}")
    return None


def models_in(folder: Path) -> list[str]:
    """Returns the names that the weights files of a folder have, sorted.

    Raises:
        ModelError: There is no such folder.
    """
    if not folder.is_dir():
        raise ModelError(f"--weights-dir {folder}: there is no such folder.")
    return sorted({file.stem for file in folder.iterdir() if file.suffix in _SUFFIXES})


def check_hash(file: Path) -> None:
    """Checks a cached weights file by the hash that its source states.

    The hub's cache names a file by its SHA-256, and files of torch's cache end in the first digits
    of theirs.

    Raises:
        ModelError: It differs.
    """
    stated = re.fullmatch(r"[0-9a-f]{64}", file.resolve().name)
    in_name = re.search(r"-([0-9a-f]{8,64})\.[a-z]+$", file.name)
    digest = stated[0] if stated else in_name[1] if in_name else ""
    if not digest:
        return
    with file.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if not found.startswith(digest):
        raise ModelError(
            f"{file} is damaged: its SHA-256 is not the one that its source states ({digest}). "
            "Delete it, and it is downloaded again."
        )


def require_reachable_hub(model: str, pretrained_cfg: Any) -> None:
    """Checks by one short connection attempt that weights can be downloaded.

    Without a network, huggingface_hub itself retries for most of a minute.

    Raises:
        WeightsUnavailable: There are none to download, or the host cannot be reached.
    """
    if not (pretrained_cfg.hf_hub_id or pretrained_cfg.url):
        raise WeightsUnavailable(
            f"There are no pretrained weights of {model}. "
            "Give a file with --weights FILE, or start from scratch with --weights none."
        )
    from huggingface_hub import constants

    if pretrained_cfg.hf_hub_id and constants.HF_HUB_OFFLINE:
        raise unavailable(model, "HF_HUB_OFFLINE is set")
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY")):
        return
    address = urlparse(constants.ENDPOINT if pretrained_cfg.hf_hub_id else pretrained_cfg.url)
    host = address.hostname or ""
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_SECONDS).close()
    except OSError as error:
        raise unavailable(model, f"{host} cannot be reached") from error


def unavailable(model: str, reason: str) -> WeightsUnavailable:
    """Returns the error for weights that cannot be downloaded, with what to do instead."""
    return WeightsUnavailable(
        f"The pretrained weights of {model} are not on this machine and cannot be downloaded: "
        f"{reason}. Connect to the internet once, give a file with --weights FILE, leave --model "
        "out to use the packaged weights, or start from scratch with --weights none."
    )


@contextmanager
def quiet_hub() -> Iterator[None]:
    """Suppresses log lines of huggingface_hub and timm below errors."""
    loggers = [logging.getLogger(name) for name in ("huggingface_hub", "timm")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of a .safetensors file, or of a .pth file read without running code.

    Training wrappers (``{"state_dict": ...}``, ``{"model": ...}``) and the ``module.`` prefix of
    data-parallel training are removed.

    Raises:
        ModelError: No such file, not a weights file, or a pickle that would run code.
    """
    if not path.is_file():
        raise ModelError(f"--weights {path}: there is no such file.")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return _read_pickle(path)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError

    try:
        return load_checked(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"--weights {path} is not a safetensors file: {error}.") from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"--weights {path} was refused: it holds more than tensors, and opening it could run "
            "code. Nothing was run. Ask for a .safetensors file of the same weights."
        ) from error
    except Exception as error:  # arbitrary bytes make an unpickler raise anything at all
        raise ModelError(f"--weights {path} is not a weights file.") from error
    for wrapper in ("state_dict_ema", "model_ema", "state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
            break
    if not isinstance(content, dict) or not any(isinstance(v, Tensor) for v in content.values()):
        raise ModelError(f"--weights {path} has no named tensors.")
    return {
        str(name).removeprefix("module."): value
        for name, value in content.items()
        if isinstance(value, Tensor)
    }
