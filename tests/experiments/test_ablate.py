from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
from scipy.stats import binomtest

from finetune.config import TrainConfig
from finetune.config_io import resolve
from finetune.errors import ConfigError, ModelError
from finetune.evaluation.predictions import read_predictions
from finetune.experiments.ablate import ablate, parse_sweep, with_value
from finetune.reporting.ablation_page import scatter, write_ablation_page


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("size=32,128,224", ("size", ["32", "128", "224"])),
        ("--batch-size = 8, 16", ("batch_size", ["8", "16"])),
        ("mobius_bound=1.5,2", ("mobius_bound", ["1.5", "2"])),
        ("model=resnet18,resnet50", ("model", ["resnet18", "resnet50"])),
    ],
)
def test_a_sweep_has_a_setting_and_its_values(text: str, expected: tuple[str, list[str]]) -> None:
    assert parse_sweep(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("size", "--over size is not NAME=VALUE,VALUE, such as size=32,128,224."),
        ("size=", "--over size= is not NAME=VALUE,VALUE, such as size=32,128,224."),
        ("size=32,,64", "--over size=32,,64 is not NAME=VALUE,VALUE, such as size=32,128,224."),
        ("sice=1,2", "--over sice=1,2: there is no setting 'sice'. See: finetune train --help"),
        ("seed=1,2", "--over seed: every value is trained with several seeds; see --seeds."),
    ],
)
def test_other_forms_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_sweep(text)
    assert str(error.value) == message


def test_only_one_setting_changes() -> None:
    config = resolve({"recipe": {"hue": 0.1}}, {"model": "resnet18", "epochs": 3})
    varied = with_value(config, "size", "64")
    assert varied.pixels.size == 64
    assert with_value(varied, "size", "32") == with_value(config, "size", "32")
    assert (varied.model, varied.training, varied.recipe) == (
        config.model,
        config.training,
        config.recipe,
    )


@pytest.mark.parametrize(
    ("name", "text", "concern", "value"),
    [
        ("lr", "0.01", "training", 0.01),
        ("lr", "1", "training", 1.0),
        ("weights", "none", "model", "none"),
        ("catalog", "here.sqlite3", "collection", Path("here.sqlite3")),
        ("fit", "pad", "pixels", "pad"),
        ("freeze_norm", "true", "optimization", True),
    ],
)
def test_values_have_the_settings_own_type(
    name: str, text: str, concern: str, value: object
) -> None:
    found = getattr(getattr(with_value(TrainConfig(), name, text), concern), name)
    assert (found, type(found)) == (value, type(value))


