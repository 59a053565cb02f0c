"""Versions, machine, caches and weights of an installation.

Nothing in a diagnosis names a folder, a photo or a person. A part that cannot be found out, as when
torch cannot be imported, is a problem in the diagnosis and not an error.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil

from finetune import __version__
from finetune.diagnostics.redaction import describe_error, redact
from finetune.diagnostics.self_test import LIMIT_SECONDS, SelfTest, SelfTestProcess
from finetune.files import HIDDEN_FOLDER, user_cache_folder

DISTRIBUTION = "finetune-photos"

LOW_DISK = 2e9
"""Free bytes below which caches and checkpoints of a training may fill the disk."""

LOW_MEMORY = 2e9
"""Free bytes below which a training may fail: torch and its batches take 1 to 2 GB."""

SCRIPTS = {
    "Latin": "wren",
    "Cyrillic": "крапивник",
    "Greek": "ψευδοτρωγλοδύτης",
    "Japanese": "ミソサザイ",
}
"""A word of each writing system; the picture of a confusion matrix needs a font that has it."""

ENVIRONMENT = (
    "CUDA_VISIBLE_DEVICES",
    "FINETUNE_CACHE",
    "FINETUNE_ENGINE",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "LD_PRELOAD",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "PYTORCH_ENABLE_MPS_FALLBACK",
    "TORCH_HOME",
)
"""Environment variables that change what the program does."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Computer and operating system.

    Attributes:
        system: Name, version and processor architecture.
        cores: Cores that this process may use.
        memory_bytes: Memory of the machine.
        free_memory_bytes: Memory that programs can still take.
        free_disk_bytes: Free bytes on the disks of the current folder (``here``), of the user's
            ``cache``, and of ``temporary`` files.
    """

    system: str
    cores: int
    memory_bytes: int
    free_memory_bytes: int
    free_disk_bytes: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Torch:
    """Torch as it computes here.

    Attributes:
        version: Of torch, with its build.
        devices: Devices that it can use; the first is the default.
        threads: Threads of the CPU for one operation.
    """

    version: str
    devices: tuple[str, ...]
    threads: int


@dataclass(frozen=True, kw_only=True)
class Cache:
    """Folder of files that are made or downloaded again after they were deleted."""

    name: str
    files: int
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class LocalWeights:
    """Pretrained weights on this machine, ``installed`` or ``downloaded``."""

    model: str
    place: str
    license: str | None


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Facts about an installation.

    Attributes:
        version: Of finetune.
        python: Version and implementation.
        machine: Computer and operating system.
        torch: Torch as it computes here; None if it cannot be imported.
        packages: Version of each package that finetune needs; None where it is missing.
        extras: Whether all packages of an optional group are installed, by its name.
        environment: Environment variables that are set and matter, redacted.
        fonts: Whether charts can show a writing system, by its name.
        caches: Caches that exist.
        weights: Pretrained weights on this machine.
        self_test: Training and prediction on drawn photos; None if it was left out.
        problems: What does not work or may fail, each with what to do.
    """

    version: str
    python: str
    machine: Machine
    torch: Torch | None
    packages: dict[str, str | None]
    extras: dict[str, bool]
    environment: dict[str, str]
    fonts: dict[str, bool]
    caches: tuple[Cache, ...]
    weights: tuple[LocalWeights, ...]
    self_test: SelfTest | None
    problems: tuple[str, ...]


Found = TypeVar("Found")


def diagnose(*, self_test: bool = True) -> Diagnosis:
    """Returns the facts about this installation that a bug report needs.

    Args:
        self_test: Also train and predict on drawn photos; stopped after 11 seconds.

    Example:
        >>> diagnose(self_test=False).problems
        ()
    """
    failures: list[str] = []

    def attempt(what: str, work: Callable[[], Found], otherwise: Found) -> Found:
        try:
            return work()
        except Exception as error:  # noqa: BLE001 - a broken installation is what is looked for
            failures.append(f"{what} failed. {describe_error(error)}")
            return otherwise

    # The self-test computes while this process looks for the rest.
    testing = attempt("Starting the self-test", SelfTestProcess, None) if self_test else None
    machine = _machine()
    packages, extras = _requirements()
    torch = attempt("Loading torch", _torch, None)
    no_fonts: dict[str, bool] = {}
    no_caches: tuple[Cache, ...] = ()
    no_weights: tuple[LocalWeights, ...] = ()
    fonts = attempt("Looking for fonts", _fonts, no_fonts)
    caches = attempt("Looking for caches", _caches, no_caches)
    weights = attempt("Looking for weights", local_weights, no_weights)
    tested = testing.result(LIMIT_SECONDS) if testing else None
    return Diagnosis(
        version=__version__,
        python=f"{platform.python_version()} ({platform.python_implementation()})",
        machine=machine,
        torch=torch,
        packages=packages,
        extras=extras,
        environment={name: redact(os.environ[name]) for name in ENVIRONMENT if name in os.environ},
        fonts=fonts,
        caches=caches,
        weights=weights,
        self_test=tested,
        problems=(*failures, *_problems(machine, torch, packages, fonts, tested)),
    )


