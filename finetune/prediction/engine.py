"""Engine protocol: a trained network from a run folder or an exported file."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from finetune.prediction.model_metadata import ModelMetadata
from finetune.runs.folder import RunFolder, find_run

ONNX_SUFFIX = ".onnx"


class Engine(Protocol):
    """Network that predicts from any number of threads."""

    @property
    def metadata(self) -> ModelMetadata:
        """Labels, preprocessing and calibration."""
        ...

    @property
    def cores(self) -> int:
        """Batches computed at once by the engine of `per_thread`; 1: one batch uses all."""
        ...

    def per_thread(self) -> AbstractContextManager[Engine]:
        """Yields an engine of the same network for `cores` concurrent threads.

        Each batch is computed on the calling thread alone.
        """
        ...

    def logits(self, squares: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns logits ``(B, labels)`` of the center of squares ``(B, S, S, 3) uint8``.

        S is the working size, or any size from the network's input size on.
        """
        ...

    def logits_and_features(
        self, squares: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Returns logits, and features ``(B, F)``: the input of the linear head.

        Only for networks whose unknown threshold needs features.
        """
        ...


def open_engine(source: str | Path | RunFolder | None, *, device: str | None = "cpu") -> Engine:
    """Opens a run (a name, a path, None for the newest) or an exported ``.onnx`` file.

    An ``.onnx`` file runs in onnxruntime without importing torch.

    Args:
        source: Run or file.
        device: Of a run: ``cpu``, ``cuda``, ``mps`` ..., or None for the best that is there.

    Raises:
        RunError: There is no such run or file, or it is damaged.
        MissingExtra: onnxruntime is not installed.
        DeviceError: The device is not there.
    """
    if not isinstance(source, RunFolder) and source is not None:
        path = Path(source)
        if path.suffix.lower() == ONNX_SUFFIX:
            from finetune.prediction.onnx_engine import OnnxEngine

            return OnnxEngine.load(path)
    folder = source if isinstance(source, RunFolder) else find_run(str(source) if source else None)
    from finetune.prediction.torch_engine import TorchEngine

    return TorchEngine.load(folder, device=device)
