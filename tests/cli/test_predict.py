from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import Result


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory, train_tiny: Callable[..., Path]) -> Path:
    root = tmp_path_factory.mktemp("home")
    train_tiny(root)
    return root


@pytest.fixture(autouse=True)
def _at_home(cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(cache_dir)


def test_folders_patterns_and_stdin_give_the_same_photos(run: Callable[..., Result]) -> None:
    by_folder = json.loads(run("predict", "photos/ant", "--json").stdout)
    by_pattern = json.loads(run("predict", "photos/*nt/*.png", "--json").stdout)
    names = "".join(f"photos/ant/{number}.png\n" for number in range(8))
    by_stdin = json.loads(run("predict", "-", "--json", stdin=names).stdout)
    by_nulls = json.loads(run("predict", "-", "--json", stdin=names.replace("\n", "\0")).stdout)
    assert by_folder == by_pattern == by_stdin == by_nulls
    address = Path("photos/ant/0.png").absolute().as_uri()
    # Alone as well: a batch of another size is rounded otherwise on some machines.
    by_address = json.loads(run("predict", address, "--json").stdout)
    by_path = json.loads(run("predict", "photos/ant/0.png", "--json").stdout)
    assert [row["ranked"] for row in by_address] == [row["ranked"] for row in by_path]
    assert len(by_folder) == 8


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux alone")
def test_every_file_of_a_folder_has_a_row(run: Callable[..., Result], tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    photo = Path("photos/ant/0.png").read_bytes()
    (folder / "ok.png").write_bytes(photo)
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.png")).write_bytes(photo)
    (folder / "gone.png").symlink_to("nowhere.png")
    (folder / "raw.CR2").write_bytes(b"raw")
    os.mkfifo(folder / "pipe.png")
    result = run("predict", folder, "--json", code=1)
    found = {row["photo"].rpartition("/")[2]: row.get("error") for row in json.loads(result.stdout)}
    assert found == {
        "caf\udce9.png": None,
        "gone.png": "a link to a file that is not there",
        "ok.png": None,
        "pipe.png": "not a regular file",
    }
    assert "camera files of kinds that are not read: .cr2 (1)." in result.stderr.replace("\n", " ")
    (folder / "ok.png").unlink()
    run("predict", tmp_path / "i*" / "g*.png", code=1)


def test_many_photos_are_a_line_each(run: Callable[..., Result]) -> None:
    Path("bad.jpg").write_bytes(b"x")
    lines = run("predict", "photos", "bad.jpg", code=1).stdout.splitlines()
    assert lines[0].split() == ["answer", "probability", "photo"]
    assert [line.split()[-1] for line in lines[1:-1]] == sorted(
        str(path) for path in Path("photos").rglob("*.png")
    )
    assert lines[1].endswith("photos/ant/0.png")
    assert lines[-1].endswith("bad.jpg: cannot be opened: not a photo")


def test_top_lists_further_labels_of_many_photos(run: Callable[..., Result]) -> None:
    told = json.loads(run("predict", "photos", "--top", "2", "--json").stdout)
    lines = run("predict", "photos", "--top", "2").stdout.splitlines()[1:]
    assert len(lines) == len(told) == 16
    for line, photo in zip(lines, told, strict=True):
        second = photo["ranked"][1]
        assert f"  then: {second['label']} " in line
        assert line.index(photo["photo"]) < line.index("  then: ")
    assert "then:" not in run("predict", "photos").stdout


def test_a_csv_is_gone_on_with_after_a_kill(
    run: Callable[..., Result],
    tmp_path: Path,
    run_child: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    whole, cut = tmp_path / "whole.csv", tmp_path / "cut.csv"
    run("predict", "photos", "--csv", whole)
    code = (
        "import sys, os, signal\n"
        "from finetune.prediction.table import PredictionTable\n"
        "real, seen = PredictionTable.add_all, []\n"
        "def add_all(self, answers):\n"
        "    real(self, answers[:1] if seen else answers)\n"
        "    seen.extend(answers)\n"
        "    if len(seen) == 16:\n"
        "        self._file.write(b'photos/half a ro')\n"
        "        self._file.flush()\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "PredictionTable.add_all = add_all\n"
        "from finetune.cli import app\n"
        f"app(['predict', 'photos', '--csv', {str(cut)!r}])\n"
    )
    killed = run_child(code)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert cut.read_bytes().endswith(b"half a ro")
    again = run("predict", "photos", "--csv", cut)
    assert "has 9 of them already" in again.stderr
    rows = [
        list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines())) for path in (whole, cut)
    ]
    assert [row[:3] for row in rows[0]] == [row[:3] for row in rows[1]]
    assert len(rows[1]) == 17
    for first, second in zip(rows[0][1:], rows[1][1:], strict=True):
        assert float(first[3]) == pytest.approx(float(second[3]), abs=1e-6)


_KILLED = """
import os, signal, sys
from finetune.prediction.table import PredictionTable
real, left = PredictionTable.add_all, int(os.environ["KILL_AFTER"])
def add_all(self, predictions):
    global left
    for prediction in predictions:
        if left == 0:
            self._file.write(b"photos/half a ro")
            self._file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        real(self, [prediction])
if left >= 0:
    PredictionTable.add_all = add_all
from finetune.__main__ import main
sys.argv[0] = "finetune"
main()
"""
"""A process that is killed after some rows, in the middle of one; a negative number spares it."""


def test_two_processes_write_the_table_of_one_whatever_is_killed(
    run: Callable[..., Result],
    tmp_path: Path,
    run_children: Callable[..., list[subprocess.CompletedProcess[str]]],
) -> None:
    whole = tmp_path / "whole.csv"
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no photo")
    more = shutil.copytree("photos/ant", tmp_path / "more")
    photos = ["photos/ant", "photos/bee", str(bad), str(more)]
    run("predict", *photos, "--csv", whole, code=1)
    rng = random.Random(0)
    tables = [tmp_path / f"{number}.csv" for number in range(10)]
    for number, table in enumerate(tables):
        # The first table is made without a kill.
        kills = [rng.randrange(8) if rank == number % 2 and number else -1 for rank in (0, 1)]
        for attempt in (kills, [-1, -1]):
            done = run_children(
                _KILLED,
                *(["predict", *photos, "--csv", str(table)] for _ in (0, 1)),
                environments=[
                    {"RANK": str(rank), "WORLD_SIZE": "2", "KILL_AFTER": str(attempt[rank])}
                    for rank in (0, 1)
                ],
            )
            codes = [one.returncode for one in done]
            if attempt is kills and number:
                assert codes == [0 if kill < 0 else -signal.SIGKILL for kill in kills]
                assert not table.exists()
            else:
                # The process that ends last says that a photo could not be opened.
                assert sorted(codes) == [0, 1], [one.stderr for one in done]
                break
        assert {path.name for path in tmp_path.glob(f"{table.name}*")} == {table.name}
        rows = [_rows(path) for path in (whole, table)]
        assert [row[:2] for row in rows[0]] == [row[:2] for row in rows[1]]
        assert [row[-2:] for row in rows[0]] == [row[-2:] for row in rows[1]]
        for one, other in zip(rows[0][1:], rows[1][1:], strict=True):
            if one[3]:
                # Torch rounds otherwise in another batch, which a killed process leaves.
                assert float(one[3]) == pytest.approx(float(other[3]), abs=1e-6)
    assert tables[0].read_bytes() == whole.read_bytes()


def _rows(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "Several processes predict into one table: add --csv FILE, or leave out torchrun or"),
        (["--csv", "x.csv", "--json"], "--json works in one process only. Leave it out, or leave"),
        (["--csv", "x.csv", "--by", "burst"], "--by burst works in one process only."),
    ],
)
def test_what_several_processes_cannot_do_is_said(
    flags: list[str],
    message: str,
    error_of: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert error_of("predict", "photos", *flags).startswith(message)


def test_one_process_finishes_what_several_began(
    run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, table = tmp_path / "whole.csv", tmp_path / "table.csv"
    run("predict", "photos", "--csv", whole)
    monkeypatch.setenv("WORLD_SIZE", "2")
    begun = run("predict", "photos", "--csv", table)
    assert "The last process to end will merge all rows" in begun.stderr
    monkeypatch.delenv("WORLD_SIZE")
    ended = run("predict", "photos", "--csv", table)
    assert f"{table} has 8 of them already." in ended.stderr
    assert f"16 rows added to {table}." in ended.stderr
    assert table.read_bytes() == whole.read_bytes()


def test_sorting_and_taking_it_back(run: Callable[..., Result], tmp_path: Path) -> None:
    out = tmp_path / "sorted"
    shown = run(
        "predict", "photos", "--sort-into", out, "--transfer", "link", "--threshold", "1", "--json"
    )
    assert all(prediction["status"] == "unsure" for prediction in json.loads(shown.stdout))
    assert len(list((out / "_unsure").iterdir())) == 16
    assert "Undo with: finetune predict --sort-into" in shown.stderr
    assert "Undone for 16 photos." in run("predict", "--sort-into", out, "--undo").stdout
    assert not out.exists()


def test_moving_asks_first(
    run: Callable[..., Result], tmp_path: Path, draw: Callable[..., Image.Image]
) -> None:
    box = tmp_path / "in"
    box.mkdir()
    draw(0, 1).save(box / "a.png")
    out = tmp_path / "out"
    words = ("predict", box, "--sort-into", out, "--transfer", "move")
    run(*words, stdin="n\n", code=1)
    assert (box / "a.png").exists()
    run(*words, "--yes")
    assert list(box.iterdir()) == []
    run("predict", "--sort-into", out, "--undo")
    assert (box / "a.png").exists()


def test_explaining_writes_a_picture_and_names_photos_like_it(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    photo = "photos/bee/1.png"
    shown = run("predict", photo, "--explain", tmp_path / "heat", "--similar", 2, "--json")
    (prediction,) = json.loads(shown.stdout)
    with Image.open(prediction["overlay"]) as overlay:
        assert overlay.size == (448, 448 + 36)  # a caption below it
    assert Path(prediction["overlay"]).name == "1.png"
    assert len(prediction["similar"]) == 2
    assert str(Path(photo).absolute()) not in {item["photo"] for item in prediction["similar"]}
    literal = run("predict", photo, "--explain", tmp_path / "heat", "--similar", 2)
    assert "It looks like these training photos:" in literal.stdout


def test_tta_changes_probabilities_a_little_and_several_runs_are_named(
    run: Callable[..., Result],
) -> None:
    photo = ("predict", "photos/ant/0.png", "--json")
    predictions = [
        json.loads(run(*photo, "--tta", views).stdout)[0]["ranked"][0] for views in (1, 2, 10)
    ]
    shares = [prediction["probability"] for prediction in predictions]
    assert shares[0] != pytest.approx(shares[1], abs=1e-5)
    # The network sees the whole working image, so that its corners are the center.
    assert shares[2] == pytest.approx(shares[1], abs=1e-6)
    both = run(*photo, "--run", "tiny", "--run", "tiny")
    assert "By tiny+tiny" in both.stderr
    assert json.loads(both.stdout)[0]["ranked"][0]["probability"] == pytest.approx(
        predictions[0]["probability"], abs=1e-9
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "Which photos? Name some, or a folder: finetune predict photo.jpg"),
        (("x", "--transfer", "burn"), "--transfer burn is not one of copy, link, move."),
        (("x", "--tta", "3"), "--tta 3 is not one of 1, 2, 10."),
        (("x", "--threshold", "2"), "--threshold 2 must lie between 0 and 1."),
        (("*.nothing",), "No photo matches *.nothing."),
        (
            ("x", "--run", "none.onnx"),
            "There is no file none.onnx. Make one with: finetune export --format onnx",
        ),
        (
            ("x", "--sort-into", "y", "--undo"),
            "--undo takes no photos; it undoes an earlier sorting.",
        ),
        (
            ("--sort-into", "y", "--undo"),
            "There is nothing to undo in y: nothing was sorted into it.",
        ),
    ],
)
def test_impossible_options_are_an_error_of_one_line(
    error_of: Callable[..., str], words: tuple[str, ...], message: str
) -> None:
    assert error_of("predict", *words) == message


def test_no_photo_on_stdin_is_an_empty_list(run: Callable[..., Result]) -> None:
    assert json.loads(run("predict", "-", "--json", stdin="").stdout) == []


def test_memory_does_not_grow_with_the_number_of_photos(
    run_child: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from finetune import Predictor\n"
        "predictor = Predictor.load('runs/tiny')\n"
        "def predict(count):\n"
        "    photos = (Path('photos/ant/0.png') for _ in range(count))\n"
        "    for answer in predictor.predict_stream(photos): pass\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "few = predict(200)\n"
        "print((predict(1200) - few) / 1024)\n"
    )
    done = run_child(code)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 8  # MiB
