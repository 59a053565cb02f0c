"""``finetune export``: a run as ONNX, TorchScript or for plain timm."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from finetune.cli.command import one_of
from finetune.cli.console import Json, Quiet, output
from finetune.formatting import percent

if TYPE_CHECKING:
    from finetune.prediction.export.export import Exported, ExportOptions


def export(
    run: Annotated[
        str | None, typer.Argument(help="A run's name or folder; default: the newest.")
    ] = None,
    format: Annotated[str, typer.Option(help="onnx, torchscript or timm.")] = "onnx",
    out: Annotated[
        Path | None, typer.Option("--output", "-o", help="File or folder; default: RUN/export.")
    ] = None,
    precision: Annotated[str, typer.Option(help="fp32; for ONNX also fp16 and int8.")] = "fp32",
    with_preprocessing: Annotated[
        bool,
        typer.Option(
            "--with-preprocessing", help="Take photos of any size; resize and crop in the graph."
        ),
    ] = False,
    with_softmax: Annotated[
        bool, typer.Option("--with-softmax", help="End in calibrated probabilities.")
    ] = False,
    photos: Annotated[
        list[str] | None,
        typer.Option(
            help="Photos to compare on and to calibrate int8 with; default: those of the run."
        ),
    ] = None,
    calibration_photos: Annotated[
        int, typer.Option(help="Photos that int8 is calibrated on.")
    ] = 64,
    check_photos: Annotated[int, typer.Option(help="Photos that the export is compared on.")] = 64,
    push: Annotated[
        str | None,
        typer.Option(help="Send to the Hugging Face hub instead, as OWNER/NAME, private."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Export a run to ONNX, TorchScript or timm.

    The exported model is compared with the run on real photos.
    """
    output.json, output.quiet = json, quiet
    from finetune.runs.folder import find_run

    folder = find_run(run)
    if push is not None:
        from finetune.prediction.hub import push_run

        address = push_run(folder, push)
        output.document({"address": address})
        output.text(f"Sent as a private model. To use it: finetune predict PHOTO --run {address}")
        return
    from finetune.prediction.export import export as library
    from finetune.prediction.export.onnx import Precision
    from finetune.prediction.inputs import photos_of

    options = library.ExportOptions(
        format=one_of("--format", format, library.Format),
        precision=one_of("--precision", precision, Precision),
        with_preprocessing=with_preprocessing,
        with_softmax=with_softmax,
        calibration_photos=calibration_photos,
        check_photos=check_photos,
    )
    named = list(photos_of(photos)) if photos else None
    done = library.export(folder, options, out=out, photos=named, on_step=output.info)
    _report(done, options)


def _report(done: Exported, options: ExportOptions) -> None:
    found = done.comparison
    output.document(
        {
            "path": str(done.path),
            "bytes": done.bytes,
            "format": options.format,
            "precision": options.precision,
            "photos": found.photos,
            "largest_difference": found.largest_difference,
            "same_label": found.same_label,
            "original_size_difference": found.original_size_difference,
        }
    )
    output.text(f"{done.path} ({done.bytes / 1e6:.1f} MB)")
    output.text(
        f"On {found.photos} photos its probabilities differ from the run's by "
        f"{found.largest_difference:.1e} at most; {percent(found.same_label)} have the same label."
    )
    if found.original_size_difference is not None:
        output.text(
            "With photos at their original size, resized in the graph: "
            f"{found.original_size_difference:.1e} at most."
        )
