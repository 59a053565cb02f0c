from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score

import finetune
from finetune import TrainConfig, resume, train
from finetune.config import TrainingConfig
from finetune.config_io import settings
from finetune.errors import ConfigError, RunError
from finetune.training.events import EpochDone, Event, Note

Settings = dict[str, Any]


@pytest.fixture
def photos(make_photos: Callable[..., Path]) -> Path:
    return make_photos({"ant": 10, "bee": 10})


def test_settings_are_keywords(
    photos: Path, tmp_path: Path, tiny_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {**tiny_settings, "epochs": 2}
    result = train("photos", run="r", recipe={"flip_probability": 0.25}, **given)
    assert result.run.path == Path("runs/r")
    said = result.run.read(result.run.config_file)["settings"]
    assert said["training"]["epochs"] == 2
    assert said["recipe"]["flip_probability"] == 0.25


def test_keywords_are_laid_over_a_config(
    photos: Path, tmp_path: Path, tiny_settings: Settings
) -> None:
    config = TrainConfig(training=TrainingConfig(epochs=2, batch_size=4))
    flags = {k: v for k, v in tiny_settings.items() if k not in ("epochs", "batch_size")}
    result = train(photos, config, runs=tmp_path / "runs", **flags, epochs=1)
    said = result.run.read(result.run.config_file)["settings"]["training"]
    assert (said["epochs"], said["batch_size"]) == (1, 4)


def test_an_unknown_keyword_is_named_with_the_nearest(photos: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        train(photos, epoch=3)
    assert str(caught.value) == "unknown setting 'epoch' (did you mean 'epochs'?)."


def test_no_setting_has_the_name_of_a_parameter() -> None:
    import inspect

    own = set(inspect.signature(train).parameters) - {"settings"}
    assert "callback" in own
    assert not own & {setting.name for setting in settings()}


def test_several_listeners_and_own_metrics(
    photos: Path, tmp_path: Path, tiny_settings: Settings
) -> None:
    first: list[Event] = []
    second: list[Event] = []
    seen: list[tuple[Any, Any]] = []

    def macro_f1(logits: np.ndarray, targets: np.ndarray) -> float:
        seen.append((logits, targets))
        return float(f1_score(targets, logits.argmax(1), average="macro"))

    result = train(
        photos,
        runs=tmp_path / "runs",
        callback=[first.append, second.append],
        metrics={"macro_f1": macro_f1},
        **tiny_settings,
    )
    assert first == second
    epochs = [event for event in first if isinstance(event, EpochDone)]
    assert len(epochs) == 1
    assert any(isinstance(event, Note) for event in first)
    for event, line, (logits, targets) in zip(epochs, result.run.read_log(), seen, strict=False):
        assert logits.shape == (len(targets), 2)
        expected = f1_score(targets, logits.argmax(1), average="macro")
        assert event.metrics["macro_f1"] == line["metrics"]["macro_f1"] == expected


def test_a_run_goes_on_with_its_own_photos(
    photos: Path, tmp_path: Path, tiny_settings: Settings
) -> None:
    runs = tmp_path / "runs"
    first = train(photos, runs=runs, run="first", fit="pad", **tiny_settings)
    second = train(from_run="first", runs=str(runs), epochs=1, device="cpu")
    said = second.run.read(second.run.config_file)
    assert said["from"]["run"] == str(first.run.path.absolute())
    assert said["settings"]["pixels"]["fit"] == "pad"
    third = train(from_run=first.run.path, runs=runs, epochs=1, device="cpu", fit="crop")
    assert third.run.read(third.run.config_file)["settings"]["pixels"]["fit"] == "crop"
    with pytest.raises(ConfigError, match="Leave one of them out"):
        train(from_run="first", runs=runs, weights="x.pth")


def test_resume_takes_what_train_takes(
    photos: Path, tmp_path: Path, tiny_settings: Settings
) -> None:
    class StopError(Exception):
        pass

    def stop(event: Event) -> None:
        if isinstance(event, EpochDone):
            raise StopError

    with pytest.raises(StopError):
        train(photos, runs=tmp_path, run="r", mode="full", callback=stop, **tiny_settings)
    events: list[Event] = []
    result = resume(tmp_path / "r", callback=events.append, metrics={"one": lambda *_: 1})
    epochs = [event for event in events if isinstance(event, EpochDone)]
    assert epochs[-1].epoch == 3
    assert epochs[-1].metrics == {"one": 1.0}
    assert not result.interrupted
    with pytest.raises(RunError, match="is finished"):
        resume(tmp_path / "r")


def test_a_report_is_made_and_shown(
    photos: Path, tmp_path: Path, tiny_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = train(photos, run="r", **tiny_settings)
    assert "result.report()" in result._repr_html_()
    shown = result.report(explain=False)
    assert shown.path == Path("runs/r/report.html")
    assert shown.path.stat().st_size > 10_000
    assert '<iframe src="runs/r/report.html"' in shown._repr_html_()
    assert '<a href="runs/r/report.html"' in result._repr_html_()


def test_a_script_shows_nothing_by_itself(
    photos: Path, tmp_path: Path, tiny_settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    train(photos, runs=tmp_path / "runs", **tiny_settings)
    assert capsys.readouterr().out == ""


def test_a_notebook_shows_the_training_and_its_result(
    photos: Path, tmp_path: Path, tiny_settings: Settings
) -> None:
    pytest.importorskip("ipykernel")
    pytest.importorskip("nbclient")
    # In a Python of its own: a kernel's sockets must not outlive the test.
    code = (
        "import nbformat, sys\n"
        "from nbclient import NotebookClient\n"
        "cell = nbformat.v4.new_code_cell(sys.argv[1])\n"
        "book = nbformat.v4.new_notebook(cells=[cell])\n"
        "book.metadata['kernelspec'] = {'name': 'python3', 'display_name': 'x'}\n"
        "where = {'metadata': {'path': sys.argv[2]}}\n"
        "NotebookClient(book, timeout=200, startup_timeout=200, resources=where).execute()\n"
        "for output in cell.outputs:\n"
        "    sys.stdout.write('\\x00' + output.get('data', {}).get('text/html', ''))\n"
    )
    settings = {**tiny_settings, "mode": "full"}
    cell = f"from finetune import train\ntrain({str(photos)!r}, run='r', **{settings!r})"
    done = subprocess.run(
        [sys.executable, "-c", code, cell, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shown = [piece for piece in done.stdout.split("\x00") if piece]
    assert len(shown) == 2
    assert "Done in " in shown[0]
    assert shown[0].count("<polyline") == 4
    assert "3 / 3" in shown[0]
    assert "rows are the correct labels" in shown[1]


def test_the_names_are_offered() -> None:
    assert {"train", "resume", "TrainConfig", "Predictor"} <= set(finetune.__all__)
