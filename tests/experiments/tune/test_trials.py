from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from finetune.errors import ConfigError, RunError
from finetune.experiments.tune import trials
from finetune.experiments.tune.trials import in_short
from finetune.experiments.tune.tune import Tuned
from finetune.training.events import Note


def test_trials_leave_no_big_files_and_never_see_the_test_part(tuned: Tuned) -> None:
    files = [file for file in (tuned.folder / "trials").rglob("*") if file.is_file()]
    assert files
    assert not [f.name for f in files if f.name in ("model.safetensors", "last.safetensors")]
    for metrics in tuned.folder.glob("trials/*/metrics.json"):
        assert json.loads(metrics.read_text()).keys() == {"validation"}
    for split in tuned.folder.glob("trials/*/split.csv"):
        assert "test" not in {line.rpartition(",")[2] for line in split.read_text().split()}


def test_all_trials_share_one_split(tuned: Tuned) -> None:
    splits = {split.read_text() for split in tuned.folder.glob("trials/*/split.csv")}
    assert len(splits) == 1


def test_a_trial_that_falls_behind_is_cut_short(
    search: Callable[..., Tuned], monkeypatch: pytest.MonkeyPatch
) -> None:
    pruner = optuna.pruners.ThresholdPruner(lower=2.0, n_warmup_steps=2)
    monkeypatch.setattr(optuna.pruners, "MedianPruner", lambda **_: pruner)
    said: list[str] = []
    tuned = search(lambda e: said.append(e.text) if isinstance(e, Note) else None, trials=2)
    assert [trial.state for trial in tuned.trials] == ["pruned", "pruned"]
    assert tuned.best == ()
    assert tuned.best_file is None
    assert all(len(trial.curve) == 2 for trial in tuned.trials)
    assert any(text.startswith("Trial 0: cut short after") for text in said)
    run = tuned.folder / "trials" / "0000"
    assert not json.loads((run / "config.json").read_text())["finished"]
    assert sum(f.stat().st_size for f in tuned.folder.glob("trials/**/*") if f.is_file()) < 50_000
    assert tuned.importances == {}


def test_a_failed_trial_is_told_with_its_reason_and_the_search_goes_on(
    search: Callable[..., Tuned], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    original = trials.train

    def diverge_once(*words: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise RunError("the training diverged")
        return original(*words, **options)

    monkeypatch.setattr(trials, "train", diverge_once)
    tuned = search()
    assert [trial.state for trial in tuned.trials] == ["complete", "failed", "complete"]
    assert tuned.trials[1].reason == "the training diverged"


def test_where_nothing_works_the_search_ends_with_the_reason(
    search: Callable[..., Tuned], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*words: Any, **options: Any) -> Any:
        raise RunError("the training diverged")

    monkeypatch.setattr(trials, "train", fail)
    with pytest.raises(RunError, match="the training diverged"):
        search(trials=30)


def test_a_study_of_other_photos_is_refused(
    search: Callable[..., Tuned], tune_photos: Path
) -> None:
    search(trials=1)
    next(tune_photos.rglob("*.jpg")).unlink()
    with pytest.raises(ConfigError, match="was begun with other photos in"):
        search(trials=2)


def test_no_time_means_no_trial(search: Callable[..., Tuned]) -> None:
    said: list[str] = []
    tuned = search(
        lambda e: said.append(e.text) if isinstance(e, Note) else None, trials=5, timeout=1e-9
    )
    assert tuned.trials == ()
    assert said == ["The time is up (1e-09 s): no more trials."]


def test_settings_in_short() -> None:
    flags = {"model": "simple_cnn", "weights": "none", "mode": "full", "ema": None, "lr": 0.01}
    assert in_short({**flags, "model_arg": {"widths": [8, 16]}}) == (
        "simple_cnn, full, lr 0.01, widths [8, 16]"
    )
