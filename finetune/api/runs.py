"""Functions of the commands that work on a finished run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.errors import ConfigError
from finetune.prediction.export import export
from finetune.prediction.predictions import PhotoPrediction
from finetune.prediction.predictor import PredictConfig, Predictor
from finetune.prediction.sources import photos_of
from finetune.reporting.compare import compare as compare_records
from finetune.reporting.compare import contender
from finetune.reporting.compare_types import Comparison
from finetune.reporting.run_record import read_run
from finetune.runs.evaluate import Evaluation, EvaluationRequest
from finetune.runs.evaluate import evaluate as evaluate_run
from finetune.runs.folder import find_run
from finetune.training.device import choose_device

Run = Path | str | None
"""Name or folder of a run; None: the newest in ``./runs``."""


def predict(
    photos: Path | str | Sequence[Path | str],
    run: Run = None,
    *,
    device: str | None = None,
    config: PredictConfig | None = None,
) -> list[PhotoPrediction]:
    """Returns the predictions of photos, in order; `finetune.Predictor` serves many calls.

    Args:
        photos: A photo, a folder, a pattern such as ``trip/**/*.jpg``, or several of these.
        run: The run or an exported ``.onnx`` file.
        device: ``cpu``, ``cuda`` or ``mps``; None: the best.
        config: Test-time augmentation and thresholds.

    Example:
        >>> predict("photo.jpg")[0].label  # doctest: +SKIP
        'heron'
    """
    sources = [photos] if isinstance(photos, str | Path) else photos
    predictor = Predictor.load(run, device=device, config=config)
    return list(predictor.predict_stream(photos_of(sources)))


def evaluate(
    run: Run = None,
    photos: Path | str | None = None,
    *,
    tta: int = 1,
    device: str | None = None,
    catalog: Path | None = None,
) -> Evaluation:
    """Measures a run on labeled photos and saves the result in the run.

    Args:
        run: The run.
        photos: A labeled folder; None: the run's own validation and test photos.
        tta: Views of each photo to average: 1, or 2 with its mirror image.
        device: ``cpu``, ``cuda`` or ``mps``; None: the best.
        catalog: Where the folder's catalog is kept; None: in the folder.

    Raises:
        ConfigError: `tta` is neither 1 nor 2.

    Example:
        >>> evaluate("garden").metrics["test"]["top1"]  # doctest: +SKIP
        0.95
    """
    if tta not in (1, 2):
        raise ConfigError(f"--tta {tta} is none of 1, 2.")
    request = EvaluationRequest(
        photos=None if photos is None else Path(photos),
        catalog=catalog,
        tta=tta == 2,
        device=str(choose_device(device)),
    )
    return evaluate_run(find_run(_name(run)), request)


def compare(runs: Sequence[Path | str], *, part: str | None = None, seed: int = 0) -> Comparison:
    """Compares runs on the photos that all of them were evaluated on.

    Args:
        runs: Two or more.
        part: ``test`` or ``validation``; None: test, else validation.
        seed: Seed of the bootstrap.

    Example:
        >>> compare(["one", "two"]).pairs[0].verdict  # doctest: +SKIP
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
        >>> export_model("garden").path  # doctest: +SKIP
    """
    chosen = export.ExportOptions(**options)
    return export.export(find_run(_name(run)), chosen, out=output, photos=photos)


def _name(run: Run) -> str | None:
    return None if run is None else str(run)
