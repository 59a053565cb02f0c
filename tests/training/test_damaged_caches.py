from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from finetune import train
from finetune.config import TrainConfig
from finetune.config_io import resolve
from finetune.data.record_store import ENTRY

NOISE = np.random.default_rng(0).bytes(1 << 20)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Collection with caches, the settings of its training, and the bytes of the model."""

    photos: Path
    config: TrainConfig
    model: bytes


@pytest.fixture(scope="module")
def trained(train_tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    from finetune.runs.folder import open_run

    folder = tmp_path_factory.mktemp("caches")
    run = open_run(train_tiny(folder, epochs=1))
    config = resolve(run.read(run.config_file)["settings"])
    model = train(folder / "photos", config, runs=folder / "again").run.model_file.read_bytes()
    return Trained(photos=folder / "photos", config=config, model=model)


def rewritten(change: Callable[[bytearray], bytes]) -> Callable[[Path], None]:
    """Returns a function that replaces the content of a file by a change of it."""

    def rewrite(file: Path) -> None:
        file.write_bytes(change(bytearray(file.read_bytes())))

    return rewrite


def exchanged(content: bytearray, size: int) -> bytes:
    """Exchanges the first two records."""
    return bytes(content[size : 2 * size] + content[:size] + content[2 * size :])


def record_bytes(file: Path) -> int:
    return file.stat().st_size // (file.with_name("index.bin").stat().st_size // ENTRY.size)


def exchange_records(file: Path) -> None:
    size = record_bytes(file)
    rewritten(lambda content: exchanged(content, size))(file)


def flip(content: bytearray) -> bytes:
    content[len(content) // 2] ^= 1
    return bytes(content)


DAMAGE: dict[str, tuple[str, Callable[[Path], None]]] = {
    "noise": ("records.bin", rewritten(lambda c: NOISE[: len(c) // 2] + bytes(c[len(c) // 2 :]))),
    "a bit": ("records.bin", rewritten(flip)),
    "cut": ("records.bin", rewritten(lambda content: bytes(content[: len(content) // 3]))),
    "empty": ("records.bin", rewritten(lambda content: b"")),
    "zeros": ("records.bin", rewritten(lambda content: bytes(len(content)))),
    "exchanged records": ("records.bin", exchange_records),
    "shifted": ("records.bin", rewritten(lambda content: b"x" + bytes(content))),
    "gone": ("records.bin", Path.unlink),
    "a bit of a key": ("index.bin", rewritten(flip)),
    "cut keys": ("index.bin", rewritten(lambda content: bytes(content[: len(content) // 2 - 3]))),
    "exchanged keys": ("index.bin", rewritten(lambda content: exchanged(content, ENTRY.size))),
    "noise after the keys": ("index.bin", rewritten(lambda content: bytes(content) + NOISE[:100])),
    "no keys": ("index.bin", Path.unlink),
}
"""Kinds of damage: the file, and what happens to it."""

SILENT = {"cut keys", "no keys"}
"""Damage that only makes records missing, as those of photos that are new."""


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_training_on_damaged_caches_has_the_same_bytes(
    kind: str, trained: Trained, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(trained.photos, photos)
    name, damage = DAMAGE[kind]
    stores = sorted((photos / ".finetune").rglob(name))
    assert {file.parent.name.partition("-")[0] for file in stores} == {"pixels", "features"}
    for file in stores:
        damage(file)
    again = train(photos, trained.config, runs=tmp_path / "runs").run
    assert again.model_file.read_bytes() == trained.model
    found = [record.getMessage() for record in caplog.records]
    assert kind in SILENT or any(
        "has damaged records; these are made again from the photos" in text for text in found
    )


def test_a_full_training_on_damaged_caches_has_the_same_bytes(
    trained: Trained, tmp_path: Path
) -> None:
    settings = dataclasses.replace(trained.config.training, mode="full")
    config = dataclasses.replace(trained.config, training=settings)
    expected = train(trained.photos, config, runs=tmp_path / "runs").run.model_file.read_bytes()
    for file in (trained.photos / ".finetune").rglob("records.bin"):
        damaged = bytearray(file.read_bytes())
        damaged[: len(damaged) // 2] = NOISE[: len(damaged) // 2]
        file.write_bytes(damaged)
    again = train(trained.photos, config, runs=tmp_path / "runs").run
    assert again.model_file.read_bytes() == expected