def _machine() -> Machine:
    memory = psutil.virtual_memory()
    here, cache, temporary = Path(), user_cache_folder(), Path(tempfile.gettempdir())
    places = {"here": here, "cache": cache, "temporary": temporary}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Machine(
        system=f"{platform.system()} {platform.release()}, {platform.machine()}",
        cores=cores or 1,
        memory_bytes=memory.total,
        free_memory_bytes=memory.available,
        free_disk_bytes={
            name: shutil.disk_usage(_existing(place)).free for name, place in places.items()
        },
    )


def _existing(path: Path) -> Path:
    """Returns a path, or the nearest folder above it that exists."""
    path = path.absolute()
    return next(place for place in (path, *path.parents) if place.exists())


def _torch() -> Torch | None:
    import torch

    from finetune.training.device import choose_device

    devices = []
    for number in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(number)
        devices.append(f"cuda:{number} {found.name}, {found.total_memory / 1e9:.0f} GB")
    if choose_device(None).type == "mps":
        devices.append("mps")
    return Torch(
        version=torch.__version__, devices=(*devices, "cpu"), threads=torch.get_num_threads()
    )


def _requirements() -> tuple[dict[str, str | None], dict[str, bool]]:
    """Returns the versions of the required packages, and which optional groups are complete."""
    packages: dict[str, str | None] = {}
    extras: dict[str, bool] = {}
    try:
        requirements = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return packages, extras
    for requirement in requirements:
        name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
        extra = re.search(r"extra\s*==\s*['\"](.+?)['\"]", requirement)
        if extra is None:
            packages[name] = _version(name)
        elif extra[1] not in ("docs", "test"):
            extras[extra[1]] = extras.get(extra[1], True) and _version(name) is not None
    return packages, extras


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _fonts() -> dict[str, bool]:
    from finetune.fonts import has_glyphs

    return {script: has_glyphs(word) for script, word in SCRIPTS.items()}


def _caches() -> tuple[Cache, ...]:
    from huggingface_hub import constants
    from timm.models._hub import get_cache_dir

    own = user_cache_folder()
    places = {
        "photos of ./photos": Path("photos", HIDDEN_FOLDER),
        "photos of this folder": Path(HIDDEN_FOLDER),
        **{f"finetune's {path.name}": path for path in sorted(own.glob("*")) if path.is_dir()},
        "downloads of the hub": Path(constants.HF_HUB_CACHE),
        "downloads of torch": Path(get_cache_dir()).parent,
    }
    return tuple(_cache(name, path) for name, path in places.items() if path.is_dir())


def _cache(name: str, folder: Path) -> Cache:
    files = size = 0
    for place, _, names in os.walk(folder):
        for file in names:
            try:
                found = os.lstat(Path(place, file))
            except OSError:  # deleted in the meantime
                continue
            files += 1
            size += found.st_size
    return Cache(name=name, files=files, size_bytes=size)


def local_weights() -> tuple[LocalWeights, ...]:
    """Returns the pretrained weights that are installed, or in a cache of the hub or of torch."""
    import timm

    from finetune.models import weights
    from finetune.models.packaged import PACKAGED, packaged_weights

    installed = ((model, packaged_weights(model)) for model in PACKAGED)
    here = [
        LocalWeights(model=model, place="installed", license=found.license)
        for model, found in installed
        if found is not None
    ]
    for model in timm.list_pretrained():
        config = timm.get_pretrained_cfg(model)
        if weights.local_weights(config) is not None:
            here.append(LocalWeights(model=model, place="downloaded", license=config.license))
    return tuple(here)


def _problems(
    machine: Machine,
    torch: Torch | None,
    packages: dict[str, str | None],
    fonts: dict[str, bool],
    tested: SelfTest | None,
) -> Iterable[str]:
    if tested is not None and tested.error is not None:
        yield f"The self-test failed. {tested.error}"
    if tested is not None and tested.stopped:
        yield (
            f"The self-test was stopped after {LIMIT_SECONDS:.0f} s; no step had failed. The "
            "machine is busy or slow: close programs and try again."
        )
    if not packages:
        yield f"{DISTRIBUTION} is not installed: finetune runs from a folder of code."
    for name, version in packages.items():
        if version is None:
            yield f"{name} is missing. Install it with: pip install {name}"
    if _version("opencv-python") and _version("opencv-python-headless"):
        yield (
            "opencv-python and opencv-python-headless overwrite each other's files. Keep one: "
            "pip uninstall opencv-python"
        )
    if torch and torch.devices == ("cpu",) and Path("/proc/driver/nvidia/version").exists():
        yield f"torch {torch.version} cannot use the NVIDIA GPU. Install a build for its CUDA."
    for place, free in machine.free_disk_bytes.items():
        if free < LOW_DISK:
            yield f"Only {free / 1e9:.1f} GB of disk are free ({place}). Free some space."
    if machine.free_memory_bytes < LOW_MEMORY:
        yield f"Only {machine.free_memory_bytes / 1e9:.1f} GB of memory are free. Close programs."
    missing = [script for script, there in fonts.items() if not there]
    if missing:
        yield (
            f"No font has {' or '.join(missing)} letters, so pictures of confusion matrices number "
            "these labels. Install Noto Sans CJK or DejaVu Sans."
        )
