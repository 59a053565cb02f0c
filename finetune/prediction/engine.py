"""What answers: a network of any kind, from a file or folder, behind one protocol."""

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
    """A network, ready to be asked from any number of threads."""

    @property
    def metadata(self) -> ModelMetadata:
        """Its labels, pixels and calibration."""
        ...

    @property
    def cores(self) -> int:
        """How many batches may be asked at once `per_thread`; 1: one takes all there is."""
        ...

    def per_thread(self) -> AbstractContextManager[Engine]:
        """Gives the same network for `cores` threads of one's own that ask at once.

        Each batch is computed on the thread that asks, and on no other.
        """
        ...

    def logits(self, squares: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns logits ``(B, labels)`` of the center of squares ``(B, S, S, 3) uint8``.

        S is the working size or any other from the network's own size on.
        """
        ...

    def logits_and_features(
        self, squares: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Returns the same, and what the linear head took in, ``(B, F)``.

        Only for networks whose threshold for unknown photos needs features.
        """
        ...


def open_engine(source: str | Path | RunFolder | None, *, device: str | None = "cpu") -> Engine:
    """Opens a run (a name, a path, None for the newest) or an exported ``.onnx`` file.

    An ``.onnx`` file is run by onnxruntime, and torch is not imported for it.

    Args:
        source: What to open.
        device: For runs: ``cpu``, ``cuda``, ``mps`` ..., or None for the best that is there.

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
