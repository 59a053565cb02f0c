"""Images as small as the network's input: no pixel is resampled on the way to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from finetune import Predictor, train
from finetune.config_io import resolve
from finetune.models import registry


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    """``photos/{a,b}/N.png``, 32x32 of noise, which no resampling would leave as it is."""
    rng = np.random.default_rng(3)
    for label in ("a", "b"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(8):
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{number}.png")
    return tmp_path / "photos"


@pytest.mark.parametrize("model", ["simple_cnn", "test_resnet"])
def test_the_pixels_of_the_file_are_what_the_network_sees(
    noise: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    seen: list[Tensor] = []

    def watched(name: str, **options: object) -> nn.Module:
        module: nn.Module = real(name, **options)
        module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone()))
        return module

    real = timm.create_model
    monkeypatch.setattr(timm, "create_model", watched)
    flags = {"model": model, "weights": "none", "size": 32, "augment": "none", "epochs": 1}
    run = train(noise, resolve({}, {**flags, "device": "cpu"}), run=str(tmp_path / "run")).run
    preprocessing = registry.resolve_preprocessing(model, size=32)
    mean, std = (
        torch.tensor(values).view(1, 3, 1, 1) for values in (preprocessing.mean, preprocessing.std)
    )

    def shown() -> set[bytes]:
        levels = torch.cat([(one.float() * std + mean) * 255 for one in seen])
        whole = levels.round()
        torch.testing.assert_close(levels, whole, rtol=0, atol=1e-3)
        return {row.tobytes() for row in whole.permute(0, 2, 3, 1).numpy().astype(np.uint8)}

    files = {np.asarray(Image.open(path)).tobytes() for path in noise.rglob("*.png")}
    assert len(files) == 16
    # Training, validation and test together have looked at every photo.
    assert shown() == files
    seen.clear()
    Predictor.load(run.path)(noise / "a" / "0.png")
    assert shown() == {np.asarray(Image.open(noise / "a" / "0.png")).tobytes()}


def test_the_tutorial_net_brings_crop_colors_and_whitening(
    noise: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    real = timm.create_model

    def watched(name: str, **options: object) -> nn.Module:
        module: nn.Module = real(name, **options)
        module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone()))
        return module

    monkeypatch.setattr(timm, "create_model", watched)
    flags = {"model": "cifar10_tutorial_cnn", "weights": "none", "epochs": 1, "device": "cpu"}
    run = train(noise, resolve({}, flags), run=str(tmp_path / "run")).run
    preprocessing = run.read(run.preprocessing_file)
    assert (preprocessing["size"], preprocessing["crop_pct"], preprocessing["whiten"]) == (
        24,
        0.75,
        True,
    )
    assert run.read(run.config_file)["settings"]["augmentation"]["augment"] == "tutorial"
    inputs = torch.cat(seen).double().flatten(1)
    assert inputs.shape[1] == 3 * 24 * 24
    torch.testing.assert_close(inputs.mean(1), torch.zeros(len(inputs)).double(), atol=1e-5, rtol=0)
    deviations = inputs.std(1, correction=0)
    torch.testing.assert_close(deviations, torch.ones(len(inputs)).double(), atol=1e-4, rtol=0)
    seen.clear()
    Predictor.load(run.path)(noise / "a" / "0.png")
    middle = np.asarray(Image.open(noise / "a" / "0.png"), np.float64)[4:28, 4:28]
    expected = (middle - middle.mean()) / middle.std()
    shown = seen[0][0].permute(1, 2, 0).double().numpy()
    np.testing.assert_allclose(shown, expected, atol=1e-4)


def test_from_scratch_the_whole_network_learns_at_one_rate(noise: Path, tmp_path: Path) -> None:
    flags = {"model": "simple_cnn", "weights": "none", "epochs": 1, "device": "cpu"}
    run = train(noise, resolve({}, flags), run=str(tmp_path / "run")).run
    settings = run.read(run.config_file)["settings"]
    assert settings["training"]["backbone_lr_scale"] == 1.0
