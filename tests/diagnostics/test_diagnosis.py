from __future__ import annotations

import importlib.metadata
import shutil
import sys
from pathlib import Path

import psutil
import pytest
import timm
import torch

from finetune.diagnostics import diagnosis
from finetune.diagnostics.diagnosis import diagnose


def test_a_diagnosis_states_versions_and_machine() -> None:
    found = diagnose(self_test=False)
    assert found.packages["timm"] == importlib.metadata.version("timm")
    assert found.packages["onnxruntime"] == importlib.metadata.version("onnxruntime")
    assert set(found.extras) >= {"heic", "tune", "wandb"}
    assert "pytest" not in found.packages
    assert found.torch is not None
    assert found.torch.version == torch.__version__
    assert found.machine.memory_bytes == psutil.virtual_memory().total
    assert found.machine.free_disk_bytes["here"] == pytest.approx(
        shutil.disk_usage(Path()).free, rel=0.2
    )
    assert found.self_test is None


def test_installed_weights_are_listed() -> None:
    here = {(item.model, item.place) for item in diagnosis.local_weights()}
    assert ("tf_efficientnet_lite2", "installed") in here


def test_downloaded_weights_are_listed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("timm.models._hub.get_cache_dir", lambda: str(tmp_path))
    source = timm.get_pretrained_cfg("resnet18.tv_in1k").url
    (tmp_path / source.rpartition("/")[2]).touch()
    here = {item.model: item.place for item in diagnosis.local_weights()}
    assert here["resnet18.tv_in1k"] == "downloaded"
    assert "resnet50.tv_in1k" not in here


def test_the_size_of_a_cache_is_that_of_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos" / ".finetune" / "pixels").mkdir(parents=True)
    (tmp_path / "photos" / ".finetune" / "pixels" / "a").write_bytes(b"x" * 1000)
    (tmp_path / "photos" / ".finetune" / "b").write_bytes(b"x" * 24)
    (tmp_path / "photos" / "robin.jpg").write_bytes(b"x" * 5000)
    (cache,) = [c for c in diagnose(self_test=False).caches if c.name == "photos of ./photos"]
    assert (cache.files, cache.size_bytes) == (2, 1024)


def test_a_torch_that_cannot_be_imported_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    found = diagnose(self_test=False)
    assert found.torch is None
    (problem,) = [line for line in found.problems if line.startswith("Loading torch failed.")]
    assert "import of torch halted" in problem


@pytest.mark.parametrize(
    ("versions", "problem"),
    [
        (
            {"opencv-python": "5.0", "opencv-python-headless": "5.0"},
            "opencv-python and opencv-python-headless overwrite each other's files. Keep one: "
            "pip uninstall opencv-python",
        ),
        ({}, "timm is missing. Install it with: pip install timm"),
    ],
)
def test_a_problem_names_the_next_step(
    versions: dict[str, str], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnosis, "_version", versions.get)
    assert problem in diagnose(self_test=False).problems


def test_a_full_disk_and_missing_fonts_are_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(Path())._replace(free=300_000_000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    monkeypatch.setattr(
        "finetune.fonts._source_of", lambda letter: None if letter.isascii() else False
    )
    problems = diagnose(self_test=False).problems
    assert "Only 0.3 GB of disk are free (here). Free some space." in problems
    assert any(
        line.startswith("No font has Cyrillic or Greek or Japanese letters") for line in problems
    )
