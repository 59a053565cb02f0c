"""A trained run, ready to say what is on a photo."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file

from finetune.errors import DecodeError, RunError
from finetune.evaluation.inference import logits_of
from finetune.evaluation.probabilities import softmax
from finetune.evaluation.unknown import UnknownThreshold, familiarity
from finetune.models.factory import rebuild
from finetune.photos.crop import load_square, square
from finetune.photos.spec import InputSpec
from finetune.runs.folder import RunFolder, find_run

BATCH_SIZE = 32


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """One label and how probable it is.

    Attributes:
        label: The label.
        probability: Calibrated, in [0, 1].
    """

    label: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class PhotoPrediction:
    """What a run says of one photo.

    Attributes:
        photo: Its path, or None where it came as pixels or bytes.
        status: ``"ok"``, or why the photo could not be opened.
        ranked: All labels, the likeliest first; empty where the photo could not be opened.
        unknown: Whether the photo is unlike those that the run can be trusted on.
    """

    photo: str | None
    status: str
    ranked: tuple[Ranked, ...] = ()
    unknown: bool = False

    @property
    def label(self) -> str | None:
        """The likeliest label, or None."""
        return self.ranked[0].label if self.ranked else None

    def to_dict(self, top: int | None = None) -> dict[str, Any]:
        """Returns plain JSON values, with the `top` likeliest labels."""
        return {
            "photo": self.photo,
            "status": self.status,
            "ranked": [vars(item) for item in self.ranked[:top]],
            "unknown": self.unknown,
        }


class Predictor:
    """A run, opened. May be called from several threads.

    Example:
        >>> from finetune import Predictor
        >>> predictor = Predictor.load("runs/garden")  # doctest: +SKIP
        >>> predictor("photo.jpg").label  # doctest: +SKIP
        'wren'
    """

    def __init__(
        self,
        module: torch.nn.Module,
        spec: InputSpec,
        labels: Sequence[str],
        *,
        temperature: float = 1.0,
        unknown: UnknownThreshold | None = None,
    ) -> None:
        self.module = module.eval()
        self.spec = spec
        self.labels = tuple(labels)
        self.temperature = temperature
        self.unknown = unknown
        self._lock = threading.Lock()

    @classmethod
    def load(cls, run: str | Path | RunFolder | None = None, *, device: str = "cpu") -> Predictor:
        """Opens a run: a name in ``./runs``, a path, or None for the newest. Runs no code of it.

        Raises:
            RunError: There is no such run, or a file of it is missing or damaged.
        """
        folder = run if isinstance(run, RunFolder) else find_run(str(run) if run else None)
        description = folder.read(folder.config_file)
        labels = folder.read(folder.labels_file)
        calibration = folder.read(folder.calibration_file)
        spec = InputSpec.from_dict(folder.read(folder.preprocessing_file))
        if not folder.model_file.is_file():
            raise RunError(
                f"{folder.path} has no {folder.model_file.name} yet. "
                f"If its training was interrupted: finetune train --resume {folder.path}"
            )
        try:
            state = load_file(folder.model_file)
        except (SafetensorError, OSError) as error:
            raise RunError(f"{folder.model_file} is damaged: {error}.") from error
        module = rebuild(description["model"], len(labels), spec.size, state)
        unknown = calibration.get("unknown")
        return cls(
            module.to(device).to(memory_format=torch.channels_last),
            spec,
            labels,
            temperature=float(calibration["temperature"]),
            unknown=UnknownThreshold.from_dict(unknown) if unknown else None,
        )

    def __call__(self, photo: Any) -> PhotoPrediction:
        """Returns what is on one photo: a path, bytes, a PIL image or ``(H, W, 3) uint8`` pixels.

        Raises:
            DecodeError: The photo cannot be opened.
        """
        pixels = self.pixels_of(photo)
        return self._answers([_name_of(photo)], pixels[None])[0]

    def predict_batch(self, photos: Sequence[Any]) -> list[PhotoPrediction]:
        """Returns one prediction a photo, in their order; a bad one has its reason."""
        return list(self.predict_stream(photos))

    def predict_stream(
        self, photos: Sequence[Any], *, batch_size: int = BATCH_SIZE
    ) -> Iterator[PhotoPrediction]:
        """Yields one prediction a photo, in their order, in memory for two batches.

        The photos of the next batch are decoded while the network works on this one.
        """
        steps = [photos[i : i + batch_size] for i in range(0, len(photos), batch_size)]
        with ThreadPoolExecutor(max_workers=2, thread_name_prefix="decode") as pool:
            ahead = (
                [pool.submit(self._pixels_or_reason, photo) for photo in steps[0]] if steps else []
            )
            for number, step in enumerate(steps):
                decoded = [future.result() for future in ahead]
                if number + 1 < len(steps):
                    ahead = [pool.submit(self._pixels_or_reason, p) for p in steps[number + 1]]
                yield from self._predict_step(step, decoded)

    def pixels_of(self, photo: Any) -> NDArray[np.uint8]:
        """Returns the working square ``(S, S, 3) uint8`` of a photo, made as in training.

        Raises:
            DecodeError: The photo cannot be opened.
        """
        spec = self.spec
        how: dict[str, Any] = {
            "size": spec.working_size,
            "fit": spec.fit,
            "interpolation": spec.interpolation,
        }
        if isinstance(photo, np.ndarray):
            if photo.ndim != 3 or photo.shape[2] != 3 or photo.dtype != np.uint8:
                raise DecodeError(None, f"pixels must be (H, W, 3) uint8, not {photo.shape}")
            return square(photo, **how)
        if isinstance(photo, (str, Path)):
            return load_square(Path(photo), **how)
        if isinstance(photo, (bytes, bytearray, memoryview)):
            return load_square(bytes(photo), **how)
        buffer = io.BytesIO()
        # A PIL image takes the files' own way through the one decoder, losslessly.
        photo.save(buffer, format="PNG" if photo.mode != "CMYK" else "TIFF")
        return load_square(buffer.getvalue(), **how)

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns logits ``(B, labels)`` of working squares ``(B, S, S, 3) uint8``."""
        images = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2)
        with self._lock:
            result: NDArray[np.float32] = logits_of(self.module, self.spec, images).cpu().numpy()
        return result

    def _pixels_or_reason(self, photo: Any) -> NDArray[np.uint8] | str:
        try:
            return self.pixels_of(photo)
        except DecodeError as error:
            return error.reason

    def _predict_step(
        self, photos: Sequence[Any], decoded: Sequence[NDArray[np.uint8] | str]
    ) -> Iterator[PhotoPrediction]:
        good = [row for row in decoded if not isinstance(row, str)]
        names = [_name_of(photo) for photo in photos]
        kept = [n for n, row in zip(names, decoded, strict=True) if not isinstance(row, str)]
        answers = iter(self._answers(kept, np.stack(good)) if good else [])
        for name, row in zip(names, decoded, strict=True):
            if isinstance(row, str):
                yield PhotoPrediction(photo=name, status=row)
            else:
                yield next(answers)

    def _answers(
        self, names: Sequence[str | None], pixels: NDArray[np.uint8]
    ) -> list[PhotoPrediction]:
        logits = self.logits(pixels)
        probabilities = softmax(logits, temperature=self.temperature)
        refused = np.zeros(len(logits), bool)
        if self.unknown is not None:
            scores = familiarity(logits, score=self.unknown.score, temperature=self.temperature)
            refused = self.unknown.refuses(scores)
        return [
            PhotoPrediction(
                photo=name,
                status="ok",
                ranked=tuple(
                    Ranked(label=self.labels[i], probability=float(row[i]))
                    for i in np.argsort(-row, kind="stable")
                ),
                unknown=bool(unknown),
            )
            for name, row, unknown in zip(names, probabilities, refused, strict=True)
        ]


def _name_of(photo: Any) -> str | None:
    return str(photo) if isinstance(photo, (str, Path)) else None
