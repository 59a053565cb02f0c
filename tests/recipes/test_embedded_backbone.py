"""The embedded backbone's recipe: its schedule, its views, its optimizer, and exact resuming."""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "embedded_backbone.py"


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    preprocessing = importlib.util.spec_from_file_location("embedded_backbone_recipe", RECIPE)
    assert preprocessing is not None
    assert preprocessing.loader is not None
    module = importlib.util.module_from_spec(preprocessing)
    sys.modules[preprocessing.name] = module
    preprocessing.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> argparse.Namespace:
    folder = tmp_path_factory.mktemp("recipe")
    photos = folder / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for number in range(8):
        size = (12, 9) if number % 2 else (10, 10)
        noise = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((size[1] * 8, size[0] * 8)).save(photos / f"{number}.png")
    torch.manual_seed(0)
    teacher = folder / "teacher.safetensors"
    save_file(timm.create_model("mobilenetv2_100").state_dict(), teacher)
    return argparse.Namespace(photos=photos, teacher=teacher, work=folder, device="cpu")


def _settings(recipe: ModuleType):
    return recipe.Settings(batch=4, size=64, warmup_steps=2, own_steps=3)


def _train(recipe: ModuleType, arguments: argparse.Namespace, work: Path, steps: list[int]):
    work.mkdir()
    if (arguments.work / "teacher.onnx").exists():
        shutil.copy(arguments.work / "teacher.onnx", work)
    for number, count in enumerate(steps):
        here = argparse.Namespace(**{**vars(arguments), "work": work})
        training = recipe.Training(here, _settings(recipe))
        if number:
            training.load()
        training.train(minutes=1e9, steps=count, beside=False, log=io.StringIO())
    return training


def test_lr_rises_stays_and_falls_to_zero_in_the_cooldown(recipe: ModuleType) -> None:
    assert [recipe.lr_share(s, 4, None) for s in (0, 1, 3, 4, 900)] == [0.25, 0.5, 1, 1, 1]
    cooling = [recipe.lr_share(s, 4, (100, 10)) for s in (99, 100, 105, 109, 110, 200)]
    assert cooling == pytest.approx([1, 1, 0.5, 0.1, 0, 0])


def test_orthogonal_brings_singular_values_near_one(recipe: ModuleType) -> None:
    rng = np.random.default_rng(0)
    for rows, columns in ((40, 90), (90, 40), (160, 700)):
        matrix = rng.normal(size=(rows, columns)).astype(np.float32)
        found = recipe.orthogonal(torch.from_numpy(matrix)).numpy().astype(np.float64)
        left, _, right = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
        values = np.linalg.svd(found, compute_uv=False)
        assert values.min() > 0.6
        assert values.max() < 1.3
        polar = left @ right
        assert (found * polar).sum() / np.linalg.norm(found) / np.linalg.norm(polar) > 0.97


def test_orthogonal_cuts_a_wide_matrix_into_blocks_of_rows(recipe: ModuleType) -> None:
    matrix = torch.from_numpy(np.random.default_rng(0).normal(size=(320, 500)).astype(np.float32))
    whole = recipe.orthogonal(matrix)
    halves = [recipe.orthogonal(half) for half in matrix.split(160)]
    torch.testing.assert_close(whole, torch.cat(halves), rtol=1e-4, atol=1e-5)


def test_a_view_depends_on_its_step_alone(recipe: ModuleType) -> None:
    photos = torch.randint(0, 256, (10, 3, 80, 80), dtype=torch.uint8)
    views = recipe.Views(photos, torch.arange(10), _settings(recipe))
    later = views.batch(7)
    views.batch(3)
    torch.testing.assert_close(views.batch(7), later, rtol=0, atol=0)
    assert not torch.equal(views.batch(3), later)


def test_stages_start_from_the_students_own_maps_more_and_more(recipe: ModuleType) -> None:
    settings = recipe.Settings(batch=2000, own_steps=100)
    views = recipe.Views(torch.zeros(1, 3, 8, 8), torch.arange(1), settings)
    shares = [float(views.own_maps(step).float().mean()) for step in (0, 25, 50, 100)]
    assert shares == pytest.approx([0, 0.25, 0.5, 1], abs=0.05)


