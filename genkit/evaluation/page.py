"""An evaluation as HTML: figures, samples, nearest training items, curves, protocol. It needs no other file.

Knows an evaluation and how samples show themselves in a notebook; computes no figure.
"""

from __future__ import annotations

import json
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from genkit.evaluation.plots import plots
from genkit.evaluation.scores import Figure, better
from genkit.sampling.samples import PREVIEW_TYPE, TEXT_FORMATS, Samples

if TYPE_CHECKING:
    from genkit.evaluation.results import Evaluation, Row

FEW = 8
"""Samples of a row beside their nearest training items."""

LEGEND = (
    "The row “real” is other real items, the best that can be expected; “noise” is real values in random places. "
    "Arrows say where better is."
)

NUMBERS = 16
"""A sample of at most so many numbers, which no preview shows, is written as these."""


def html(evaluation: Evaluation, is_whole: bool = True) -> str:
    """An evaluation as HTML.

    Args:
        evaluation: to be shown.
        is_whole: a page; False: an element of a page.
    """
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    names = ", ".join(dict.fromkeys(row.name for row in evaluation.rows if row.kind == "model"))
    title = f"Evaluation of {escape(names)}"
    parts = [
        f"<style>{style}</style>",
        f"<h1>{title}</h1>",
        f"<p>{escape(evaluation.summary)}. {LEGEND}</p>",
        *(f"<p>Note: {escape(note)}</p>" for note in evaluation.notes),
        _figures(evaluation),
    ]
    if curves := plots(evaluation):
        parts.append(f'<h2>Curves</h2><div class="sets">{"".join(curves)}</div>')
    parts += [_samples(evaluation), _nearest(evaluation), _protocol(evaluation)]
    body = "".join(parts)
    if not is_whole:
        return f'<div class="genkit">{body}</div>'
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body class="genkit">{body}</body></html>\n'


def _figures(evaluation: Evaluation) -> str:
    """The table of all figures: a line for each, a column for each row."""
    heads = "".join(f"<th>{escape(row.title)}</th>" for row in evaluation.rows)
    arrows = {
        name: "↓" if is_less else "↑"
        for one in evaluation.real
        for network in one["networks"]
        for name, is_less in better(network["name"], network["distance"]).items()
    }
    lines = [
        f"<tr><th>{escape(name)} {arrows.get(name, '')}</th>"
        + "".join(_cell(row, row.figures.get(name, Figure(None))) for row in evaluation.rows)
        + "</tr>"
        for name in evaluation.names
    ]
    return f'<h2>Figures</h2><div class="wide"><table><tr><th></th>{heads}</tr>{"".join(lines)}</table></div>'


def _cell(row: Row, figure: Figure) -> str:
    value, _, interval = str(figure).partition(" ")
    kind = "" if row.kind == "model" else ' class="scale"'
    ends = f" <small>{escape(interval)}</small>" if interval else ""
    return f'<td{kind} title="{escape(figure.protocol)}">{escape(value)}{ends}</td>'


def _samples(evaluation: Evaluation) -> str:
    shown_rows = [
        f"<div><p>{escape(row.title)}</p>{media(row.samples)}</div>"
        for row in evaluation.rows
        if row.samples is not None
    ]
    return f'<h2>Samples</h2><div class="sets">{"".join(shown_rows)}</div>'


def _nearest(evaluation: Evaluation) -> str:
    """Samples above, or beside, the training items that lie nearest to them."""
    parts = []
    for row in evaluation.rows:
        if row.kind != "model" or row.samples is None or row.nearest is None:
            continue
        samples, nearest = row.samples[:FEW], row.nearest[:FEW]
        lines, near_lines = texts(samples), texts(nearest)
        if lines is not None and near_lines is not None:
            cells = "".join(
                f"<tr><td>{escape(line)}</td><td>{escape(near)}</td></tr>"
                for line, near in zip(lines, near_lines, strict=True)
            )
            body = f"<table><tr><th>sample</th><th>nearest</th></tr>{cells}</table>"
        else:
            strips = [media(replace(part, columns=FEW)) for part in (samples, nearest)]
            body = f'<div class="strip">{strips[0]}<p class="faint">nearest:</p>{strips[1]}</div>'
        parts.append(f"<div><p>{escape(row.title)}</p>{body}</div>")
    if not parts:
        return ""
    return (
        f'<h2>Samples and the nearest training items</h2><div class="sets">{"".join(parts)}</div>'
    )


def _protocol(evaluation: Evaluation) -> str:
    plain = {"protocol": dict(evaluation.protocol), "real": [dict(one) for one in evaluation.real]}
    text = escape(json.dumps(plain, indent=1))
    summary = "<summary>What the figures were computed from</summary>"
    return f"<h2>Protocol</h2><details>{summary}<pre>{text}</pre></details>"


def texts(samples: Samples) -> list[str] | None:
    """Samples of a modality that writes text, as lines; None for any other."""
    modality = samples.model.modality
    if modality.formats[0] in TEXT_FORMATS:
        return [" ".join(content.decode().split("\n")).strip() for content in samples.encode()]
    numbers = samples.x.flatten(1)
    if "png" in modality.preview_formats or numbers.shape[1] > NUMBERS:
        return None
    return ["  ".join(f"{value:.4g}" for value in row) for row in numbers.tolist()]


def media(samples: Samples) -> str:
    """Samples as elements of HTML: lines of text, a preview, players."""
    lines = texts(samples)
    if lines is not None:
        return f"<ol>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ol>"
    bundle = samples._repr_mimebundle_()
    parts = []
    if PREVIEW_TYPE in bundle:
        parts.append(f'<img alt="samples" src="data:{PREVIEW_TYPE};base64,{bundle[PREVIEW_TYPE]}">')
    if "text/html" in bundle:
        parts.append(f"<p>{bundle['text/html']}</p>")
    return "".join(parts) or '<p class="faint">nothing that a page can show</p>'
