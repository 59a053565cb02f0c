"""`finetune report` and `finetune compare`, as typed."""

from __future__ import annotations

import dataclasses
import json
import webbrowser
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner, Result

from finetune.cli import app
from finetune.cli.console import output
from finetune.prediction.predictions import PhotoPrediction, Ranked
from finetune.prediction.predictor import Predictor

if TYPE_CHECKING:
    from finetune.photos.split.split import SplitRow
    from tests.reporting.conftest import MadeRun, RunMaker


RunCommand = Callable[..., Result]


@pytest.fixture
def run_command() -> RunCommand:
    """The function that runs a command line."""

    def run(*words: str) -> Result:
        # The console took the real streams when it was made; the runner swaps them later.
        result = CliRunner().invoke(app, list(words))
        output.json = output.quiet = False
        return result

    return run


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes and errors printed to stderr."""
    told: list[str] = []
    for name in ("warn", "error", "info"):
        monkeypatch.setattr(output, name, told.append)
    return told


def test_report_writes_the_page_and_says_what_is_in_it(
    run_command: RunCommand, run_maker: RunMaker
) -> None:
    run = run_maker(photo_count=60)
    result = run_command("report", str(run.path), "--json")
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    assert told["report"] == str(run.path / "report.html")
    assert (told["part"], told["photos"], told["shown"], told["failed"]) == ("test", 9, 9, {})
    assert told["bytes"] == (run.path / "report.html").stat().st_size


def test_report_takes_the_newest_run(
    run_command: RunCommand, run_maker: RunMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_maker(photo_count=60)
    monkeypatch.chdir(run.path.parent.parent)
    assert run_command("report", "--max-photos", "0").exit_code == 0
    assert (run.path / "report.html").is_file()


def test_report_goes_where_it_is_told_and_opens(
    run_command: RunCommand, run_maker: RunMaker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    run = run_maker(photo_count=60)
    page = tmp_path / "deep" / "page.html"
    result = run_command("report", str(run.path), "-o", str(page), "--part", "validation", "--open")
    assert result.exit_code == 0
    assert opened == [page.resolve().as_uri()]
    assert not (run.path / "report.html").exists()


def test_report_without_its_photos_says_so_and_how_to_help(
    run_command: RunCommand, run_maker: RunMaker, said: list[str]
) -> None:
    run = run_maker(photo_count=60)
    moved = run.photos.rename(run.photos.with_name("elsewhere"))
    assert run_command("report", str(run.path)).exit_code == 0
    assert said == [
        "The photos have been moved or deleted, so the report shows them by name. "
        "Give their folder with --photos."
    ]
    result = run_command("report", str(run.path), "--photos", str(moved), "--json")
    assert json.loads(result.stdout)["shown"] == 9


def test_report_names_the_first_photo_that_could_not_be_opened(
    run_command: RunCommand, run_maker: RunMaker, said: list[str]
) -> None:
    run = run_maker(photo_count=60)
    for path in run.photos.rglob("*.jpg"):
        path.write_bytes(b"nothing")
    assert run_command("report", str(run.path), "--no-explain").exit_code == 0
    assert "9 of 9 photos could not be opened and are shown by name; the first is " in said[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--photos", "nowhere"], "--photos nowhere is not a folder."),
        (["-o", "."], "--output . is a folder. Name a file, such as ./report.html."),
    ],
)
def test_report_names_a_flag_that_cannot_work(
    run_command: RunCommand, run_maker: RunMaker, said: list[str], words: list[str], message: str
) -> None:
    run = run_maker(photo_count=20, draw=False)
    assert run_command("report", str(run.path), *words).exit_code == 1
    assert said == [message]


def test_report_of_no_run_is_one_line(
    run_command: RunCommand, said: list[str], tmp_path: Path
) -> None:
    assert run_command("report", str(tmp_path / "none")).exit_code == 1
    assert len(said) == 1
    assert "none" in said[0]


def test_compare_prints_table_settings_and_verdict(
    run_command: RunCommand, two_run_folders: tuple[MadeRun, MadeRun]
) -> None:
    result = run_command("compare", *[str(run.path) for run in two_run_folders], "--json")
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    assert [row["name"] for row in told["rows"]] == ["one", "two"]
    assert told["photos"] == 30
    assert told["settings"] == {"training.lr": [0.003, 0.01]}
    output.stdout.width, width = 200, output.stdout.width
    with output.stdout.capture() as captured:
        assert run_command("compare", *[str(run.path) for run in two_run_folders]).exit_code == 0
    output.stdout.width = width
    text = captured.get()
    assert told["pairs"][0]["verdict"] in text.replace("\n", " ")
    assert "training.lr" in text
    assert "On 30 photos; second: the right answer was the second likeliest." in text
    changes = text.partition("change")[2]
    for label in two_run_folders[0].labels:
        assert label in changes  # none is left out
    assert "one: best 53.18\u202f% at epoch 12 after 50 s" in text
    assert "only two: " in text


def test_compare_writes_a_page_and_opens_it(
    run_command: RunCommand,
    two_run_folders: tuple[MadeRun, MadeRun],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.chdir(tmp_path)
    words = [str(run.path) for run in two_run_folders]
    assert run_command("compare", *words, "--open", "--quiet").exit_code == 0
    assert opened == [(tmp_path / "comparison.html").as_uri()]
    assert "training.lr" in (tmp_path / "comparison.html").read_text("utf-8")


def test_chosen_photos_are_followed(
    run_command: RunCommand,
    said: list[str],
    two_run_folders: tuple[MadeRun, MadeRun],
    tmp_path: Path,
) -> None:
    words = ["compare", *[str(run.path) for run in two_run_folders]]
    told = json.loads(run_command(*words, "--json").stdout)
    first, second = (photo["path"] for photo in told["followed"][:2])
    listed = tmp_path / "chosen.txt"
    listed.write_text(f"{second}\n\n{first}\n", "utf-8")
    told = json.loads(run_command(*words, "--follow", str(listed), "--json").stdout)
    assert [photo["path"] for photo in told["followed"]] == [second, first]
    assert [len(answers) for answers in told["followed"][0]["answers"]] == [5, 5]
    told = json.loads(run_command(*words, "--follow", f"{first},{second}", "--json").stdout)
    assert [photo["path"] for photo in told["followed"]] == [first, second]
    assert run_command(*words, "--follow", "nowhere.jpg").exit_code == 1
    assert said[-1].startswith("--follow: nowhere.jpg is no photo that all runs predicted.")


def test_compare_needs_two_different_runs(
    run_command: RunCommand, two_run_folders: tuple[MadeRun, MadeRun], said: list[str]
) -> None:
    one = str(two_run_folders[0].path)
    assert run_command("compare", one).exit_code == 1
    assert run_command("compare", one, one).exit_code == 1
    assert run_command("compare", one, "x", "--on", ".", "--part", "test").exit_code == 1
    assert said == [
        "finetune compare needs two runs or more. See your runs with: ls runs",
        "A run is named twice. Name each run once.",
        "--on and --part exclude each other: a folder has no parts of a run.",
    ]


class FakePredictor:
    """Says the folder's name of every photo, or always heron."""

    def __init__(self, always: str | None) -> None:
        self.always = always

    def predict_stream(self, photos: Iterable[Path]) -> Iterator[PhotoPrediction]:
        for path in photos:
            label = self.always or path.parent.name
            ranked = (Ranked(label=label, probability=0.9),)
            yield PhotoPrediction(photo=str(path), status="sure", ranked=ranked)


