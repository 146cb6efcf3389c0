"""`genkit train`, `generate`, `info` and `data`: from data to a model, and from a model to samples."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genkit.cli.progress import reporter
from genkit.errors import ConfigError
from genkit.kit.program import Command, group, print_lines

if TYPE_CHECKING:
    from genkit.sampling.samples import Samples

SHOWN = 20
"""Items that `data check` names in plain text."""

data_app = group("What there is to train on.")


def train(
    modality: Annotated[str, typer.Argument(help="What to train on: see `genkit plugins list`.")],
    settings: Annotated[
        list[str] | None, typer.Argument(help="Overrides: options.size=64 recipe.batch_size=32 ...")
    ] = None,
    data: Annotated[str | None, typer.Option(help="A path, or builtin:NAME.")] = None,
    preset: Annotated[
        str | None, typer.Option(help="A preset: see `genkit plugins show MODALITY`.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="A YAML file with preset, data, options, recipe, run.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run folder [default: runs/MODALITY].")
    ] = None,
    items: Annotated[
        int | None, typer.Option(help="Length of the run in real samples seen.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Length of the run in minutes instead.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples in each batch.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, mps ...")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    plan: Annotated[
        str | None, typer.Option(help="auto, fp32, fp32-channels-last, bf16, bf16-channels-last.")
    ] = None,
    init: Annotated[
        Path | None, typer.Option(help="Begin with the weights of this model or run.")
    ] = None,
    track: Annotated[
        str | None, typer.Option(help="Report to a tracker too: tensorboard, wandb, mlflow ...")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out, or start it.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete the run in --out first.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop if any item of the data cannot be used.")
    ] = False,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the whole configuration and stop.")
    ] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Errors only.")] = False,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="Show where an error came from.")
    ] = False,
) -> None:
    """Train a model; the result is OUT/model."""
    from genkit import config as configuration

    sys.path.append(
        os.getcwd()
    )  # for `module:attribute` of a file beside the data; behind everything installed
    del verbose  # `main` has seen it
    if items is not None and minutes is not None:
        raise ConfigError(
            "--items and --minutes exclude each other: a run is as long as one of them says"
        )
    layers: list[dict[str, Any]] = []
    if config is not None:
        file = configuration.read_file(config)
        if file.get("modality", modality) != modality:
            raise ConfigError(
                f"{config} is for the modality {file['modality']!r}, not {modality!r}"
            )
        preset, data = preset or file.get("preset"), data or file.get("data")
        from genkit.recipe import SECTIONS

        layers.append({key: file[key] for key in SECTIONS if key in file})
    layers.append(configuration.parse_overrides(settings or []))
    short = {"items": items, "minutes": minutes, "seed": seed, "device": device, "threads": threads}
    short |= {"plan": plan, "track": track, "strict": strict or None}
    layers.append({"run": {key: value for key, value in short.items() if value is not None}})
    if batch_size is not None:
        layers.append({"recipe": {"batch_size": batch_size}})
    if print_config:
        import yaml

        print(
            yaml.safe_dump(
                configuration.build(modality, preset, data, layers).plain(), sort_keys=False
            ),
            end="",
        )
        return
    if not resume:  # else the run itself says what is missing here
        configuration.build(
            modality, preset, data, layers
        )  # every naming error before torch is imported
    from genkit.engine.training import train as run
    from genkit.system.runtime import is_main_process

    out = out or Path("runs") / modality
    with reporter(quiet) as progress:
        run(
            modality, data, preset, out, settings=layers, init=init, resume=resume, overwrite=overwrite,
            progress=progress,
        )  # fmt: skip
    if is_main_process():
        print(out / "model")


def generate(
    model: Annotated[Path, typer.Argument(help="A run folder or a model folder.")],
    settings: Annotated[
        list[str] | None, typer.Argument(help="The modality's controls: name=value ...")
    ] = None,
    n: Annotated[int | None, typer.Option("-n", help="How many samples [default: 16].")] = None,
    seed: Annotated[int, typer.Option(help="With the index, a sample's identity.")] = 0,
    start: Annotated[
        int | None, typer.Option(help="Index of the first sample [default: 0].")
    ] = None,
    interpolate: Annotated[
        str | None,
        typer.Option(
            help="Indices such as 3,17,5: draw the interpolation from each to the next instead."
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Samples from one of them to the next [default: 8].")
    ] = None,
    best_of: Annotated[
        int | None, typer.Option(help="Candidates for each sample; its critics choose one.")
    ] = None,
    out: Annotated[
        str, typer.Option(help="A folder, a joint file such as grid.png, or - for text.")
    ] = "samples/",
    label: Annotated[
        str | None,
        typer.Option(
            "--label",
            "--condition",
            help="What a conditional model is asked for: a label, a prompt, a file.",
        ),
    ] = None,
    user_object: Annotated[
        list[str] | None,
        typer.Option(help="module:Class of a user's network that the model may be built from."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps ...")] = "auto",
    format: Annotated[
        str | None, typer.Option(help="Of the files in a folder [default: the modality's first].")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what was written as JSON.")
    ] = False,
) -> None:
    """Draw samples: one file each into a folder, or one joint file."""
    from genkit import config as configuration
    from genkit.sampling import samples as drawn
    from genkit.sampling.model import open_model

    if user_object:
        sys.path.append(os.getcwd())  # as for `train`
    ends = _interpolation(interpolate, steps, n, start, best_of)
    n, start = 16 if n is None else n, start or 0
    if n < 1 or start < 0:
        raise ConfigError(
            f"-n {n} --start {start}: at least one sample, of an index of at least 0, is needed"
        )
    controls = configuration.parse_overrides(settings or [])
    opened = open_model(model, device, user_objects=user_object or ())
    text_format = drawn.text_format_of(opened.modality, format) if out == "-" else ""
    if out != "-":
        drawn.is_joint(opened.modality, out, len(ends) or n)  # before the work, not after it
        drawn.format_of(opened.modality, format)
    chunks: Iterable[Samples]
    if ends:
        chunks = [opened.interpolate(ends, seed, 8 if steps is None else steps, label, controls)]
    else:
        chunks = opened.stream(
            n,
            seed,
            start,
            label=label,
            controls=controls,
            best_of=1 if best_of is None else best_of,
        )
    if out == "-":
        for chunk in chunks:
            lines = (
                b" ".join(content.splitlines()) + b"\n" for content in chunk.encode(text_format)
            )
            sys.stdout.buffer.writelines(lines)
        return
    if n == 1 and not ends and best_of is None and drawn.is_long(opened, out):
        written = [drawn.save_long(opened, out, seed, start, label=label, controls=controls)]
    else:
        written = drawn.save(chunks, out, format=format)
    if as_json:
        import json

        print(
            json.dumps(
                {"files": [str(file) for file in written], "model": drawn.describe_model(opened)},
                indent=1,
            )
        )
    else:
        print(written[0] if len(written) == 1 else Path(out))


def _interpolation(interpolate: str | None, steps: int | None, *others: int | None) -> list[int]:
    """The indices that an interpolation is to go through; none where no interpolation is asked for. It excludes the other options."""
    if interpolate is None:
        if steps is not None:
            raise ConfigError(
                f"--steps {steps} is for an interpolation: say through which samples with --interpolate 3,17,5"
            )
        return []
    if any(other is not None for other in others):
        raise ConfigError(
            "--interpolate excludes -n, --start and --best-of: an interpolation is what its indices and --steps say"
        )
    try:
        return [int(index) for index in interpolate.split(",")]
    except ValueError:
        raise ConfigError(
            f"--interpolate {interpolate!r}: at least two indices with commas between are needed, such as 3,17,5"
        ) from None


def info(
    model: Annotated[Path, typer.Argument(help="A run folder or a model folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Tell what a model or a run is."""
    import json

    from genkit.sampling.model_folder import find_model, read_model_config

    folder = find_model(model)
    known = read_model_config(folder)
    size = (
        (folder / "model.safetensors").stat().st_size
        if (folder / "model.safetensors").exists()
        else 0
    )
    known |= {"path": str(folder), "bytes": size}
    if as_json:
        print(json.dumps(known, indent=2))
        return
    plugin = known.get("plugin", {})
    lines = {
        "model": folder,
        "modality": f"{known.get('modality')} ({plugin.get('distribution')} {plugin.get('version')})",
        "preset": known.get("preset"),
        "items seen": f"{known.get('items', 0):,}",
        "weights": f"{size / 2**20:.1f} MiB",
        **{f"options.{key}": value for key, value in known.get("options", {}).items()},
        **{f"facts.{key}": value for key, value in known.get("facts", {}).items()},
    }
    print_lines(lines.items())


