"""Lines over a number of tokens, as an SVG."""

import xml.etree.ElementTree as ElementTree

import pytest

from limner.evaluation.plot import Line, line_plot

SVG = "{http://www.w3.org/2000/svg}"


def test_points_stand_where_their_values_are():
    lines = [Line("drawn & right", {1: 0.25, 2: 0.5, 8: 1.0}), Line("none", {})]
    tree = ElementTree.fromstring(
        line_plot("nano <1>", {"quality": lines, "seconds": [Line("draw", {2: 3.0, 8: 6.0})]})
    )
    points = [
        [tuple(map(float, pair.split(","))) for pair in line.get("points").split()]
        for line in tree.iter(f"{SVG}polyline")
    ]
    quality, cost = points
    (x1, y1), (x2, y2), (x8, y8) = quality
    assert x8 - x2 == pytest.approx(2 * (x2 - x1), abs=0.2), "each number as far from its half"
    assert y1 - y2 == pytest.approx((y2 - y8) / 2, abs=0.2) and y8 < y2 < y1
    assert [x for x, _ in cost] == [x2, x8] and all(y > y1 for _, y in cost), "a panel below the other"
    said = [text.text for text in tree.iter(f"{SVG}text")]
    assert {"nano <1>", "drawn & right", "1", "2", "8", "6.00"} <= set(said) and "none" not in said


def test_nothing_measured_is_an_empty_plot():
    assert ElementTree.fromstring(line_plot("x", {"quality": []})).tag == f"{SVG}svg"
