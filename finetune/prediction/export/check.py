"""Verification of exports: reopened and compared with the run on real photos."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from finetune.errors import DecodeError
from finetune.photos.decode.decoder import decode_photo
from finetune.photos.preprocessing import Preprocessing
from finetune.photos.split.split import read_split
from finetune.prediction.inputs import working_square
from finetune.prediction.torch_engine import TorchEngine
from finetune.runs.folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class SquaredPhoto:
    """Photo and its working square.

    Attributes:
        path: Its file.
        square: ``(S, S, 3) uint8``.
    """

    path: Path
    square: NDArray[np.uint8]


def photos_of_run(run: RunFolder) -> tuple[list[Path], list[Path]]:
    """Returns a run's held-out and training photos that still exist.

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


def squared(
    paths: Sequence[Path], count: int, preprocessing: Preprocessing
) -> Iterator[SquaredPhoto]:
    """Yields `count` photos spread evenly over `paths` and so over the labels.

    A photo that cannot be opened is left out.
    """
    if not paths or not count:
        return
    for index in np.unique(np.linspace(0, len(paths) - 1, min(count, len(paths))).round()):
        path = paths[int(index)]
        try:
            yield SquaredPhoto(path=path, square=working_square(path, preprocessing))
        except DecodeError:
            continue


Answer = Callable[[NDArray[np.uint8]], NDArray[np.float64]]
"""Calibrated probabilities ``(B, labels)`` of squares ``(B, S, S, 3) uint8``."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Difference between the predictions of an export and its run.

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


def compare(
    engine: TorchEngine,
    answer: Answer,
    photos: Sequence[SquaredPhoto],
    *,
    whole_photos: bool = False,
) -> Comparison:
    """Returns the differences between an export and an engine.

    Args:
        engine: The run, opened.
        answer: The export, opened.
        photos: What both are asked about.
        whole_photos: Whether the export resizes whole photos, and is to be asked about these, too.
    """
    squares = np.stack([photo.square for photo in photos])
    wanted = engine.metadata.task.probabilities(engine.logits(squares))
    given = np.concatenate([answer(squares[at : at + 16]) for at in range(0, len(squares), 16)])
    whole = None
    if whole_photos:
        whole = max(
            float(np.abs(answer(decode_photo(photo.path)[None])[0] - row).max())
            for photo, row in zip(photos, wanted, strict=True)
        )
    return Comparison(
        photos=len(photos),
        largest_difference=float(np.abs(given - wanted).max()),
        same_label=float((given.argmax(1) == wanted.argmax(1)).mean()),
        whole_photos_difference=whole,
    )


def answers_of_onnx(target: Path, *, with_preprocessing: bool, with_softmax: bool) -> Answer:
    """Returns the predict function of an ONNX file."""
    from finetune.prediction.onnx_engine import PHOTOS, PROBABILITIES, OnnxEngine

    exported = OnnxEngine.load(target)

    def answer(images: NDArray[np.uint8]) -> NDArray[np.float64]:
        # What the graph itself makes of the photos is what its users will get.
        if with_softmax and with_preprocessing:
            row = exported.session.run([PROBABILITIES], {PHOTOS: np.ascontiguousarray(images)})[0]
            return np.asarray(row, dtype=np.float64)
        if with_preprocessing:
            logits = exported.session.run(None, {PHOTOS: np.ascontiguousarray(images)})[0]
        else:
            logits = exported.logits(images)
        return exported.metadata.task.probabilities(logits)

    return answer


def answers_of_torchscript(
    engine: TorchEngine, target: Path, *, with_preprocessing: bool, with_softmax: bool
) -> Answer:
    """Returns the predict function of a TorchScript file, calibrated as its engine."""
    import torch

    from finetune.prediction.export.torch import open_torchscript
    from finetune.prediction.onnx_engine import center_of, normalized

    module = open_torchscript(target)
    preprocessing = engine.metadata.preprocessing

    def answer(images: NDArray[np.uint8]) -> NDArray[np.float64]:
        if with_preprocessing:
            given = torch.from_numpy(np.ascontiguousarray(images))
        else:
            given = torch.from_numpy(
                normalized(center_of(images, preprocessing.size), preprocessing)
            )
        # Specializing for each photo's size would take far longer than the few answers.
        with torch.inference_mode(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            values = module(given).numpy()
        if with_softmax:
            return np.asarray(values, dtype=np.float64)
        return engine.metadata.task.probabilities(values)

    return answer


def answers_of_timm(engine: TorchEngine, target: Path) -> Answer:
    """Returns the predict function of a timm folder, calibrated as its engine."""
    import timm

    # The folder's own config decides, as for whoever opens it with timm alone.
    module = timm.create_model(f"local-dir:{target}", pretrained=True)
    exported = TorchEngine(module, engine.metadata)
    return lambda images: engine.metadata.task.probabilities(exported.logits(images))