def test_a_field_of_the_recipe_can_be_varied() -> None:
    config = with_value(resolve({"recipe": {"hue": 0.1}}), "mobius_bound", "1.5")
    assert config.recipe == {"hue": 0.1, "mobius_bound": 1.5}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("size", "x", "--size 'x' is not a whole number."),
        ("size", "32.5", "--size '32.5' is not a whole number."),
        ("lr", "-1", "--lr -1.0 must be greater than 0."),
        ("fit", "cut", "--fit cut is not one of crop, pad, squash."),
    ],
)
def test_an_invalid_value_is_refused(name: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        with_value(TrainConfig(), name, text)
    assert str(error.value) == message


def test_an_ablation_compares_the_same_photos(
    make_photos: Callable[..., Path], tmp_path: Path, tiny_settings: dict[str, object]
) -> None:
    photos = make_photos({"a": 12, "b": 12})
    flags = {**tiny_settings, "mode": "full", "epochs": 2}
    found = ablate(photos, resolve({}, flags), ["none", "strong"], seeds=2, folder=tmp_path / "abl")
    right: dict[str, dict[tuple[str, str], bool]] = {}
    for augment in ("none", "strong"):
        correct = {}
        for seed in ("0", "1"):
            run = tmp_path / "abl" / f"{augment}-seed{seed}"
            settings = json.loads((run / "config.json").read_text())["settings"]
            assert settings["augmentation"]["augment"] == augment
            assert settings["machine"]["seed"] == int(seed)
            for row in read_predictions(run / "predictions.csv"):
                if row.part == "test":
                    correct[seed, row.path] = row.correct
        right[augment] = correct
    assert right["none"].keys() == right["strong"].keys()
    a = np.array([right["none"][key] for key in sorted(right["none"])])
    b = np.array([right["strong"][key] for key in sorted(right["none"])])
    pair = found.differences[0]
    assert pair.points == pytest.approx(100 * (b.mean() - a.mean()))
    assert pair.photos == len(a)
    differing = int((a != b).sum())
    expected = binomtest(int((a & ~b).sum()), differing).pvalue if differing else 1.0
    assert pair.p_value == pytest.approx(expected)
    arm = found.arms[0]
    assert arm.mean == pytest.approx(np.mean(arm.accuracies))
    assert arm.spread == pytest.approx(np.std(arm.accuracies, ddof=1))
    assert json.loads((tmp_path / "abl" / "ablation.json").read_text())["part"] == "test"


def test_networks_have_weights_of_their_own_which_are_checked_first(
    make_photos: Callable[..., Path],
    tmp_path: Path,
    tiny_settings: dict[str, object],
    tiny_weights: Path,
) -> None:
    photos = make_photos({"a": 8, "b": 8})
    config = resolve({}, {**tiny_settings, "mode": "full", "epochs": 1})
    folder = tmp_path / "abl"
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"no tensors")
    values = [f"test_resnet:{tiny_weights}", f"test_vit:{damaged}"]
    with pytest.raises(ModelError, match=r"damaged\.safetensors"):
        ablate(photos, config, values, over="model", seeds=1, folder=folder)
    assert not folder.exists()
    values[1] = "test_efficientnet:none"
    found = ablate(photos, config, values, over="model", seeds=1, folder=folder)
    assert [arm.value for arm in found.arms] == values
    runs = [folder / "model-test_resnet-tiny-seed0", folder / "model-test_efficientnet-none-seed0"]
    weights = [json.loads((run / "config.json").read_text())["weights"] for run in runs]
    assert weights == [str(tiny_weights), "from scratch"]
    networks = [timm.create_model(n, num_classes=2) for n in ("test_resnet", "test_efficientnet")]
    sizes = [sum(p.numel() for p in network.parameters()) for network in networks]
    assert [arm.parameters for arm in found.arms] == sizes
    page = write_ablation_page(tmp_path / "page.html", found).read_text()
    assert "Ablation of model" in page
    figure = scatter(found, [1.0, 2.0], "Size")
    assert [series.points for series in figure.series] == [
        [(x, arm.mean)] for x, arm in zip((1.0, 2.0), found.arms, strict=True)
    ]


def test_any_setting_can_be_varied(
    make_photos: Callable[..., Path], tmp_path: Path, tiny_settings: dict[str, object]
) -> None:
    photos = make_photos({"a": 8, "b": 8})
    flags = {**tiny_settings, "mode": "full", "epochs": 1}
    found = ablate(
        photos, resolve({}, flags), ["32", "40"], over="size", seeds=1, folder=tmp_path / "abl"
    )
    assert [arm.value for arm in found.arms] == ["32", "40"]
    for size in (32, 40):
        run = tmp_path / "abl" / f"size-{size}-seed0"
        assert json.loads((run / "preprocessing.json").read_text())["size"] == size
    content = json.loads((tmp_path / "abl" / "ablation.json").read_text())
    assert (content["over"], content["differences"][0]["first"]) == ("size", "32")


def test_an_invalid_value_stops_an_ablation_before_its_first_training(
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigError) as error:
        ablate(tmp_path, resolve({}), ["32", "4"], over="size", folder=tmp_path / "abl")
    assert str(error.value) == "--size 4 must be at least 8."
    assert not (tmp_path / "abl").exists()


def test_an_ablation_needs_two_different_recipes(tmp_path: Path) -> None:
    for augments in (["none"], ["none", "none"]):
        with pytest.raises(ConfigError, match="two or more different recipes"):
            ablate(tmp_path, resolve({}), augments)
