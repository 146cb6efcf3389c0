"""The card of a model: what is known of it, as a README.md for people and for the Hub, and as HTML for notebooks.

What is not in the description of a model already (plugin, preset, options, facts, items) is in its entry `card`. Knows
plain data only; a description may be a stranger's, so any value in it may be of any type.
"""

from __future__ import annotations

import html
import itertools
import json
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from genkit.errors import ConfigError, did_you_mean
from genkit.system.files import without_place

WRITABLE = {
    "license": "of the weights, as the Hub writes it: apache-2.0, mit, cc-by-4.0",
    "data_license": "of the training data",
    "summary": "what the model draws, in a sentence",
    "limits": "what it cannot do, and what it must not be used for",
    "command": "that makes the model again",
    "scores": "what `genkit evaluate --json` writes, or a list of mappings with name and value",
}
"""The entries of a card that people write -> their meanings. A run knows the others by itself."""

NOTES = (
    "<!-- What follows is yours: genkit writes what is above this line anew, and keeps this. -->"
)
"""The line of a README.md behind which people write."""

LONGEST_VALUE, LONGEST_TEXT = 300, 3000
"""Characters of a value, and of a text that people write, on a card; the rest is in config.json."""


def of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The entry `card` of a model's description; {} if it has none."""
    card = config.get("card")
    return card if isinstance(card, Mapping) else {}


def extended(
    config: Mapping[str, Any], entries: Mapping[str, Any], sha256: str | None = None
) -> dict[str, Any]:
    """A model's description whose card has further entries; None as a value takes one away.

    Args:
        config: the description.
        entries: some of `WRITABLE`.
        sha256: of the model's weights, for its scores in an evaluation.

    Raises:
        ConfigError: for another entry, or a value that it cannot have.
    """
    card = dict(of(config))
    for key, value in entries.items():
        if key not in WRITABLE:
            raise ConfigError(f"card.{key}: no such entry of a card.{did_you_mean(key, WRITABLE)}")
        if value is not None and key == "scores":
            value = scores_in(value, sha256, config.get("controls"))
        elif value is not None and not (isinstance(value, str) and value.strip()):
            raise ConfigError(f"card.{key} = {value!r}: a text is needed, {WRITABLE[key]}")
        card[key] = value
    return {**config, "card": {key: value for key, value in card.items() if value is not None}}


