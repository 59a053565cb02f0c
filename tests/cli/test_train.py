from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import typer
from typer.core import TyperOption
from typer.testing import Result

from finetune.cli import app
from finetune.config_io import settings
from finetune.evaluation.status import Status


def test_every_setting_has_exactly_one_option_with_its_help() -> None:
    command = next(c for c in app.registered_commands if c.name == "train")
    options = {
        p.name: p
        for p in typer.main.get_command_from_info(
            command, pretty_exceptions_short=False, rich_markup_mode=None
        ).params
    }
    for setting in settings():
        option = options[setting.name]
        assert option.opts == [setting.flag]
        assert isinstance(option, TyperOption)
        assert (option.help or "").startswith(setting.help)
        assert sum(setting.flag in other.opts for other in options.values()) == 1


def test_train_then_predict_with_defaults(
    run: Callable[..., Result],
    make_photos: Callable[..., Path],
    tmp_path: Path,
    flags: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_photos({"ant": 8, "カワセミ": 8})
    monkeypatch.chdir(tmp_path)
    trained = run("train", *flags)
    assert "Next: finetune predict photo.jpg" in trained.stdout
    assert "CPU, 12 photos: head on cached features." in trained.stderr
    # A fitted head has no epochs to show.
    assert "train loss" not in trained.stderr
    photo = "photos/カワセミ/001.jpg"
    shown = run("predict", photo)
    assert "カワセミ" in shown.stdout
    assert "%" in shown.stdout
    predictions = json.loads(run("predict", photo, "--json", "--top", 1).stdout)
    assert [(a["photo"], len(a["ranked"])) for a in predictions] == [(photo, 1)]
    assert predictions[0]["status"] in get_args(Status)


def test_train_json_is_one_document(
    run: Callable[..., Result],
    make_photos: Callable[..., Path],
    tmp_path: Path,
    flags: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    photos = make_photos({"a": 8, "b": 8})
    monkeypatch.chdir(tmp_path)
    result = run("train", photos, *flags, "--json", "--quiet", "--name", "mine")
    document = json.loads(result.stdout)
    assert document["run"] == str(Path("runs", "mine"))
    assert document["metrics"]["validation"]["photos"] > 0
    assert result.stderr == ""


def test_settings_come_from_a_file_and_from_a_run(
    run: Callable[..., Result],
    error_of: Callable[..., str],
    make_photos: Callable[..., Path],
    tmp_path: Path,
    flags: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    photos = make_photos({"a": 6, "b": 6})
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text(
        "[training]\nepochs = 2\nlr = 0.5\n[recipe]\nflip_probability = 0.25\n"
    )
    run("train", photos, *flags[:8], "--config", "mine.toml", "--lr", "0.01", "--name", "one")
    written = json.loads(Path("runs/one/config.json").read_text())["settings"]
    assert (written["training"]["epochs"], written["training"]["lr"]) == (2, 0.01)
    assert written["recipe"] == {"flip_probability": 0.25}
    run("train", photos, "--config", "runs/one/config.json", "--epochs", 1, "--name", "two")
    again = json.loads(Path("runs/two/config.json").read_text())["settings"]
    assert again["training"]["epochs"] == 1
    assert again["training"]["lr"] == 0.01
    assert error_of("train", photos, "--config", "runs/one/labels.json") == (
        "--config runs/one/labels.json is not the config.json of a run."
    )


def test_impossible_settings_are_named_together(error_of: Callable[..., str]) -> None:
    assert error_of("train", "--lr", "-1", "--epochs", "0") == (
        "--epochs 0 must be at least 1; --lr -1.0 must be greater than 0."
    )


def test_resume_takes_no_settings(error_of: Callable[..., str]) -> None:
    assert error_of("train", "--resume", "runs/x", "--lr", "1", "--name", "y") == (
        "--resume continues with the settings of the run; leave out --lr, --name."
    )


def test_the_weights_of_a_run_can_be_changed(
    run: Callable[..., Result],
    error_of: Callable[..., str],
    flags: list[str],
    make_photos: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_photos({"ant": 8, "bee": 8})
    monkeypatch.chdir(tmp_path)
    run("train", *flags, "--mode", "full", "--name", "garden")
    result = run("train", "--choose", "garden", "head")
    assert result.stdout.splitlines()[-1] == (
        "The model in runs/garden is now the head on the frozen backbone. Make its reports and "
        "exports again."
    )
    assert json.loads(Path("runs/garden/config.json").read_text())["share_of_training"] == 0
    assert error_of("train", "--choose", "garden", "best", "--lr", "1", "--resume", "x") == (
        "--choose trains nothing; leave out --lr, --resume."
    )


def test_folders_that_are_no_collection(
    error_of: Callable[..., str],
    make_photos: Callable[..., Path],
    tmp_path: Path,
    flags: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert error_of("train", "empty", *flags) == (
        "There are no photos in empty. Give a folder with one sub-folder of photos for each label."
    )
    assert list((tmp_path / "empty").iterdir()) == []
    assert error_of("train", "nowhere", *flags) == (
        "There is no folder nowhere. Give a folder with one sub-folder of photos for each label."
    )
    assert not (tmp_path / "nowhere").exists()
    (tmp_path / "file.txt").write_text("x")
    assert error_of("train", "file.txt", *flags) == (
        "file.txt is a file, not a folder. Give a folder with one sub-folder of photos for each "
        "label."
    )
    make_photos({"heron": 5}, "one")
    assert error_of("train", "one", *flags) == (
        "one has only the label 'heron' to learn; a classifier needs 2 or more. Add a folder of "
        "photos of something else."
    )
    make_photos({"heron": 1, "crane": 5}, "few")
    assert error_of("train", "few", *flags) == (
        "Label 'heron' has 1 photo; a split into train and validation needs 2. Add a photo, or "
        "leave the label out with --min-photos 2."
    )
    for label in ("a", "b"):
        (tmp_path / "bad" / label).mkdir(parents=True)
        (tmp_path / "bad" / label / "x.jpg").write_bytes(b"no")
    assert error_of("train", "bad", *flags) == (
        "None of the 2 photos in bad can be opened; the first is a/x.jpg: not a photo. Replace "
        "them by photos that other programs open."
    )
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_an_unreadable_folder_is_named(
    error_of: Callable[..., str], tmp_path: Path, flags: list[str]
) -> None:
    (tmp_path / "locked").mkdir(mode=0)
    assert "cannot be read: permission denied" in error_of("train", tmp_path / "locked", *flags)


def test_models_and_weights_that_do_not_work(
    error_of: Callable[..., str],
    make_photos: Callable[..., Path],
    tmp_path: Path,
    tiny_weights: Path,
) -> None:
    photos = make_photos({"a": 4, "b": 4})
    assert error_of("train", photos, "--model", "resnt50").startswith(
        "--model resnt50: there is no such model; did you mean resnet50"
    )
    assert error_of("train", photos, "--model", "test_vit", "--weights", tiny_weights).startswith(
        f"--weights {tiny_weights} does not fit test_vit: Missing key(s)"
    )
    assert error_of("train", photos, "--model", "test_vit", "--device", "gpu") == (
        "--device gpu is not one of cpu, cuda, cuda:1, mps."
    )


def test_predict_names_what_is_missing(
    error_of: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert error_of("predict", "x.jpg") == (
        f"There is no finished run in {tmp_path / 'runs'}. Train one with: finetune train PHOTOS, "
        "or name one with --run."
    )
    (tmp_path / "norun").mkdir()
    assert error_of("predict", "x.jpg", "--run", "norun") == (
        "norun is not a run: it has no config.json. Make one with: finetune train PHOTOS"
    )


def test_a_bad_photo_among_good_ones_is_named_and_the_exit_code_is_1(
    run: Callable[..., Result],
    make_photos: Callable[..., Path],
    tmp_path: Path,
    flags: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_photos({"a": 6, "b": 6})
    monkeypatch.chdir(tmp_path)
    run("train", *flags, "--quiet")
    Path("bad.jpg").write_bytes(b"no photo")
    shown = run("predict", "photos/a/000.jpg", "bad.jpg", "photos/b/000.jpg", code=1)
    assert "bad.jpg\n  cannot be opened: not a photo" in shown.stdout
    assert shown.stdout.count("probability") == 2
    many = run("predict", "photos", "bad.jpg", code=1)
    assert many.stdout.count("photos/") == 12
    assert "cannot be opened: not a photo" in many.stdout
    predictions = json.loads(run("predict", "photos", "bad.jpg", "--json", code=1).stdout)
    assert predictions[-1] == {
        "photo": "bad.jpg",
        "status": "failed",
        "error": "not a photo",
        "ranked": [],
    }


def test_markup_in_names_is_shown_as_it_is(
    run: Callable[..., Result],
    make_photos: Callable[..., Path],
    tmp_path: Path,
    flags: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_photos({"[red]fox[/red]": 6, "b": 6})
    monkeypatch.chdir(tmp_path)
    run("train", *flags, "--quiet")
    assert "[red]fox[/red]" in run("predict", "photos/[red]fox[/red]/000.jpg").stdout
    assert "[red]fox[/red]" in run("predict", "photos").stdout


def test_the_stronger_model_is_offered_once_at_a_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from finetune.cli import train as module
    from finetune.cli.console import output
    from finetune.config import TrainConfig
    from finetune.models import weights

    questions: list[str] = []

    def confirm(text: str, **_: object) -> bool:
        questions.append(text)
        return True

    monkeypatch.setattr(typer, "confirm", confirm)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(output.stderr, "_force_terminal", True)
    monkeypatch.setattr(weights, "require_reachable_hub", lambda name, config: None)
    monkeypatch.setattr(output, "quiet", False)
    monkeypatch.setattr(output, "json", False)
    settings = TrainConfig()
    named = dataclasses.replace(settings, model=dataclasses.replace(settings.model, model="x"))
    assert module.offer_download(named) == named
    assert questions == []
    assert module.offer_download(settings).model.download
    assert questions == [
        "Download convnext_nano.in12k_ft_in1k (62 MB, apache-2.0)? It is stronger than the "
        "installed tf_efficientnet_lite2, and slower."
    ]
    assert module.offer_download(settings) == settings
    assert len(questions) == 1
