"""The commands `genkit train`, `info`, `explain` and `data check`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genkit.cli.progress import reporter
from genkit.errors import ConfigError
from genkit.kit.program import Command, group, print_lines

if TYPE_CHECKING:
    from genkit.config import RunConfig

MODEL = "A run or model folder, a modality's id for the model that ships with it, or one of the Hub: `genkit models`."
"""The help of an argument that names a model."""

UserObjects = Annotated[
    list[str] | None,
    typer.Option(
        help="module:Class of a network of your own that a model is built from; it is imported only if named."
    ),
]
"""The type of the parameter `user_object` of commands that open models."""

# The parameters that commands which train have in common.
Items = Annotated[
    int | None, typer.Option(help="Length of the run: real samples that the critics see.")
]
Minutes = Annotated[
    float | None, typer.Option(help="Length of the run in minutes, instead of --items.")
]
BatchSize = Annotated[int | None, typer.Option(help="Samples in a batch.")]
RunSeed = Annotated[int | None, typer.Option(help="Seed of everything random.")]
RunDevice = Annotated[
    str | None, typer.Option(help="auto (cuda, else mps, else cpu), cpu, cuda, cuda:1 ...")
]
Threads = Annotated[int | None, typer.Option(help="CPU threads.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Delete the run in --out first.")]
PrintConfig = Annotated[
    bool, typer.Option("--print-config", help="Print the whole configuration as YAML and stop.")
]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print errors and the result only.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Print the traceback of an error.")]

MAX_LINES = 20
"""At most so many unusable items are named by `data check` in plain text; --json names all."""

data_app = group("Check training data.")


def train(
    modality: Annotated[
        str, typer.Argument(help="The modality of the data: see `genkit plugins list`.")
    ],
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            help="Settings as PATH=VALUE: options.size=64 recipe.batch_size=32 "
            "recipe.generator.learning_rate=1e-4 recipe.critic.learning_rate=1e-4 ... "
            "(recipe.critic: the discriminator's). --print-config lists all."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Training data: a path, or builtin:NAME [default: the modality's]."),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="A preset: see `genkit plugins show MODALITY` [default: the first]."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="A YAML file with any of preset, data, options, recipe, run."),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="The run folder [default: runs/MODALITY]."),
    ] = None,
    items: Items = None,
    minutes: Minutes = None,
    batch_size: BatchSize = None,
    seed: RunSeed = None,
    device: RunDevice = None,
    threads: Threads = None,
    plan: Annotated[
        str | None,
        typer.Option(
            help="Precision and memory format: auto (the fastest, measured), fp32, fp32-channels-last, bf16, "
            "bf16-channels-last."
        ),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            help="Fine-tuning: start with the weights of this model or run, a path or one of `genkit models`."
        ),
    ] = None,
    track: Annotated[
        str | None,
        typer.Option(help="Also log to an experiment tracker: tensorboard, wandb, mlflow ..."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --out; start it if there is none.")
    ] = False,
    overwrite: Overwrite = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop if any item of the data cannot be used.")
    ] = False,
    print_config: PrintConfig = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train a generator against critics (discriminators). The model is written to OUT/model."""
    from genkit import config as configuration

    # `module:attribute` may name a file of the working folder; installed modules of that name come first.
    sys.path.append(os.getcwd())
    del verbose  # `genkit.kit.program.run` reads it from the arguments
    run_settings = {
        "items": items,
        "minutes": minutes,
        "seed": seed,
        "device": device,
        "threads": threads,
        "plan": plan,
        "track": track,
        "strict": strict or None,
    }
    own_layers = layers_of(settings, batch_size, run_settings)
    layers: list[Mapping[str, Any]] = []
    if config is not None:
        file = configuration.read_file(config)
        if file.get("modality", modality) != modality:
            raise ConfigError(
                f"{config} is for the modality {file['modality']!r}, not {modality!r}"
            )
        preset, data = preset or file.get("preset"), data or file.get("data")
        from genkit.recipe import SECTIONS

        layers.append({key: file[key] for key in SECTIONS if key in file})
    layers += own_layers
    if print_config:
        if init is not None:
            from genkit.discovery.registry import manifest_of
            from genkit.engine.fine_tuning import begun_with

            preset, layers = begun_with(init, manifest_of(modality), preset, layers)
        print_yaml(configuration.build(modality, preset, data, layers))
        return
    if not resume and init is None:  # a run or model has settings that complete these
        # Misspelt names are reported here, before the seconds that the import of torch takes.
        configuration.build(modality, preset, data, layers)
    from genkit.engine.training import train as run
    from genkit.system.runtime import is_main_process

    out = str(Path("runs") / modality) if out is None else out
    with reporter(quiet) as progress:
        run(
            modality, data, preset, out, settings=layers, init=init, resume=resume, overwrite=overwrite,
            progress=progress,
        )  # fmt: skip
    if is_main_process():
        print(Path(out) / "model")


