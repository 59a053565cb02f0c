"""Preparation of the graphs by which runs predict without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finetune.cli.console import output
from finetune.errors import FinetuneError
from finetune.prediction.run_graph import EngineName, find_graph, wants_torch

if TYPE_CHECKING:
    from finetune.runs.folder import RunFolder


def prepare_predictions(
    run: RunFolder, *, device: str | None = None, engine: EngineName | None = None
) -> None:
    """Prepares the graph of a run, if predictions of the next process will use it.

    A failure costs time alone, and is said in one line.

    Args:
        run: The run.
        device: The device of predictions; None: the best.
        engine: The engine asked for, or None.
    """
    if wants_torch(engine, device) or find_graph(run) is not None:
        return
    if run.read(run.preprocessing_file).get("crop_policy") is not None:
        return
    from finetune.prediction.export.run_graph import prepare_graph

    try:
        graph = prepare_graph(run, output.info)
    except FinetuneError as error:
        output.info(f"Predictions of {run.name} will load torch: {error}")
        return
    if graph.reason is not None:
        output.info(f"Predictions of {run.name} will load torch: {graph.reason}.")
