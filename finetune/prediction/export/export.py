"""Export of a run, verified on real photos."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from finetune.errors import (
    ConfigError,
    DecodeError,
    ModelError,
    RunError,
)
from finetune.photos.decode.decoder import decode_photo
from finetune.photos.preprocessing import Preprocessing
from finetune.photos.split.split import read_split
from finetune.prediction.engine import PredictProba
from finetune.prediction.inputs import working_image
from finetune.prediction.torch_engine import TorchEngine
from finetune.runs.folder import RunFolder

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
    on_step: Callable[[str], None] = lambda text: None,
) -> Exported:
    """Exports a run and compares the export with it on real photos.

    Args:
        run: The run.
        options: What to export.
        out: File or folder; None: in the run.
        photos: Photos to compare and calibrate with; None: those of the run.
        on_step: Called with a line of text as each step starts.

    Raises:
        RunError: There are no photos to compare with.
        ModelError: The network cannot be exported, or the export predicts differently.
        MissingExtra: A package is missing.
        StorageError: The export cannot be written.
    """
    engine = TorchEngine.load(run, device="cpu")
    check, calibration = _photos(run, engine.metadata.preprocessing, options, photos)
    target = out or default_path(run, options)
    on_step(f"Exporting {run.path} to {target}")
    exported = _write_and_open(engine, target, options, [photo.image for photo in calibration])
    on_step(f"Comparing with {run.path} on {len(check)} photos")
    found = compare(engine, exported, check, at_original_size=options.with_preprocessing)
    if options.precision == "fp32" and not found.largest_difference <= TOLERANCE:
        raise ModelError(
            f"{target} predicts differently from {run.path}: a probability differs by "
            f"{found.largest_difference:.2g}, and {TOLERANCE:g} is allowed. Do not use it."
        )
    return Exported(path=target, bytes=_bytes_of(target), comparison=found)


def _write_and_open(
    engine: TorchEngine,
    target: Path,
    options: ExportOptions,
    calibration: Sequence[NDArray[np.uint8]],
) -> PredictProba:
    """Writes the export and returns its predict function, loaded from the disk."""
    preprocessing, softmax = options.with_preprocessing, options.with_softmax
    match options.format:
        case "onnx":
            from finetune.prediction.export.onnx import export_onnx, onnx_predict_proba

            export_onnx(
                engine,
                target,
                precision=options.precision,
                with_preprocessing=preprocessing,
                with_softmax=softmax,
                calibration=calibration,
            )
            return onnx_predict_proba(
                target, with_preprocessing=preprocessing, with_softmax=softmax
            )
        case "torchscript":
            from finetune.prediction.export import torchscript

            torchscript.export_torchscript(
                engine, target, with_preprocessing=preprocessing, with_softmax=softmax
            )
            return torchscript.torchscript_predict_proba(
                engine, target, with_preprocessing=preprocessing, with_softmax=softmax
            )
        case "timm":
            from finetune.prediction.export.timm import export_timm, timm_predict_proba

            export_timm(engine, target)
            return timm_predict_proba(engine, target)


def _photos(
    run: RunFolder,
    preprocessing: Preprocessing,
    options: ExportOptions,
    photos: Sequence[Path] | None,
) -> tuple[list[LoadedPhoto], list[LoadedPhoto]]:
    """Returns photos to compare on, and photos to calibrate int8 with."""
    if photos is not None:
        check, calibration = list(photos), list(photos)
    else:
        check, calibration = photos_of_run(run)
    calibration_photos = options.calibration_photos if options.precision == "int8" else 0
    found = (
        list(load_sample(check, options.check_photos, preprocessing)),
        list(load_sample(calibration, calibration_photos, preprocessing)),
    )
    if not found[0]:
        raise RunError(
            f"There is no photo to compare the export with: those of {run.path} have been moved or "
            "deleted. Name a folder with --photos."
        )
    return found


def _bytes_of(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


@dataclass(frozen=True, kw_only=True)
class LoadedPhoto:
    """Photo and its working image ``(S, S, 3) uint8``."""

    path: Path
    image: NDArray[np.uint8]


def photos_of_run(run: RunFolder) -> tuple[list[Path], list[Path]]:
    """Returns a run's held-out and training photos that still exist.

    Raises:
        RunError: The run does not record their folder.
    """
    root = Path(run.read(run.config_file).get("photos", "."))
    held_out: list[Path] = []
    training: list[Path] = []
    for row in read_split(run.split_file):
        path = root / row.path
        if path.is_file():
            (training if row.part == "train" else held_out).append(path)
    return held_out or training, training


def load_sample(
    paths: Sequence[Path], count: int, preprocessing: Preprocessing
) -> Iterator[LoadedPhoto]:
    """Yields `count` photos spread evenly over `paths` and so over the labels.

    A photo that cannot be opened is left out.
    """
    if not paths or not count:
        return
    for index in np.unique(np.linspace(0, len(paths) - 1, min(count, len(paths))).round()):
        path = paths[int(index)]
        try:
            yield LoadedPhoto(path=path, image=working_image(path, preprocessing))
        except DecodeError:
            continue


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Difference between the predictions of an export and its run.

    Attributes:
        photos: How many were compared.
        largest_difference: Of any label's calibrated probability.
        same_label: Share of the photos with the same likeliest label.
        original_size_difference: As `largest_difference`, of photos at their original size, resized
            in the graph; None where it does not resize.
    """

    photos: int
    largest_difference: float
    same_label: float
    original_size_difference: float | None = None


def compare(
    engine: TorchEngine,
    exported: PredictProba,
    photos: Sequence[LoadedPhoto],
    *,
    at_original_size: bool = False,
) -> Comparison:
    """Returns the differences between an export and an engine.

    Args:
        engine: The run, opened.
        exported: Predict function of the export.
        photos: Photos to predict with both.
        at_original_size: Also compare photos at their original size, which the export resizes.
    """
    images = np.stack([photo.image for photo in photos])
    expected = engine.metadata.task.probabilities(engine.logits(images))
    given = np.concatenate([exported(images[at : at + 16]) for at in range(0, len(images), 16)])
    difference = None
    if at_original_size:
        difference = max(
            float(np.abs(exported(decode_photo(photo.path)[None])[0] - row).max())
            for photo, row in zip(photos, expected, strict=True)
        )
    return Comparison(
        photos=len(photos),
        largest_difference=float(np.abs(given - expected).max()),
        same_label=float((given.argmax(1) == expected.argmax(1)).mean()),
        original_size_difference=difference,
    )
