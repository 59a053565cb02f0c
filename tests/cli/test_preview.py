from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import Result

Run = Callable[..., Result]


@pytest.fixture
def folder(make_photos: Callable[..., Path]) -> Path:
    return make_photos({"gull": 3, "tern": 2})


def test_it_writes_a_picture_and_a_page_and_prints_where(
    run: Run, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "look.png"
    done = run("preview", folder, "--augment", "mobius", "--size", 32, "--draws", 3, "-o", out)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [str(out), str(out.with_suffix(".html"))]
    with Image.open(out) as image:
        assert image.width == 2 * 12 + 4 * 32 + 3 * 6
    page = out.with_suffix(".html").read_text()
    assert "<th scope=row>mobius_probability</th><td>0.2</td>" in page


def test_photos_are_taken_from_each_folder_in_turn(run: Run, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "look.png"
    done = run("preview", folder, "--json", "--size", 32, "--draws", 1, "--rows", 3, "-o", out)
    document = json.loads(done.stdout)
    assert [Path(name).parent.name for name in document["photos"]] == ["gull", "tern", "gull"]
    assert document["png"] == str(out)


def test_one_photo_is_enough(run: Run, folder: Path, tmp_path: Path) -> None:
    photo = folder / "gull" / "000.jpg"
    done = run("preview", photo, "--presets", "--json", "--size", 32, "-o", tmp_path / "p.png")
    assert json.loads(done.stdout)["photos"] == ["000.jpg"]
    assert "counter-clockwise half-twist" in (tmp_path / "p.html").read_text()


def test_numbers_come_from_a_file_and_from_the_command_line(
    run: Run, folder: Path, tmp_path: Path
) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[recipe]\nmobius_bound = 1.25\nmobius_mode = "on_top"\n')
    run(
        "preview", folder, "--augment", "mobius", "--config", config,
        "--set", "mobius_probability=1", "--size", 32, "--draws", 1, "-o", tmp_path / "p.png",
    )  # fmt: skip
    page = (tmp_path / "p.html").read_text()
    for name, value in (("bound", "1.25"), ("mode", "on_top"), ("probability", "1")):
        assert f"<th scope=row>mobius_{name}</th><td>{value}</td>" in page


def test_a_saved_pipeline_can_be_looked_at(run: Run, folder: Path, tmp_path: Path) -> None:
    out, mine = tmp_path / "p.png", tmp_path / "mine.yaml"
    done = run("preview", folder, "--size", 32, "--draws", 1, "-o", out, "--save-pipeline", mine)
    assert done.stdout.splitlines()[-1] == str(mine)
    again = run("preview", folder, "--augment", mine, "--size", 32, "--draws", 2, "-o", out)
    assert (again.exit_code, again.stderr) == (0, "")


def test_a_broken_photo_is_left_out_and_named(run: Run, folder: Path, tmp_path: Path) -> None:
    broken = folder / "gull" / "001.jpg"
    broken.write_bytes(b"\xff\xd8\xff nothing more")
    out = tmp_path / "p.png"
    done = run("preview", folder, "--json", "--size", 32, "--draws", 1, "--rows", 9, "-o", out)
    assert f"Note: {broken} is left out: " in done.stderr
    assert len(json.loads(done.stdout)["photos"]) == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--augment", "moebius"], "--augment moebius: no such recipe; did you mean 'mobius'? "),
        (["--set", "hue"], "--set hue is not NAME=VALUE, such as mobius_bound=1.5."),
        (["--set", "hue=9"], "[recipe] hue 9.0 must be at most 0.5."),
        (["--augment", "none.yaml"], "--augment none.yaml: No such file or directory."),
    ],
)
def test_what_cannot_work_ends_in_one_line(
    run: Run, folder: Path, words: list[str], message: str
) -> None:
    done = run("preview", folder, *words, code=1)
    assert done.stdout == ""
    assert done.stderr.startswith("Error: " + message)
    assert len(done.stderr.splitlines()) == 1


def test_a_missing_folder_and_an_empty_one_are_named(run: Run, tmp_path: Path) -> None:
    missing = run("preview", tmp_path / "nowhere", code=1)
    assert missing.stderr == f"Error: There is no folder or photo {tmp_path}/nowhere.\n"
    empty = tmp_path / "empty"
    empty.mkdir()
    nothing = run("preview", empty, code=1)
    assert nothing.stderr == f"Error: There are no photos in {empty} that can be opened.\n"