def test_teacher_gives_the_same_maps_in_onnx_runtime(
    recipe: ModuleType, arguments: argparse.Namespace
) -> None:
    pytest.importorskip("onnxruntime")
    images = torch.rand(3, 3, 96, 96)
    plain = recipe.Teacher(arguments.teacher, folder=arguments.work, on_cpu=False)
    fast = recipe.Teacher(arguments.teacher, folder=arguments.work, on_cpu=True)
    assert fast.session is not None
    with torch.inference_mode():
        for ours, theirs in zip(fast(images), plain(images), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    assert [tuple(x.shape[1:]) for x in plain(images)] == [
        (24, 24, 24),
        (32, 12, 12),
        (96, 6, 6),
        (1280, 3, 3),
    ]


def test_a_long_photo_gives_two_squares_and_every_nineteenth_photo_is_held_out(
    recipe: ModuleType, arguments: argparse.Namespace
) -> None:
    squares, held_out = recipe.load_photos(arguments.photos)
    assert squares.shape == (4 * 1 + 4 * 2, 3, 224, 224)
    assert squares.dtype == torch.uint8
    assert held_out.tolist() == [True] + [False] * 11


def test_resuming_gives_the_weights_of_never_having_stopped(
    recipe: ModuleType, arguments: argparse.Namespace, tmp_path: Path
) -> None:
    once = _train(recipe, arguments, tmp_path / "once", [4])
    twice = _train(recipe, arguments, tmp_path / "twice", [2, 2])
    assert twice.progress.step == once.progress.step == 4
    assert twice.progress.images == 16
    assert [run["first_step"] for run in twice.progress.history] == [0, 2]
    for name, value in once.net.state_dict().items():
        torch.testing.assert_close(twice.net.state_dict()[name], value, rtol=0, atol=0)


def test_a_cooldown_ends_the_run_and_exports_features_on_the_teachers_scale(
    recipe: ModuleType, arguments: argparse.Namespace, tmp_path: Path
) -> None:
    training = recipe.Training(
        argparse.Namespace(**{**vars(arguments), "work": tmp_path}), _settings(recipe)
    )
    training.progress.cooldown = (0, 2)
    log = io.StringIO()
    training.train(minutes=1e9, steps=None, beside=False, log=log)
    assert json.loads(log.getvalue().splitlines()[-1])["step"] == 2
    training.export(tmp_path / "student.safetensors")
    net = timm.create_model("finetune_small", num_classes=0).eval()
    net.load_state_dict(load_file(tmp_path / "student.safetensors"))
    images = torch.rand(2, 3, 64, 64)
    training.net.eval()
    with torch.inference_mode():
        expected = training.net(images) * training.scales.deviations[-1]
        torch.testing.assert_close(net(images), expected, rtol=0.05, atol=0.02)
    written = json.loads((tmp_path / "student.json").read_text())
    assert written["step"] == 2
    assert written["images"] == 8


def test_training_goes_on_from_exported_weights(
    recipe: ModuleType, arguments: argparse.Namespace, tmp_path: Path
) -> None:
    first = _train(recipe, arguments, tmp_path / "first", [2])
    first.export(tmp_path / "student.safetensors")
    here = argparse.Namespace(**{**vars(arguments), "work": tmp_path / "first"})
    second = recipe.Training(here, _settings(recipe))
    second.start_from(tmp_path / "student.safetensors")
    assert (second.progress.step, second.progress.images) == (2, 8)
    images = torch.rand(2, 3, 64, 64)
    first.net.eval(), second.net.eval()
    with torch.inference_mode():
        torch.testing.assert_close(second.net(images), first.net(images), rtol=0.05, atol=0.02)
    second.train(minutes=1e9, steps=1, beside=False, log=io.StringIO())
    assert [run["first_step"] for run in second.progress.history] == [0, 2]
