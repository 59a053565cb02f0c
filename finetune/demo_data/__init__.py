"""Demo data: a collection of bird photos of eight species, drawn by code.

`finetune demo` trains on it and tests use a small one. Needs no torch.
"""

from finetune.demo_data.collection import (
    DemoCollection,
    DrawnPhoto,
    draw_bird,
    draw_collection,
    draw_unseen,
)
from finetune.demo_data.species import SPECIES

__all__ = ["SPECIES", "DemoCollection", "DrawnPhoto", "draw_bird", "draw_collection", "draw_unseen"]
