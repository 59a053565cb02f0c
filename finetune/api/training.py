"""What ``from finetune import ...`` gives for training: settings by name, listeners, notebooks.

Everything below it is usable by itself; this adds what a person who types expects.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from finetune.config import TrainConfig
from finetune.config_io import resolve, to_dict
from finetune.experiments import ablate as ablate_library
from finetune.experiments import cross_validate as folds_library
from finetune.experiments.cross_validate import CrossValidation, FoldConfig
from finetune.experiments.lr_find import FoundRate, find_lr
from finetune.experiments.tune import search as tune_library
from finetune.experiments.tune.search import TuneConfig, TuneResult
from finetune.reporting.notebook import NotebookView, in_notebook
from finetune.reporting.notebook_html import link_to, result_html
from finetune.runs.folder import RUNS_FOLDER, RunFolder, find_run
from finetune.training import train as runs_train
from finetune.training.events import Callback, Event, ignore
from finetune.training.runner import RunResult
from finetune.training.validation import Metric
from finetune.training.warm_start import ParentRun, inherit, open_parent

Callbacks = Callback | Iterable[Callback]


@dataclass(frozen=True)
class ShownReport:
    """A report that was written; a notebook shows it in place.

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


@dataclass(frozen=True, kw_only=True)
class TrainingResult(RunResult):
    """What a training came to; a notebook shows its figures."""

    def report(self, *, max_photos: int = 1000, explain: bool = True) -> ShownReport:
        """Writes the run's ``report.html`` and returns it; a notebook shows it.

        Args:
            max_photos: Most photos in the file; each adds about 12 KB.
            explain: Show what the network looked at, and labels that are likely wrong.

        Raises:
            MissingExtra: Jinja2 or plotly is not installed.
            StorageError: The file could not be written.
        """
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
    """Trains a classifier on the photos in a folder and returns what came of it.

    Args:
        photos: A folder with one folder of photos a label, or ``train/ val/ test/`` of such. May be
            left out with `from_run`: then its photos are meant.
        config: Settings; the defaults suit the machine and the collection.
        run: Name of the run, or a path; None takes date, model and mode.
        runs: Where named runs go.
        from_run: A finished run to go on from, with more photos or other labels.
        callback: Called with what happens, one function or several; see `finetune.training.events`.
        metrics: Own figures by name, each a function of logits ``(N, labels) float32`` and targets
            ``(N,) int64`` of the validation photos (``(N, labels)`` with several labels a photo).
            They are in `EpochDone.metrics`, in ``log.jsonl`` and in the trackers.
        show: Whether a notebook shows how it goes; None: if this is one.
        **settings: Any setting by the name of its option, over those of `config`:
            ``epochs=3, model="resnet18"``. ``recipe={...}`` sets numbers of the augmentation.

    Raises:
        FinetuneError: Photos, settings, weights, device or disk do not allow it; says why.

    Example:
        >>> from finetune import train
        >>> result = train("photos", epochs=10)  # doctest: +SKIP
        >>> result.metrics["validation"]["top1"]  # doctest: +SKIP
        0.97
    """
    settled = _settled(config, settings)
    parent = None
    if from_run is not None:
        parent = open_parent(find_run(str(from_run), Path(runs)))
        settled = inherit(settled, parent, said=settings, same_photos=photos is None)
    if photos is None:
        photos = _photos_of(parent)
    return _shown(
        lambda told: runs_train.train(
            photos,
            settled,
            run=run,
            runs=Path(runs),
            callback=told,
            metrics=metrics,
            parent=parent,
        ),
        callback,
        show,
    )


def resume(
    run: Path | str,
    *,
    callback: Callbacks | None = None,
    metrics: Mapping[str, Metric] | None = None,
    show: bool | None = None,
) -> TrainingResult:
    """Goes on with an interrupted run and returns it; the result is as if it had never stopped.

    Args:
        run: Its folder.
        callback: As for `train`.
        metrics: As for `train`; functions are in no file, so they are given again.
        show: As for `train`.

    Raises:
        RunError: It is no run, it is finished, or its photos have changed.
    """
    return _shown(
        lambda told: runs_train.resume(run, callback=told, metrics=metrics), callback, show
    )


