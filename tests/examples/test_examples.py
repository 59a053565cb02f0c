from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_train_and_predict_runs(tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(EXAMPLES)!r})\n"
        "from pathlib import Path\n"
        "import train_and_predict\n"
        f"train_and_predict.main(Path({str(tmp_path / 'x')!r}), photos_per_species=8)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines[:5]] == [
        "epoch 5",
        "epoch 10",
        "epoch 15",
        "epoch 20",
        "test",
    ]
    assert len(lines) == 8


def test_every_example_has_a_test() -> None:
    names = {path.stem for path in EXAMPLES.rglob("*.py")}
    source = Path(__file__).read_text(encoding="utf-8")
    assert names
    assert all(name in source for name in names)
