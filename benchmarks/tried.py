"""Tries the kinds of faults of docs/tried.md on collections, tables and runs made by code.

    python benchmarks/tried.py [NUMBER ...]

Prints a line for each kind: its number, "right", or what went wrong.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from finetune.cli import app

TINY = ["--model", "simple_cnn", "--weights", "none", "--mode", "full", "--size", "32"]
TINY += ["--epochs", "1", "--validation", "0.25", "--quiet"]

KINDS: dict[int, tuple[str, Callable[[Path], None]]] = {}


@dataclass(frozen=True, kw_only=True)
class Done:
    """Result of a command."""

    code: int
    out: str
    err: str

    @property
    def value(self) -> Any:
        """The JSON document on stdout."""
        return json.loads(self.out)

    def fails_in_one_line(self, *words: str) -> None:
        """Raises AssertionError unless there is one error, with these words."""
        errors = [line for line in self.err.splitlines() if line.startswith("Error: ")]
        assert self.code in (1, 2), self.code
        assert len(errors) == 1, self.err[-800:]
        for word in words:
            assert word in errors[0], (word, errors[0])


def run(*words: object, code: int | None = 0) -> Done:
    """Runs a command; `code` is the exit code that it must have, None: any."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    done = Done(code=result.exit_code, out=result.stdout, err=result.stderr)
    assert code is None or done.code == code, (done.code, done.err[-800:])
    return done


def photo(kind: int, seed: int, side: int = 64) -> Image.Image:
    """Draws a disc or a square on noise."""
    rng = np.random.default_rng(seed)
    noise = Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8))
    image = noise.resize((side, side), Image.Resampling.BICUBIC)
    x, y = rng.integers(4, 36, 2).tolist()
    draw = ImageDraw.Draw(image)
    shape = draw.ellipse if kind % 2 else draw.rectangle
    shape((x, y, x + 24, y + 24), ((220, 40, 40), (40, 60, 220))[kind % 2])
    return image


def draw(root: Path, counts: dict[str, int], suffix: str = ".jpg") -> Path:
    """Draws photos into folders."""
    for kind, (folder, count) in enumerate(counts.items()):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            image = photo(kind, hash_of(f"{folder} {number}"))
            image.save(root / folder / f"{number}{suffix}", quality=90)
    return root


def hash_of(text: str) -> int:
    """Returns a number of a text, the same in every process."""
    return int.from_bytes(text.encode()[-7:], "big")


def labels_of(root: Path) -> dict[str, int]:
    """Returns the number of photos by label, as scan says."""
    return {row["label"]: row["photos"] for row in run("scan", root, "--json").value["labels"]}


def issues_of(root: Path) -> dict[str, Any]:
    """Returns the issues that scan finds, by kind."""
    return {issue["kind"]: issue for issue in run("scan", root, "--json").value["issues"]}


def trained(root: Path, *options: object) -> Path:
    """Returns a tiny run trained on photos."""
    name = root.parent / f"run-{root.name}"
    run("train", root, "--name", name, *TINY, *options)
    return name


def rows_of(*words: object, code: int | None = 0) -> dict[str, Any]:
    """Returns the predicted rows by photo."""
    return {row["photo"]: row for row in run("predict", *words, "--json", code=code).value}


def kind(number: int, title: str) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    """Registers a kind."""

    def register(function: Callable[[Path], None]) -> Callable[[Path], None]:
        KINDS[number] = (title, function)
        return function

    return register


@kind(1, "a label folder that is empty or has only broken photos")
def _(w: Path) -> None:
    root = draw(w / "p", {"a": 8, "b": 8})
    (root / "empty").mkdir()
    (root / "broken").mkdir()
    (root / "broken/x.jpg").write_bytes(b"\xff\xd8\xffbroken")
    assert json.loads((trained(root) / "labels.json").read_text()) == ["a", "b"]
    assert "unreadable" in issues_of(root)


@kind(2, "labels that are numbers: leading zeros kept, the same order in all files")
def _(w: Path) -> None:
    root = draw(w / "p", {"10": 6, "2": 6, "007": 6})
    made = trained(root)
    labels = json.loads((made / "labels.json").read_text())
    assert set(labels) == {"2", "10", "007"}, labels
    assert json.loads((made / "timm/config.json").read_text())["label_names"] == labels


