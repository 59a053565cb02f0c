from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune.config_io import resolve
from finetune.errors import CollectionError, ConfigError
from finetune.experiments.tune.tune import Tuned, TunePlan, to_json, tune
from finetune.training.events import EpochDone, Event, Note

Settings = dict[str, Any]


def tried(tuned: Tuned) -> list[tuple[Any, ...]]:
    return [(t.number, t.state, t.score, dict(t.flags)) for t in tuned.trials]


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


def test_a_missing_folder_is_named(tmp_path: Path, tiny_settings: Settings) -> None:
    with pytest.raises(CollectionError) as caught:
        tune(tmp_path / "none", resolve({}, tiny_settings), TunePlan(runs=tmp_path / "runs"))
    assert str(caught.value) == (
        f"{tmp_path / 'none'} is not a folder, so there are no photos to tune for."
    )


def test_a_search_is_plain_json(tuned: Tuned) -> None:
    plain = json.loads(json.dumps(to_json(tuned)))
    assert sorted(plain["best"]) == [t.number for t in tuned.trials if t.state == "complete"]
    assert plain["trials"][0]["flags"]["model"] == "test_resnet"
