from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from finetune.config_io import read_toml, resolve
from finetune.experiments.tune.search import TuneResult
from finetune.training.train import train


def test_training_with_the_best_settings_reproduces_the_best_trial(
    searched: tuple[TuneResult, Path], tmp_path: Path
) -> None:
    tuned, photos = searched
    assert [trial.number for trial in tuned.trials] == [0, 1, 2, 3]
    assert tuned.folder == photos.parent / "runs" / "tune-photos"
    best = tuned.best[0]
    scores = [trial.score for trial in tuned.trials if trial.state == "complete"]
    assert best.score == max(score for score in scores if score is not None)
    assert tuned.best_file == tuned.folder / "best.toml"
    # The TOML is what the best trial was trained with.
    config = resolve(read_toml(tuned.best_file))
    assert config.training.label_smoothing == best.flags["label_smoothing"]
    assert config.training.mode == best.flags["mode"]
    again = train(photos, config, run=str(tmp_path / "again"))
    assert again.metrics["validation"]["top1"] == best.score
    assert again.metrics["validation"]["log_loss"] == pytest.approx(best.log_loss, rel=1e-6)


def test_the_final_model_is_trained_once_and_evaluated_on_test(
    search: Callable[..., TuneResult],
) -> None:
    tuned = search(final=True, trials=1)
    assert tuned.final is not None
    assert tuned.final_metrics is not None
    assert tuned.final_metrics.keys() == {"validation", "test"}
    assert tuned.final_metrics["validation"]["top1"] == tuned.best[0].score
    again = search(final=True, trials=1)
    assert again.final == tuned.final
    assert len(list(tuned.folder.parent.glob("tune-photos-best*"))) == 1