@kind(3, "the parent folder is given: all photos below one folder")
def _(w: Path) -> None:
    root = draw(w / "p", {"mine/a": 4, "mine/b": 4})
    assert "one_folder" in issues_of(root)


@kind(4, "suffixes in capitals, .jpe and .jfif")
def _(w: Path) -> None:
    root = draw(w / "p", {"a": 3})
    for number, suffix in enumerate((".JPG", ".jpe", ".jfif")):
        (root / f"a/{number}.jpg").rename(root / f"a/{number}{suffix}")
    assert labels_of(root) == {"a": 3}


@kind(5, "a run that was moved to another folder, its photos gone")
def _(w: Path) -> None:
    root = draw(w / "p", {"a": 8, "b": 8})
    moved = shutil.move(trained(root), w / "elsewhere")
    (w / "one.jpg").write_bytes((root / "a/0.jpg").read_bytes())
    shutil.rmtree(root)
    assert rows_of(w / "one.jpg", "--run", moved)[str(w / "one.jpg")]["ranked"]


@kind(6, "photos whose names have blanks, #, %, ?, brackets and a leading dash")
def _(w: Path) -> None:
    made = trained(draw(w / "p", {"a": 8, "b": 8}))
    names = ["a b.jpg", "a#b.jpg", "a%20b.jpg", "a?b.jpg", "a[1].jpg", "-dash.jpg", "a*b.jpg"]
    (w / "in").mkdir()
    for number, name in enumerate(names):
        photo(0, number).save(w / "in" / name)
    assert {Path(name).name for name in rows_of(w / "in", "--run", made)} == set(names)
    assert len(rows_of(w / "in/a[1].jpg", "--run", made)) == 1


@kind(7, "a validation folder with a label that train lacks")
def _(w: Path) -> None:
    root = draw(w / "p", {"train/a": 6, "train/b": 6, "val/a": 3, "val/b": 3, "val/c": 3})
    run("train", root, "--name", w / "r", *TINY, code=None).fails_in_one_line("'c'")


@kind(8, "a photo replaced by another of the same name, size and time after a scan")
def _(w: Path) -> None:
    root = w / "p"
    (root / "a").mkdir(parents=True)
    file = root / "a/0.png"
    content = []
    for level in (10, 200):
        target = io.BytesIO()
        Image.fromarray(np.full((40, 40, 3), level, np.uint8)).save(target, "BMP")
        content.append(target.getvalue())
    file.write_bytes(content[0])
    before = file.stat()
    assert "dark" in issues_of(root)
    time.sleep(0.05)
    file.write_bytes(content[1])
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert "dark" not in issues_of(root)


@kind(9, "only a folder train, no validation: label names")
def _(w: Path) -> None:
    root = draw(w / "p", {"train/a": 3, "train/b": 3})
    assert labels_of(root / "train") == {"a": 3, "b": 3}
    shutil.rmtree(root / "train/.finetune")
    assert "one_folder" in issues_of(root)  # scan says that the folder is part of the labels


@kind(10, "a Mac's resource forks, Thumbs.db and .ipynb_checkpoints among the photos")
def _(w: Path) -> None:
    root = draw(w / "p", {"a": 3})
    (root / "a/._0.jpg").write_bytes(b"fork")
    (root / "a/Thumbs.db").write_bytes(b"thumbs")
    draw(root, {"a/.ipynb_checkpoints": 2, "__MACOSX": 1})
    assert labels_of(root) == {"a": 3}
    assert not run("scan", root, "--json").value["problems"]


@kind(11, "a table with absolute paths of another computer, Windows and Linux")
def _(w: Path) -> None:
    root = draw(w / "photos", {"x": 2, "y": 2})
    (w / "t.csv").write_text(
        "path,label\n"
        r"C:\Users\me\photos\x\0.jpg,fox" + "\n/home/me/photos/x/1.jpg,fox\n"
        r"D:\photos\y\0.jpg,owl" + "\n/mnt/photos/y/1.jpg,owl\n"
    )
    run("import", w / "t.csv", root)
    assert labels_of(root) == {"fox": 2, "owl": 2}


