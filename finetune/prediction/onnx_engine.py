"""Engine that runs an exported ONNX file in onnxruntime (imports no torch)."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from finetune.errors import MissingExtra, RunError
from finetune.evaluation.feature_distance import FeatureDistance
from finetune.files import parse_json
from finetune.photos.decode.color import to_gray
from finetune.photos.decode.pool import usable_cores
from finetune.photos.preprocessing import Preprocessing
from finetune.prediction.engine import ModelMetadata
from finetune.processes import local_processes
from finetune.runs.folder import RunFolder

METADATA_KEY = "finetune"
"""Metadata key of labels, preprocessing and calibration, as JSON."""

DISTANCE_KEY = "finetune_distance"
"""Metadata key of the feature distance of unknown photos, if any, as safetensors in base64."""

PIXELS, PHOTOS = "pixels", "photos"
"""Names of the graph's input: normalized floats, or uint8 photos with preprocessing inside."""

LOGITS, PROBABILITIES = "logits", "probabilities"
"""Names of the graph's outputs; a file with probabilities also has logits."""

FEATURES = "features"
"""Name of the features output, present where the detector of unknown photos needs features."""


CPU_PROVIDERS = {"CPUExecutionProvider", "AzureExecutionProvider"}
"""Execution providers without a GPU; Azure's is listed wherever it is built in."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """Linear head on the features of a graph that gives no logits.

    Attributes:
        weight: ``(labels, F) float32``.
        bias: ``(labels,) float32``.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]


class OnnxEngine:
    """Engine of an onnxruntime session.

    Args:
        session: An `onnxruntime.InferenceSession`.
        metadata: Labels, preprocessing and calibration.
        path: The file of the session.
        head: The head, where the graph ends in features.
        run: The run that it was opened from; None for an exported file.
    """

    def __init__(
        self,
        session: Any,
        metadata: ModelMetadata,
        path: Path,
        head: Head | None = None,
        run: RunFolder | None = None,
    ) -> None:
        self.session = session
        self.metadata = metadata
        self.path = path
        self.head = head
        self.run = run
        self._input = session.get_inputs()[0].name

    @classmethod
    def load(cls, path: Path, *, threads: int | None = None) -> OnnxEngine:
        """Opens a file that ``finetune export --format onnx`` wrote.

        Args:
            path: The file.
            threads: Maximum threads for one batch; None: onnxruntime's default.

        Raises:
            MissingExtra: onnxruntime is not installed.
            RunError: There is no such file, it is damaged, or was not exported by finetune.
        """
        session = _session(path, threads)
        return cls(session, metadata_in(session, path), path)

    @classmethod
    def of_run(cls, run: RunFolder, graph: Path, head: Head) -> OnnxEngine:
        """Opens the graph of a run's backbone on the CPU.

        Raises:
            MissingExtra: onnxruntime is not installed.
            RunError: A file of the run or the graph is missing or damaged.
        """
        return cls(_session(graph, None), ModelMetadata.of_run(run), graph, head, run)

    @property
    def width(self) -> int:
        """Number of features that the graph gives."""
        shape = next(out.shape for out in self.session.get_outputs() if out.name == FEATURES)
        return int(shape[-1])

    @property
    def cores(self) -> int | None:
        """Batches computed at once by the engine of `per_thread`; None on a GPU."""
        if not set(self.session.get_providers()) <= CPU_PROVIDERS:
            return None
        threads: int = self.session.get_session_options().intra_op_num_threads
        return threads or max(1, usable_cores() // local_processes())

    @contextmanager
    def per_thread(self) -> Iterator[OnnxEngine]:
        """Yields an engine for concurrent threads; see `Engine`."""
        yield OnnxEngine(_session(self.path, 1), self.metadata, self.path, self.head, self.run)

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns logits ``(B, labels) float32``; see `Engine`."""
        if self.head is not None:
            return self.logits_and_features(images)[0]
        return self._run([LOGITS], images)[0]

    def logits_and_features(
        self, images: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Returns logits ``(B, labels)`` and features ``(B, F)``; see `Engine`."""
        if self.head is not None:
            (features,) = self._run([FEATURES], images)
            # Photo by photo: the order in which BLAS sums depends on the number of rows, and the
            # answer for a photo must not depend on the others of its batch.
            logits = np.stack([self.head.weight @ row for row in features]) + self.head.bias
            return logits, features
        logits, features = self._run([LOGITS, FEATURES], images)
        return logits, features

    def _run(self, names: list[str], images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        centered = center_of(images, self.metadata.preprocessing.size)
        if self._input == PIXELS:
            given: NDArray[Any] = normalized(centered, self.metadata.preprocessing)
        elif images.shape[1] == self.metadata.preprocessing.working_size:
            # The graph finds nothing to resize in a working image, and cuts its center itself.
            given = images
        else:
            given = pad_to(centered, self.metadata.preprocessing.working_size)
        outputs = self.session.run(names, {self._input: np.ascontiguousarray(given)})
        return [output.astype(np.float32, copy=False) for output in outputs]


def _session(path: Path, threads: int | None) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra("onnxruntime", "onnx", f"Opening {path.name}") from error
    if not path.is_file():
        raise RunError(f"There is no file {path}. Make one with: finetune export --format onnx")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(
            str(path), options, providers=onnxruntime.get_available_providers()
        )
    except Exception as error:  # onnxruntime's errors share no base but Exception
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RunError(f"{path} cannot be opened by onnxruntime: {reason}") from error


def metadata_in(session: Any, path: Path) -> ModelMetadata:
    """Returns the model metadata of an opened file.

    Raises:
        RunError: There is none, so that finetune did not export it.
    """
    found = session.get_modelmeta().custom_metadata_map
    try:
        packed = found.get(DISTANCE_KEY)
        distance = None
        if packed:
            distance = FeatureDistance.from_tensors(load(base64.b64decode(packed)))
        return ModelMetadata.from_dict(parse_json(found[METADATA_KEY]), distance)
    except (KeyError, TypeError, ValueError, SafetensorError) as error:
        raise RunError(
            f"{path} has no labels, so it was not exported by finetune. "
            "Export the run anew with: finetune export --format onnx"
        ) from error


def center_of(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Returns the center ``(B, size, size, 3)``; an odd margin is cut more at the lower right."""
    top = (images.shape[1] - size) // 2
    return images[:, top : top + size, top : top + size]


def pad_to(centered: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Pads images to ``(B, size, size, 3)``; `center_of` is the inverse."""
    margin = size - centered.shape[1]
    before = margin // 2
    return np.pad(centered, ((0, 0), *((before, margin - before),) * 2, (0, 0)))


def normalized(centered: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Returns ``(B, C, S, S) float32`` network input of uint8 pixels ``(B, S, S, 3)``."""
    if preprocessing.channels == 1:
        centered = to_gray(centered)
    values = centered.astype(np.float32).transpose(0, 3, 1, 2)
    mean, std = (
        np.array(part, np.float32)[:, None, None]
        for part in (preprocessing.mean, preprocessing.std)
    )
    result: NDArray[np.float32] = (values / np.float32(255) - mean) / std
    if preprocessing.whiten:
        axes = (1, 2, 3)
        centered_values = result - result.mean(axes, keepdims=True, dtype=np.float64)
        deviation = np.sqrt((centered_values**2).mean(axes, keepdims=True))
        least = result[0].size ** -0.5
        result = (centered_values / np.maximum(deviation, least)).astype(np.float32)
    return result
