from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from finetune.config_io import resolve
from finetune.errors import CollectionError, ConfigError, RunError
from finetune.experiments.tune import search as library
from finetune.experiments.tune.search import (
    TuneConfig,
    TuneResult,
    summarize,
    to_json,
    tune,
)
from finetune.training.events import EpochDone, Event, Note
from finetune.training.train import train

Settings = dict[str, Any]


def outcomes(tuned: TuneResult) -> list[tuple[Any, ...]]:
    return [(t.number, t.state, t.score, dict(t.flags)) for t in tuned.trials]


def test_an_interrupted_search_continues_as_if_it_had_not_stopped(
    search: Callable[..., TuneResult], tuned: TuneResult
) -> None:
    search(trials=1)
    assert outcomes(search(trials=3)) == outcomes(tuned)[:3]
    values = [trial.flags["label_smoothing"] for trial in tuned.trials]
    assert len(set(values)) == len(values)


def test_ctrl_c_keeps_finished_trials(search: Callable[..., TuneResult], tuned: TuneResult) -> None:
    done = 0

    def stop_in_the_second(event: Event) -> None:
        nonlocal done
        if isinstance(event, Note) and event.text.startswith("Trial "):
            done += 1
        if isinstance(event, EpochDone) and done == 1:
            raise KeyboardInterrupt

    stopped = search(stop_in_the_second, trials=2)
    assert stopped.interrupted
    assert outcomes(stopped) == outcomes(tuned)[:1]
    kept = search(trials=1)
    assert outcomes(kept) == outcomes(tuned)[:1]
    assert sorted(p.name for p in (kept.folder / "trials").iterdir()) == ["0000"]
    # The interrupted trial does not count; another one replaces it.
    assert len(search(trials=2).trials) == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"trials": 0}, "--trials 0 must be at least 1."),
        ({"timeout": 0.0}, "--timeout 0 must be greater than 0."),
    ],
)
def test_invalid_trials_and_timeout_are_refused(
    search: Callable[..., TuneResult], fields: Settings, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        search(**fields)
    assert str(caught.value) == message


def test_a_missing_folder_is_named(tmp_path: Path, tiny_settings: Settings) -> None:
    with pytest.raises(CollectionError) as caught:
        tune(tmp_path / "none", resolve({}, tiny_settings), TuneConfig(runs=tmp_path / "runs"))
    assert str(caught.value) == (
        f"{tmp_path / 'none'} is not a folder. Name the folder of your photos."
    )


def test_a_result_is_json(tuned: TuneResult) -> None:
    plain = json.loads(json.dumps(to_json(tuned)))
    assert sorted(plain["best"]) == [t.number for t in tuned.trials if t.state == "complete"]
    assert plain["trials"][0]["flags"]["model"] == "test_resnet"


def test_trials_keep_no_weights_and_see_no_test_photos(tuned: TuneResult) -> None:
    files = [file for file in (tuned.folder / "trials").rglob("*") if file.is_file()]
    assert files
    assert not [f.name for f in files if f.name in ("model.safetensors", "last.safetensors")]
    for metrics in tuned.folder.glob("trials/*/metrics.json"):
        assert json.loads(metrics.read_text()).keys() == {"validation"}
    for split in tuned.folder.glob("trials/*/split.csv"):
        assert "test" not in {line.rpartition(",")[2] for line in split.read_text().split()}


def test_all_trials_share_one_split(tuned: TuneResult) -> None:
    splits = {split.read_text() for split in tuned.folder.glob("trials/*/split.csv")}
    assert len(splits) == 1


def test_a_weak_trial_is_pruned(
    search: Callable[..., TuneResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    pruner = optuna.pruners.ThresholdPruner(lower=2.0, n_warmup_steps=2)
    monkeypatch.setattr(optuna.pruners, "MedianPruner", lambda **_: pruner)
    notes: list[str] = []
    tuned = search(
        lambda e: notes.append(e.text) if isinstance(e, Note) else None, trials=2, mode="full"
    )
    assert [trial.state for trial in tuned.trials] == ["pruned", "pruned"]
    assert tuned.best == ()
    assert tuned.best_file is None
    assert all(len(trial.curve) == 2 for trial in tuned.trials)
    assert any(text.startswith("Trial 0: stopped early after") for text in notes)
    run = tuned.folder / "trials" / "0000"
    assert not json.loads((run / "config.json").read_text())["finished"]
    assert sum(f.stat().st_size for f in tuned.folder.glob("trials/**/*") if f.is_file()) < 50_000
    assert tuned.importances == {}


def test_a_failed_trial_keeps_its_reason_and_the_search_continues(
    search: Callable[..., TuneResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    original = train

    def diverge_once(*words: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise RunError("the training diverged")
        return original(*words, **options)

    monkeypatch.setattr(library, "train", diverge_once)
    tuned = search()
    assert [trial.state for trial in tuned.trials] == ["complete", "failed", "complete"]
    assert tuned.trials[1].reason == "the training diverged"


def test_a_search_ends_after_three_failures_without_a_success(
    search: Callable[..., TuneResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*words: Any, **options: Any) -> Any:
        raise RunError("the training diverged")

    monkeypatch.setattr(library, "train", fail)
    with pytest.raises(RunError, match="the training diverged"):
        search(trials=30)


def test_a_study_of_changed_photos_is_refused(
    search: Callable[..., TuneResult], tune_photos: Path
) -> None:
    search(trials=1)
    next(tune_photos.rglob("*.jpg")).unlink()
    with pytest.raises(ConfigError, match="have changed since the study 'photos' started"):
        search(trials=2)


def test_no_trial_starts_after_the_timeout(search: Callable[..., TuneResult]) -> None:
    notes: list[str] = []
    tuned = search(
        lambda e: notes.append(e.text) if isinstance(e, Note) else None, trials=5, timeout=1e-9
    )
    assert tuned.trials == ()
    assert notes == ["--timeout 1e-09 has passed: no more trials."]


def test_settings_summarize() -> None:
    flags = {"model": "simple_cnn", "weights": "none", "mode": "full", "ema": None, "lr": 0.01}
    assert summarize({**flags, "model_arg": {"widths": [8, 16]}}) == (
        "simple_cnn, full, lr 0.01, widths [8, 16]"
    )
