"""Figures plotted against each other, as SVG elements within an HTML page. Colours are the page's variables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from genkit.evaluation.results import Evaluation

WIDTH, HEIGHT, INDENT, BOTTOM, MARGIN = 460, 340, 64, 44, 14
"""Of a plot, of its margins with the numbers, and of the others, in CSS units of length."""

COLOURS = 6
"""Variables `--line-1` ... of the page."""


class Point(NamedTuple):
    """A point of a plot.

    Args:
        x, y: means over the models of one name.
        errors: standard deviations of x and y over these; 0 for a single one.
        text: beside the point.
        models: their number.
    """

    x: float
    y: float
    errors: tuple[float, float]
    text: str
    models: int


def plots(evaluation: Evaluation) -> list[str]:
    """The plots of an evaluation in which a control is varied, one for each pair of `curves` that has points."""
    return [
        svg(lines, scale, x_name, y_name)
        for x_name, y_name in evaluation.curves
        if (lines := curves(evaluation, x_name, y_name))
        for scale in [_scale_points(evaluation, x_name, y_name)]
    ]


def curves(evaluation: Evaluation, x_name: str, y_name: str) -> dict[str, list[Point]]:
    """The points of each model's name, one for each value of the varied control at which both figures are known.

    Several models of one name, such as several seeds, are one curve of their means.
    """
    places: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in evaluation.rows:
        if row.kind == "model" and (place := _place(row, evaluation.varied, x_name, y_name)):
            values = places.setdefault(row.name, {})
            values.setdefault(str(row.value), []).append(place)
    return {
        name: [_point(text, several) for text, several in values.items()]
        for name, values in places.items()
    }


def _scale_points(
    evaluation: Evaluation, x_name: str, y_name: str
) -> dict[str, tuple[float, float]]:
    """The points of real items, which are no model's; none where the varied control is an axis."""
    return {
        row.name: place
        for row in evaluation.rows
        if row.kind == "real" and (place := _place(row, "", x_name, y_name))
    }


def _place(row: Any, varied: str, x_name: str, y_name: str) -> tuple[float, float] | None:
    """The values of two figures of a row; the varied control is one too, where it is a number."""
    values = {name: figure.value for name, figure in row.figures.items()}
    if varied and isinstance(row.value, int | float):
        values = {varied: float(row.value), **values}
    x, y = values.get(x_name), values.get(y_name)
    return None if x is None or y is None else (x, y)


def _point(text: str, places: Sequence[tuple[float, float]]) -> Point:
    x, y = zip(*places, strict=True)
    errors = (stdev(x), stdev(y)) if len(places) > 1 else (0.0, 0.0)
    return Point(fmean(x), fmean(y), errors, text, len(places))


def svg(
    lines: Mapping[str, Sequence[Point]], marks: Mapping[str, tuple[float, float]], x_name: str, y_name: str
) -> str:  # fmt: skip
    """One plot: a line with points for each name, a cross for each mark.

    Args:
        lines: the points of each line.
        marks: points that belong to no line, by their names.
        x_name, y_name: of the axes.
    """
    points = [point for line in lines.values() for point in line]
    horizontal = _Axis(
        [(point.x, point.errors[0]) for point in points], [x for x, _ in marks.values()]
    )
    vertical = _Axis(
        [(point.y, point.errors[1]) for point in points], [y for _, y in marks.values()]
    )

    def x_of(value: float) -> float:
        return INDENT + horizontal.share(value) * (WIDTH - INDENT - MARGIN)

    def y_of(value: float) -> float:
        return HEIGHT - BOTTOM - vertical.share(value) * (HEIGHT - BOTTOM - MARGIN)

    parts = [_text(WIDTH / 2, HEIGHT - 6, x_name, "middle"), _text(4, MARGIN, y_name, "start")]
    for tick in horizontal.ticks:
        parts.append(_line(x_of(tick), MARGIN, x_of(tick), HEIGHT - BOTTOM, "grid"))
        parts.append(_text(x_of(tick), HEIGHT - BOTTOM + 16, f"{tick:g}", "middle"))
    for tick in vertical.ticks:
        parts.append(_line(INDENT, y_of(tick), WIDTH - MARGIN, y_of(tick), "grid"))
        parts.append(_text(INDENT - 6, y_of(tick) + 4, f"{tick:g}", "end"))
    for number, line in enumerate(lines.values()):
        parts.append(_curve(line, number % COLOURS + 1, x_of, y_of))
    for name, (x, y) in marks.items():
        parts.append(_text(x_of(x), y_of(y) + 4, f"× {name}", "start"))
    keys = "".join(
        f'<span style="color:var(--line-{number % COLOURS + 1})">● {escape(name)}'
        f"{f' ({line[0].models} models)' if line[0].models > 1 else ''}</span> "
        for number, (name, line) in enumerate(lines.items())
    )
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(y_name)} against '
        f'{escape(x_name)}">{"".join(parts)}</svg><figcaption>{keys}</figcaption></figure>'
    )


def _curve(line: Sequence[Point], colour: int, x_of: Any, y_of: Any) -> str:
    """A line with its points, their errors and texts."""
    path = " ".join(f"{x_of(point.x):.1f},{y_of(point.y):.1f}" for point in line)
    parts = [f'<polyline points="{path}" fill="none" stroke="currentColor" stroke-width="1.5"/>']
    for point in line:
        x, y, (x_error, y_error) = point.x, point.y, point.errors
        parts.append(_line(x_of(x - x_error), y_of(y), x_of(x + x_error), y_of(y), "error"))
        parts.append(_line(x_of(x), y_of(y - y_error), x_of(x), y_of(y + y_error), "error"))
        parts.append(f'<circle cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="3" fill="currentColor"/>')
        parts.append(_text(x_of(x) + 5, y_of(y) - 5, point.text, "start"))
    return f'<g style="color:var(--line-{colour})">{"".join(parts)}</g>'


def _line(x: float, y: float, to_x: float, to_y: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


class _Axis:
    """The range of some values, a little widened, and round numbers in it.

    Args:
        values: with their errors.
        others: values without errors.
    """

    def __init__(self, values: Iterable[tuple[float, float]], others: Iterable[float]) -> None:
        ends = [value + sign * error for value, error in values for sign in (-1, 1)] + list(others)
        low, high = min(ends), max(ends)
        rim = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
        self.low, self.high = low - rim, high + rim
        rough = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
        first = math.ceil(self.low / step)
        self.ticks = [step * place for place in range(first, math.floor(self.high / step) + 1)]

    def share(self, value: float) -> float:
        """Where a value lies between the ends: 0 to 1."""
        return (value - self.low) / (self.high - self.low)
