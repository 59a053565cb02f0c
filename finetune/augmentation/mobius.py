"""Möbius maps f(z) = (az + b) / (cz + d) on the square [-1, 1]², sampled without rejection.

A point of the picture is z = x + iy with x to the right and y **down**, the picture's sides at ±1.
A map is its complex matrix [[a, b], [c, d]]; every function takes stacks of them, `(..., 2, 2)`.

A map is *M-admissible* on the square when 1/M < |f'(z)| < M at each of its points (Zhou, Ma, Zhang,
Tian, Sun 2020, "Data augmentation with Möbius transformations", arXiv:2002.02917). There, maps are
sampled as three point pairs and rejected until five test points pass. Here none is rejected. Any
Möbius map that is finite at 0 can be written

    g(w) = t + q w / (1 - k w),        g'(w) = q / (1 - k w)²

On the square |w| <= sqrt(2), so with x = sqrt(2) |k| < 1 the triangle inequality gives
1 - x <= |1 - k w| <= 1 + x, and therefore

    |q| / (1 + x)²  <=  |g'(w)|  <=  |q| / (1 - x)².

Both ends lie inside (1/M, M) exactly when (1 + x)² / M < |q| < M (1 - x)². That interval is not
empty exactly when (1 + x) < M (1 - x), which is x < (M - 1) / (M + 1). Each such (k, q) is
admissible on the whole square, at any arg q and any t; the pole 1/k lies outside the square
because x < 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Complex = NDArray[np.complex128]
Floats = NDArray[np.float64]

IDENTITY: Complex = np.eye(2, dtype=np.complex128)


def from_points(source: ArrayLike, target: ArrayLike) -> Complex:
    """Returns the one map that carries three distinct points to three others.

    Both triples go to (0, 1, inf) by their cross ratios; the map is the first of these followed by
    the inverse of the second (arXiv:2002.02917, equation 3, has the same as four determinants).

    Args:
        source: `(..., 3)` complex, distinct.
        target: `(..., 3)` complex, distinct.

    Returns:
        `(..., 2, 2)` complex128.

    Example:
        >>> turn = from_points([0, 1, 1j], [0, 1j, -1])
        >>> complex(apply(turn, 1 + 1j)).real
        -1.0
    """
    return compose(inverse(_to_zero_one_infinity(target)), _to_zero_one_infinity(source))


def compose(outer: Complex, inner: Complex) -> Complex:
    """Returns the map z -> outer(inner(z)): the product of the two complex matrices."""
    return outer @ inner


def inverse(map_: Complex) -> Complex:
    """Returns the map that undoes another: [[d, -b], [-c, a]]; the common factor cancels."""
    turned = np.empty_like(map_)
    turned[..., 0, 0], turned[..., 0, 1] = map_[..., 1, 1], -map_[..., 0, 1]
    turned[..., 1, 0], turned[..., 1, 1] = -map_[..., 1, 0], map_[..., 0, 0]
    return turned


def apply(map_: Complex, z: ArrayLike) -> Complex:
    """Returns f(z) for maps `(..., 2, 2)` and points that broadcast against `(...)`."""
    points = np.asarray(z, dtype=np.complex128)
    a, b, c, d = _entries(map_)
    return np.asarray((a * points + b) / (c * points + d))


def derivative(map_: Complex, z: ArrayLike) -> Complex:
    """Returns f'(z) = (ad - bc) / (cz + d)²; |f'| is the local magnification, arg f' the turn."""
    points = np.asarray(z, dtype=np.complex128)
    a, b, c, d = _entries(map_)
    return np.asarray((a * d - b * c) / (c * points + d) ** 2)


def magnification_bounds(map_: Complex) -> tuple[Floats, Floats]:
    """Returns the least and the greatest |f'| on the square [-1, 1]², exactly.

    |f'| = |ad - bc| / |cz + d|², and |cz + d| is |c| times the distance to the pole -d/c. The
    nearest point of a square to a point is the point clipped to it, the farthest is a corner.

    Args:
        map_: `(..., 2, 2)`.

    Returns:
        Two arrays `(...)`; the greatest is inf when the pole lies in the square.
    """
    a, b, c, d = _entries(map_)
    numerator = np.abs(a * d - b * c)
    with np.errstate(divide="ignore", invalid="ignore"):
        pole = np.where(c == 0, 0, -d / c)
    nearest = np.clip(pole.real, -1, 1) + 1j * np.clip(pole.imag, -1, 1)
    farthest = -np.where(pole.real < 0, -1, 1) - 1j * np.where(pole.imag < 0, -1, 1)
    with np.errstate(divide="ignore"):
        greatest = numerator / np.abs(c * nearest + d) ** 2
    return numerator / np.abs(c * farthest + d) ** 2, greatest


