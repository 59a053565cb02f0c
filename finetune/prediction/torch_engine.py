"""Engine that runs a trained network in torch."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.models.inference import logits_and_features_of, logits_of
from finetune.prediction.engine import ModelMetadata
from finetune.runs.folder import RunFolder
from finetune.runs.loading import load_network
from finetune.training.device import process_device


class TorchEngine:
    """Engine of a torch network, one batch at a time.

    Args:
        module: A timm network; it is put in eval mode.
        metadata: Labels, preprocessing and calibration.
        run: The run that it was opened from.
    """

    def __init__(
        self, module: torch.nn.Module, metadata: ModelMetadata, run: RunFolder | None = None
    ) -> None:
        self.module = module.eval()
        self.metadata = metadata
        self.run = run
        # Two batches at once would each use all cores, and on a GPU twice the memory.
        self._turn: AbstractContextManager[Any] = threading.Lock()

    @classmethod
    def load(cls, run: RunFolder, *, device: str | None = "cpu") -> TorchEngine:
        """Opens a run; executes no code of it.

        Raises:
            RunError: A file of the run is missing or damaged.
            ModelError: Its weights do not fit its architecture.
            DeviceError: The device does not exist.
        """
        metadata = ModelMetadata.of_run(run)
        module = load_network(
            run,
            metadata.model,
            len(metadata.labels),
            metadata.preprocessing,
            device=process_device(device),
        )
        return cls(module, metadata, run)

    @property
    def cores(self) -> int | None:
        """Batches computed at once by the engine of `per_thread`; None on a GPU."""
        on_cpu = next(self.module.parameters()).device.type == "cpu"
        return torch.get_num_threads() if on_cpu else None

    @contextmanager
    def per_thread(self) -> Iterator[TorchEngine]:
        """Yields an engine for concurrent threads; see `Engine`."""
        threads = torch.get_num_threads()
        engine = TorchEngine(self.module, self.metadata, self.run)
        engine._turn = _OneCore()
        try:
            yield engine
        finally:
            # A new thread starts with the number set last by any thread.
            torch.set_num_threads(threads)

    def logits(self, squares: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns logits ``(B, labels) float32``; see `Engine`."""
        images = torch.from_numpy(np.ascontiguousarray(squares)).permute(0, 3, 1, 2)
        with self._turn:
            result: NDArray[np.float32] = (
                logits_of(self.module, self.metadata.preprocessing, images).cpu().numpy()
            )
        return result

    def logits_and_features(
        self, squares: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Returns logits ``(B, labels)`` and features ``(B, F)``; see `Engine`."""
        images = torch.from_numpy(np.ascontiguousarray(squares)).permute(0, 3, 1, 2)
        with self._turn:
            logits, features = logits_and_features_of(
                self.module, self.metadata.preprocessing, images
            )
            return logits.cpu().numpy(), features.cpu().numpy()


class _OneCore:
    """Limits torch to the calling thread, from its first batch on."""

    def __enter__(self) -> None:
        if torch.get_num_threads() != 1:
            torch.set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        pass
