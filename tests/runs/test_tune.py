from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from finetune.errors import CollectionError, ConfigError
from finetune.runs import tune as module
from finetune.runs.train import train
from finetune.runs.tune import Tuned, TunePlan, in_short, to_json, tune
from finetune.runs.tune_study import ranked, without_password
from finetune.settings import read_toml, resolve
from finetune.training.events import EpochDone, Event, Note

Settings = dict[str, Any]
COUNTS = {"ant": 12, "bee": 12}
FIXED = frozenset({"model", "weights", "size", "views"})


@pytest.fixture
def photos(make_photos: Callable[..., Path]) -> Path:
    return make_photos(COUNTS)


@pytest.fixture
def search(photos: Path, tmp_path: Path, tiny_settings: Settings) -> Callable[..., Tuned]:
    del tiny_settings["batch_size"]

    def run(listen: Callable[[Event], None] = lambda event: None, **plan: Any) -> Tuned:
        chosen = {"trials": 3, "final": False, "fixed": FIXED, "runs": tmp_path / "runs", **plan}
        return tune(photos, resolve({}, tiny_settings), TunePlan(**chosen), listen=listen)

    return run


@pytest.fixture(scope="module")
def searched(
    tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path, draw: Callable[..., Any]
) -> tuple[Tuned, Path]:
    """A search of 4 trials, for tests that only look at it."""
    root = tmp_path_factory.mktemp("tune")
    for index, (label, count) in enumerate(COUNTS.items()):
        (root / "photos" / label).mkdir(parents=True)
        for number in range(count):
            draw(index, number).save(root / "photos" / label / f"{number:03d}.jpg", quality=92)
    flags = {"model": "test_resnet", "weights": str(tiny_weights), "size": 48, "device": "cpu"}
    plan = TunePlan(trials=4, final=False, fixed=FIXED, runs=root / "runs")
    return tune(root / "photos", resolve({}, {**flags, "epochs": 3}), plan), root / "photos"


@pytest.fixture
def tuned(searched: tuple[Tuned, Path]) -> Tuned:
    return searched[0]


def tried(tuned: Tuned) -> list[tuple[Any, ...]]:
    return [(t.number, t.state, t.score, dict(t.flags)) for t in tuned.trials]


def test_trials_are_kept_and_the_best_settings_train_the_same_again(
    searched: tuple[Tuned, Path], tmp_path: Path
) -> None:
    tuned, photos = searched
    assert [trial.number for trial in tuned.trials] == [0, 1, 2, 3]
    assert tuned.folder == photos.parent / "runs" / "tune-photos"
    best = tuned.best[0]
    scores = [trial.score for trial in tuned.trials if trial.state == "complete"]
    assert best.score == max(scores)
    assert tuned.best_file == tuned.folder / "best.toml"
    # The TOML is what the best trial was trained with.
    config = resolve(read_toml(tuned.best_file))
    assert {name: config.training.__dict__[name] for name in ("lr", "batch_size")} == {
        name: best.flags[name] for name in ("lr", "batch_size")
    }
    again = train(photos, config, run=str(tmp_path / "again"))
    assert again.metrics["validation"]["top1"] == best.score
    assert again.metrics["validation"]["log_loss"] == pytest.approx(best.log_loss, rel=1e-6)


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


def test_the_final_model_is_trained_once_and_judged_by_the_test_part(
    search: Callable[..., Tuned],
) -> None:
    tuned = search(final=True)
    assert tuned.final is not None
    assert tuned.final_metrics is not None
    assert tuned.final_metrics.keys() == {"validation", "test"}
    assert tuned.final_metrics["validation"]["top1"] == tuned.best[0].score
    again = search(final=True)
    assert again.final == tuned.final
    assert len(list(tuned.folder.parent.glob("tune-photos-best*"))) == 1


def test_one_process_finds_the_same_again_and_goes_on_as_if_never_stopped(
    search: Callable[..., Tuned],
) -> None:
    whole = search(trials=3, study="whole")
    search(trials=1, study="halved")
    assert tried(search(trials=3, study="halved")) == tried(whole)
    other = [t.flags["lr"] for t in whole.trials]
    assert len(set(other)) == len(other)


