"""``finetune summary``: the layers of a network, with sizes, parameters and multiply-adds."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from finetune.cli.console import make_table, output

if TYPE_CHECKING:
    from finetune.models.summary import NetworkSummary


def register(app: typer.Typer) -> None:
    """Adds the command to `app`."""
    app.command()(summary)


def summary(
    model: Annotated[str, typer.Argument(help="Name of a model, as `finetune models` lists them.")],
    size: Annotated[
        int | None,
        typer.Option(min=1, help="Side of the image in pixels; not set: the model's own."),
    ] = None,
    channels: Annotated[
        int | None,
        typer.Option(min=1, help="Channels of the image, 1 for gray; not set: the model's own."),
    ] = None,
    labels: Annotated[
        int | None,
        typer.Option(min=1, help="Outputs of the last layer; not set: the model's own."),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document on stdout.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Say only results and errors.")
    ] = False,
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
        "parameters",
        "multiply-adds",
        title=f"{result.model}, input {channels}x{height}x{width}, {result.labels} labels",
        right=("in", "out", "parameters", "multiply-adds"),
    )
    for row in result.rows:
        table.add_row(
            row.name,
            row.kind,
            row.kernel or "",
            _number(row.in_channels),
            _number(row.out_channels),
            "x".join(str(side) for side in row.output),
            _number(row.parameters or None),
            _number(row.multiply_adds),
        )
    table.add_section()
    table.add_row(
        "total", "", "", "", "", "", _number(result.parameters), _number(result.multiply_adds)
    )
    output.print(table)
    rest = result.parameters - result.weights
    output.text(
        f"{result.weights:,} weights and {rest:,} biases and norms; "
        f"{result.weights_before_head:,} weights before the last layer."
    )
    counted = sum(row.multiply_adds or 0 for row in result.rows)
    if result.multiply_adds != counted:
        extra = result.multiply_adds - counted
        output.text(f"{extra:,} of the multiply-adds are products of maps, as in attention.")


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"
