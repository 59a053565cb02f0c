"""RGB colours, each channel 0 to 255."""

from __future__ import annotations

Colour = tuple[int, int, int]


def shade(colour: Colour, factor: float) -> Colour:
    """Returns a darker (factor < 1) or lighter (> 1) colour."""
    red, green, blue = (min(255, max(0, round(channel * factor))) for channel in colour)
    return red, green, blue


def blend(first: Colour, second: Colour, share: float) -> Colour:
    """Returns the colour that is `share` of the way from the first to the second."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue
