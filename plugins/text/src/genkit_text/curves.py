"""Curves of quality against diversity as a table (CSV) and as a plot.

Reads the rows of `genkit_text.evaluation.curve`, and knows no model. Imports matplotlib only to plot.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from genkit.errors import ConfigError

BASELINE = "mle"
"""Name of the curve that the others are compared with; it is plotted in grey."""

FORMATS = ("png", "svg", "pdf")
"""File formats of a plot."""


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV with a header; a value of None is an empty cell."""
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def check_picture(path: str | Path) -> None:
    """Check that a curve can be plotted into a file of this name.

    Raises:
        ConfigError: if the ending is not one of `FORMATS`, or matplotlib is not installed.
    """
    if Path(path).suffix[1:].lower() not in FORMATS:
        raise ConfigError(
            f"{path}: a curve is drawn as {', '.join(f'.{format}' for format in FORMATS)}"
        )
    try:
        import matplotlib.figure  # noqa: F401  # needed by `plot`
    except ImportError as error:
        raise ConfigError(
            "curves are drawn by matplotlib: pip install 'genkit-gan-text[curves]'"
        ) from error


def plot(rows: Sequence[Mapping[str, Any]], path: str | Path, baseline: str = BASELINE) -> Path:
    """Plot quality against self-BLEU and against the NLL of held-out text; lower left is better in both.

    Each name is one line with a point per temperature; for several models of one name, the points are means and the
    error bars standard deviations.

    Args:
        rows: of `genkit_text.evaluation.curve`.
        path: of the plot; its ending is its format.
        baseline: the name that is plotted in grey.

    Returns:
        The path.

    Raises:
        ConfigError: if the file's ending is unknown, or matplotlib is not installed.
    """
    check_picture(path)
    from matplotlib.figure import Figure

    from genkit.kit.files import make_folder, write_whole

    has_judge, n = all(row["judge_nll"] is not None for row in rows), rows[0]["n"]
    quality = (
        "NLL of samples under the judge, nats per symbol"
        if has_judge
        else f"1 − BLEU-{n} of samples"
    )
    figure = Figure(figsize=(11, 5), layout="constrained")
    bleu_axes, likelihood_axes = figure.subplots(1, 2, sharey=True)
    bleu_axes.set(xlabel=f"self-BLEU-{n} of samples", ylabel=quality)
    likelihood_axes.set(xlabel="NLL of held-out text, nats per symbol")
    for name in dict.fromkeys(row["name"] for row in rows):
        colour = "0.55" if name == baseline else None
        for axes, diversity in ((bleu_axes, "self_bleu"), (likelihood_axes, "held_out_nll")):
            points = _points([row for row in rows if row["name"] == name], diversity, has_judge)
            seeds = max(point.seeds for point in points)
            bars = axes.errorbar(
                [point.x for point in points], [point.y for point in points],
                xerr=[point.errors[0] for point in points] if seeds > 1 else None,
                yerr=[point.errors[1] for point in points] if seeds > 1 else None,
                marker="o", markersize=4, capsize=2, color=colour,
                label=name if seeds == 1 else f"{name} ({seeds} seeds)",
            )  # fmt: skip
            colour = bars[0].get_color()
            for point in points:
                axes.annotate(
                    f"{point.temperature:g}", (point.x, point.y), textcoords="offset points", xytext=(5, 4),
                    fontsize=7, color=colour,
                )  # fmt: skip
    likelihood_axes.legend()
    figure.suptitle("Quality against diversity at each temperature; the lower left is better")
    buffer = io.BytesIO()
    figure.savefig(buffer, format=Path(path).suffix[1:].lower(), dpi=150)
    make_folder(Path(path).parent)
    write_whole(path, buffer.getvalue())
    return Path(path)


class _Point(NamedTuple):
    """Diversity x and quality y at one temperature: means over seeds, and standard deviations (of x, of y)."""

    temperature: float
    x: float
    y: float
    errors: tuple[float, float]
    seeds: int


def _points(rows: Sequence[Mapping[str, Any]], diversity: str, has_judge: bool) -> list[_Point]:
    """The points of one name's rows, one per temperature; `diversity` is the key of x."""
    points = []
    for temperature in dict.fromkeys(row["temperature"] for row in rows):
        seeds = [row for row in rows if row["temperature"] == temperature]
        x = [row[diversity] for row in seeds]
        y = [row["judge_nll"] if has_judge else 1 - row["bleu"] for row in seeds]
        errors = (stdev(x), stdev(y)) if len(seeds) > 1 else (0.0, 0.0)
        points.append(_Point(temperature, fmean(x), fmean(y), errors, len(seeds)))
    return points