@kind(12, "columns named filepath and ground_truth; label")
def _(w: Path) -> None:
    root = draw(w / "p", {"x": 2})
    for columns in ("filepath,ground_truth", "filepath,label"):
        (w / "t.csv").write_text(f"{columns}\nx/0.jpg,fox\nx/1.jpg,owl\n")
        run("import", w / "t.csv", root, "--overwrite")
        assert labels_of(root) == {"fox": 1, "owl": 1}, columns


@kind(13, "equal file names in several folders, exported flat")
def _(w: Path) -> None:
    root = draw(w / "p", {"x": 2, "y": 2})
    (w / "t.csv").write_text(
        "path,label\n" + "".join(f"{f}/{n}.jpg,fox\n" for f in "xy" for n in "01")
    )
    run("import", w / "t.csv", root)
    run("export-photos", w / "out", root)
    assert len(list((w / "out/fox").iterdir())) == 4


@kind(14, "labels with commas, quotes and leading = through CSV and back")
def _(w: Path) -> None:
    names = ["a,b", 'say "x"', "=1+1", "-x", "@y"]
    root = draw(w / "p", {"x": len(names)})
    with (w / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["path", "label"], *([f"x/{n}.jpg", name] for n, name in enumerate(names))]
        )
    run("import", w / "t.csv", root)
    run("export-photos", w / "out", root, "--layout", "csv")
    run("import", w / "out/labels.csv", w / "out")
    assert set(labels_of(w / "out")) == set(names) == set(labels_of(root))


@kind(15, "a port that another program uses")
def _(w: Path) -> None:
    made = trained(draw(w / "p", {"a": 8, "b": 8}))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        run("serve", made, "--port", port, code=None).fails_in_one_line(str(port))


@kind(16, "labels 01 and 1.0 in a table and numbers in JSON")
def _(w: Path) -> None:
    root = draw(w / "p", {"x": 3})
    (w / "t.csv").write_text("path,label\nx/0.jpg,01\nx/1.jpg,1.0\nx/2.jpg,1\n")
    run("import", w / "t.csv", root)
    assert set(labels_of(root)) == {"01", "1.0", "1"}
    (w / "t.jsonl").write_text(
        "".join(f'{{"path": "x/{n}.jpg", "label": {n}}}\n' for n in range(3))
    )
    run("import", w / "t.jsonl", root, "--overwrite")
    assert set(labels_of(root)) == {"0", "1", "2"}


@kind(17, "one label only, or one photo of a label")
def _(w: Path) -> None:
    one = draw(w / "one", {"a": 6})
    run("train", one, "--name", w / "r1", *TINY, code=None).fails_in_one_line("label")
    few = draw(w / "few", {"a": 6, "b": 1})
    run("train", few, "--name", w / "r2", *TINY, code=None).fails_in_one_line("'b'", "1 photo")


@kind(18, "an empty folder and an empty table are predicted or imported")
def _(w: Path) -> None:
    root = draw(w / "p", {"a": 8, "b": 8})
    (w / "empty").mkdir()
    run("predict", w / "empty", "--run", trained(root), code=None).fails_in_one_line("empty")
    (w / "t.csv").write_text("")
    run("import", w / "t.csv", root, code=None).fails_in_one_line("t.csv")


@kind(19, "an export whose column of labels is 'choice', files with a prefix of the upload")
def _(w: Path) -> None:
    root = draw(w / "p", {"x": 2})
    (w / "t.csv").write_text(
        "annotator,choice,id,image\n"
        "1,fox,1,/data/upload/1/a1b2c3d4-0.jpg\n1,owl,2,/data/upload/1/0f9e8d7c-1.jpg\n"
    )
    run("import", w / "t.csv", root)
    assert labels_of(root) == {"fox": 1, "owl": 1}


@kind(20, "a choice of several labels as a JSON cell, and comments over several lines")
def _(w: Path) -> None:
    root = draw(w / "p", {"x": 2})
    with (w / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [
                ["image", "choice", "comment"],
                ["/data/upload/1/a1b2c3d4-0.jpg", '{"choices": ["fox", "owl"]}', "two\nlines"],
                ["/data/upload/1/a1b2c3d4-1.jpg", "owl", "one"],
            ]
        )
    run("import", w / "t.csv", root)
    assert labels_of(root) == {"fox": 1, "owl": 2}


