"""The command `genkit evaluate`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from genkit.cli.models import UserObjects
from genkit.errors import ConfigError
from genkit.kit.program import AsJson, Device, Quiet, parse_overrides, print_json, teller


def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL ...",
            help="Run or model folders, or NAME=FOLDER; several of one name are seeds of one configuration. Any other "
            "NAME=VALUE is a control of the samples: see `genkit plugins show MODALITY`.",
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(
            metavar="SRC",
            help="Real items, best those that no model was trained on: a path, or builtin:NAME [default: the "
            "modality's].",
        ),
    ] = None,
    n: Annotated[
        int,
        typer.Option("-n", help="Samples of each model, and real items on either side, at most."),
    ] = 2000,
    features: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME,...",
            help="Networks by whose features samples are compared, module:function of your own, or none "
            "[default: all that need no file of weights, or whose file is given].",
        ),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE", help="A file of weights for a network, such as inception=FILE."
        ),
    ] = None,
    vary: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=VALUE,...",
            help="A control and its values, such as temperature=0.6,0.8,1.0: a row for each, and curves.",
        ),
    ] = None,
    best_of: Annotated[
        int,
        typer.Option(
            help="Candidates for each sample, of which one is taken: see `genkit generate`."
        ),
    ] = 1,
    choose: Annotated[
        str, typer.Option(help="Which: best, sample, or sample:SCALE: see `genkit generate`.")
    ] = "best",
    judge: Annotated[
        Path | None, typer.Option(help="Another model, for measures that need one.")
    ] = None,
    training: Annotated[
        str | None,
        typer.Option(
            metavar="SRC",
            help="What the models were trained on: samples that lie at its items are memorised.",
        ),
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="Only samples and real items of this condition.")
    ] = None,
    attack: Annotated[
        bool,
        typer.Option(
            "--attack",
            help="Also say how far perturbations of 2, 4 and 8 / 255 of the range of real items move the critics of a "
            "model of continuous samples.",
        ),
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(
            help="Write a page of figures, samples, nearest training items and curves: one file."
        ),
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="Write the figures as a table in CSV.")] = None,
    seed: Annotated[
        int,
        typer.Option(help="Seed of the samples, of the order of real items and of the intervals."),
    ] = 0,
    user_object: UserObjects = None,
    no_cache: Annotated[
        bool,
        typer.Option("--no-cache", help="Compute the features of real items anew, and keep none."),
    ] = False,
    device: Device = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compare models with real data. Prints figures with 95 % intervals, beside those of other real items and noise."""
    sys.path.append(os.getcwd())  # `module:function` may be in a file of the working folder
    model_paths, words = _named(models)
    controls = parse_overrides(words)
    files = dict(_pair(word, "--weights", "inception=FILE") for word in weights or [])
    names = [name for word in features or [] for name in word.split(",") if name]
    networks = None if not names else [name for name in names if name != "none"]
    from genkit.evaluation.evaluating import evaluate as compare
    from genkit.kit.files import make_folder, write_whole

    for path in filter(None, (html, csv)):
        make_folder(path.parent)  # errors before the work, not after it
    evaluation = compare(
        model_paths, data, n, features=networks, weights=files, controls=controls, vary=_values(vary), best_of=best_of,
        choose=choose, judge=judge, training=training, label=label, attack=attack, seed=seed, device=device,
        cache=not no_cache, user_objects=user_object or (), progress=teller(quiet),
    )  # fmt: skip
    if csv is not None:
        write_whole(csv, evaluation.to_csv().encode())
    if html is not None:
        evaluation.save_html(html)
    if as_json:
        print_json(evaluation.to_json())
    else:
        print(evaluation)


def _named(words: Sequence[str]) -> tuple[Any, list[str]]:
    """(the models, by name if any word gives one; the words that are controls)."""
    models: dict[str, list[str]] = {}
    plain, settings = [], []
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or Path(word).exists():
            plain.append(word)
        elif Path(value).is_dir():
            models.setdefault(name, []).append(value)
        else:
            settings.append(word)
    if not models:
        return plain, settings
    from genkit.evaluation.evaluating import names_of

    for name, path in names_of(plain) if plain else []:
        models.setdefault(name, []).append(str(path))
    return models, settings


def _pair(word: str, option: str, example: str) -> tuple[str, str]:
    """(name, value) of an argument NAME=VALUE.

    Raises:
        ConfigError: for another form.
    """
    name, equals, value = word.partition("=")
    if not (name and equals and value):
        raise ConfigError(f"{option} {word}: it is written {option} {example}")
    return name, value


def _values(vary: str | None) -> dict[str, Any] | None:
    """A control with its values, from an argument NAME=VALUE,VALUE."""
    if vary is None:
        return None
    name, values = _pair(vary, "--vary", "temperature=0.6,0.8,1.0")
    return {name: [parse_overrides([f"value={value}"])["value"] for value in values.split(",")]}
