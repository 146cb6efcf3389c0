"""Words to calls. The only room that prints or exits.

Results go to standard output; progress, notes and errors to standard error. Exit codes: 0 done, 2 the user's mistake,
1 anything else, 130 after Ctrl-C, 143 after SIGTERM. Imports what a command needs when it runs: `--help` and
`plugins list` never import torch.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from genkit.errors import ConfigError, GenkitError, Interrupted

if TYPE_CHECKING:
    from genkit.clock import Progress
    from genkit.registry import Found
    from genkit.sampling import Samples

PLAIN_SECONDS = 10
SHOWN = 20
"""Items that `data check` names in plain text."""


class _QuickHelp:
    """A --help option that is False, not None, when it is not given: only for None does typer load pydantic's type
    adapters, which would cost every command as much time again as its own start."""

    def get_help_option(self, ctx: Any) -> Any:
        option = super().get_help_option(ctx)  # type: ignore[misc]
        if option is not None:
            option.default = False
        return option


class Command(_QuickHelp, TyperCommand):
    """One command, of ours or of a plugin's own program."""


class Commands(_QuickHelp, TyperGroup):
    """Several; Ctrl-C ends them as it ends `genkit`."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted("stopped") from None


app = typer.Typer(
    cls=Commands, no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
    help="Train and sample adversarial generators of any medium.",
)  # fmt: skip
plugins_app = typer.Typer(
    cls=Commands, no_args_is_help=True, add_completion=False, rich_markup_mode=None, help="What is installed."
)
data_app = typer.Typer(
    cls=Commands, no_args_is_help=True, add_completion=False, rich_markup_mode=None, help="What there is to train on."
)
app.add_typer(plugins_app, name="plugins")
app.add_typer(data_app, name="data")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        app(words)
    except GenkitError as error:
        if {"-v", "--verbose"} & set(words):
            import traceback

            traceback.print_exc()
        print(f"genkit: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader of our output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        from genkit.registry import core_version

        print(f"genkit-gan {core_version()}")
        raise typer.Exit


@app.command(cls=Command)
def train(
    modality: Annotated[str, typer.Argument(help="What to train on: see `genkit plugins list`.")],
    settings: Annotated[
        list[str] | None, typer.Argument(help="Overrides: options.size=64 recipe.batch_size=32 ...")
    ] = None,
    data: Annotated[str | None, typer.Option(help="A path, or builtin:NAME.")] = None,
    preset: Annotated[str | None, typer.Option(help="A preset: see `genkit plugins show MODALITY`.")] = None,
    config: Annotated[Path | None, typer.Option(help="A YAML file with preset, data, options, recipe, run.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder [default: runs/MODALITY].")] = None,
    items: Annotated[int | None, typer.Option(help="Length of the run in real samples seen.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Length of the run in minutes instead.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples in each batch.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, mps ...")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    plan: Annotated[str | None, typer.Option(help="auto, fp32, fp32-channels-last, bf16, bf16-channels-last.")] = None,
    init: Annotated[Path | None, typer.Option(help="Begin with the weights of this model or run.")] = None,
    track: Annotated[str | None, typer.Option(help="Report to a tracker too: tensorboard, wandb, mlflow ...")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, or start it.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete the run in --out first.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Stop if any item of the data cannot be used.")] = False,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the whole configuration and stop.")
    ] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Errors only.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show where an error came from.")] = False,
) -> None:
    """Train a model; the result is OUT/model."""
    from genkit import config as configuration

    sys.path.append(os.getcwd())  # for `module:attribute` of a file beside the data; behind everything installed
    del verbose  # `main` has seen it
    if items is not None and minutes is not None:
        raise ConfigError("--items and --minutes exclude each other: a run is as long as one of them says")
    layers: list[dict[str, Any]] = []
    if config is not None:
        file = configuration.read_file(config)
        if file.get("modality", modality) != modality:
            raise ConfigError(f"{config} is for the modality {file['modality']!r}, not {modality!r}")
        preset, data = preset or file.get("preset"), data or file.get("data")
        layers.append({key: file[key] for key in configuration.SECTIONS if key in file})
    layers.append(configuration.parse_overrides(settings or []))
    short = {"items": items, "minutes": minutes, "seed": seed, "device": device, "threads": threads}
    short |= {"plan": plan, "track": track, "strict": strict or None}
    layers.append({"run": {key: value for key, value in short.items() if value is not None}})
    if batch_size is not None:
        layers.append({"recipe": {"batch_size": batch_size}})
    if print_config:
        import yaml

        print(yaml.safe_dump(configuration.build(modality, preset, data, layers).plain(), sort_keys=False), end="")
        return
    if not resume:  # else the run itself says what is missing here
        configuration.build(modality, preset, data, layers)  # every naming error before torch is imported
    from genkit.runtime import leads
    from genkit.training import train as run

    out = out or Path("runs") / modality
    with _reporter(quiet) as progress:
        run(
            modality, data, preset, out, settings=layers, init=init, resume=resume, overwrite=overwrite,
            progress=progress,
        )  # fmt: skip
    if leads():
        print(out / "model")


@app.command(cls=Command)
def generate(
    model: Annotated[Path, typer.Argument(help="A run folder or a model folder.")],
    settings: Annotated[list[str] | None, typer.Argument(help="The modality's controls: name=value ...")] = None,
    n: Annotated[int | None, typer.Option("-n", help="How many samples [default: 16].")] = None,
    seed: Annotated[int, typer.Option(help="With the index, a sample's identity.")] = 0,
    start: Annotated[int | None, typer.Option(help="Index of the first sample [default: 0].")] = None,
    interpolate: Annotated[
        str | None, typer.Option(help="Indices such as 3,17,5: draw the walk from each to the next instead.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Samples from one of them to the next [default: 8].")] = None,
    best_of: Annotated[int | None, typer.Option(help="Candidates for each sample; its critics choose one.")] = None,
    out: Annotated[str, typer.Option(help="A folder, a joint file such as grid.png, or - for text.")] = "samples/",
    label: Annotated[str | None, typer.Option(help="What a conditional model is asked for.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps ...")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Draw samples: one file each into a folder, or one joint file."""
    from genkit import config as configuration
    from genkit import sampling

    ends = _walk(interpolate, steps, n, start, best_of)
    n, start = 16 if n is None else n, start or 0
    if n < 1 or start < 0:
        raise ConfigError(f"-n {n} --start {start}: at least one sample, of an index of at least 0, is needed")
    controls = configuration.parse_overrides(settings or [])
    opened = sampling.open_model(model, device)
    if out != "-":
        sampling.is_joint(opened.modality, out)  # before the work, not after it
    chunks: Iterable[Samples]
    if ends:
        chunks = [opened.interpolate(ends, seed, 8 if steps is None else steps, label, controls)]
    else:
        chunks = opened.stream(
            n, seed, start, label=label, controls=controls, best_of=1 if best_of is None else best_of
        )
    if out == "-":
        if not opened.modality.media_type.startswith("text/"):
            raise ConfigError(
                f"--out -: {opened.modality.id} writes {opened.modality.media_type}, not text; name a path"
            )
        for chunk in chunks:
            sys.stdout.buffer.writelines(b" ".join(sample.splitlines()) + b"\n" for sample in chunk.encode())
        return
    written = sampling.save(chunks, out)
    if as_json:
        import json

        print(
            json.dumps({"files": [str(file) for file in written], "model": sampling.describe_model(opened)}, indent=1)
        )
    else:
        print(written[0] if len(written) == 1 else Path(out))