@kind(21, "photos moved and renamed on disk keep their labels")
def _(w: Path) -> None:
    root = draw(w / "p", {"x": 2})
    (w / "t.csv").write_text("path,label\nx/0.jpg,fox\nx/1.jpg,owl\n")
    run("import", w / "t.csv", root)
    (root / "new").mkdir()
    (root / "x/0.jpg").rename(root / "new/other name.jpg")
    assert labels_of(root) == {"fox": 1, "owl": 1}


@kind(22, "EXIF dates that are no dates, a damaged EXIF block")
def _(w: Path) -> None:
    root = draw(w / "p", {"a": 3})
    for number, date in enumerate(("0000:00:00 00:00:00", "yesterday", "2024:13:45 99:99:99")):
        exif = Image.Exif()
        exif[306] = date
        exif.get_ifd(0x8769)[36867] = date
        photo(0, number).save(root / f"a/{number}.jpg", exif=exif)
    content = bytearray((root / "a/0.jpg").read_bytes())
    content[40:60] = b"\xff" * 20
    (root / "a/3.jpg").write_bytes(content)
    assert sum(labels_of(root).values()) + len(run("scan", root, "--json").value["problems"]) == 4
    assert labels_of(root)["a"] >= 3


@kind(23, "a table that has the folder in one column and the file in another")
def _(w: Path) -> None:
    root = draw(w / "p", {"x": 1, "y": 1})
    (w / "t.csv").write_text("folder,file,label\nx,0.jpg,fox\ny,0.jpg,owl\n")
    run("import", w / "t.csv", root)
    assert labels_of(root) == {"fox": 1, "owl": 1}


@kind(24, "videos and raw photos beside the JPEGs of a camera")
def _(w: Path) -> None:
    root = draw(w / "p", {"a": 2})
    for name in ("a/1.MP4", "a/2.cr2", "a/3.NEF"):
        (root / name).write_bytes(b"video")
    assert "other_kinds" in issues_of(root)
    assert labels_of(root) == {"a": 2}


@kind(25, "a deep path of 900 characters with blanks and other scripts")
def _(w: Path) -> None:
    root = w / "p"
    folder = root.joinpath(*[f"カワセミ {n} " + "x" * 60 for n in range(10)])
    folder.mkdir(parents=True)
    photo(0, 0).save(folder / "鳥.jpg")
    assert len(str(folder)) > 700
    assert sum(labels_of(root).values()) == 1


@kind(26, "heat maps of photos whose joined names are equal")
def _(w: Path) -> None:
    made = trained(draw(w / "p", {"a": 8, "b": 8}))
    for number, name in enumerate(("a_b/c.jpg", "a/b_c.jpg")):
        (w / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        photo(0, number).save(w / "in" / name)
    run("predict", w / "in", "--run", made, "--explain", w / "maps", "--quiet")
    assert len([path for path in (w / "maps").rglob("*") if path.is_file()]) == 2


@kind(27, "white, black and plain photos are no duplicates; RGBA, palette and gray are read")
def _(w: Path) -> None:
    root = w / "p/a"
    root.mkdir(parents=True)
    for name, level in (("white", 255), ("black", 0), ("gray", 128)):
        Image.new("RGB", (90, 90), (level,) * 3).save(root / f"{name}.png")
    for number, mode in enumerate(("RGBA", "P", "L", "LA", "1")):
        photo(0, 100 + number).convert("RGB").convert(mode).save(root / f"{mode}.png")
    found = issues_of(w / "p")
    assert labels_of(w / "p") == {"a": 8}
    assert not {"exact_duplicates", "near_duplicates"} & set(found), found


@kind(28, "a broken photo among many stops nothing")
def _(w: Path) -> None:
    root = draw(w / "p", {"a": 8, "b": 8})
    made = trained(root)
    (root / "a/bad.jpg").write_bytes((root / "a/0.jpg").read_bytes()[:300])
    rows = rows_of(root, "--run", made, code=1)
    assert len(rows) == 17
    assert sum(row["status"] == "failed" for row in rows.values()) == 1


@kind(29, "a model in a folder whose name is in another script")
def _(w: Path) -> None:
    root = draw(w / "カワセミ/写真", {"a": 8, "b": 8})
    made = trained(root)
    target = w / "カワセミ/模型 1.onnx"
    run("export", made, "--format", "onnx", "--output", target)
    assert len(rows_of(root / "a/0.jpg", "--run", target)) == 1


@kind(30, "a model file that is cut short or is text")
def _(w: Path) -> None:
    root = draw(w / "p", {"a": 8, "b": 8})
    target = w / "m.onnx"
    run("export", trained(root), "--format", "onnx", "--output", target)
    whole = target.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"this is text"):
        target.write_bytes(content)
        run("predict", root, "--run", target, code=None).fails_in_one_line("m.onnx")


