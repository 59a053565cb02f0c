"""Exports a run and verifies the export on real photos; uploads to the Hugging Face hub."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from finetune.errors import ConfigError, FinetuneError, MissingExtra, ModelError, RunError
from finetune.photos.preprocessing import Preprocessing
from finetune.prediction.export.check import (
    Answer,
    Comparison,
    SquaredPhoto,
    answers_of_onnx,
    answers_of_timm,
    answers_of_torchscript,
    compare,
    photos_of_run,
    squared,
)
from finetune.prediction.export.torch import copy_card, export_timm
from finetune.prediction.torch_engine import TorchEngine
from finetune.runs.folder import RunFolder
from finetune.runs.model_card import CARD, write_model_card

Format = Literal["onnx", "torchscript", "timm"]

TOLERANCE = 1e-4
"""Largest difference in a probability allowed to an fp32 export."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Export options.

    Attributes:
        format: ``onnx``, ``torchscript`` or ``timm``.
        precision: ``fp32``, or for ONNX ``fp16`` or ``int8``.
        with_preprocessing: Resize, crop and normalize in the graph.
        with_softmax: End in calibrated probabilities.
        calibration_photos: How many photos int8 learns its ranges from.
        check_photos: How many photos the export is compared on.

    Raises:
        ConfigError: Settings that do not go together.
    """

    format: Format = "onnx"
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    with_preprocessing: bool = False
    with_softmax: bool = False
    calibration_photos: int = 64
    check_photos: int = 64

    def __post_init__(self) -> None:
        if self.format != "onnx" and self.precision != "fp32":
            raise ConfigError(
                f"--precision {self.precision} is for --format onnx; {self.format} has fp32."
            )
        if self.format == "timm" and (self.with_preprocessing or self.with_softmax):
            raise ConfigError(
                "--format timm holds the network alone; leave out --with-preprocessing and "
                "--with-softmax."
            )
        if min(self.calibration_photos, self.check_photos) < 1:
            raise ConfigError("--calibration-photos and --check-photos must be at least 1.")


@dataclass(frozen=True, kw_only=True)
class Exported:
    """Written export.

    Attributes:
        path: The file, or timm's folder.
        bytes: Its size.
        comparison: How it differs from the run.
    """

    path: Path
    bytes: int
    comparison: Comparison


def default_path(run: RunFolder, options: ExportOptions) -> Path:
    """Returns the default path of an export: named after the run, in its folder."""
    match options.format:
        case "onnx":
            mark = "" if options.precision == "fp32" else f"-{options.precision}"
            return run.path / "export" / f"{run.name}{mark}.onnx"
        case "torchscript":
            return run.path / "export" / f"{run.name}.torchscript.pt"
        case _:
            return run.path / "export" / f"{run.name}-timm"


def export(
    run: RunFolder,
    options: ExportOptions,
    *,
    out: Path | None = None,
    photos: Sequence[Path] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Exported:
    """Exports a run and compares the export with it on real photos.

    Args:
        run: The run.
        options: What to export.
        out: File or folder; None: in the run.
        photos: Photos to compare and calibrate with; None: those that the run was made from.
        say: Told what is being done.

    Raises:
        RunError: There are no photos to compare with.
        ModelError: The network cannot be exported, or the export answers differently.
        MissingExtra: A package is missing.
        StorageError: The export cannot be written.
    """
    engine = TorchEngine.load(run, device="cpu")
    check, calibration = _photos(run, engine.metadata.preprocessing, options, photos)
    target = out or default_path(run, options)
    say(f"Exporting {run.path} to {target}")
    _write(engine, target, options, [photo.square for photo in calibration])
    say(f"Comparing with {run.path} on {len(check)} photos")
    answer = _opened(engine, target, options)
    found = compare(engine, answer, check, whole_photos=options.with_preprocessing)
    if options.precision == "fp32" and not found.largest_difference <= TOLERANCE:
        raise ModelError(
            f"{target} answers differently from {run.path}: a probability differs by "
            f"{found.largest_difference:.2g}, and {TOLERANCE:g} is allowed. Do not use it."
        )
    return Exported(path=target, bytes=_bytes_of(target), comparison=found)


def _write(
    engine: TorchEngine,
    target: Path,
    options: ExportOptions,
    calibration: Sequence[NDArray[np.uint8]],
) -> None:
    match options.format:
        case "onnx":
            from finetune.prediction.export.onnx import export_onnx

            export_onnx(
                engine,
                target,
                precision=options.precision,
                with_preprocessing=options.with_preprocessing,
                with_softmax=options.with_softmax,
                calibration=calibration,
            )
        case "torchscript":
            from finetune.prediction.export.torch import export_torchscript

            export_torchscript(
                engine,
                target,
                with_preprocessing=options.with_preprocessing,
                with_softmax=options.with_softmax,
            )
        case _:
            from finetune.prediction.export.torch import export_timm

            export_timm(engine, target)


def _opened(engine: TorchEngine, target: Path, options: ExportOptions) -> Answer:
    match options.format:
        case "onnx":
            return answers_of_onnx(
                target,
                with_preprocessing=options.with_preprocessing,
                with_softmax=options.with_softmax,
            )
        case "torchscript":
            return answers_of_torchscript(
                engine,
                target,
                with_preprocessing=options.with_preprocessing,
                with_softmax=options.with_softmax,
            )
        case _:
            return answers_of_timm(engine, target)


def _photos(
    run: RunFolder,
    preprocessing: Preprocessing,
    options: ExportOptions,
    photos: Sequence[Path] | None,
) -> tuple[list[SquaredPhoto], list[SquaredPhoto]]:
    """Returns photos to compare on, and photos to calibrate int8 with."""
    if photos is not None:
        check, calibration = list(photos), list(photos)
    else:
        check, calibration = photos_of_run(run)
    wanted = options.calibration_photos if options.precision == "int8" else 0
    found = (
        list(squared(check, options.check_photos, preprocessing)),
        list(squared(calibration, wanted, preprocessing)),
    )
    if not found[0]:
        raise RunError(
            f"There is no photo to compare the export with: those of {run.path} are not where they "
            "were. Name a folder with --photos."
        )
    return found


def _bytes_of(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


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