@pytest.fixture
def labeled(tmp_path: Path, run_maker: RunMaker) -> Path:
    """Three photos of two labels, and one that lies in no label's folder."""
    drawn = run_maker(photo_count=30, label_count=30)
    files = sorted(drawn.photos.rglob("*.jpg"))[:4]
    root = tmp_path / "new"
    for file, place in zip(files, ("heron/1", "heron/2", "wren/3", "4"), strict=True):
        target = root / f"{place}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    return root


@pytest.fixture
def fake_predictors(
    monkeypatch: pytest.MonkeyPatch, two_run_folders: tuple[MadeRun, MadeRun]
) -> list[str]:
    """The names of two runs, of which one predicts heron and the other the folder."""
    fakes = {run.path: FakePredictor(a) for run, a in zip(two_run_folders, ("heron", None))}  # noqa: B905
    monkeypatch.setattr(Predictor, "load", lambda run, device: fakes[run])
    return [str(run.path) for run in two_run_folders]


def test_compare_on_a_folder_asks_every_run_about_its_photos(
    run_command: RunCommand, fake_predictors: list[str], labeled: Path, said: list[str]
) -> None:
    result = run_command("compare", *fake_predictors, "--on", str(labeled), "--json")
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    assert told["photos"] == 3
    assert [row["top1"] for row in told["rows"]] == [pytest.approx(2 / 3), 1.0]
    assert told["pairs"][0]["only_second"][0]["path"] == "wren/3.jpg"
    assert told["left_out"] == f"Left out of {labeled}: 1 photo with no label or several."


def test_compare_on_a_folder_leaves_out_what_a_run_has_learned(
    run_command: RunCommand,
    run_maker: RunMaker,
    fake_predictors: list[str],
    labeled: Path,
    said: list[str],
    two_run_folders: tuple[MadeRun, MadeRun],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from finetune.photos.scan import scan
    from finetune.photos.split.split import read_split

    digest = next(p.digest for p in scan(labeled).photos if p.path == "wren/3.jpg")

    def taught(path: Path) -> tuple[SplitRow, ...]:
        rows = read_split(path)
        trained = next(row for row in rows if row.part == "train")
        return (*rows, dataclasses.replace(trained, path="x", digest=digest))

    monkeypatch.setattr("finetune.reporting.run_record.read_split", taught)
    result = run_command("compare", *fake_predictors, "--on", str(labeled), "--json")
    assert json.loads(result.stdout)["photos"] == 2
    assert said == [
        f"Left out of {labeled}: 1 photo with no label or several, "
        "1 photo that one of the runs was trained or validated on."
    ]


def test_compare_on_a_folder_with_nothing_new_is_refused(
    run_command: RunCommand, fake_predictors: list[str], labeled: Path, said: list[str]
) -> None:
    for file in (labeled / "heron").iterdir():
        file.unlink()
    (labeled / "wren" / "3.jpg").unlink()
    assert run_command("compare", *fake_predictors, "--on", str(labeled)).exit_code == 1
    assert said == [
        f"--on {labeled} has nothing to compare on. "
        f"Left out of {labeled}: 1 photo with no label or several."
    ]