@kind(31, "a search with an unknown model, an unknown mode, a database that is not there")
def _(w: Path) -> None:
    root = draw(w / "p", {"a": 8, "b": 8})
    run("tune", root, "--models", "resnet19", code=None).fails_in_one_line("resnet19")
    run("tune", root, "--modes", "half", code=None).fails_in_one_line("half")
    storage = f"sqlite:///{w}/no/such/folder/x.db"
    run("tune", root, "--storage", storage, code=None).fails_in_one_line("storage")


@kind(32, "a setting mistyped on the command line and in a file: one sentence each")
def _(w: Path) -> None:
    root = draw(w / "p", {"a": 8, "b": 8})
    assert "--epochs" in run("train", root, "--epochz", "3", code=2).err
    (w / "s.toml").write_text("[training]\nepochz = 3\n")
    done = run("train", root, "--config", w / "s.toml", code=None)
    done.fails_in_one_line("epochz", "epochs")


@kind(33, "settings saved with CRLF, UTF-16 or a byte order mark")
def _(w: Path) -> None:
    root = draw(w / "p", {"a": 8, "b": 8})
    text = '[training]\r\nepochs = 2\r\n[model]\r\nmodel = "simple_cnn"\r\n'
    for number, encoding in enumerate(("utf-8", "utf-8-sig", "utf-16")):
        (w / "s.toml").write_bytes(text.encode(encoding))
        done = run(
            "train", root, "--config", w / "s.toml", "--name", w / f"r{number}", *TINY, code=None
        )
        if done.code:
            done.fails_in_one_line("s.toml")


@kind(34, "two commands scan one folder at the same time")
def _(w: Path) -> None:
    root = draw(w / "p", {"a": 40, "b": 40})
    children = []
    for _ in range(2):
        child = os.fork()
        if child == 0:
            try:
                ok = labels_of(root) == {"a": 40, "b": 40}
            except BaseException:  # noqa: BLE001 - the exit code says so
                ok = False
            os._exit(0 if ok else 1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]


@kind(35, "a folder that can be read but not written")
def _(w: Path) -> None:
    root = draw(w / "p", {"a": 3})
    for path in (w, root, root / "a"):
        path.chmod(0o755)
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            else:
                root.chmod(0o555)
            os.environ["FINETUNE_CACHE"] = tempfile.mkdtemp()
            ok = labels_of(root) == {"a": 3} and not (root / ".finetune").exists()
        except BaseException:  # noqa: BLE001 - the exit code says so
            traceback.print_exc()
            ok = False
        os._exit(0 if ok else 1)
    assert os.waitpid(child, 0)[1] == 0


def main() -> int:
    """Tries the kinds of the command line."""
    os.environ["COLUMNS"] = "4000"
    chosen = [int(word) for word in sys.argv[1:]] or sorted(KINDS)
    wrong = 0
    for number in chosen:
        title, function = KINDS[number]
        with tempfile.TemporaryDirectory(prefix="finetune-tried-") as folder:
            os.chmod(folder, 0o755)
            try:
                function(Path(folder))
                result = "right"
            except BaseException:  # noqa: BLE001 - a finding
                wrong += 1
                result = "WRONG\n" + "\n".join(traceback.format_exc().splitlines()[-6:])
        print(f"{number:2} {title}: {result}", flush=True)
    print(f"{len(chosen)} kinds, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
