from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from finetune import train
from finetune.config_io import resolve


@pytest.mark.parametrize("mode", ["head", "full"])
def test_a_training_on_damaged_caches_has_the_same_bytes(
    mode: str,
    make_photos: Callable[..., Path],
    tmp_path: Path,
    tiny_settings: dict[str, object],
    caplog: pytest.LogCaptureFixture,
) -> None:
    photos = make_photos({"a": 8, "b": 8})
    config = resolve({}, {**tiny_settings, "mode": mode, "epochs": 1})
    first = train(photos, config, runs=tmp_path / "runs").run
    stores = sorted((photos / ".finetune").rglob("records.bin"))
    assert {file.parent.name.partition("-")[0] for file in stores} == {"pixels", "features"}
    for file in stores:
        content = bytearray(file.read_bytes())
        content[: len(content) // 2] = np.random.default_rng(0).bytes(len(content) // 2)
        file.write_bytes(content)
    caplog.clear()
    second = train(photos, config, runs=tmp_path / "runs").run
    assert second.model_file.read_bytes() == first.model_file.read_bytes()
    found = [record.getMessage() for record in caplog.records]
    assert any(
        "has damaged records; these are made again from the photos" in text for text in found
    )
