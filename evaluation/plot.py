"""Lines over a number of tokens, as an SVG: a few marks and texts, for which no library is needed."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, PANEL, MARGIN = 640, 260, 60
"""Of the picture, of each panel's height, and around each, in units of the SVG"""
COLORS = ("#1b6ca8", "#c8553d", "#3a7d44", "#8e5ea2", "#b08900")


@dataclass(frozen=True)
class Line:
    """Values by a number of tokens; a line of none is left out."""

    name: str
    values: Mapping[int, float]


def line_plot(title: str, panels: Mapping[str, Sequence[Line]]) -> str:
    """An SVG with a panel below the other for each of ``panels`` (the name of its values, and its lines), from 0 to the largest
    value. All share their numbers of tokens, each twice as far as its half."""
    shown = {name: [line for line in lines if line.values] for name, lines in panels.items()}
    numbers = sorted({number for lines in shown.values() for line in lines for number in line.values})
    height = MARGIN + len(shown) * (PANEL + MARGIN)
    body = [text(WIDTH / 2, MARGIN / 2, title, "middle", 15)]
    for index, (name, lines) in enumerate(shown.items()):
        body += panel(name, lines, numbers, MARGIN + index * (PANEL + MARGIN))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(body)}</svg>\n'
    )


def panel(name: str, lines: Sequence[Line], numbers: Sequence[int], top: float) -> list[str]:
    """The marks of one panel, whose upper edge is at ``top``."""
    left, right, bottom = MARGIN, WIDTH - 3 * MARGIN, top + PANEL
    most = max((value for line in lines for value in line.values.values()), default=1.0) or 1.0
    span = math.log2(numbers[-1] / numbers[0]) if len(numbers) > 1 else 1.0

    def place(number: int, value: float) -> tuple[float, float]:
        along = math.log2(number / numbers[0]) / span
        return left + along * (right - left), bottom - value / most * PANEL

    made = [text(left, top - 8, name, "start", 12)]
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = bottom - share * PANEL
        made.append(f'<line x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        made.append(text(left - 6, y + 4, f"{share * most:.2f}", "end", 11))
    made += [text(place(number, 0)[0], bottom + 16, str(number), "middle", 11) for number in numbers]
    for index, line in enumerate(lines):
        color = COLORS[index % len(COLORS)]
        points = [place(number, value) for number, value in sorted(line.values.items())]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        made.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        made += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in points]
        made.append(text(right + 12, top + 14 + 18 * index, line.name, "start", 12, color))
    return made


def text(x: float, y: float, words: str, anchor: str, size: int, color: str = "#333") -> str:
    """Words at a place, which is their "start", "middle" or "end"."""
    said = html.escape(words)
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{color}">{said}</text>'
