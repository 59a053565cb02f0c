"""Exports a run, and does not say done before the export has answered real photos like the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from finetune.errors import ConfigError, DecodeError, ModelError, RunError
from finetune.photos.split import read_split
from finetune.prediction.pixels import working_square
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
        with_preprocessing: Resize, crop and normalise in the graph.
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
class Comparison:
    """How an export's answers differ from the run's on the same photos.

    Attributes:
        photos: How many were compared.
        largest_difference: Of any label's calibrated probability.
        same_label: Share of the photos with the same likeliest label.
        whole_photos_difference: As `largest_difference`, where the graph itself resizes whole
            photos; None where it does not.
    """

    photos: int
    largest_difference: float
    same_label: float
    whole_photos_difference: float | None = None


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
    check, calibration = _photos(run, engine, options, photos)
    target = out or default_path(run, options)
    say(f"Exporting {run.path} to {target}")
    _write(engine, target, options, [square for _, square in calibration])
    say(f"Comparing with {run.path} on {len(check)} photos")
    found = compare(engine, target, options, check)
    if options.precision == "fp32" and not found.largest_difference <= TOLERANCE:
        raise ModelError(
            f"{target} answers differently from {run.path}: a probability differs by "
            f"{found.largest_difference:.2g}, and {TOLERANCE:g} is allowed. Do not use it."
        )
    return Exported(path=target, bytes=_bytes_of(target), comparison=found)


def compare(
    engine: TorchEngine,
    target: Path,
    options: ExportOptions,
    photos: Sequence[tuple[Path, NDArray[np.uint8]]],
) -> Comparison:
    """Returns how an export's answers differ from an engine's on photos and their squares."""
    squares = np.stack([square for _, square in photos])
    wanted = engine.facts.task.probabilities(engine.logits(squares))
    opened = _opened(engine, target, options)
    given = np.concatenate([opened(squares[at : at + 16]) for at in range(0, len(squares), 16)])
    whole = None
    if options.with_preprocessing:
        whole = max(
            float(np.abs(opened(image[None])[0] - row).max())
            for image, row in zip(_whole_photos(photos), wanted, strict=True)
        )
    return Comparison(
        photos=len(photos),
        largest_difference=float(np.abs(given - wanted).max()),
        same_label=float((given.argmax(1) == wanted.argmax(1)).mean()),
        whole_photos_difference=whole,
    )


def _write(
    engine: TorchEngine,
    target: Path,
    options: ExportOptions,
    calibration: Sequence[NDArray[np.uint8]],
) -> None:
    match options.format:
        case "onnx":
            from finetune.prediction.export_onnx import OnnxOptions, export_onnx

            wanted = OnnxOptions(
                precision=options.precision,
                with_preprocessing=options.with_preprocessing,
                with_softmax=options.with_softmax,
            )
            export_onnx(engine, target, wanted, calibration=calibration)
        case "torchscript":
            from finetune.prediction.export_torch import export_torchscript

            export_torchscript(
                engine,
                target,
                with_preprocessing=options.with_preprocessing,
                with_softmax=options.with_softmax,
            )
        case _:
            from finetune.prediction.export_torch import export_timm

            export_timm(engine, target)


Answer = Callable[[NDArray[np.uint8]], NDArray[np.float64]]
"""Calibrated probabilities ``(B, labels)`` of squares ``(B, S, S, 3) uint8``."""


def _opened(engine: TorchEngine, target: Path, options: ExportOptions) -> Answer:
    match options.format:
        case "onnx":
            return _opened_onnx(target, options)
        case "torchscript":
            return _opened_torchscript(engine, target, options)
        case _:
            return _opened_timm(engine, target)


def _opened_onnx(target: Path, options: ExportOptions) -> Answer:
    from finetune.prediction.onnx_engine import PHOTOS, PROBABILITIES, OnnxEngine

    exported = OnnxEngine.load(target)

    def answer(images: NDArray[np.uint8]) -> NDArray[np.float64]:
        # What the graph itself makes of the photos is what its users will get.
        if options.with_softmax and options.with_preprocessing:
            row = exported.session.run([PROBABILITIES], {PHOTOS: np.ascontiguousarray(images)})[0]
            return np.asarray(row, dtype=np.float64)
        if options.with_preprocessing:
            logits = exported.session.run(None, {PHOTOS: np.ascontiguousarray(images)})[0]
        else:
            logits = exported.logits(images)
        return exported.facts.task.probabilities(logits)

    return answer


def _opened_torchscript(engine: TorchEngine, target: Path, options: ExportOptions) -> Answer:
    import torch

    from finetune.prediction.export_torch import open_torchscript
    from finetune.prediction.onnx_engine import centre_of, normalised

    module = open_torchscript(target)
    spec = engine.facts.spec

    def answer(images: NDArray[np.uint8]) -> NDArray[np.float64]:
        if options.with_preprocessing:
            given = torch.from_numpy(np.ascontiguousarray(images))
        else:
            given = torch.from_numpy(normalised(centre_of(images, spec.size), spec))
        # Specialising for each photo's size would take far longer than the few answers.
        with torch.inference_mode(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            values = module(given).numpy()
        if options.with_softmax:
            return np.asarray(values, dtype=np.float64)
        return engine.facts.task.probabilities(values)

    return answer


def _opened_timm(engine: TorchEngine, target: Path) -> Answer:
    import timm

    # The folder's own config decides, as for whoever opens it with timm alone.
    module = timm.create_model(f"local-dir:{target}", pretrained=True)
    exported = TorchEngine(module, engine.facts)
    return lambda images: engine.facts.task.probabilities(exported.logits(images))


def _photos(
    run: RunFolder,
    engine: TorchEngine,
    options: ExportOptions,
    photos: Sequence[Path] | None,
) -> tuple[list[tuple[Path, NDArray[np.uint8]]], list[tuple[Path, NDArray[np.uint8]]]]:
    """Returns photos to compare on, and photos to calibrate int8 with, with their squares."""
    if photos is not None:
        check, calibration = list(photos), list(photos)
    else:
        check, calibration = photos_of_run(run)
    spec = engine.facts.spec
    wanted = options.calibration_photos if options.precision == "int8" else 0
    found = (
        list(_squares(check, options.check_photos, spec)),
        list(_squares(calibration, wanted, spec)),
    )
    if not found[0]:
        raise RunError(
            f"There is no photo to compare the export with: those of {run.path} are not where they "
            "were. Name a folder with --photos."
        )
    return found


def photos_of_run(run: RunFolder) -> tuple[list[Path], list[Path]]:
    """Returns a run's held-out photos and its training photos, as far as they are still there.

    Raises:
        RunError: The run does not say where they were.
    """
    root = Path(run.read(run.config_file).get("photos", "."))
    held_out: list[Path] = []
    training: list[Path] = []
    for row in read_split(run.split_file):
        path = root / row.path
        if path.is_file():
            (training if row.part == "train" else held_out).append(path)
    return held_out or training, training


def _squares(
    paths: Sequence[Path], count: int, spec: Any
) -> Iterator[tuple[Path, NDArray[np.uint8]]]:
    """Yields `count` photos spread evenly over `paths`, so that every label's folder has some."""
    if not paths or not count:
        return
    for index in np.unique(np.linspace(0, len(paths) - 1, min(count, len(paths))).round()):
        path = paths[int(index)]
        try:
            yield path, working_square(path, spec)
        except DecodeError:
            continue


def _whole_photos(
    photos: Sequence[tuple[Path, NDArray[np.uint8]]],
) -> Iterator[NDArray[np.uint8]]:
    from finetune.photos.decode import decode_photo

    for path, _ in photos:
        yield decode_photo(path)


def _bytes_of(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
