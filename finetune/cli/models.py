"""``finetune models``: which networks there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from finetune.cli.console import Json, Quiet, make_table, output
from finetune.errors import ModelError

if TYPE_CHECKING:
    from finetune.models.registry import ListedModel

_MOST_WITH_PARAMETERS = 60
"""Each model is built (without memory for weights) to count its parameters, which takes a while."""


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("models")(models)


def models(
    pattern: Annotated[
        str | None,
        typer.Argument(help="Part of a name, or a pattern such as 'resnet*'; not given: a choice."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List models with parameters, input size and weights."""
    output.json, output.quiet = json, quiet
    from finetune.models.registry import RECOMMENDED, find_models, list_models

    names = list(RECOMMENDED) if pattern is None else find_models(pattern)
    if not names:
        raise ModelError(f"No model is named like '{pattern}'. Try a shorter part of the name.")
    counted = len(names) <= _MOST_WITH_PARAMETERS
    found = list_models(names, count_parameters=counted)
    output.document([vars(item) for item in found])
    table = make_table("model", "parameters", "input", "weights", right=("parameters", "input"))
    for item in found:
        table.add_row(item.name, _millions(item), f"{item.size} px", item.weights)
    output.print(table)
    if pattern is None:
        output.say("A choice of well-tried ones. All of timm's work: finetune models 'resnet*'")
    elif not counted:
        output.say(f"{len(found):,} models; name fewer to see their parameters.")


def _millions(item: ListedModel) -> str:
    return "" if item.parameters is None else f"{item.parameters / 1e6:.1f} M"
