"""Registers finetune's own networks with timm; importing it is all there is to do."""

from __future__ import annotations

import finetune.models.classic
import finetune.models.finetune_small  # noqa: F401 - imported for what it registers