def scores_in(
    document: Any, sha256: str | None = None, controls: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """The scores of a model, each with name, value and, where they are known, low, high, real, data and protocol.

    `real` is the same score of other real items.

    Args:
        document: a list of such scores, or what `genkit evaluate --json` writes.
        sha256: of the model's weights: an evaluation has scores of several models.
        controls: defaults of the model's own, in which copies of the same weights differ.

    Raises:
        ConfigError: if it is neither, or an evaluation of other weights.
    """
    if isinstance(document, Mapping) and isinstance(document.get("rows"), list):
        return _scores_of(document, sha256, controls or {})
    if not isinstance(document, list | tuple) or not all(map(_is_score, document)):
        raise ConfigError(f"card.scores: {WRITABLE['scores']} is needed")
    return [dict(row) for row in document]


def _scores_of(
    evaluation: Mapping[str, Any], sha256: str | None, controls: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The scores of the weights with this hash, and these defaults of controls, in an evaluation."""
    rows = [row for row in evaluation["rows"] if isinstance(_part(row, "figures"), Mapping)]
    own_rows = [
        row
        for row in rows
        if sha256
        and _part(row, "model", "sha256") == sha256
        and (_part(row, "model", "defaults") or {}) == controls
    ]
    if not own_rows:
        cure = "evaluate the model as it is stored"
        raise ConfigError(
            f"card.scores: the evaluation has no row of these weights and defaults: {cure}"
        )
    (row, *_), set_of_items = own_rows, own_rows[0].get("real")
    real = [one for one in rows if one.get("kind") == "real" and one.get("real") == set_of_items]
    source = _text(_part(evaluation, "protocol", "data"))
    data = without_place(source)
    scores = []
    for name, figure in row["figures"].items():
        score = {"name": name, "data": data}
        score |= {key: _part(figure, key) for key in ("value", "low", "high", "protocol")}
        score["real"] = _part(real[0], "figures", name, "value") if real else None
        score["protocol"] = _text(score["protocol"]).replace(source, data or source)
        if _is_score(score):
            scores.append({key: value for key, value in score.items() if value not in (None, "")})
    return scores


def _part(tree: Any, *keys: str) -> Any:
    """What lies in nested mappings at a path of keys; None if there is nothing."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def _is_score(row: Any) -> bool:
    """Whether something is a score."""
    if not isinstance(row, Mapping) or not isinstance(row.get("name"), str):
        return False
    return _is_number(row.get("value"))


def _is_number(value: Any) -> bool:
    """Whether something is a finite number."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) <= sys.float_info.max


# The README.md ---------------------------------------------------------------------------------------------------


def readme(config: Mapping[str, Any], name: str = "PATH-OF-THIS-FOLDER", notes: str = "") -> str:
    """The README.md of a model folder: metadata for the Hub, then `markdown`, then what people have written themselves.

    Args:
        config: the model's description.
        name: by which the model is opened.
        notes: text of people's own.
    """
    import yaml

    front = yaml.safe_dump(metadata(config), sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n\n{markdown(config, name)}\n{NOTES}\n{notes}"


def notes_in(text: str) -> str:
    """What people have written themselves into a README.md of `readme`."""
    return text.partition(f"\n{NOTES}\n")[2]


def metadata(config: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of a model in the form of the Hugging Face Hub (huggingface.co/docs/hub/model-cards)."""
    card, modality = of(config), _text(config.get("modality"))
    front: dict[str, Any] = {"library_name": "genkit"}
    if task := _text(card.get("pipeline_tag")):
        front["pipeline_tag"] = task
    if license := license_of(config):
        # The Hub has a list of names; whatever is none of them goes under `other`.
        is_name = re.fullmatch(r"[A-Za-z0-9.+-]+", license)
        front |= (
            {"license": license.lower()}
            if is_name
            else {"license": "other", "license_name": license}
        )
    front["tags"] = ["gan", modality]
    if (data := _text(card.get("data"))).startswith("hub:"):
        front["datasets"] = [data.split(":")[1]]
    if re.fullmatch(r"[\w.-]+/[\w.-]+(@.+)?", origin := _text(card.get("init"))):
        front["base_model"] = origin.partition("@")[0]
    if scores := list(_scores(card)):
        front["model-index"] = [_results(config, task or f"{modality}-generation", scores)]
    return front


def _results(
    config: Mapping[str, Any], task: str, scores: list[Mapping[str, Any]]
) -> dict[str, Any]:
    """A model's scores in the form of the Hub's `model-index`, by the data that they were measured on."""
    by_data: dict[str, list[dict[str, Any]]] = {}
    for score in scores:
        data = _text(score.get("data")) or _text(of(config).get("data")) or "unknown"
        metric: dict[str, Any] = {"type": score["name"], "value": score["value"]}
        if protocol := _text(score.get("protocol")):
            metric["name"] = f"{score['name']} ({protocol})"
        by_data.setdefault(data, []).append(metric)
    results = [
        {"task": {"type": task}, "dataset": {"name": data, "type": data}, "metrics": metrics}
        for data, metrics in by_data.items()
    ]
    return {"name": _title(config), "results": results}


def markdown(config: Mapping[str, Any], name: str) -> str:
    """The card of a model as Markdown.

    Args:
        config: the model's description.
        name: by which the model is opened.
    """
    card = of(config)
    lines = [f"# {_escaped(_title(config))}", ""]
    if summary := _long_text(card, "summary"):
        lines += [_escaped(summary), ""]
    lines += [f"    genkit generate {name} -n 16 --seed 0 --out samples/", ""]
    lines += ["| | |", "|---|---|"]
    lines += [f"| {key} | {_escaped(value)} |" for key, value in rows(config)]
    if command := _long_text(card, "command"):
        lines += ["", "Made with", "", f"    {command}"]
    if scores := list(_scores(card)):
        lines += ["", "## Scores", "", "| score | value | of real | on | protocol |"]
        lines += ["|---|---|---|---|---|"]
        lines += [f"| {' | '.join(map(_escaped, _score_cells(score)))} |" for score in scores]
    if limits := _long_text(card, "limits"):
        lines += ["", "## Limits", "", _escaped(limits)]
    lines += ["", "The folder holds weights (safetensors) and settings (JSON), nothing executable."]
    return "\n".join(lines) + "\n"


def as_html(config: Mapping[str, Any]) -> str:
    """The card of a model as HTML, for notebooks; nothing in it is markup of the description's own."""
    card = of(config)
    scores = (
        (
            name,
            " ".join(filter(None, (value, real and f"(of real: {real})", data and f"on {data}"))),
        )
        for name, value, real, data, _ in map(_score_cells, _scores(card))
    )
    texts = (
        (key, value) for key in ("summary", "limits", "command") if (value := _long_text(card, key))
    )
    cells = "".join(
        f'<tr><th style="text-align:left">{html.escape(key)}</th>'
        f'<td style="text-align:left">{html.escape(value)}</td></tr>'
        for key, value in (*rows(config), *scores, *texts)
    )
    return f"<strong>{html.escape(_title(config))}</strong><table>{cells}</table>"


def rows(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(what, value) of all that is known of a model in a few words: how it was made, of what, under which licence."""
    card, plugin = of(config), config.get("plugin")
    plugin = plugin if isinstance(plugin, Mapping) else {}
    versions = {
        "genkit": config.get("genkit"),
        plugin.get("distribution"): plugin.get("version"),
        "torch": card.get("torch"),
    }
    values = {
        "modality": config.get("modality"),
        "made with": ", ".join(f"{key} {value}" for key, value in versions.items() if value),
        "preset": config.get("preset"),
        "trained on": f"{_count(config.get('items'))} items seen",
        "parameters": _count(card.get("parameters")),
        "stored as": config.get("dtype"),
        "conditions": _conditions(config),
        "controls": _controls(config),
        "data": card.get("data"),
        "licence of the data": card.get("data_license"),
        "started from": card.get("init"),
        "learned from": card.get("teacher"),
        "seed": card.get("seed"),
        "time": _time(card),
        "licence of the weights": license_of(config),
    }
    for key, value in values.items():
        if text := _text(value):
            yield key, text
    recipe = card.get("recipe")
    if isinstance(recipe, Mapping) and recipe:
        yield (
            "recipe",
            _text(", ".join(f"{key} {_setting(value)}" for key, value in recipe.items())),
        )


def license_of(config: Mapping[str, Any]) -> str:
    """The licence of a model's weights; empty if it is unknown."""
    return _text(of(config).get("license"))


def scores_line(config: Mapping[str, Any]) -> str:
    """The first scores of a model in one line, for lists; empty if it has none."""
    first_scores = itertools.islice(_scores(of(config)), 2)
    return ", ".join(f"{name} {value}" for name, value, *_ in map(_score_cells, first_scores))


# Values ----------------------------------------------------------------------------------------------------------


def _title(config: Mapping[str, Any]) -> str:
    return _text(config.get("title")) or _text(config.get("modality")) or "model"


def _scores(card: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The scores of a card, without what is none."""
    entries = card.get("scores")
    yield from filter(_is_score, entries if isinstance(entries, list) else ())


def _score_cells(score: Mapping[str, Any]) -> tuple[str, str, str, str, str]:
    """A score's name, value with its interval, that of real items, data and protocol, as text."""
    value = f"{score['value']:.4g}"
    low, high = score.get("low"), score.get("high")
    if _is_number(low) and _is_number(high):
        value = f"{value} [{low:.4g}, {high:.4g}]"
    real = f"{score['real']:.4g}" if _is_number(score.get("real")) else ""
    return score["name"], value, real, _text(score.get("data")), _text(score.get("protocol"))


def _conditions(config: Mapping[str, Any]) -> str:
    """What a model can be conditioned on: its labels, if it has some."""
    facts = config.get("facts")
    labels = facts.get("labels") if isinstance(facts, Mapping) else None
    if not config.get("conditional") or not isinstance(labels, list):
        return "yes" if config.get("conditional") else ""
    more = f" and {len(labels) - 12:,} more" if len(labels) > 12 else ""
    return ", ".join(map(_text, labels[:12])) + more


def _controls(config: Mapping[str, Any]) -> str:
    """The model's own defaults of controls."""
    defaults = config.get("controls")
    if not isinstance(defaults, Mapping):
        return ""
    return ", ".join(f"{key} {_setting(value)}" for key, value in defaults.items())


def _time(card: Mapping[str, Any]) -> str:
    """How long a run took, and on what."""
    seconds: Any = card.get("seconds")
    if not _is_number(seconds):
        return ""
    length = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:,.0f} minutes"
    return f"{length} on {_text(card.get('device'))} ({_text(card.get('plan'))}, threads: {card.get('threads')})"


def _setting(value: Any) -> str:
    """A setting of a recipe; of settings of its own, those that are set."""
    if isinstance(value, Mapping):
        value = {key: one for key, one in value.items() if one is not None}
    return _text(value)


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else ""


def _text(value: Any, longest: int = LONGEST_VALUE) -> str:
    """A value in one line of at most so many characters; empty for None."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = " ".join(text.split())
    return text if len(text) <= longest else f"{text[: longest - 4]} ..."


def _long_text(card: Mapping[str, Any], key: str) -> str:
    """An entry of a card that people write, in one line."""
    return _text(card.get(key), LONGEST_TEXT)


def _escaped(text: str) -> str:
    """Text whose characters mean nothing to Markdown and HTML but what they are; backticks keep their meaning."""
    return re.sub(r"([\\|*_\[\]#])", r"\\\1", html.escape(text, quote=False))
