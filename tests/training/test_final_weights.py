from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import ttest_rel

from finetune.config_io import resolve
from finetune.errors import ConfigError, FinetuneError, RunError
from finetune.evaluation.intervals import mcnemar, paired_t_test
from finetune.runs.folder import RunFolder
from finetune.training.choice import choose_weights
from finetune.training.events import Note
from finetune.training.final_weights import (
    EVIDENCE,
    Choice,
    Comparison,
    Scores,
)
from finetune.training.finetune import FEWEST_ERRORS
from finetune.training.train import train
from finetune.training.warm_start import inherit, open_parent


def comparison(**means: float) -> Comparison:
    """Scores of 40 photos; the losses of the ends differ by a noise of 0.5."""
    noise = {"best": np.tile([0.25, -0.25], 20), "average": np.zeros(40), "head": np.zeros(40)}
    right = {"best": 38, "average": 39, "head": 36}
    scores: dict[Choice, Scores] = {
        choice: Scores(losses=means[choice] + noise[choice], correct=np.arange(40) < right[choice])
        for choice in ("best", "average", "head")
    }
    return Comparison(scores=scores)


@pytest.mark.parametrize(
    ("means", "kept"),
    [
        # The standard error of the mean of best is 0.04, that of the others is 0.
        ({"best": 0.3, "average": 0.3, "head": 0.5}, "average"),
        ({"best": 0.3, "average": 0.5, "head": 0.5}, "best"),
        ({"best": 0.5, "average": 0.31, "head": 0.3}, "head"),
        ({"best": 0.46, "average": 0.45, "head": 0.5}, "average"),
        ({"best": 0.5, "average": 0.45, "head": 0.46}, "average"),
        ({"best": 0.46, "average": 0.51, "head": 0.5}, "average"),
        ({"best": 0.46, "average": 0.53, "head": 0.5}, "average"),
        ({"best": 0.48, "average": 0.54, "head": 0.5}, "average"),
        ({"best": 0.5, "average": 7.0, "head": 0.46}, "head"),
    ],
    ids=str,
)
def test_the_average_is_kept_unless_an_end_is_surely_better(
    means: dict[str, float], kept: Choice
) -> None:
    assert comparison(**means).kept == kept


def test_an_average_in_another_valley_is_not_kept_on_photos_too_few_for_a_test() -> None:
    losses = {"best": [0.5, 0.3], "average": [9.0, 0.1], "head": [0.6, 0.4]}
    scores: dict[Choice, Scores] = {
        choice: Scores(losses=np.array(losses[choice]), correct=np.array([True, True]))
        for choice in ("best", "average", "head")
    }
    found = Comparison(scores=scores)
    assert ttest_rel(losses["best"], losses["average"]).pvalue > EVIDENCE
    assert found.kept == "best"


def test_the_sentence_has_evidence_and_choice() -> None:
    assert comparison(best=0.46, average=0.45, head=0.5).describe() == (
        "Full network: 95.0\u202f% against the head's 90.0\u202f% on 40 held-out photos (p = 0.5), "
        "log loss 0.460 against 0.500 (p = 0.32): kept the average of both (97.5\u202f%, "
        "log loss 0.450)."
    )
    assert comparison(best=0.3, average=0.5, head=0.5).describe().endswith("kept the full network.")


@pytest.mark.parametrize("photos", [2, 3, 10, 57, 300])
def test_paired_t_test_is_that_of_scipy(photos: int) -> None:
    rng = np.random.default_rng(photos)
    one = rng.normal(0, 1, photos)
    other = one + rng.normal(0.1, 0.5, photos)
    assert paired_t_test(one, other) == pytest.approx(ttest_rel(one, other).pvalue, abs=1e-9)
    assert paired_t_test(one, one) == 1


Folder = tuple[Path, RunFolder, dict[str, object]]


@pytest.fixture(scope="module")
def mobius(
    tmp_path_factory: pytest.TempPathFactory, draw: Callable[..., Any], tiny_weights: Path
) -> Folder:
    """A full network trained with Möbius maps: photos, run and settings."""
    folder = tmp_path_factory.mktemp("mobius")
    photos = folder / "photos"
    for label, name in enumerate(("ant", "bee", "fly")):
        (photos / name).mkdir(parents=True)
        for number in range(8):
            draw(label, number).save(photos / name / f"{number}.jpg")
    settings: dict[str, object] = {
        "model": "test_resnet",
        "weights": str(tiny_weights),
        "size": 48,
        "device": "cpu",
        "mode": "full",
        "epochs": 2,
        "batch_size": 8,
        "lr": 0.01,
        "head_l2": "1",
    }
    config = resolve({}, {**settings, "augment": "mobius", "final_weights": "head"})
    result = train(photos, config, run=str(folder / "mobius"))
    return photos, result.run, settings