def layers_of(
    settings: list[str] | None, batch_size: int | None, run: dict[str, Any]
) -> list[dict[str, Any]]:
    """The layers of settings that the arguments of a command which trains make.

    Args:
        settings: `PATH=VALUE` each.
        batch_size: None: not given.
        run: values of `genkit.config.RunSettings`; None: not given.

    Raises:
        ConfigError: for a setting that is none, or two lengths of a run.
    """
    from genkit import config as configuration

    if run["items"] is not None and run["minutes"] is not None:
        raise ConfigError(
            "--items and --minutes exclude each other: a run is as long as one of them says"
        )
    layers: list[dict[str, Any]] = [configuration.parse_overrides(settings or [])]
    layers.append({"run": {key: value for key, value in run.items() if value is not None}})
    if batch_size is not None:
        layers.append({"recipe": {"batch_size": batch_size}})
    return layers


def print_yaml(config: RunConfig) -> None:
    """Print a whole configuration."""
    import yaml

    print(yaml.safe_dump(config.plain(), sort_keys=False), end="")


def explain(
    path: Annotated[
        str,
        typer.Argument(
            help="A setting, such as recipe.estimator or options.size; or all of recipe, run, options, controls."
        ),
    ],
    modality: Annotated[
        str | None,
        typer.Option(
            help="The modality of options and controls [default: the installed one, if there is only one]."
        ),
    ] = None,
) -> None:
    """Say what a setting means, and what settings it holds."""
    from genkit.config import RunSettings
    from genkit.discovery import registry
    from genkit.discovery.reference import explained
    from genkit.recipe import Recipe

    roots: dict[str, Any] = {"recipe": Recipe, "run": RunSettings}
    if modality or path.partition(".")[0] in ("options", "controls"):
        manifest = registry.describe(modality or _only_modality())
        classes = {part: registry.named_class(manifest, part) for part in ("options", "controls")}
        roots |= {part: cls for part, cls in classes.items() if cls is not None}
    for line in explained(roots, path):
        print(line)


def info(
    model: Annotated[str, typer.Argument(help=MODEL)],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Describe a model or a run. Prints its modality, preset, options and facts."""
    import json

    from genkit.sampling import card
    from genkit.sampling.model_folder import WEIGHTS, read_model_config
    from genkit.sampling.model_names import find_model

    folder = find_model(model)
    description = read_model_config(folder)
    size = (folder / WEIGHTS).stat().st_size if (folder / WEIGHTS).exists() else 0
    description |= {"path": str(folder), "bytes": size}
    if as_json:
        print(json.dumps(description, indent=2))
        return
    plugin = description.get("plugin", {})
    lines = {
        "model": folder,
        "modality": f"{description.get('modality')} ({plugin.get('distribution')} {plugin.get('version')})",
        "preset": description.get("preset"),
        "items seen": f"{description.get('items', 0):,}",
        "weights": f"{size / 2**20:.1f} MiB",
        **{f"options.{key}": value for key, value in description.get("options", {}).items()},
        **{f"facts.{key}": value for key, value in description.get("facts", {}).items()},
        **{f"card.{key}": one for key, one in card.of(description).items() if key != "recipe"},
    }
    print_lines(lines.items())


@data_app.command("check", cls=Command)
def data_check(
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="The data, as --data of `genkit train`.")
    ],
    settings: Annotated[
        list[str] | None, typer.Argument(help="Settings as PATH=VALUE: options.size=64 ...")
    ] = None,
    modality: Annotated[
        str | None,
        typer.Option(
            help="The modality of the data [default: the installed one, if there is only one]."
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="A preset: see `genkit plugins show MODALITY` [default: the first]."),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Exit code 2 if any item cannot be used, or there is any remark but on parts that are held out.",
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, with every item that cannot be used.")
    ] = False,
) -> None:
    """Read data as training would, and print what can be used and what cannot."""
    import json

    from genkit import config as configuration

    modality, layers = modality or _only_modality(), [configuration.parse_overrides(settings or [])]
    # Misspelt names are reported here, before the seconds that the import of torch takes.
    configuration.build(modality, preset, source, layers)
    from genkit.engine.data import check_data
    from genkit.kit.items import check_usable

    report = check_data(
        modality, source, preset, settings=layers, tell=partial(print, file=sys.stderr)
    )
    if as_json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        facts = {f"facts.{key}": _shortened(str(value)) for key, value in report.facts.items()}
        shape = " x ".join(map(str, report.shape or ())) or "one number"
        usable = f"{report.items:,} of {report.items + len(report.skipped):,} items"
        shapes = {} if report.shape is None else {"shape of an item": shape}
        print_lines({"source": source, "usable": usable, **shapes, **facts}.items())
        print_lines(
            (f"cannot be used: {name}", reason) for name, reason in report.skipped[:MAX_LINES]
        )
        if len(report.skipped) > MAX_LINES:
            print(f"and {len(report.skipped) - MAX_LINES:,} more; --json lists them all")
        for note in report.notes:
            print(note)
        print_lines((f"remark: {name}", text) for name, text in report.remarks[:MAX_LINES])
        if len(report.remarks) > MAX_LINES:
            print(f"and {len(report.remarks) - MAX_LINES:,} more remarks; --json lists them all")
    check_usable(report.items, report.skipped, report.source, strict, report.remarks)


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
