from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from finetune.augmentation import mobius, random_mobius
from finetune.augmentation.random_mobius import RandomMobius

A = random_mobius.A
HEIGHT, WIDTH = 120, 180


def spots(places: NDArray[np.float64], radius: float = 3.0) -> NDArray[np.uint8]:
    """White discs on black, one in each channel of as many channels."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    discs = [
        np.clip(radius + 0.5 - np.hypot(x - left, y - top), 0, 1) * 255 for left, top in places
    ]
    return np.stack(discs, axis=-1).astype(np.uint8)


def centroid(plane: NDArray[np.uint8]) -> NDArray[np.float64]:
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    center: NDArray[np.float64] = np.array([(x * plane).sum(), (y * plane).sum()]) / plane.sum()
    return center


def moved(transform: Any, seed: int, **data: Any) -> dict[str, Any]:
    points = A.KeypointParams(format="xyas", remove_invisible=False, angle_in_degrees=False)
    boxes = A.BboxParams(format="pascal_voc", clip=False, label_fields=[])
    pipeline = A.Compose([transform], keypoint_params=points, bbox_params=boxes, seed=seed)
    result: dict[str, Any] = pipeline(**{"keypoints": [], "bboxes": [], **data})
    return result


def test_importing_it_checks_for_no_newer_version() -> None:
    assert os.environ["NO_ALBUMENTATIONS_UPDATE"] == "1"


@pytest.mark.parametrize("seed", range(6))
def test_keypoints_follow_the_pixels(seed: int) -> None:
    places = np.array([[70.0, 50.0], [100.0, 60.0], [90.0, 75.0]])
    transform = RandomMobius(bound=2.0, max_rotation_degrees=40, max_shift=0.05, p=1.0)
    points = [(x, y, 0.0, 1.0) for x, y in places]
    result = moved(transform, seed, image=spots(places), keypoints=points)
    for channel, (x, y, _, scale) in enumerate(result["keypoints"]):
        plane = result["image"][..., channel]
        assert np.abs(centroid(plane) - [x, y]).max() < 0.5
        # Areas grow with the square of the scale.
        growth = plane.sum() / spots(places)[..., channel].sum()
        assert scale == pytest.approx(np.sqrt(growth), rel=0.06)


def test_a_keypoints_angle_turns_with_the_picture() -> None:
    transform = RandomMobius(bound=1.0, max_rotation_degrees=90, max_shift=0.0, p=1.0)
    middle = ((WIDTH - 1) / 2, (HEIGHT - 1) / 2)
    right = (middle[0] + 20, middle[1])
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    keypoints = [(*middle, 0.25, 1.0), (*right, 0.25, 1.0)]
    result = moved(transform, 3, image=image, keypoints=keypoints)["keypoints"]
    step = np.subtract(result[1][:2], result[0][:2])
    turned = np.arctan2(step[1], step[0])
    assert abs(turned) > 0.05
    assert result[0][2] == pytest.approx((0.25 + turned) % (2 * np.pi), abs=1e-3)


@pytest.mark.parametrize("seed", range(6))
def test_boxes_hold_their_pixels_and_no_more(seed: int) -> None:
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[40:80, 70:120] = 255
    transform = RandomMobius(bound=2.0, max_rotation_degrees=30, max_shift=0.0, p=1.0)
    result = moved(transform, seed, image=image, bboxes=[(70, 40, 120, 80)])
    rows, columns = np.nonzero(result["image"][..., 0] > 127)
    assert result["image"][[0, -1]].max() == result["image"][:, [0, -1]].max() == 0
    expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose(result["bboxes"][0], expected, atol=1.1)


def test_a_boxs_sides_bulge_by_less_than_a_thousandth_between_the_points_that_are_followed() -> (
    None
):
    numbers = np.random.default_rng(0).random((200, 6))
    maps = mobius.inverse(
        mobius.admissible(numbers, bound=2, max_rotation_degrees=180, max_shift=0.1)
    )
    fine = -1 + 2j * np.linspace(0, 1, 16 * 40 + 1) - 1j
    sides = mobius.apply(maps.reshape(200, 1, 2, 2), fine)
    length = np.abs(np.diff(sides, axis=1)).sum(axis=1)
    lost = sides.real.max(axis=1) - sides[:, ::40].real.max(axis=1)
    assert (lost / length).max() < 1e-3


def test_bound_1_without_turn_and_shift_is_the_identity() -> None:
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    transform = RandomMobius(bound=1.0, max_rotation_degrees=0, max_shift=0.0, p=1.0)
    np.testing.assert_array_equal(A.Compose([transform])(image=image)["image"], image)


def test_the_same_seed_gives_the_same_picture() -> None:
    image = spots(np.array([[40, 40], [90, 60], [120, 90]]))
    first, again, other = (
        A.Compose([RandomMobius(p=1.0)], seed=seed)(image=image)["image"] for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_masks_keep_their_values() -> None:
    mask = np.random.default_rng(0).choice([3, 90, 200], (HEIGHT, WIDTH)).astype(np.uint8)
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    result = A.Compose([RandomMobius(p=1.0)])(image=image, mask=mask)["mask"]
    assert result.shape == mask.shape
    assert set(np.unique(result)) <= {3, 90, 200}


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("channels", [None, 1, 3, 4, 7])
def test_any_number_of_channels_is_warped_alike(channels: int | None, dtype: type) -> None:
    plane: NDArray[Any] = spots(np.array([[70.0, 50.0]]), 20)[..., 0].astype(dtype)
    image = plane if channels is None else np.repeat(plane[..., None], channels, axis=-1)
    result = A.Compose([RandomMobius(p=1.0)], seed=4)(image=image)["image"]
    alone = A.Compose([RandomMobius(p=1.0)], seed=4)(image=plane)["image"]
    assert result.shape == image.shape
    assert result.dtype == dtype
    expected = alone if channels is None else np.repeat(alone[..., None], channels, axis=-1)
    np.testing.assert_allclose(result.astype(float), expected.astype(float), atol=1)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="bound"):
        RandomMobius(bound=0.5)


@pytest.mark.parametrize("form", ["yaml", "json"])
def test_albumentations_saves_and_loads_it(tmp_path: Path, form: Any) -> None:
    path = tmp_path / f"pipeline.{form}"
    pipeline = A.Compose([RandomMobius(bound=1.7, max_rotation_degrees=5, p=0.9)])
    A.save(pipeline, path, data_format=form)
    loaded = A.load(path, data_format=form)
    assert A.to_dict(loaded) == A.to_dict(pipeline)
    step = loaded.transforms[0]
    assert (step.bound, step.max_rotation_degrees, step.max_shift, step.p) == (1.7, 5, 0.1, 0.9)
