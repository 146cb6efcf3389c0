"""The commands `genkit models`, `copy`, `card` and `push`: models that are there, their cards, and the Hub."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from genkit.cli.models import MODEL
from genkit.errors import ConfigError, first_line
from genkit.kit.program import AsJson, print_json, print_table

DTYPE = "float32, or float16 or bfloat16 for half the size [default: as the model is stored]."
"""The help of the option --dtype."""


def models(as_json: AsJson = False) -> None:
    """List models: those that ship with plugins, those of runs/ here, and those in the Hub's cache."""
    from genkit.sampling.model_names import known_models

    rows = known_models()
    if as_json:
        print_json({"schema": 1, "models": [asdict(model) for model in rows]})
        return
    if not rows:
        print("There are no models yet: train one with `genkit train`.", file=sys.stderr)
        return
    print_table(
        ("NAME", "WHERE", "MODALITY", "MB", "LICENCE", "SCORES"),
        (
            (
                model.name,
                model.place,
                model.modality,
                f"{model.bytes / 1e6:.1f}",
                model.license,
                model.fault or model.scores,
            )
            for model in rows
        ),
    )


def copy(
    model: Annotated[str, typer.Argument(help=MODEL)],
    folder: Annotated[Path, typer.Argument(help="The model folder that is written.")],
    dtype: Annotated[str | None, typer.Option(help=f"Precision of the weights: {DTYPE}")] = None,
    critics: Annotated[
        bool,
        typer.Option(
            "--critics/--no-critics",
            help="Copy the critics (discriminators) too, for fine-tuning and reranking.",
        ),
    ] = True,
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            help="Defaults of the modality's controls that the copy gets, as NAME=VALUE: see `genkit plugins show "
            "MODALITY`."
        ),
    ] = None,
) -> None:
    """Copy a model into a folder; in half precision, without critics, with other defaults if you like."""
    from genkit import config
    from genkit.sampling.opening import open_model

    controls = config.parse_overrides(settings or [])
    print(open_model(model, "cpu").save(folder, dtype, critics, controls=controls))


def card(
    model: Annotated[str, typer.Argument(help=f"{MODEL} Only a folder's card can be added to.")],
    license: Annotated[
        str | None,
        typer.Option(help="Licence of the weights, as the Hub writes it: apache-2.0, mit ..."),
    ] = None,
    data_license: Annotated[str | None, typer.Option(help="Licence of the training data.")] = None,
    summary: Annotated[str | None, typer.Option(help="What the model draws, a sentence.")] = None,
    limits: Annotated[
        str | None, typer.Option(help="What it cannot do, and what it must not be used for.")
    ] = None,
    command: Annotated[
        str | None,
        typer.Option(help="The command that makes the model again [default: that of its run]."),
    ] = None,
    scores: Annotated[
        Path | None, typer.Option(help="Scores of the model: what `genkit evaluate --json` wrote.")
    ] = None,
) -> None:
    """Print a model's card, or add to it: to config.json and README.md of its folder."""
    from genkit.sampling.card import markdown
    from genkit.sampling.model_folder import extend_card, model_at, read_model_config
    from genkit.sampling.model_names import find_model

    entries: dict[str, Any] = {
        "license": license,
        "data_license": data_license,
        "summary": summary,
        "limits": limits,
        "command": command,
        "scores": None if scores is None else _read(scores),
    }
    entries = {key: value for key, value in entries.items() if value is not None}
    if not entries:
        print(markdown(read_model_config(find_model(model)), model), end="")
        return
    folder = model_at(model)
    if folder is None:
        raise ConfigError(
            f"{model} is no folder of a model: only your own cards are added to (`genkit copy` makes a folder)"
        )
    extend_card(folder, entries)
    print(folder / "README.md")


def _read(file: Path) -> Any:
    """The content of a JSON file that a user has named."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"--scores {file}: no readable JSON ({first_line(error)})") from error


def push(
    model: Annotated[str, typer.Argument(help=MODEL)],
    name: Annotated[str, typer.Argument(help="The repository on the Hub, USER/NAME.")],
    private: Annotated[
        bool | None,
        typer.Option(
            "--private/--public", help="Of a new repository [default: as your settings there say]."
        ),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="A branch, made if there is none [default: the main branch].")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help=f"Precision of the weights: {DTYPE}")] = None,
    critics: Annotated[
        bool,
        typer.Option(
            "--critics",
            help="Send the critics (discriminators) too: others need them for fine-tuning and reranking.",
        ),
    ] = False,
    message: Annotated[str | None, typer.Option(help="Message of the commit.")] = None,
) -> None:
    """Write a model to the Hugging Face Hub. Log in first, with `hf auth login`."""
    from genkit.sampling.opening import open_model

    print(open_model(model, "cpu").push_to_hub(name, private, revision, dtype, critics, message))
