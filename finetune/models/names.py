"""Which network a name means, and which it is where none is named."""

from __future__ import annotations

import difflib

import timm

import finetune.models.registry  # noqa: F401 - registers finetune's own networks with timm
from finetune.errors import ModelError, WeightsUnavailable
from finetune.models import finetune_small
from finetune.models import weights as weights_files
from finetune.models.classic.base import OWN_RECIPES

DEFAULT_MODEL = "resnet50"


def check_name(name: str) -> str:
    """Returns `name` if timm knows it.

    Raises:
        ModelError: It does not; the message offers the nearest names.
    """
    if timm.is_model(name):
        return name
    known = timm.list_models(include_tags=False)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    near += [other for other in known if name and name in other][: 3 - len(near)]
    hint = f"did you mean {', '.join(near)}?" if near else "see: finetune models"
    raise ModelError(f"--model {name}: there is no such model; {hint}")


def choose_model() -> tuple[str, str | None]:
    """Returns the model to use where none is named, and what a person must be told about it.

    It is `DEFAULT_MODEL` where its weights are on this machine or can be had, else the embedded
    backbone, which comes with the package.
    """
    config = timm.get_pretrained_cfg(DEFAULT_MODEL)
    if weights_files.weights_on_this_machine(config) is not None:
        return DEFAULT_MODEL, None
    try:
        weights_files.require_reachable_hub(DEFAULT_MODEL, config)
    except WeightsUnavailable:
        megabytes = finetune_small.WEIGHTS.stat().st_size / 1e6
        note = (
            f"The weights of {DEFAULT_MODEL} cannot be reached; using the embedded backbone "
            f"{finetune_small.NAME} ({megabytes:.1f} MB{_measured()}). Better ones: connect "
            "once, or name a file with --model NAME --weights FILE."
        )
        return finetune_small.NAME, note
    return DEFAULT_MODEL, None


def _measured() -> str:
    """Says how good the embedded backbone is, as its provenance has it."""
    measured = finetune_small.provenance().get("accuracy", {}).get("hymenoptera")
    if not measured:
        return ""
    return f"; linear probe {measured['linear_probe']:.0%} where its teacher has " + (
        f"{measured['teacher']:.0%}"
    )


def own_recipe(name: str) -> str | None:
    """Returns the augmentation recipe that a network comes with; most have none of their own."""
    return OWN_RECIPES.get(name.partition(".")[0])
