"""How a curve of quality against diversity is shown: as a table and as a picture. Knows no model: rows of numbers.

`genkit_text.evaluation.curve` makes the rows. Imports matplotlib when it draws.
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
"""The name of the curve that the others are compared with: it is drawn in grey."""

KINDS = ("png", "svg", "pdf")
"""Of pictures that can be drawn."""


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV with a head line; what there is none of is empty."""
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def check_picture(path: str | Path) -> None:
    """Nothing, for a file that a curve can be drawn into.

    Raises:
        ConfigError: if what draws is not installed, or does not know the file's ending.
    """
    if Path(path).suffix[1:].lower() not in KINDS:
        raise ConfigError(f"{path}: a curve is drawn as {', '.join(f'.{kind}' for kind in KINDS)}")
    try:
        import matplotlib.figure  # noqa: F401  # what `plot` will need
    except ImportError as error:
        raise ConfigError(
            "curves are drawn by matplotlib: pip install 'genkit-gan-text[curves]'"
        ) from error


def plot(rows: Sequence[Mapping[str, Any]], path: str | Path, baseline: str = BASELINE) -> Path:
    """Draw the rows of `curve`: quality against both kinds of diversity, better towards the lower left.

    A line for each name, with its temperatures; of several models of a name, the mean and the standard deviation.

    Args:
        path: of the picture; its ending says which kind.
        baseline: the name that is drawn in grey.

    Raises:
        ConfigError: as `check_picture`.
    """
    check_picture(path)
    from matplotlib.figure import Figure

    from genkit.kit.files import make_folder, write_whole

    judged, n = all(row["judge_nll"] is not None for row in rows), rows[0]["n"]
    quality = (
        "NLL of samples under the judge, nats per symbol" if judged else f"1 − BLEU-{n} of samples"
    )
    figure = Figure(figsize=(11, 5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    left.set(xlabel=f"self-BLEU-{n} of samples", ylabel=quality)
    right.set(xlabel="NLL of held-out text, nats per symbol")
    for name in dict.fromkeys(row["name"] for row in rows):
        colour = "0.55" if name == baseline else None
        for axes, diversity in ((left, "self_bleu"), (right, "held_out_nll")):
            points = _points([row for row in rows if row["name"] == name], diversity, judged)
            seeds = max(point.seeds for point in points)
            drawn = axes.errorbar(
                [point.x for point in points], [point.y for point in points],
                xerr=[point.errors[0] for point in points] if seeds > 1 else None,
                yerr=[point.errors[1] for point in points] if seeds > 1 else None,
                marker="o", markersize=4, capsize=2, color=colour,
                label=name if seeds == 1 else f"{name} ({seeds} seeds)",
            )  # fmt: skip
            colour = drawn[0].get_color()
            for point in points:
                axes.annotate(
                    f"{point.temperature:g}", (point.x, point.y), textcoords="offset points", xytext=(5, 4),
                    fontsize=7, color=colour,
                )  # fmt: skip
    right.legend()
    figure.suptitle("Quality against diversity at each temperature; the lower left is better")
    buffer = io.BytesIO()
    figure.savefig(buffer, format=Path(path).suffix[1:].lower(), dpi=150)
    make_folder(Path(path).parent)
    write_whole(path, buffer.getvalue())
    return Path(path)


class _Point(NamedTuple):
    temperature: float
    x: float
    y: float
    errors: tuple[float, float]
    seeds: int


def _points(rows: Sequence[Mapping[str, Any]], diversity: str, judged: bool) -> list[_Point]:
    """Means and standard deviations of one name's rows, by temperature."""
    points = []
    for temperature in dict.fromkeys(row["temperature"] for row in rows):
        same = [row for row in rows if row["temperature"] == temperature]
        x = [row[diversity] for row in same]
        y = [row["judge_nll"] if judged else 1 - row["bleu"] for row in same]
        errors = (stdev(x), stdev(y)) if len(same) > 1 else (0.0, 0.0)
        points.append(_Point(temperature, fmean(x), fmean(y), errors, len(same)))
    return points
