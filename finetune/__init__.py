"""Transfer learning on your own photos.

Names are loaded on first use (PEP 562), so that ``import finetune`` loads no torch.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

if "torch" not in sys.modules:
    # OpenMP reads it when torch is loaded. By default a thread that waits for others keeps its core
    # busy, which makes two threads 2 to 10 times as slow as one where another program runs.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"

_NAMES = {
    "finetune.api.photos": (
        "export_photos find_duplicates find_similar import_labels propose_crops scan split"
    ),
    "finetune.api.runs": "compare evaluate export_model predict report",
    "finetune.api.training": "ablate cross_validate lr_find resume train tune",
    "finetune.config": "TrainConfig",
    "finetune.errors": "FinetuneError",
    "finetune.prediction.predictor": "Predictor",
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = [
    "FinetuneError",
    "Predictor",
    "TrainConfig",
    "__version__",
    "ablate",
    "compare",
    "cross_validate",
    "evaluate",
    "export_model",
    "export_photos",
    "find_duplicates",
    "find_similar",
    "import_labels",
    "lr_find",
    "predict",
    "propose_crops",
    "report",
    "resume",
    "scan",
    "split",
    "train",
    "tune",
]

if TYPE_CHECKING:
    from finetune.api.photos import (
        export_photos,
        find_duplicates,
        find_similar,
        import_labels,
        propose_crops,
        scan,
        split,
    )
    from finetune.api.runs import compare, evaluate, export_model, predict, report
    from finetune.api.training import ablate, cross_validate, lr_find, resume, train, tune
    from finetune.config import TrainConfig
    from finetune.errors import FinetuneError
    from finetune.prediction.predictor import Predictor


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'finetune' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE_OF])
