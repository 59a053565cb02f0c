"""finetune: a person's own photos become a classifier that they can trust.

Names are loaded on first use (PEP 562), so that ``import finetune`` stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "FinetuneError": "finetune.errors",
    "Predictor": "finetune.prediction.predictor",
    "TrainConfig": "finetune.config",
    "resume": "finetune.api",
    "train": "finetune.api",
}

__all__ = ["FinetuneError", "Predictor", "TrainConfig", "__version__", "resume", "train"]

if TYPE_CHECKING:
    from finetune.api import resume, train
    from finetune.config import TrainConfig
    from finetune.errors import FinetuneError
    from finetune.prediction.predictor import Predictor


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'finetune' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