def report(
    run: Path | str | None = None, *, max_photos: int = 1000, explain: bool = True
) -> ShownReport:
    """Writes a run's ``report.html`` and returns it; a notebook shows it.

    Args:
        run: Name or folder of the run; None: the newest.
        max_photos: Most photos in the file; each adds about 12 KB.
        explain: Show what the model looked at, and labels that are likely wrong.

    Raises:
        MissingExtra: Jinja2 or plotly is not installed.
        StorageError: The file could not be written.

    Example:
        >>> report("garden").path  # doctest: +SKIP
    """
    from finetune.prediction.report_extras import report_extras
    from finetune.reporting.report import Extras, write_report
    from finetune.reporting.run_record import photos_root

    folder = find_run(None if run is None else str(run))
    root = photos_root(folder.path)
    extras = report_extras(folder, root)[0] if root and explain else Extras()
    made = write_report(folder.path, photos_root=root, max_photos=max_photos, extras=extras)
    return ShownReport(made.path)


def cross_validate(
    photos: Path | str,
    config: TrainConfig | None = None,
    folds: FoldConfig | None = None,
    *,
    callback: Callback = ignore,
    **settings: Any,
) -> CrossValidation:
    """Trains once per fold, pools the held-out predictions, and trains a final model.

    Args:
        photos: As for `train`.
        config: Settings of every training.
        folds: Options of the cross-validation.
        callback: Receives the events of every training.
        **settings: As for `train`.

    Example:
        >>> cross_validate("photos", epochs=10).statistics.mean  # doctest: +SKIP
        0.962
    """
    return folds_library.cross_validate(
        photos, _settled(config, settings), folds, callback=callback
    )


def tune(
    photos: Path | str,
    config: TrainConfig | None = None,
    search: TuneConfig | None = None,
    *,
    callback: Callback = ignore,
    **settings: Any,
) -> TuneResult:
    """Searches the settings that suit the photos; settings given by name are fixed.

    Args:
        photos: As for `train`.
        config: Settings that all trials share.
        search: Number of trials, search space and storage.
        callback: Receives the events of every training.
        **settings: As for `train`.

    Raises:
        MissingExtra: Optuna is not installed.

    Example:
        >>> tune("photos", model="resnet18").best[0].flags  # doctest: +SKIP
    """
    search = search or TuneConfig()
    search = replace(search, fixed=search.fixed | set(settings))
    return tune_library.tune(photos, _settled(config, settings), search, callback=callback)


def ablate(
    photos: Path | str,
    values: Sequence[str],
    *,
    over: str = "augment",
    seeds: int = 3,
    folder: Path | None = None,
    callback: Callback = ignore,
    **settings: Any,
) -> ablate_library.Ablation:
    """Trains with each value of a setting and compares the results photo by photo.

    Args:
        photos: As for `train`.
        values: Values of the setting; the first is the baseline.
        over: The setting that varies.
        seeds: Trainings per value.
        folder: Folder for the runs; None: a new one in ``./runs``.
        callback: Receives the events of every training.
        **settings: Settings that all trainings share, as for `train`.

    Example:
        >>> ablate("photos", ["none", "mobius"]).arms[1].mean  # doctest: +SKIP
    """
    return ablate_library.ablate(
        Path(photos),
        _settled(None, settings),
        values,
        over=over,
        seeds=seeds,
        folder=folder,
        callback=callback,
    )


def lr_find(
    photos: Path | str,
    config: TrainConfig | None = None,
    *,
    steps: int = 100,
    callback: Callback = ignore,
    **settings: Any,
) -> FoundRate:
    """Finds a learning rate with a short sweep of growing rates.

    Args:
        photos: As for `train`.
        config: Settings of the training that needs the rate.
        steps: Steps of the sweep.
        callback: Receives events.
        **settings: As for `train`.

    Example:
        >>> lr_find("photos", mode="head").suggestion.lr  # doctest: +SKIP
        0.0021
    """
    return find_lr(photos, _settled(config, settings), steps=steps, callback=callback)


def _settled(config: TrainConfig | None, given: Mapping[str, Any]) -> TrainConfig:
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
    usual = Path("photos")
    return usual if usual.is_dir() else Path()


def _shown(
    work: Callable[[Callback], RunResult],
    callback: Callbacks | None,
    show: bool | None,
) -> TrainingResult:
    listeners = list(_each(callback))
    view = NotebookView() if (in_notebook() if show is None else show) else None

    def tell(event: Event) -> None:
        for listener in (view, *listeners):
            if listener is not None:
                listener(event)

    result = work(tell)
    if view is not None:
        done = f"Interrupted after {result.seconds:,.0f} s; go on with resume('{result.run.path}')"
        view.finish(done if result.interrupted else f"Done in {result.seconds:,.0f} s")
    return TrainingResult(**{item.name: getattr(result, item.name) for item in fields(result)})


def _each(callback: Callbacks | None) -> Iterable[Callback]:
    if callback is None:
        return ()
    return (callback,) if callable(callback) else callback
