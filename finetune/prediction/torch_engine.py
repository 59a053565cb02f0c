"""A run's network, in torch."""

from __future__ import annotations

import threading

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.evaluation.inference import logits_and_features_of, logits_of
from finetune.prediction.facts import ModelFacts
from finetune.runs.folder import RunFolder
from finetune.runs.trained import load_network
from finetune.training.machine import choose_device


class TorchEngine:
    """Answers with a torch network, one batch at a time.

    Args:
        module: A timm network; it is put in eval mode.
        facts: Its labels, pixels and calibration.
    """

    def __init__(self, module: torch.nn.Module, facts: ModelFacts) -> None:
        self.module = module.eval()
        self.facts = facts
        # Two batches at once would each want all cores, and on a GPU twice the memory.
        self._lock = threading.Lock()

    @classmethod
    def load(cls, run: RunFolder, *, device: str | None = "cpu") -> TorchEngine:
        """Opens a run; runs no code of it.

        Raises:
            RunError: A file of the run is missing or damaged.
            ModelError: Its weights are not those of its architecture.
            DeviceError: The device is not there.
        """
        facts = ModelFacts.of_run(run)
        module = load_network(
            run, facts.model, len(facts.labels), facts.spec, device=choose_device(device)
        )
        return cls(module, facts)

    def logits(self, squares: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns logits ``(B, labels) float32``; see `Engine`."""
        images = torch.from_numpy(np.ascontiguousarray(squares)).permute(0, 3, 1, 2)
        with self._lock:
            result: NDArray[np.float32] = (
                logits_of(self.module, self.facts.spec, images).cpu().numpy()
            )
        return result

    def logits_and_features(
        self, squares: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Returns logits ``(B, labels)`` and features ``(B, F)``; see `Engine`."""
        images = torch.from_numpy(np.ascontiguousarray(squares)).permute(0, 3, 1, 2)
        with self._lock:
            logits, features = logits_and_features_of(self.module, self.facts.spec, images)
            return logits.cpu().numpy(), features.cpu().numpy()
