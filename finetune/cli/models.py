"""``finetune models`` and ``finetune summary``: the networks, and one layer by layer."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from finetune.cli.console import Json, Quiet, make_table, output
from finetune.errors import ModelError

if TYPE_CHECKING:
    from finetune.models.recommended import ListedModel
    from finetune.models.summary import NetworkSummary


_MAX_WITH_PARAMETERS = 60
"""Each model is built (without memory for weights) to count its parameters, which takes a while."""


def models(
    pattern: Annotated[
        str | None,
        typer.Argument(help="Part of a name, or a pattern such as 'resnet*'; default: a choice."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List models with their size, weights and license."""
    output.json, output.quiet = json, quiet
    found = _found(pattern)
    output.document([vars(item) for item in found])
    table = make_table(
        "model", "parameters", "input", "weights", "license", right=("parameters", "input")
    )
    for item in found:
        table.add_row(
            item.name, _millions(item), f"{item.size} px", item.weights, item.license or ""
        )
    output.print(table)
    if pattern is None:
        output.info(
            "These are recommended; packaged weights are part of finetune. "
            "Search all timm models with: finetune models 'resnet*'"
        )
    elif len(found) > _MAX_WITH_PARAMETERS:
        output.info(f"{len(found):,} models; narrow the pattern to see their parameters.")


def _found(pattern: str | None) -> list[ListedModel]:
    if pattern is None:
        from finetune.models.recommended import list_recommended

        return list_recommended()
    from finetune.models.registry import find_models, list_models

    names = find_models(pattern)
    if not names:
        raise ModelError(f"No model matches '{pattern}'. Try a shorter part of the name.")
    return list_models(names, count_parameters=len(names) <= _MAX_WITH_PARAMETERS)


def _millions(item: ListedModel) -> str:
    return "" if item.parameters is None else f"{item.parameters / 1e6:.1f} M"


def summary(
    model: Annotated[str, typer.Argument(help="Name of a model, as `finetune models` lists them.")],
    size: Annotated[
        int | None,
        typer.Option(min=1, help="Side of the image in pixels; default: the model's own."),
    ] = None,
    channels: Annotated[
        int | None,
        typer.Option(min=1, help="Channels of the image, 1 for gray; default: the model's own."),
    ] = None,
    labels: Annotated[
        int | None, typer.Option(min=1, help="Outputs of the last layer; default: the model's own.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show the layers of a model with sizes and parameters."""
    output.json, output.quiet = json, quiet
    from finetune.models.summary import summarize

    result = summarize(model, size=size, channels=channels, labels=labels)
    output.document(dataclasses.asdict(result))
    _print(result)


def _print(result: NetworkSummary) -> None:
    channels, height, width = result.input
    table = make_table(
        "layer",
        "kind",
        "kernel",
        "in",
        "out",
        "output",
        "weights",
        "biases",
        "multiply-adds",
        title=f"{result.model}, input {channels}x{height}x{width}, {result.labels} labels",
        right=("in", "out", "weights", "biases", "multiply-adds"),
    )
    for row in result.rows:
        table.add_row(
            f"{row.name} ({row.title})" if row.title not in ("", row.name) else row.name,
            row.kind,
            row.kernel or "",
            _number(row.in_channels),
            _number(row.out_channels),
            "x".join(str(side) for side in row.output),
            _number(row.weights or None),
            _number(row.biases or None),
            _number(row.multiply_adds),
        )
    table.add_section()
    rest = result.parameters - result.weights
    table.add_row(
        *("total", "", "", "", "", ""),
        *(_number(result.weights), _number(rest), _number(result.multiply_adds)),
    )
    output.print(table)
    output.text(
        f"{result.parameters:,} parameters: {result.weights:,} weights and {rest:,} biases and "
        f"norms; {result.weights_before_head:,} weights before the last layer."
    )
    counted = sum(row.multiply_adds or 0 for row in result.rows)
    if result.multiply_adds != counted:
        extra = result.multiply_adds - counted
        output.text(
            f"{extra:,} of the multiply-adds are products of feature maps, as in attention."
        )


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"
