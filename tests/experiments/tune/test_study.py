from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from finetune.errors import ConfigError
from finetune.experiments.tune.search import TuneResult
from finetune.experiments.tune.study import ranked, without_password

FIXED = frozenset({"model", "weights", "size", "views"})


def test_a_study_of_other_settings_is_refused(search: Callable[..., TuneResult]) -> None:
    search(trials=1, fixed=FIXED)
    with pytest.raises(ConfigError) as caught:
        search(trials=1, fixed=FIXED | {"lr"})
    assert str(caught.value) == (
        "The study 'photos' has other settings (fixed), so its trials would not be comparable. Use "
        "the same settings, or start another study with --study NAME."
    )


def test_a_storage_that_cannot_be_opened_is_named_without_its_password(
    search: Callable[..., TuneResult],
) -> None:
    with pytest.raises(ConfigError) as caught:
        search(storage="nonsense://me:secret@host/db")
    assert str(caught.value).startswith("--storage nonsense://me:***@host/db cannot be opened: ")
    assert "secret" not in str(caught.value)


SHARE = """
import sys
from pathlib import Path
from finetune.experiments.tune.search import TuneConfig, tune
from finetune.config_io import resolve
photos, runs, storage, flags = sys.argv[1], Path(sys.argv[2]), sys.argv[3], eval(sys.argv[4])
tune(photos, resolve({}, flags), TuneConfig(trials=3, final=False, runs=runs, storage=storage,
     study="shared", fixed=frozenset({"model", "weights", "size", "views"})))
"""


def test_two_processes_share_one_study(
    tune_photos: Path,
    tmp_path: Path,
    tiny_settings: dict[str, Any],
    run_children: Callable[..., list[subprocess.CompletedProcess[str]]],
) -> None:
    url = f"sqlite:///{tmp_path / 'shared.sqlite3'}"
    both = run_children(
        SHARE,
        *(
            [str(tune_photos), str(tmp_path / name), url, repr(tiny_settings)]
            for name in ("one", "two")
        ),
    )
    assert [process.returncode for process in both] == [0, 0], [one.stderr for one in both]
    study = optuna.load_study(study_name="shared", storage=url)
    trials = study.get_trials()
    assert 3 <= len(trials) <= 4
    assert [trial.number for trial in trials] == list(range(len(trials)))
    assert {trial.state.name for trial in trials} <= {"COMPLETE", "PRUNED"}
    values = [trial.params["label_smoothing"] for trial in trials]
    assert len(set(values)) == len(values)
    assert values.count(0.0) == 1


def test_equal_scores_are_ranked_by_log_loss(tuned: TuneResult) -> None:
    order = [(-(t.score or 0), t.log_loss, t.number) for t in ranked(tuned.trials)]
    assert order == sorted(order)


def test_passwords_are_masked() -> None:
    assert without_password("postgresql://u:p%40ss@h:5432/d") == "postgresql://u:***@h:5432/d"
    assert without_password("sqlite:////tmp/a.sqlite3") == "sqlite:////tmp/a.sqlite3"
