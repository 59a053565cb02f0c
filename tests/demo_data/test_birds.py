from __future__ import annotations

import numpy as np
import pytest

from finetune.demo_data.birds import Placement, closed, ellipse, opened, tube

KNOTS = np.array([(0.0, 0.0), (2.0, 1.0), (3.0, -1.0), (5.0, 0.5)])


def test_an_open_curve_runs_through_its_points() -> None:
    curve = opened(KNOTS, samples=6)
    assert curve.shape == (19, 2)
    np.testing.assert_allclose(curve[::6], KNOTS, atol=1e-12)


def test_a_closed_curve_runs_through_its_points() -> None:
    curve = closed(KNOTS, samples=5)
    assert curve.shape == (20, 2)
    np.testing.assert_allclose(curve[::5], KNOTS, atol=1e-12)


def test_curve_is_the_catmull_rom_spline_in_its_hermite_form() -> None:
    """Between two points: cubic Hermite with half the chord of the neighbors as tangents."""
    p0, p1, p2, p3 = KNOTS
    t = 2 / 6
    m1, m2 = (p2 - p0) / 2, (p3 - p1) / 2
    expected = (
        (2 * t**3 - 3 * t**2 + 1) * p1
        + (t**3 - 2 * t**2 + t) * m1
        + (-2 * t**3 + 3 * t**2) * p2
        + (t**3 - t**2) * m2
    )
    np.testing.assert_allclose(opened(KNOTS, samples=6)[8], expected, atol=1e-12)


def test_a_straight_tube_is_as_wide_as_asked() -> None:
    outline = tube([(0, 0), (10, 0)], [2.0, 4.0])
    half = len(outline) // 2
    widths = np.abs(outline[:half, 1] - outline[half:][::-1, 1])
    np.testing.assert_allclose(widths, np.linspace(2, 4, half), atol=1e-9)


@pytest.mark.parametrize(
    ("angle", "expected"), [(0.0, (3.0, 5.0)), (np.pi / 2, (2.0, 4.0)), (np.pi, (1.0, 5.0))]
)
def test_a_placement_turns_counterclockwise_on_a_screen_whose_y_runs_downwards(
    angle: float, expected: tuple[float, float]
) -> None:
    placed = Placement(x=2.0, y=5.0, angle=angle).at([(1.0, 0.0)])
    np.testing.assert_allclose(placed, [expected], atol=1e-12)


def test_an_ellipse_keeps_its_half_axes() -> None:
    outline = ellipse(1.0, 2.0, 3.0, 0.5)
    np.testing.assert_allclose(((outline - (1, 2)) / (3, 0.5)) ** 2 @ [1, 1], 1.0)
