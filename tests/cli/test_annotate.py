"""`finetune annotate` without a browser: its options, its errors, agreement, and moving photos."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from typer.testing import Result

from finetune.cli.annotate import read_label_list
from finetune.errors import ConfigError
from finetune.photos.catalog.catalog import open_catalog
from finetune.photos.scan import scan


def one_line(text: str) -> str:
    return " ".join(text.split())


def test_labels_come_as_a_list_or_a_file(tmp_path: Path) -> None:
    assert read_label_list(None) == []
    assert read_label_list(" wren, カワセミ,,wren ") == ["wren", "カワセミ"]
    file = tmp_path / "labels"
    file.write_text("grey heron\n\nwren, young\n", encoding="utf-8-sig")
    assert read_label_list(str(file)) == ["grey heron", "wren, young"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (" , ", "--labels ' , ' names no label. Give a,b,c or a file of labels."),
        ("gone.txt", "--labels gone.txt cannot be read: no such file or directory."),
    ],
)
def test_labels_that_are_none_are_refused(value: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_label_list(value)
    assert str(error.value) == message


def test_a_missing_folder_is_one_line(run: Callable[..., Result], tmp_path: Path) -> None:
    result = run("annotate", tmp_path / "gone", "--no-open", code=1)
    assert one_line(result.stderr) == one_line(
        f"Error: There is no folder {tmp_path / 'gone'}. "
        "Give a folder of photos, with or without subfolders."
    )


def test_a_folder_without_photos_is_one_line(run: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no photo")
    result = run("annotate", tmp_path, "--no-open", code=1)
    assert one_line(result.stderr) == one_line(
        f"Error: There are no photos in {tmp_path}. "
        "Give a folder of photos, with or without subfolders."
    )


def test_an_unknown_run_is_refused_before_the_page_opens(
    run: Callable[..., Result],
    make_photos: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    root = make_photos({"a": 1})
    monkeypatch.chdir(tmp_path)
    result = run("annotate", root, "--run", "nothing", "--no-open", code=1)
    assert "Error: " in result.stderr


def test_one_thing_at_a_time(run: Callable[..., Result]) -> None:
    result = run("annotate", "--apply", "--undo", code=1)
    assert result.stderr == "Error: Give one of --agreement, --apply and --undo.\n"


def test_apply_moves_photos_and_undo_moves_them_back(
    run: Callable[..., Result], make_photos: Callable[..., Path]
) -> None:
    root = make_photos({"a": 2, "b": 1})
    collection = scan(root, workers=1)
    with open_catalog(root) as catalog:
        catalog.set_labels([collection.photos[0].digest], ["b"])
    run("annotate", root, "--apply", stdin="n\n", code=1)
    assert (root / "a" / "000.jpg").is_file()
    done = run("annotate", root, "--apply", "--yes", "--json")
    assert json.loads(done.stdout) == [{"from": "a/000.jpg", "to": "b/000 (2).jpg"}]
    assert (root / "b" / "000 (2).jpg").is_file()
    again = run("annotate", root, "--apply", "--yes")
    assert again.stdout == "Every labeled photo is already in the folder of its label.\n"
    back = run("annotate", root, "--undo")
    assert back.stdout == "1 photos moved back.\n"
    assert (root / "a" / "000.jpg").is_file()


def test_agreement_of_two_people_is_printed(
    run: Callable[..., Result], make_photos: Callable[..., Path]
) -> None:
    root = make_photos({"a": 4})
    digests = [photo.digest for photo in scan(root, workers=1).photos]
    with open_catalog(root) as catalog:
        for name, votes in (("anna", "xxyy"), ("ben", "xyyy")):
            for digest, vote in zip(digests, votes, strict=True):
                with catalog.writer("vote", [digest]) as writer:
                    writer.set_decision(digest, f"label by {name}", json.dumps([vote]))
    result = run("annotate", root, "--agreement")
    assert result.stdout.splitlines()[0] == (
        "anna and ben: kappa 0.50, same label on 75\u202f% of 4 photos"
    )
    (pair,) = json.loads(run("annotate", root, "--agreement", "--json").stdout)
    assert pair["confusion"] == [[1, 1], [0, 2]]


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_the_command_prints_its_address_and_stops_on_interrupt(
    make_photos: Callable[..., Path], host: str
) -> None:
    root = make_photos({"a": 1})
    arguments = ["annotate", str(root), "--no-open", "--port", "0", "--host", host]
    with subprocess.Popen(
        [sys.executable, "-m", "finetune", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "400"},
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.fullmatch(r"Label your photos at (http://127\.0\.0\.1:\d+/)\?token=\S+\n", line)
        assert found is not None
        assert httpx.get(found.group(1), trust_env=False).status_code == 401
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "Stopped. Every decision is saved." in errors
    assert ("Note: --host 0.0.0.0 lets everyone on your network" in errors) == (host != "127.0.0.1")
