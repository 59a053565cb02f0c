"""Exports a run, and does not say done before the export has answered real photos like the run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from finetune.errors import ConfigError, ModelError, RunError
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
from finetune.prediction.torch_engine import TorchEngine
from finetune.runs.folder import RunFolder

Format = Literal["onnx", "torchscript", "timm"]

TOLERANCE = 1e-4
"""Largest difference of a probability that an export in fp32 may show."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What to export.

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
    """What was written.

    Attributes:
        path: The file, or timm's folder.
        bytes: Its size.
        comparison: How it differs from the run.
    """

    path: Path
    bytes: int
    comparison: Comparison


def default_path(run: RunFolder, options: ExportOptions) -> Path:
    """Returns where an export goes: a file or folder named after the run, in the run's own."""
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
            from finetune.prediction.export.onnx import OnnxOptions, export_onnx

            wanted = OnnxOptions(
                precision=options.precision,
                with_preprocessing=options.with_preprocessing,
                with_softmax=options.with_softmax,
            )
            export_onnx(engine, target, wanted, calibration=calibration)
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
