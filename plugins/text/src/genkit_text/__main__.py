"""`python -m genkit_text`: evaluate text models from the command line.

Results go to standard output, progress and errors to standard error. Exit codes are those of `genkit`. A command
imports what it needs when it runs, so that `--help` never imports torch.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from genkit.errors import ConfigError
from genkit.kit.program import AsJson, Command, Device, Quiet, group, print_json, run, teller

app = group("Evaluate text models on text that they have not seen.")

Data = Annotated[
    str, typer.Option(metavar="SRC", help="Held-out text: a path, or builtin:kjv/held-out.")
]
Judge = Annotated[
    Path | None,
    typer.Option(help="An independent model of held-out text, whose NLL measures quality."),
]
Count = Annotated[int, typer.Option("-n", "--samples", help="How many are drawn from each model.")]
References = Annotated[
    int | None, typer.Option(help="Held-out lines for BLEU at most [default: all].")
]
Order = Annotated[int, typer.Option(help="The largest order of n-grams.")]
Seed = Annotated[int, typer.Option(help="Seed of the samples.")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit."""
    run(app, "genkit_text", arguments)


@app.command(cls=Command)
def evaluate(
    model: Annotated[Path, typer.Argument(help="A run folder or a model folder.")],
    data: Data,
    settings: Annotated[
        list[str] | None, typer.Argument(help="Controls of the samples: temperature=0.8 ...")
    ] = None,
    judge: Judge = None,
    training: Annotated[
        str | None, typer.Option(metavar="SRC", help="Its training text: counts copies.")
    ] = None,
    samples: Count = 2000,
    references: References = None,
    order: Order = 5,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """One model: likelihood, BLEU, copies, lengths."""
    from genkit.kit.program import parse_overrides

    controls = parse_overrides(settings or [])
    from genkit import load
    from genkit_text import evaluation

    report = evaluation.evaluate(
        load(model, device), data, samples, references, order, None if judge is None else load(judge, device),
        training, controls, seed, teller(quiet),
    )  # fmt: skip
    if as_json:
        print_json(report)
    else:
        for key, value in _flat(report):
            print(f"{key + ':':<26} {value}")


@app.command(cls=Command)
def curve(
    models: Annotated[
        list[str], typer.Argument(metavar="NAME=MODEL", help="One name for several seeds.")
    ],
    data: Data,
    out: Annotated[Path, typer.Option(help="The plot: .png, .svg or .pdf.")],
    judge: Judge = None,
    csv: Annotated[
        Path | None, typer.Option(help="Write the table here [default: print it].")
    ] = None,
    temperatures: Annotated[
        str | None, typer.Option(help="Separated by commas [default: 0.6,0.7 ... 1.2].")
    ] = None,
    samples: Count = 2000,
    references: References = None,
    order: Order = 4,
    baseline: Annotated[
        str, typer.Option(metavar="NAME", help="The one that is plotted in grey.")
    ] = "mle",
    seed: Seed = 0,
    device: Device = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Several models: quality against diversity."""
    from genkit_text.curves import check_picture, plot, to_csv

    paths = [_split(word) for word in models]
    values = _numbers(temperatures)
    check_picture(out)
    from genkit import load
    from genkit.kit.files import make_folder, write_whole
    from genkit_text import evaluation

    for file in filter(None, (out, csv)):
        make_folder(file.parent)
    rows = evaluation.curve(
        [(name, load(path, device)) for name, path in paths], data, None if judge is None else load(judge, device),
        values or evaluation.TEMPERATURES, samples, references, order, None, seed, teller(quiet),
    )  # fmt: skip
    if csv is not None:
        write_whole(csv, to_csv(rows).encode())
    if as_json:
        print_json(rows)
    else:
        print(csv or to_csv(rows).removesuffix("\n"))
    print(plot(rows, out, baseline), file=sys.stderr if as_json or csv is None else sys.stdout)


def _split(word: str) -> tuple[str, Path]:
    """(name, path) of an argument NAME=MODEL.

    Raises:
        ConfigError: for another form.
    """
    name, equals, path = word.partition("=")
    if not (name and equals and path):
        raise ConfigError(f"{word!r}: models are written NAME=MODEL, such as mle=runs/mle")
    return name, Path(path)


def _numbers(text: str | None) -> list[float]:
    """The numbers of a list with commas; none for None.

    Raises:
        ConfigError: if one is no number.
    """
    try:
        return [float(number) for number in text.split(",")] if text else []
    except ValueError:
        raise ConfigError(
            f"--temperatures {text!r}: numbers with commas between are needed, such as 0.8,1"
        ) from None


def _flat(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, text) of each leaf of a report; the values of all orders or lengths are one leaf."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and not all(name.isdigit() for name in value):
            yield from _flat(value, f"{path}{key}.")
        elif isinstance(value, Mapping):
            yield (
                f"{path}{key}",
                "  ".join(f"{name}: {_short(leaf)}" for name, leaf in value.items()),
            )
        elif isinstance(value, Iterable) and not isinstance(value, str):
            yield f"{path}{key}", "  ".join(map(_short, value))
        else:
            yield f"{path}{key}", _short(value)


def _short(value: Any) -> str:
    """A value for reading: floats with four decimals, None as a dash."""
    return f"{value:.4f}" if isinstance(value, float) else str("-" if value is None else value)


if __name__ == "__main__":
    main()
