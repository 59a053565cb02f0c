"""Functions that work on a finished run."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.api.notebook import link_to
from finetune.prediction.bursts import answer_by_burst, find_bursts
from finetune.prediction.export import export
from finetune.prediction.inputs import photos_of
from finetune.prediction.predictions import By, PhotoPrediction
from finetune.prediction.predictor import PredictConfig, Predictor
from finetune.prediction.report_extras import report_extras
from finetune.reporting.compare import compare as compare_records
from finetune.reporting.compare import contender
from finetune.reporting.comparison import Comparison
from finetune.reporting.report import Extras, write_report
from finetune.reporting.run_record import photos_root, read_run
from finetune.runs.evaluate import Evaluation, EvaluationRequest
from finetune.runs.evaluate import evaluate as evaluate_run
from finetune.runs.folder import find_run
from finetune.training.device import choose_device

Run = Path | str | None
"""Name or folder of a run; None: the newest in ``./runs``."""


@dataclass(frozen=True)
class ShownReport:
    """Written report; a notebook shows it in place.

    Attributes:
        path: The HTML file.
    """

    path: Path

    def _repr_html_(self) -> str:
        link = html.escape(link_to(self.path))
        return (
            f'<div><a href="{link}" target="_blank">{html.escape(str(self.path))}</a></div>'
            f'<iframe src="{link}" width="100%" height="720" style="border:0"></iframe>'
        )


def predict(
    photos: Path | str | Sequence[Path | str],
    run: Run = None,
    *,
    device: str | None = None,
    config: PredictConfig | None = None,
    by: By = "photo",
) -> list[PhotoPrediction]:
    """Returns the predictions of photos, in order; `finetune.Predictor` serves many calls.

    Args:
        photos: A photo, a folder, a pattern such as ``trip/**/*.jpg``, or several of these.
        run: The run, or an exported ``.onnx`` file.
        device: ``cpu``, ``cuda`` or ``mps``; None: the best.
        config: Test-time augmentation, thresholds, level and possible labels.
        by: ``burst``: one answer for the frames of each burst.

    Example:
        >>> predict("unseen")[0].label
        'heron'
    """
    sources = [photos] if isinstance(photos, str | Path) else photos
    predictor = Predictor.load(run, device=device, config=config)
    paths = list(photos_of(sources))
    found = predictor.predict_batch(paths)
    if by == "burst":
        return answer_by_burst(found, find_bursts(paths), predictor.decision)
    return found


def evaluate(
    run: Run = None, photos: Path | str | None = None, *, device: str | None = None, **options: Any
) -> Evaluation:
    """Measures a run on labeled photos and saves the result in the run.

    Args:
        run: The run.
        photos: A labeled folder; None: the run's own validation and test photos.
        device: ``cpu``, ``cuda`` or ``mps``; None: the best.
        **options: Further fields of `finetune.runs.evaluate.EvaluationRequest`.

    Example:
        >>> evaluate("garden").metrics["folds"]["top1"]
        0.95
    """
    folder = None if photos is None else Path(photos)
    request = EvaluationRequest(photos=folder, device=str(choose_device(device)), **options)
    return evaluate_run(find_run(_name(run)), request)


def compare(runs: Sequence[Path | str], *, part: str | None = None, seed: int = 0) -> Comparison:
    """Compares runs on the photos that all of them were evaluated on.

    Args:
        runs: Two or more.
        part: ``test`` or ``validation``; None: test, else validation.
        seed: Seed of the bootstrap.

    Example:
        >>> compare(["garden", "park"]).rows[0].top1
        0.95
    """
    folders = [find_run(str(run)).path for run in runs]
    contenders = [contender(str(path), read_run(path), part) for path in folders]
    return compare_records(contenders, seed=seed)


def export_model(
    run: Run = None,
    *,
    output: Path | None = None,
    photos: Sequence[Path] | None = None,
    **options: Any,
) -> export.Exported:
    """Exports a run to ONNX, TorchScript or timm and compares the export with it.

    Args:
        run: The run.
        output: File or folder to write; None: in the run.
        photos: Photos to compare on; None: those of the run.
        **options: Fields of `finetune.prediction.export.export.ExportOptions`, such as
            ``format="onnx", precision="int8"``.

    Example:
        >>> export_model("garden", format="torchscript").path.name
        'garden.torchscript.pt'
    """
    chosen = export.ExportOptions(**options)
    return export.export(find_run(_name(run)), chosen, out=output, photos=photos)


def report(run: Run = None, *, max_photos: int = 500, explain: bool = True) -> ShownReport:
    """Writes a run's ``report.html`` and returns it; a notebook shows it.

    Args:
        run: The run.
        max_photos: Maximum photos in the file; each adds about 12 KB.
        explain: Show deciding regions (Grad-CAM) and likely label errors.

    Raises:
        StorageError: The file cannot be written.

    Example:
        >>> report("garden", explain=False).path.name
        'report.html'
    """
    folder = find_run(_name(run))
    root = photos_root(folder.path)
    extras = report_extras(folder, root)[0] if root and explain else Extras()
    written = write_report(folder.path, photos_root=root, max_photos=max_photos, extras=extras)
    return ShownReport(written.path)


def _name(run: Run) -> str | None:
    return None if run is None else str(run)