@data_app.command("check", cls=Command)
def data_check(
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="A path, or whatever --data of `train` takes.")
    ],
    settings: Annotated[
        list[str] | None, typer.Argument(help="Overrides: options.size=64 ...")
    ] = None,
    modality: Annotated[
        str | None, typer.Option(help="What it holds [default: the one that is installed].")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="A preset: see `genkit plugins show MODALITY`.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit code 2 if any item cannot be used.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="As JSON, with every item that cannot be used.")
    ] = False,
) -> None:
    """Read data as training would, and tell what can be used and what cannot."""
    import json

    from genkit import config as configuration

    modality, layers = modality or _only_modality(), [configuration.parse_overrides(settings or [])]
    configuration.build(
        modality, preset, source, layers
    )  # every naming error before torch is imported
    from genkit.engine.data import check_data
    from genkit.kit.items import check_usable

    report = check_data(modality, source, preset, settings=layers)
    if as_json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        facts = {f"facts.{key}": _shortened(str(value)) for key, value in report.facts.items()}
        shape = " x ".join(map(str, report.shape or ())) or "one number"
        usable = f"{report.items:,} of {report.items + len(report.skipped):,} items"
        shapes = {} if report.shape is None else {"shape of an item": shape}
        print_lines({"source": source, "usable": usable, **shapes, **facts}.items())
        print_lines((f"cannot be used: {name}", reason) for name, reason in report.skipped[:SHOWN])
        if len(report.skipped) > SHOWN:
            print(f"and {len(report.skipped) - SHOWN:,} more; --json lists them all")
    check_usable(report.items, report.skipped, report.source, strict)


def _only_modality() -> str:
    from genkit.discovery import registry

    ids = [row.id for row in registry.found() if row.status == "ok"]
    if len(ids) != 1:
        raise ConfigError(
            f"--modality must say what the data are; installed: {', '.join(ids) or 'none'}"
        )
    return ids[0]


def _shortened(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else f"{text[: limit - 4]} ..."