def test_ctrl_c_keeps_what_is_done(search: Callable[..., Tuned]) -> None:
    whole = search(trials=3, study="whole")
    done = 0

    def stop_in_the_second(event: Event) -> None:
        nonlocal done
        if isinstance(event, Note) and event.text.startswith("Trial "):
            done += 1
        if isinstance(event, EpochDone) and done == 2:
            raise KeyboardInterrupt

    stopped = search(stop_in_the_second, trials=3, study="stopped")
    assert stopped.interrupted
    assert tried(stopped) == tried(whole)[:2]
    kept = search(trials=2, study="stopped")
    assert tried(kept) == tried(whole)[:2]
    assert sorted(p.name for p in (kept.folder / "trials").iterdir()) == ["0000", "0001"]
    # The trial that was stopped does not count: its place is taken by another.
    assert len(search(trials=3, study="stopped").trials) == 3


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
    from finetune.errors import RunError

    calls = 0
    original = module.train

    def diverge_once(*words: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise RunError("the training diverged")
        return original(*words, **options)

    monkeypatch.setattr(module, "train", diverge_once)
    tuned = search()
    assert [trial.state for trial in tuned.trials] == ["complete", "failed", "complete"]
    assert tuned.trials[1].reason == "the training diverged"


def test_where_nothing_works_the_search_ends_with_the_reason(
    search: Callable[..., Tuned], monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetune.errors import RunError

    def fail(*words: Any, **options: Any) -> Any:
        raise RunError("the training diverged")

    monkeypatch.setattr(module, "train", fail)
    with pytest.raises(RunError, match="the training diverged"):
        search(trials=30)


def test_a_study_of_other_settings_is_refused(search: Callable[..., Tuned]) -> None:
    search(trials=1)
    with pytest.raises(ConfigError) as caught:
        search(trials=1, fixed=FIXED | {"lr"})
    assert str(caught.value) == (
        "The study 'photos' was begun with other settings (fixed), and its trials would not "
        "compare. Give the same ones, or begin another with --study NAME."
    )


def test_a_study_of_other_photos_is_refused(search: Callable[..., Tuned], photos: Path) -> None:
    search(trials=1)
    next(photos.rglob("*.jpg")).unlink()
    with pytest.raises(ConfigError, match="was begun with other photos in"):
        search(trials=2)


def test_no_time_means_no_trial(search: Callable[..., Tuned]) -> None:
    said: list[str] = []
    tuned = search(
        lambda e: said.append(e.text) if isinstance(e, Note) else None, trials=5, timeout=1e-9
    )
    assert tuned.trials == ()
    assert said == ["The time is up (1e-09 s): no more trials."]


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"trials": 0}, "--trials 0 must be at least 1."),
        ({"timeout": 0.0}, "--timeout 0 must be greater than 0."),
    ],
)
def test_plans_that_cannot_work_are_refused(
    search: Callable[..., Tuned], plan: Settings, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        search(**plan)
    assert str(caught.value) == message


def test_a_storage_that_cannot_be_opened_is_named_without_its_password(
    search: Callable[..., Tuned],
) -> None:
    with pytest.raises(ConfigError) as caught:
        search(storage="nonsense://me:secret@host/db")
    assert str(caught.value).startswith("--storage nonsense://me:***@host/db cannot be opened: ")
    assert "secret" not in str(caught.value)


def test_a_missing_folder_is_named(tmp_path: Path, tiny_settings: Settings) -> None:
    with pytest.raises(CollectionError) as caught:
        tune(tmp_path / "none", resolve({}, tiny_settings), TunePlan(runs=tmp_path / "runs"))
    assert str(caught.value) == (
        f"{tmp_path / 'none'} is not a folder, so there are no photos to tune for."
    )


SHARE = """
import sys
from pathlib import Path
from finetune.runs.tune import TunePlan, tune
from finetune.settings import resolve
photos, runs, storage, flags = sys.argv[1], Path(sys.argv[2]), sys.argv[3], eval(sys.argv[4])
tune(photos, resolve({}, flags), TunePlan(trials=3, final=False, runs=runs, storage=storage,
     study="shared", fixed=frozenset({"model", "weights", "size", "views"})))
"""


def test_two_processes_share_one_study(
    photos: Path, tmp_path: Path, tiny_settings: Settings
) -> None:
    url = f"sqlite:///{tmp_path / 'shared.sqlite3'}"
    words = [str(photos), url, repr(tiny_settings)]
    both = [
        subprocess.Popen(
            [sys.executable, "-c", SHARE, words[0], str(tmp_path / name), words[1], words[2]],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for name in ("one", "two")
    ]
    errors = [process.communicate(timeout=240)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    study = optuna.load_study(study_name="shared", storage=url)
    trials = study.get_trials()
    assert 3 <= len(trials) <= 4
    assert [trial.number for trial in trials] == list(range(len(trials)))
    assert {trial.state.name for trial in trials} <= {"COMPLETE", "PRUNED"}
    rates = [trial.params["lr_factor"] for trial in trials]
    assert len(set(rates)) == len(rates)
    assert rates.count(1.0) == 1


def test_equal_scores_are_ranked_by_log_loss(tuned: Tuned) -> None:
    order = [(-(t.score or 0), t.log_loss, t.number) for t in ranked(tuned.trials)]
    assert order == sorted(order)


def test_a_search_is_plain_json(tuned: Tuned) -> None:
    plain = json.loads(json.dumps(to_json(tuned)))
    assert sorted(plain["best"]) == [t.number for t in tuned.trials if t.state == "complete"]
    assert plain["trials"][0]["flags"]["model"] == "test_resnet"


def test_settings_in_short() -> None:
    flags = {"model": "simple_cnn", "weights": "none", "mode": "full", "ema": None, "lr": 0.01}
    assert in_short({**flags, "model_arg": {"widths": [8, 16]}}) == (
        "simple_cnn, full, lr 0.01, widths [8, 16]"
    )


def test_passwords_are_not_shown() -> None:
    assert without_password("postgresql://u:p%40ss@h:5432/d") == "postgresql://u:***@h:5432/d"
    assert without_password("sqlite:////tmp/a.sqlite3") == "sqlite:////tmp/a.sqlite3"