@pytest.fixture
def run(mobius: Folder, tmp_path: Path) -> RunFolder:
    """A copy of the Möbius run."""
    return RunFolder(shutil.copytree(mobius[1].path, tmp_path / "mobius"))


def test_the_trained_network_is_kept_beside_the_model(run: RunFolder) -> None:
    model, best, head = (load_file(file) for file in (run.model_file, run.best_file, run.head_file))
    assert all(torch.equal(value, head[name]) for name, value in model.items())
    changed = [name for name, value in best.items() if not torch.equal(value, head[name])]
    assert any(not name.startswith("fc.") for name in changed)


def test_too_few_errors_for_a_full_network_are_noted_before_it_trains(run: RunFolder) -> None:
    assert mcnemar(0, FEWEST_ERRORS - 1) > EVIDENCE > mcnemar(0, FEWEST_ERRORS)
    notes = run.read(run.config_file)["notes"]
    (note,) = (text for text in notes if text.startswith("The head starts from a linear probe"))
    assert "of 4 photos wrong" in note
    assert note.endswith("cannot be measured; --mode head takes a fraction of the time.")


@pytest.mark.parametrize(("choice", "share"), [("best", 1.0), ("average", 0.5), ("head", 0.0)])
def test_the_weights_of_a_finished_run_can_be_changed(
    mobius: Folder, run: RunFolder, choice: str, share: float, tmp_path: Path
) -> None:
    photos, _, settings = mobius
    assert choose_weights(run, choice)["test"]["photos"] == 4
    assert run.read(run.config_file)["share_of_training"] == share
    # The run is that of a training with this setting.
    config = resolve({}, {**settings, "augment": "mobius", "final_weights": choice})
    other = train(photos, config, run=str(tmp_path / "other")).run
    names = ("metrics", "calibration", "timm/config")
    for name in ("model.safetensors", "predictions.csv", *(f"{name}.json" for name in names)):
        assert (run.path / name).read_bytes() == (other.path / name).read_bytes(), name


def test_choices_that_a_run_does_not_have_are_named(run: RunFolder) -> None:
    with pytest.raises(ConfigError) as error:
        choose_weights(run, "last")
    assert str(error.value) == f"--choose {run.path} last: choose one of head, average, best."
    run.head_file.unlink()
    with pytest.raises(RunError, match=r"has no head.safetensors, since its training did not"):
        choose_weights(run, "average")
    run.best_file.unlink()
    with pytest.raises(RunError, match=r"has no best.safetensors: only a run that trained"):
        choose_weights(run, "best")


def test_a_run_without_mobius_goes_on_from_the_weights_trained_with_it(
    mobius: Folder, run: RunFolder, tmp_path: Path
) -> None:
    photos = mobius[0]
    parent = open_parent(run)
    flags = {"device": "cpu", "mode": "full", "epochs": 1, "batch_size": 8, "lr": 1e-12}
    config = inherit(resolve({}, flags), parent)
    texts: list[str] = []
    result = train(
        photos,
        config,
        run=str(tmp_path / "next"),
        parent=parent,
        callback=lambda event: texts.append(event.text) if isinstance(event, Note) else None,
    )
    # A step of such a rate changes nothing that can be seen.
    best, after = load_file(run.best_file), load_file(result.run.best_file)
    head = load_file(run.head_file)
    assert all(torch.allclose(value, after[name], atol=1e-6) for name, value in best.items())
    assert not all(torch.allclose(value, after[name], atol=1e-6) for name, value in head.items())
    epoch = run.read(run.config_file)["best_epoch"]
    expected = (
        f"Starts from {run.path}, trained network of epoch {epoch} of 2: 3 labels keep their part "
        "of the head."
    )
    assert expected in texts
    assert expected in json.loads(result.run.config_file.read_text())["notes"]


def test_a_parent_that_learned_nothing_is_a_warning(run: RunFolder) -> None:
    shutil.copyfile(run.head_file, run.best_file)
    parent = open_parent(run)
    assert parent.starting_point() == (
        str(run.path),
        f"{run.path} was trained for 2 epochs, but its best weights equal those before its first "
        "epoch. Its training is not continued: train it again for that.",
    )
    # A run of an earlier version keeps no best.safetensors.
    run.best_file.unlink()
    assert parent.starting_point()[1] == (
        f"{run.path} was trained for 2 epochs, but it kept only the frozen backbone with its head. "
        "Its training is not continued: train it again for that."
    )


def test_damaged_weights_are_named(run: RunFolder) -> None:
    run.best_file.write_bytes(b"no tensors")
    with pytest.raises(FinetuneError, match=r"best.safetensors is damaged"):
        choose_weights(run, "best")


def test_changed_weights_are_named(run: RunFolder) -> None:
    content = bytearray(run.best_file.read_bytes())
    content[-3] ^= 1
    run.best_file.write_bytes(content)
    with pytest.raises(FinetuneError, match=r"best.safetensors is damaged.*checksum"):
        choose_weights(run, "best")
