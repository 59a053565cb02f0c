"""Runs the example in the docstring of each function that `finetune` offers."""

from __future__ import annotations

import ast
import doctest
import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import finetune
from finetune.demo_data import draw_collection, draw_unseen
from finetune.training.events import EpochDone, Event

TRAINERS = ("train", "cross_validate", "tune", "ablate", "lr_find")
FUNCTIONS = [name for name in finetune.__all__ if name[0].islower()]


class SameKind(doctest.OutputChecker):
    """Accepts a value of the documented type, and for strings of the documented suffix."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        """Compares what the example printed with what the docstring shows."""
        if not want or not got:
            return want == got
        expected, found = ast.literal_eval(want), ast.literal_eval(got)
        same = type(expected) is type(found)
        return same and (not isinstance(found, str) or Path(found).suffix == Path(expected).suffix)


class StopError(Exception):
    pass


def stop(event: Event) -> None:
    if isinstance(event, EpochDone):
        raise StopError


@pytest.fixture(scope="module")
def names(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The public names, in a folder with demo photos and the runs that the examples name."""
    folder = tmp_path_factory.mktemp("examples")
    before = Path.cwd()
    os.chdir(folder)
    drawn = draw_collection(
        folder / "photos", species=3, photos_per_species=9, size=(240, 160), flaws=False, workers=1
    )
    photo = folder / "photos" / drawn.photos[0].path
    Image.open(photo).save(photo.with_stem("edited"), quality=60)
    draw_unseen(folder / "unseen", count=2, species=3, size=(240, 160))
    settings: dict[str, Any] = {
        "model": "test_resnet",
        "weights": str(tiny_weights),
        "size": 48,
        "device": "cpu",
    }
    found: dict[str, Any] = {name: getattr(finetune, name) for name in finetune.__all__}
    quick: dict[str, Any] = {"epochs": 2, "mode": "head"}
    finetune.train("photos", run="garden", **settings, **quick)
    shutil.copytree("runs/garden", "runs/park")
    with pytest.raises(StopError):
        finetune.train("photos", run="stopped", callback=stop, **settings, epochs=2, mode="full")
    for name in TRAINERS:
        found[name] = functools.partial(found[name], **settings)
    yield found
    os.chdir(before)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_example_in_the_docstring_runs(name: str, names: dict[str, Any]) -> None:
    if name == "tune":
        pytest.importorskip("optuna")
    if name == "train":
        shutil.rmtree("runs/garden")
    function = getattr(finetune, name)
    example = doctest.DocTestParser().get_doctest(function.__doc__, dict(names), name, None, None)
    assert example.examples
    printed: list[str] = []
    doctest.DocTestRunner(SameKind()).run(example, out=printed.append)
    assert not printed, "".join(printed)


def test_importing_finetune_loads_no_torch() -> None:
    code = "import sys, finetune; dir(finetune); print({'torch', 'timm', 'cv2'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_scanning_loads_no_torch() -> None:
    code = "import sys; from finetune import scan, split; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
