"""Functions that train: settings by name, callbacks, and a view in notebooks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.api.notebook import NotebookView, in_notebook, result_html
from finetune.config import TrainConfig
from finetune.config_io import resolve, to_dict
from finetune.experiments import ablate as ablate_library
from finetune.experiments import cross_validate as folds_library
from finetune.experiments import lr_find as lr_find_library
from finetune.experiments.model_search import train_best_model
from finetune.experiments.tune import search as tune_library
from finetune.models.registry import AUTO
from finetune.runs.folder import RUNS_FOLDER, RunFolder, find_run
from finetune.training import train as training_library
from finetune.training.events import Callback, Event, ignore
from finetune.training.train import RunResult
from finetune.training.validation import Metric
from finetune.training.warm_start import ParentRun, inherit, open_parent

if TYPE_CHECKING:
    from finetune.api.runs import ShownReport

Callbacks = Callback | Iterable[Callback]


@dataclass(frozen=True, kw_only=True)
class TrainingResult(RunResult):
    """Result of a training; a notebook shows its metrics."""

    def report(self, *, max_photos: int = 1000, explain: bool = True) -> ShownReport:
        """Writes the run's ``report.html`` and returns it; see `finetune.report`."""
        from finetune.api.runs import report

        return report(self.run.path, max_photos=max_photos, explain=explain)

    def _repr_html_(self) -> str:
        return result_html(self.run, self.metrics, seconds=self.seconds)


def train(
    photos: Path | str | None = None,
    config: TrainConfig | None = None,
    *,
    run: str | RunFolder | None = None,
    runs: Path | str = RUNS_FOLDER,
    from_run: Path | str | None = None,
    callback: Callbacks | None = None,
    metrics: Mapping[str, Metric] | None = None,
    show: bool | None = None,
    **settings: Any,
) -> TrainingResult:
    """Trains a classifier on the photos in a folder and returns the result.

    Args:
        photos: A folder with one folder of photos per label, or ``train/ val/ test/`` of such.
            None: the photos of `from_run`, else ``./photos``.
        config: Settings; the defaults suit the machine and the collection.
        run: Name of the run, or a path; None: date, model and mode.
        runs: Folder of named runs.
        from_run: A finished run to continue from, with more photos or other labels.
        callback: Receives events, one function or several; see `finetune.training.events`.
        metrics: Own metrics by name, each a function of logits ``(N, labels) float32`` and targets
            ``(N,) int64`` of the validation photos (``(N, labels)`` with several labels per photo).
            They are in `EpochDone.metrics`, in ``log.jsonl`` and in the trackers.
        show: Whether a notebook shows the progress; None: if this is one.
        **settings: Any setting by the name of its option, over those of `config`:
            ``epochs=3, model="resnet18"``. ``recipe={...}`` sets numbers of the augmentation.

    Raises:
        FinetuneError: Photos, settings, weights, device or disk do not allow it.

    Example:
        >>> result = train("photos", run="garden", epochs=10)
        >>> result.headline["top1"]
        0.97
    """
    config = _config(config, settings)
    parent = None
    if from_run is not None:
        parent = open_parent(find_run(str(from_run), Path(runs)))
        config = inherit(config, parent, explicit=settings, same_photos=photos is None)
    if config.model.model == AUTO and parent is None:
        return _shown(
            lambda emit: train_best_model(
                Path(_photos_of(None) if photos is None else photos),
                config,
                callback=emit,
                run=run,
                runs=Path(runs),
                metrics=metrics,
            ),
            callback,
            show,
        )
    return _shown(
        lambda emit: training_library.train(
            _photos_of(parent) if photos is None else photos,
            config,
            run=run,
            runs=Path(runs),
            callback=emit,
            metrics=metrics,
            parent=parent,
        ),
        callback,
        show,
    )


def resume(
    run: Path | str,
    *,
    photos: Path | str | None = None,
    callback: Callbacks | None = None,
    metrics: Mapping[str, Metric] | None = None,
    show: bool | None = None,
) -> TrainingResult:
    """Resumes an interrupted run; the result is as if it had never stopped.

    Args:
        run: Its folder.
        photos: Where its photos are now, if they were moved.
        callback: As for `train`.
        metrics: As for `train`; functions are not saved, so they are given again.
        show: As for `train`.

    Raises:
        RunError: It is not a run, it is finished, or its photos have changed.

    Example:
        >>> resume("runs/stopped").interrupted
        False
    """
    return _shown(
        lambda emit: training_library.resume(run, photos=photos, callback=emit, metrics=metrics),
        callback,
        show,
    )


