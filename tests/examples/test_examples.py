from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_train_and_predict_runs(
    tmp_path: Path, run_child: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(EXAMPLES)!r})\n"
        "from pathlib import Path\n"
        "import train_and_predict\n"
        f"train_and_predict.main(Path({str(tmp_path / 'x')!r}), photos_per_species=8)\n"
    )
    done = run_child(code)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any("The metrics are cross-validated: 5 folds" in line for line in lines)
    assert [line.partition(":")[0] for line in lines[-5:-3]] == ["folds", "held out"]


def test_a_subset_has_the_first_photos_of_each_label(tmp_path: Path) -> None:
    for part, count in (("train", 5), ("test", 2)):
        for label in ("0", "1"):
            (tmp_path / "all" / part / label).mkdir(parents=True)
            for number in range(count):
                (tmp_path / "all" / part / label / f"{number}.png").write_bytes(b"x")
    script = EXAMPLES / "vgg19-mnist" / "subset.py"
    words = [sys.executable, script, tmp_path / "all", tmp_path / "small", "--train", "3"]
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=True, timeout=200
    )
    assert done.stdout == "train: 6 photos\ntest: 4 photos\n"
    kept = [path.relative_to(tmp_path / "small") for path in tmp_path.glob("small/train/*/*")]
    assert sorted(path.as_posix() for path in kept) == [
        f"train/{label}/{number}.png" for label in "01" for number in range(3)
    ]


def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path) -> None:
    pytest.importorskip("ipykernel")
    pytest.importorskip("nbclient")
    # In a Python of its own: a kernel's sockets must not outlive the test.
    code = (
        "import nbformat, sys\n"
        "from nbclient import NotebookClient\n"
        "book = nbformat.read(sys.argv[1], as_version=4)\n"
        "nbformat.validate(book)\n"
        "assert not any(cell.get('outputs') for cell in book.cells), 'it has outputs'\n"
        "book.cells = [c for c in book.cells if 'install' not in c.metadata.get('tags', ())]\n"
        "for cell in book.cells:\n"
        "    cell.source = cell.source.replace('PER_LABEL = 24', 'PER_LABEL = 6')\n"
        "where = {'metadata': {'path': sys.argv[2]}}\n"
        "NotebookClient(book, timeout=240, startup_timeout=200, resources=where).execute()\n"
        "for cell in book.cells:\n"
        "    for output in cell.get('outputs', ()):\n"
        "        sys.stdout.write(output.get('text', ''))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(EXAMPLES / "first_hour.ipynb"), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "photos of barn swallow" in done.stdout
    assert done.stdout.count("unseen_") == 6
    assert (tmp_path / "model.zip").stat().st_size > 1_000_000


def test_own_metric_runs(
    tmp_path: Path, run_child: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(EXAMPLES)!r})\n"
        "from pathlib import Path\n"
        "import own_metric\n"
        f"own_metric.main(Path({str(tmp_path / 'x')!r}), photos_per_species=8)\n"
    )
    done = run_child(code)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["epoch 1", "lowest recall"]
    assert lines[0].endswith("%")


def test_every_example_has_a_test() -> None:
    names = {path.stem for kind in ("*.py", "*.ipynb") for path in EXAMPLES.rglob(kind)}
    source = Path(__file__).read_text(encoding="utf-8")
    assert names
    assert all(name in source for name in names)
