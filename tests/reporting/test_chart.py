from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.reporting.chart import (
    NARROW,
    WIDE,
    Axis,
    Bar,
    Chart,
    Kind,
    Series,
    draw_chart,
    tick_texts,
)
from finetune.reporting.drawing import (
    PAPER,
    Box,
    Dot,
    Drawing,
    Line,
    Text,
    to_image,
    to_svg,
)

SVG = "{http://www.w3.org/2000/svg}"


def chart(points: list[tuple[float, float]], x: Axis | None = None, y: Axis | None = None) -> Chart:
    return Chart(
        title="t",
        x=x or Axis(title="x"),
        y=y or Axis(title="y"),
        series=[Series(name="one", points=points)],
    )


def texts_of(drawn: Drawing) -> list[Text]:
    return [shape for shape in drawn.shapes if isinstance(shape, Text)]


def test_three_epochs_are_three_ticks() -> None:
    axis = Axis(title="Epoch", kind="integer", ends=(1, 3))
    drawn = draw_chart(chart([(1, 0.5), (2, 0.6), (3, 0.7)], x=axis))
    below = [text.text for text in texts_of(drawn) if text.y == drawn.height - 44 + 18]
    assert below == ["1", "2", "3"]


def test_points_lie_where_their_ticks_say() -> None:
    drawn = draw_chart(chart([(0, 0), (5, 20), (10, 10)], y=Axis(title="y")))
    line = next(s for s in drawn.shapes if isinstance(s, Line) and s.color == "right")
    below = {t.text: t.x for t in texts_of(drawn) if t.y == drawn.height - 26}
    beside = {t.text: t.y - 4 for t in texts_of(drawn) if t.anchor == "end"}
    assert line.points[1] == pytest.approx(
        ((below["4"] + below["6"]) / 2 if "5" not in below else below["5"], beside["20"])
    )
    assert line.points[2][1] == pytest.approx(beside["10"])


def test_a_logarithmic_axis_spaces_powers_evenly() -> None:
    axis = Axis(title="lr", kind="log", ends=(1e-6, 10))
    drawn = draw_chart(chart([(1e-6, 1), (10, 2)], x=axis))
    places = [t.x for t in texts_of(drawn) if t.y == drawn.height - 26]
    assert len(places) == 8
    # The last one moves inside the sheet.
    assert np.ptp(np.diff(places[:-1])) < 1e-6


@pytest.mark.parametrize(
    ("ticks", "kind", "shown"),
    [
        ([0.95, 0.96, 0.97], "share", ["95\u202f%", "96\u202f%", "97\u202f%"]),
        ([0.995, 0.996], "share", ["99.5\u202f%", "99.6\u202f%"]),
        ([0, 0.5, 1], "number", ["0.0", "0.5", "1.0"]),
        ([0, 30, 60], "seconds", ["0", "30 s", "1:00 min"]),
        ([0.01, 0.1], "log", ["0.01", "0.1"]),
    ],
)
def test_ticks_have_the_decimals_that_tell_them_apart(
    ticks: list[float], kind: Kind, shown: list[str]
) -> None:
    assert tick_texts(ticks, kind) == shown


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20),
    st.sampled_from(["number", "share", "integer", "seconds"]),
    st.sampled_from([WIDE, NARROW]),
)
def test_any_numbers_make_a_chart_inside_its_sheet(
    values: list[float], kind: Kind, width: int
) -> None:
    if kind == "share":
        values = [1 / (1 + abs(value)) for value in values]
    points = [(float(k), abs(value)) for k, value in enumerate(values)]
    drawn = draw_chart(chart(points, y=Axis(title="y", kind=kind)), width)
    names = [t.text for t in texts_of(drawn) if t.anchor == "end"]
    assert len(set(names)) == len(names) <= 14
    for shape in drawn.shapes:
        if isinstance(shape, Line) and shape.color == "right":
            for x, y in shape.points:
                assert -1e-6 <= x <= width + 1e-6
                assert -1e-6 <= y <= drawn.height + 1e-6


def test_one_value_alone_and_equal_values_have_an_axis() -> None:
    for points in ([(1.0, 1.0)], [(1.0, 1.0), (2.0, 1.0)], []):
        drawn = draw_chart(chart(points, y=Axis(title="y", kind="share")))
        assert all(math.isfinite(t.x + t.y) for t in texts_of(drawn))


def test_names_and_notes_are_text_in_svg() -> None:
    hostile = '<script>alert("x")</script>'
    made = Chart(
        title=hostile,
        x=Axis(title="x", names=[hostile, "カワセミ"]),
        y=Axis(title="y"),
        series=[Series(name=hostile, points=[(0, 1)], notes=[hostile])],
        bars=[Bar(x0=0, x1=1, y=1, note=hostile)],
        upright=[(0, hostile)],
    )
    svg = ET.fromstring(to_svg(draw_chart(made)))
    assert {child.tag.removeprefix(SVG) for child in svg.iter()} <= {
        *("svg", "rect", "circle", "polyline", "text", "title")
    }
    assert svg.findtext(f"{SVG}title") == hostile
    assert "カワセミ" in [text.text for text in svg.iter(f"{SVG}text")]


def test_a_themed_drawing_has_the_colors_of_the_page() -> None:
    drawing = Drawing(
        width=10, height=10, title="t", shapes=[Dot(x=5, y=5, radius=2, color="right", note="n")]
    )
    assert 'fill="var(--right)"' in to_svg(drawing, themed=True)
    assert f'fill="{PAPER["right"]}"' in to_svg(drawing)


def test_an_image_has_each_shape_in_its_place() -> None:
    drawing = Drawing(
        width=40,
        height=30,
        title="t",
        shapes=[
            Box(x=2, y=2, width=10, height=10, color="right"),
            Line(points=[(20, 0), (20, 30)], color="wrong", width=2),
            Line(points=[(30, 0), (30, 30)], color="wrong", width=2, dash=(5, 5)),
        ],
    )
    pixels = np.asarray(to_image(drawing, scale=2))
    assert pixels.shape == (60, 80, 3)
    blue, orange = (tuple(bytes.fromhex(PAPER[c][1:])) for c in ("right", "wrong"))
    assert tuple(pixels[14, 14]) == blue
    assert tuple(pixels[50, 14]) == (255, 255, 255)
    np.testing.assert_allclose(pixels[30, 40], orange, atol=12)  # edges are smoothed
    # Dashes: drawn from 0 to 5, left out from 5 to 10, and so on.
    drawn = [pixels[y, 60, 2] < 128 for y in (4, 14, 24, 34, 44, 54)]
    assert drawn == [True, False, True, False, True, False]


def test_upright_text_is_turned_to_the_left() -> None:
    text = Text(x=20, y=50, text="LLLLLL", size=12, color="text", anchor="middle", upright=True)
    image = to_image(Drawing(width=40, height=100, title="t", shapes=[text]), scale=1)
    dark = np.argwhere(np.asarray(image).min(axis=2) < 128)
    height, width = np.ptp(dark, axis=0)
    assert height > 3 * width
    # The feet of the letters, which the baseline touches, are on the right.
    assert dark[:, 1].min() > 10
    assert dark[:, 1].max() <= 20
