from __future__ import annotations

import cmath
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from finetune.augmentation import mobius

NAMES = (
    "clockwise twist",
    "clockwise half-twist",
    "spread",
    "spread twist",
    "counter-clockwise twist",
    "counter-clockwise half-twist",
    "inverse",
    "inverse spread",
)


def random_maps(count: int, *, bound: float = 2.0, seed: int = 0) -> NDArray[np.complex128]:
    numbers = np.random.default_rng(seed).random((count, 6))
    return mobius.admissible(
        np.clip(numbers, 1e-12, 1 - 1e-12), bound=bound, max_rotation_degrees=180, max_shift=0.3
    )


def grid(side: int = 64) -> NDArray[np.complex128]:
    axis = np.linspace(-1, 1, side)
    return axis[None, :] + 1j * axis[:, None]


@pytest.mark.parametrize(
    ("bound", "count"), [(2.0, 10_000), (1.05, 1000), (1.5, 1000), (8.0, 1000)]
)
def test_every_draw_magnifies_between_1_over_m_and_m_on_the_whole_square(
    bound: float, count: int
) -> None:
    maps, z = random_maps(count, bound=bound), grid()
    for start in range(0, count, 500):
        part = maps[start : start + 500, :, :, None, None]
        a, b, c, d = part[:, 0, 0], part[:, 0, 1], part[:, 1, 0], part[:, 1, 1]
        slope = np.abs(a * d - b * c) / np.abs(c * z + d) ** 2
        assert slope.min() > 1 / bound
        assert slope.max() < bound


def test_draws_come_near_both_bounds_so_that_the_range_is_used() -> None:
    low, high = mobius.magnification_bounds(random_maps(10_000))
    assert low.min() < 0.51
    assert high.max() > 1.96


def test_a_sampled_map_rotates_the_center_within_the_limit() -> None:
    numbers = np.random.default_rng(1).random((2000, 6))
    maps = mobius.admissible(numbers, bound=2, max_rotation_degrees=15, max_shift=0.1)
    a, b, c, d = maps[:, 0, 0], maps[:, 0, 1], maps[:, 1, 0], maps[:, 1, 1]
    angles = np.degrees(np.angle((a * d - b * c) / d**2))
    assert np.abs(angles).max() <= 15
    assert np.abs(angles).max() > 14
    assert np.abs(b / d).max() <= 0.1


def test_strength_0_is_the_identity() -> None:
    numbers = np.random.default_rng(2).random((50, 6))
    maps = mobius.admissible(numbers, bound=1, max_rotation_degrees=0, max_shift=0)
    np.testing.assert_array_equal(maps, np.tile(np.eye(2, dtype=complex), (50, 1, 1)))


def test_inverse_after_map_is_the_identity_to_1e_9() -> None:
    maps, z = random_maps(500), grid(16)
    there = mobius.apply(maps[:, None, None].reshape(500, 1, 1, 2, 2), z)
    back = mobius.apply(mobius.inverse(maps).reshape(500, 1, 1, 2, 2), there)
    assert np.abs(back - z).max() < 1e-9


def test_compose_is_one_map_after_the_other() -> None:
    outer, inner, z = random_maps(20), random_maps(20, seed=9), 0.3 - 0.7j
    one_after_the_other = mobius.apply(outer, mobius.apply(inner, z))
    np.testing.assert_allclose(
        mobius.apply(mobius.compose(outer, inner), z), one_after_the_other, atol=1e-12
    )


def test_derivative_agrees_with_a_difference_quotient() -> None:
    maps, z, h = random_maps(50), 0.2 + 0.5j, 1e-6
    quotient = (mobius.apply(maps, z + h) - mobius.apply(maps, z - h)) / (2 * h)
    np.testing.assert_allclose(mobius.derivative(maps, z), quotient, rtol=1e-8)


def test_three_points_go_where_they_were_sent() -> None:
    rng = np.random.default_rng(3)
    source, target = rng.normal(size=(2, 40, 3)) + 1j * rng.normal(size=(2, 40, 3))
    maps = mobius.from_points(source, target)
    for place in range(3):
        reached = mobius.apply(maps, source[:, place])
        np.testing.assert_allclose(reached, target[:, place], atol=1e-9)


def test_three_points_agree_with_the_papers_determinants() -> None:
    z, w = [0.1 + 0.2j, -0.5j, 0.9], [0.3, -0.2 + 0.4j, 1j]
    rows = list(zip(z, w, strict=True))
    a = np.linalg.det(np.array([[p * q, q, 1] for p, q in rows]))
    b = np.linalg.det(np.array([[p * q, p, q] for p, q in rows]))
    c = np.linalg.det(np.array([[p, q, 1] for p, q in rows]))
    d = np.linalg.det(np.array([[p * q, p, 1] for p, q in rows]))
    point = 0.37 - 0.11j
    ours = complex(mobius.apply(mobius.from_points(z, w), point))
    assert cmath.isclose(ours, (a * point + b) / (c * point + d), abs_tol=1e-12)


def test_magnification_bounds_are_those_of_a_fine_grid() -> None:
    maps = random_maps(100)
    slopes = np.abs(mobius.derivative(maps[:, None, None].reshape(100, 1, 1, 2, 2), grid(401)))
    low, high = mobius.magnification_bounds(maps)
    np.testing.assert_allclose(low, slopes.min(axis=(1, 2)), rtol=1e-9)
    np.testing.assert_allclose(high, slopes.max(axis=(1, 2)), rtol=1e-4)
    assert (high >= slopes.max(axis=(1, 2)) * (1 - 1e-12)).all()


def test_a_pole_in_the_square_has_no_upper_bound() -> None:
    low, high = mobius.magnification_bounds(np.array([[0, 1], [1, -0.25]], dtype=complex))
    assert high == math.inf
    assert low > 0


def test_the_paper_names_eight_maps() -> None:
    assert tuple(mobius.PRESETS) == NAMES


def test_clockwise_is_clockwise_as_seen_on_screen() -> None:
    # y is down: what is left, -1, goes to the top, -1j.
    forward = mobius.inverse(mobius.PRESETS["clockwise twist"])
    assert cmath.isclose(complex(mobius.apply(forward, -1)), -1j, abs_tol=1e-12)
    mirrored = mobius.inverse(mobius.PRESETS["counter-clockwise twist"])
    assert cmath.isclose(complex(mobius.apply(mirrored, -1)), 1j, abs_tol=1e-12)


def test_spread_enlarges_the_middle_by_a_half_and_inverse_is_a_half_turn() -> None:
    spread = mobius.inverse(mobius.PRESETS["spread"])
    assert cmath.isclose(complex(mobius.apply(spread, 0.4)), 0.6, abs_tol=1e-12)
    half_turn = mobius.PRESETS["inverse"]
    np.testing.assert_allclose(mobius.apply(half_turn, grid(8)), -grid(8), atol=1e-12)