def _walk(interpolate: str | None, steps: int | None, *others: int | None) -> list[int]:
    """The indices that a walk is to go through; none where no walk is asked for. It excludes the other options."""
    if interpolate is None:
        if steps is not None:
            raise ConfigError(f"--steps {steps} is for a walk: say through which samples with --interpolate 3,17,5")
        return []
    if any(other is not None for other in others):
        raise ConfigError(
            "--interpolate excludes -n, --start and --best-of: a walk is what its indices and --steps say"
        )
    try:
        return [int(index) for index in interpolate.split(",")]
    except ValueError:
        raise ConfigError(
            f"--interpolate {interpolate!r}: at least two indices with commas between are needed, such as 3,17,5"
        ) from None


@app.command(cls=Command)
def info(
    model: Annotated[Path, typer.Argument(help="A run folder or a model folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Tell what a model or a run is."""
    import json

    from genkit import artifact

    folder = artifact.find_model(model)
    known = artifact.read_model_config(folder)
    size = (folder / "model.safetensors").stat().st_size if (folder / "model.safetensors").exists() else 0
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
    _print_lines(lines.items())


@data_app.command("check", cls=Command)
def data_check(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A path, or whatever --data of `train` takes.")],
    settings: Annotated[list[str] | None, typer.Argument(help="Overrides: options.size=64 ...")] = None,
    modality: Annotated[str | None, typer.Option(help="What it holds [default: the one that is installed].")] = None,
    preset: Annotated[str | None, typer.Option(help="A preset: see `genkit plugins show MODALITY`.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 2 if any item cannot be used.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with every item that cannot be used.")] = False,
) -> None:
    """Read data as training would, and tell what can be used and what cannot."""
    import json

    from genkit import config as configuration

    modality, layers = modality or _only_modality(), [configuration.parse_overrides(settings or [])]
    configuration.build(modality, preset, source, layers)  # every naming error before torch is imported
    from genkit.data import check_data, refuse

    report = check_data(modality, source, preset, settings=layers)
    if as_json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        facts = {f"facts.{key}": _shortened(str(value)) for key, value in report.facts.items()}
        shape = " x ".join(map(str, report.shape or ())) or "one number"
        usable = f"{report.items:,} of {report.items + len(report.skipped):,} items"
        shapes = {} if report.shape is None else {"shape of an item": shape}
        _print_lines({"source": source, "usable": usable, **shapes, **facts}.items())
        _print_lines((f"cannot be used: {name}", reason) for name, reason in report.skipped[:SHOWN])
        if len(report.skipped) > SHOWN:
            print(f"and {len(report.skipped) - SHOWN:,} more; --json lists them all")
    refuse(report.items, report.skipped, report.source, strict)


def _only_modality() -> str:
    from genkit import registry

    ids = [row.id for row in registry.found() if row.status == "ok"]
    if len(ids) != 1:
        raise ConfigError(f"--modality must say what the data are; installed: {', '.join(ids) or 'none'}")
    return ids[0]


def _shortened(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else f"{text[: limit - 4]} ..."


def _print_lines(lines: Iterable[tuple[str, Any]]) -> None:
    """Keys beside values; what a terminal might obey is not shown."""
    for key, value in lines:
        line = f"{key + ':':<23} {value}"
        print("".join(character if character.isprintable() else "?" for character in line))


@plugins_app.command("list", cls=Command)
def plugins_list(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """All plugins, with the reason where one cannot be used. Imports none of them here."""
    from genkit.registry import own_distributions, probed, rows_as_json

    rows = probed()
    if as_json:
        print(rows_as_json(rows))
    elif not rows:
        print(f"No plugins are installed: pip install {' '.join(own_distributions().values())}", file=sys.stderr)
    else:
        _print_table(rows)


@plugins_app.command("show", cls=Command)
def plugins_show(id: Annotated[str, typer.Argument(help="A modality.")]) -> None:
    """A modality's presets, options and controls."""
    from genkit import registry

    manifest = registry.describe(id)
    print(f"{manifest.title}: {registry.origin(manifest)}\n{manifest.summary}")
    print(f"writes {', '.join(manifest.formats)}; many at once as {', '.join(manifest.sheets) or 'nothing'}")
    print(f"default data: {manifest.data or 'none'}\n\npresets:")
    for name, preset in manifest.presets.items():
        print(f"  {name:<18}{preset.summary}")
    for part in ("options", "controls"):
        cls = registry.named_class(manifest, part)
        fields = {} if cls is None else cls.model_fields
        if fields:
            print(f"\n{part}:")
        for name, field in fields.items():
            about = " ".join((field.description or "").split())
            print(f"  {name:<18}{about} [default: {field.get_default(call_default_factory=True)}]")


def _print_table(rows: Sequence[Found]) -> None:
    table = [("ID", "DISTRIBUTION", "VERSION", "STATUS", "REASON")]
    table += [(row.id, row.distribution, row.version, row.status, row.reason) for row in rows]
    widths = [max(len(line[column]) for line in table) for column in range(4)]
    for line in table:
        print("  ".join([*(word.ljust(width) for word, width in zip(line, widths, strict=False)), line[4]]).rstrip())


# Progress --------------------------------------------------------------------------------------------------------


class _reporter:  # noqa: N801  # used as a context manager only
    """Progress on standard error: a bar on a terminal, plain lines elsewhere, nothing when quiet."""

    def __init__(self, quiet: bool) -> None:
        self.quiet, self.told = quiet, 0.0
        self.bar: Any = None

    def __enter__(self) -> Callable[[Progress], None]:
        if not self.quiet and sys.stderr.isatty():
            self.bar = _bar()
            self.bar.start()
            return self._on_terminal
        return self._plain

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def _on_terminal(self, progress: Progress) -> None:
        if not self.bar.tasks:
            self.bar.add_task("", total=1, text="")
        total = progress.total_items or (progress.seconds + (progress.seconds_left or 0)) or 1
        done = progress.items if progress.total_items else progress.seconds
        self.bar.update(
            self.bar.task_ids[0], total=total, completed=done, description=progress.stage, text=_words(progress)
        )
        if progress.note:
            self.bar.console.print(progress.note, highlight=False, markup=False)

    def _plain(self, progress: Progress) -> None:
        if self.quiet:
            return
        if progress.note:
            print(progress.note, file=sys.stderr, flush=True)
        elif time.monotonic() - self.told >= PLAIN_SECONDS:
            self.told = time.monotonic()
            print(f"{progress.items:,} items  {_words(progress)}", file=sys.stderr, flush=True)


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}")
    return Bar(*columns, console=Console(stderr=True))


def _words(progress: Progress) -> str:
    parts = [f"{progress.items_per_second:,.0f} items/s"]
    if progress.seconds_left is not None:
        minutes, seconds = divmod(round(progress.seconds_left), 60)
        parts.append(f"{minutes}:{seconds:02d} left")
    losses = {name: value for name, value in progress.statistics.items() if name.endswith(".loss")}
    parts += [f"{name.removesuffix('.loss')} {value:.3f}" for name, value in losses.items()]
    return "  ".join(parts)