def cross_validate(
    photos: Path | str,
    *,
    folds: int = 5,
    config: TrainConfig | None = None,
    callback: Callback = ignore,
    **settings: Any,
) -> folds_library.CrossValidation:
    """Trains once per fold, pools the held-out predictions, and trains a final model.

    Args:
        photos: As for `train`.
        folds: Number of folds.
        config: Settings of every training.
        callback: Receives the events of every training.
        **settings: As for `train`.

    Example:
        >>> cross_validate("photos", folds=3, epochs=10).statistics.mean
        0.962
    """
    return folds_library.cross_validate(
        photos,
        _config(config, settings),
        folds_library.FoldConfig(folds=folds),
        callback=callback,
    )


def tune(
    photos: Path | str,
    search: tune_library.TuneConfig | None = None,
    *,
    config: TrainConfig | None = None,
    callback: Callback = ignore,
    **settings: Any,
) -> tune_library.TuneResult:
    """Searches the settings that suit the photos; settings given by name are fixed.

    Args:
        photos: As for `train`.
        search: Number of trials, search space and storage.
        config: Settings that all trials share.
        callback: Receives the events of every training.
        **settings: As for `train`.

    Raises:
        MissingExtra: Optuna is not installed.

    Example:
        >>> from finetune.experiments.tune.search import TuneConfig
        >>> search = TuneConfig(trials=1, modes=("head",), final=False)
        >>> tune("photos", search).best[0].score
        0.95
    """
    search = search or tune_library.TuneConfig()
    search = replace(search, fixed=search.fixed | set(settings))
    return tune_library.tune(photos, _config(config, settings), search, callback=callback)


def ablate(
    photos: Path | str,
    values: Sequence[str],
    *,
    over: str = "augment",
    seeds: int = 3,
    callback: Callback = ignore,
    **settings: Any,
) -> ablate_library.Ablation:
    """Trains with each value of a setting and compares the results photo by photo.

    Args:
        photos: As for `train`.
        values: Values of the setting; the first is the baseline.
        over: The setting that varies.
        seeds: Trainings per value.
        callback: Receives the events of every training.
        **settings: Settings that all trainings share, as for `train`.

    Example:
        >>> ablate("photos", ["none", "mobius"], seeds=1).arms[1].mean
        0.93
    """
    config = _config(None, settings)
    return ablate_library.ablate(
        Path(photos), config, values, over=over, seeds=seeds, callback=callback
    )


def lr_find(
    photos: Path | str, *, steps: int = lr_find_library.STEPS, **settings: Any
) -> lr_find_library.LearningRateResult:
    """Finds a learning rate with a short sweep of increasing rates.

    Args:
        photos: As for `train`.
        steps: Steps of the sweep.
        **settings: Settings of the training, as for `train`.

    Example:
        >>> lr_find("photos", steps=20).suggestion.lr
        0.0021
    """
    return lr_find_library.find_lr(photos, _config(None, settings), steps=steps)


def _config(config: TrainConfig | None, given: Mapping[str, Any]) -> TrainConfig:
    if not given:
        return config or TrainConfig()
    sections = to_dict(config or TrainConfig())
    flags = {name: value for name, value in given.items() if name not in ("recipe", "model_args")}
    for name in ("recipe", "model_args"):
        sections[name] = {**sections[name], **given.get(name, {})}
    return resolve(sections, flags)


def _photos_of(parent: ParentRun | None) -> Path:
    if parent is not None:
        return parent.photos()
    default = Path("photos")
    return default if default.is_dir() else Path()


def _shown(
    work: Callable[[Callback], RunResult], callback: Callbacks | None, show: bool | None
) -> TrainingResult:
    callbacks = list(callback or ()) if not callable(callback) else [callback]
    view = NotebookView() if (in_notebook() if show is None else show) else None

    def emit(event: Event) -> None:
        for receive in (view, *callbacks):
            if receive is not None:
                receive(event)

    result = work(emit)
    if view is not None:
        seconds = f"{result.seconds:,.0f} s"
        stopped = f"Interrupted after {seconds}; continue with resume('{result.run.path}')"
        view.finish(stopped if result.interrupted else f"Done in {seconds}")
    return TrainingResult(**{item.name: getattr(result, item.name) for item in fields(result)})
