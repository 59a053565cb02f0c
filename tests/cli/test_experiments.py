from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import Result

Settings = dict[str, object]


@pytest.fixture
def photos(make_photos: Callable[..., Path]) -> Path:
    return make_photos({"ant": 12, "bee": 12})


def arguments(photos: Path, settings: Settings, *more: str) -> list[str]:
    flags = {**settings, "batch_size": 8}
    del flags["epochs"]
    given = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
    return ["lr-find", str(photos), *given, "--steps=40", *more]


def test_a_suggested_rate_is_printed_and_plotted(
    run: Callable[..., Result],
    photos: Path,
    tmp_path: Path,
    tiny_settings: Settings,
) -> None:
    page, picture = tmp_path / "lr.html", tmp_path / "lr.png"
    more = (f"--output={page}", f"--output={picture}")
    result = run(*arguments(photos, tiny_settings, *more))
    assert re.search(r"^Learning rate \S+: (the highest of|a tenth of) ", result.stdout, re.M)
    assert re.search(r"^Next: finetune train --mode full --lr \S+$", result.stdout, re.M)
    assert "▲" in result.stdout
    assert any(0x2800 < ord(character) <= 0x28FF for character in result.stdout)
    html = page.read_text(encoding="utf-8")
    assert "Loss by learning rate" in html
    assert "http-equiv" in html
    with Image.open(picture) as image:
        assert image.size == (1280, 800)
    # Only the collection's caches are written.
    assert not (Path.cwd() / "runs").exists() or not list(photos.parent.glob("runs/*"))


def test_json_has_the_whole_sweep(
    run: Callable[..., Result], photos: Path, tiny_settings: Settings
) -> None:
    result = run(*arguments(photos, tiny_settings, "--json"))
    found = json.loads(result.stdout)
    assert found["mode"] == "full"
    sweep = found["sweep"]
    assert len(sweep["rates"]) == len(sweep["losses"]) == len(sweep["smoothed"]) >= 10
    assert sweep["rates"][0] == pytest.approx(1e-6)
    assert 1e-6 < found["suggestion"]["lr"] < 10
    assert found["default_lr"] == pytest.approx(0.0005)


def test_a_head_on_cached_features_has_no_rate_to_find(
    run: Callable[..., Result], photos: Path, tiny_settings: Settings
) -> None:
    result = run(*arguments(photos, tiny_settings, "--mode=head"), code=1)
    assert "has no learning rate; use --mode full or --mode gradual." in " ".join(
        result.stderr.split()
    )


def test_several_labels_are_swept_with_the_loss_that_they_train_with(
    run: Callable[..., Result], photos: Path, tiny_settings: Settings
) -> None:
    # A head that starts from nothing, so that its first loss is known.
    more = ("--head-epochs=1", "--multi-label", "--negatives=bee", "--json")
    result = run(*arguments(photos, tiny_settings, *more))
    sweep = json.loads(result.stdout)["sweep"]
    # One label of half of the photos: binary cross-entropy starts near the entropy of the share.
    assert sweep["losses"][0] == pytest.approx(math.log(2), abs=0.1)


def test_lr_find_refuses_a_mode_without_rates_before_photos_are_read(
    error_of: Callable[..., str],
) -> None:
    assert error_of("lr-find", "nowhere", "--mode", "head") == (
        "--mode head fits its head to the minimum and has no learning rate; use --mode full or "
        "--mode gradual."
    )
