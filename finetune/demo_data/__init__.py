"""The project's own example collection: photos of eight species of birds, drawn by code.

The demonstration trains on it, and tests use it small. Nothing in here needs torch.
"""

from finetune.demo_data.collection import (
    Aviary,
    DrawnPhoto,
    draw_bird,
    draw_collection,
    draw_unseen,
)
from finetune.demo_data.species import SPECIES

__all__ = ["SPECIES", "Aviary", "DrawnPhoto", "draw_bird", "draw_collection", "draw_unseen"]