def admissible(
    uniforms: Floats, *, bound: float, max_rotation_degrees: float, max_shift: float
) -> Complex:
    """Returns M-admissible maps, one for each row of uniform numbers, without rejection.

    The derivation is at the head of this module. k is uniform on its disc, |q| log-uniform on the
    interval that k leaves, arg q uniform, t uniform on its disc.

    Args:
        uniforms: `(..., 6)` numbers in the open interval (0, 1).
        bound: M; 1 gives no distortion and no magnification at all.
        max_rotation_degrees: Largest turn of the picture's center, either way.
        max_shift: Radius of the disc of t, in half sides of the picture.

    Returns:
        `(..., 2, 2)` complex128, from output to source, as a resampler needs it.

    Example:
        >>> maps = admissible(
        ...     np.full((1, 6), 0.5), bound=2, max_rotation_degrees=30, max_shift=0.1
        ... )
        >>> low, high = magnification_bounds(maps)
        >>> bool(low[0] > 0.5 and high[0] < 2)
        True
    """
    radius, angle, size, turn, shift, direction = np.moveaxis(np.asarray(uniforms), -1, 0)
    x = (bound - 1) / (bound + 1) * np.sqrt(radius)
    k = x / np.sqrt(2) * np.exp(2j * np.pi * angle)
    low, high = (1 + x) ** 2 / bound, bound * (1 - x) ** 2
    q = low * (high / low) ** size * np.exp(1j * np.radians(max_rotation_degrees) * (2 * turn - 1))
    t = max_shift * np.sqrt(shift) * np.exp(2j * np.pi * direction)
    # t + q w / (1 - k w) over the common denominator.
    return _matrix(q - t * k, t, -k, np.ones_like(k))


def _to_zero_one_infinity(points: ArrayLike) -> Complex:
    first, second, third = np.moveaxis(np.asarray(points, dtype=np.complex128), -1, 0)
    near, far = second - third, second - first
    return _matrix(near, -near * first, far, -far * third)


def _matrix(a: Complex, b: Complex, c: Complex, d: Complex) -> Complex:
    entries = np.stack(np.broadcast_arrays(a, b, c, d), axis=-1).astype(np.complex128)
    return entries.reshape(*entries.shape[:-1], 2, 2)


def _entries(map_: Complex) -> tuple[Complex, Complex, Complex, Complex]:
    return map_[..., 0, 0], map_[..., 0, 1], map_[..., 1, 0], map_[..., 1, 1]


# The eight maps of the paper's figure 1 as point pairs on [-1, 1], with y up, as that paper draws.
_TWIST = ([-1, 0.6j, 0.2], [1j, 0.6 * np.exp(0.1j * np.pi), 0.2 * np.exp(-0.1j * np.pi)])
_HALF_TWIST = ([-1, 0.6j, 0.2], [1j, 0.8, -0.2j])


def _preset(source: ArrayLike, target: ArrayLike, *, mirrored: bool = False) -> Complex:
    forward = from_points(source, target)
    # A matrix given for y up is conjugated for y down; left as it is, it is the mirror image.
    return inverse(forward if mirrored else forward.conj())


PRESETS: dict[str, Complex] = {
    "clockwise twist": _preset(*_TWIST),
    "clockwise half-twist": _preset(*_HALF_TWIST),
    "spread": _preset([-0.4, 0.4j, 0.4], [-0.6, 0.6j, 0.6]),
    "spread twist": _preset(
        [-0.4 - 0.4j, 0.2 + 0.6j, 0.4 - 0.4j], [-0.6 - 0.4j, 0.2 + 0.8j, 0.6 - 0.6j]
    ),
    "counter-clockwise twist": _preset(*_TWIST, mirrored=True),
    "counter-clockwise half-twist": _preset(*_HALF_TWIST, mirrored=True),
    "inverse": _preset([-1, 0.8j, 1], [1, -0.8j, -1]),
    "inverse spread": _preset([-0.8, 0.6j, 0.8], [1, -0.8j, -1]),
}
"""Eight named maps of arXiv:2002.02917, from output to source, for display: most are not
2-admissible, and the inverse pair turns the picture upside down."""
