"""Registers finetune's own networks with timm; importing it is all there is to do."""

from __future__ import annotations

import importlib
import importlib.util

for _name in ("finetune.models.embedded_backbone", "finetune.models.classic"):
    if importlib.util.find_spec(_name) is not None:
        importlib.import_module(_name)
