from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result


@pytest.fixture
def run(run: Callable[..., Result], tiny_weights: Path) -> Callable[..., Result]:
    model = ("--model", "test_resnet", "--weights", tiny_weights)
    return lambda *words, **options: run("similar", *words, *model, **options)


@pytest.fixture
def pool(make_photos: Callable[..., Path]) -> Path:
    return make_photos({"disc": 4, "bars": 4})


@pytest.mark.parametrize("by", ["features", "hash"])
def test_photos_of_the_same_kind_are_gathered_in_order(
    by: str, run: Callable[..., Result], pool: Path, tmp_path: Path
) -> None:
    out, page = tmp_path / "out", tmp_path / "page.html"
    before = {path: path.read_bytes() for path in pool.rglob("*.jpg")}
    result = run(
        pool / "disc" / "000.jpg", "--from", pool, "--to", out, "--top", 5, "--by", by,
        "--output", page, "--json",
    )  # fmt: skip
    document = json.loads(result.stdout)
    assert len(document["photos"]) == 5
    assert str(pool / "disc" / "000.jpg") not in [entry["path"] for entry in document["photos"]]
    similarities = [entry["similarity"] for entry in document["photos"]]
    assert similarities == sorted(similarities, reverse=True)
    for entry in document["photos"]:
        assert Path(entry["placed"]).read_bytes() == Path(entry["path"]).read_bytes()
    (seed,) = document["placed_seeds"]
    assert Path(seed) == out / "000.jpg"
    assert Path(seed).read_bytes() == (pool / "disc" / "000.jpg").read_bytes()
    assert len(list(out.iterdir())) == 6
    assert page.read_text(encoding="utf-8").count("<img ") == 6
    assert {path: path.read_bytes() for path in pool.rglob("*.jpg")} == before


def test_a_table_shows_the_likest_first(run: Callable[..., Result], pool: Path) -> None:
    result = run(pool / "disc", "--from", pool, "--quiet")
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["#", "photo", "similarity", "nearest", "seed"]
    assert [line.split()[1] for line in lines[1:]] == sorted(
        (line.split()[1] for line in lines[1:]),
        key=lambda path: -float(next(line.split()[2] for line in lines if path in line)),
    )
    assert all(line.split()[1].startswith("bars/") for line in lines[1:])


def test_least_leaves_out_what_is_unlike(run: Callable[..., Result], pool: Path) -> None:
    result = run(pool / "disc" / "000.jpg", "--from", pool, "--least", "1.0")
    assert f"None of the 8 photos of {pool} is similar." in result.stdout


def test_link_option_makes_links(run: Callable[..., Result], pool: Path, tmp_path: Path) -> None:
    out = tmp_path / "links"
    result = run(
        pool / "disc" / "000.jpg", "--from", pool, "--to", out, "--link", "symlink", "--top", 2
    )
    assert all(path.is_symlink() for path in out.iterdir())
    assert "3 photos linked to" in result.stdout


@pytest.mark.parametrize(
    ("flag", "allowed"),
    [
        ("--by", "features, hash"),
        ("--like", "all, any"),
        ("--link", "copy, hardlink, symlink"),
    ],
)
def test_unknown_option_values_are_refused(
    flag: str, allowed: str, error_of: Callable[..., str], pool: Path
) -> None:
    assert error_of(pool, "--from", pool, flag, "magic") == f"{flag} magic is not one of {allowed}."


def test_a_folder_in_the_pool_is_refused_before_any_work(
    error_of: Callable[..., str], pool: Path
) -> None:
    out = pool / "found"
    assert error_of(pool / "disc", "--from", pool, "--to", out) == (
        f"--to {out} lies inside {pool}, where the next search would find the photos again. "
        "Choose a folder outside of it."
    )
    assert not (pool / ".finetune").exists()


def test_help_explains_when_to_use_each_method(run: Callable[..., Result]) -> None:
    text = " ".join(run("--help").output.split())
    assert "--by features compares what the photos show" in text
    assert "--by hash compares where they are bright and dark" in text
