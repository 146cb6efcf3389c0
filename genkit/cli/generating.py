"""The command `genkit generate`: samples as files in a folder, as one file, or on standard output."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genkit.cli.models import MODEL, UserObjects
from genkit.cli.progress import with_counts
from genkit.errors import ConfigError
from genkit.kit.program import Device, teller

if TYPE_CHECKING:
    from genkit.sampling.model import Model
    from genkit.sampling.noise import Latents
    from genkit.sampling.samples import Samples


def generate(
    model: Annotated[str, typer.Argument(help=MODEL)],
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            help="The modality's controls as NAME=VALUE: see `genkit plugins show MODALITY`."
        ),
    ] = None,
    n: Annotated[
        int | None,
        typer.Option("-n", help="Number of samples [default: 16; 1 of a model without noise]."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Seed of the noise; seed and index identify a sample [default: 0]."),
    ] = None,
    noise: Annotated[
        Path | None,
        typer.Option(
            help="A file of noise instead of a seed, such as `genkit project` writes; sample i is drawn from its row i."
        ),
    ] = None,
    start: Annotated[
        int | None, typer.Option(help="Index of the first sample [default: 0].")
    ] = None,
    interpolate: Annotated[
        str | None,
        typer.Option(
            help="Latent interpolation: indices such as 3,17,5, each interpolated to the next."
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(help="Steps of the interpolation from one index to the next [default: 8]."),
    ] = None,
    best_of: Annotated[
        int | None,
        typer.Option(
            help="Reranking: draw so many candidates for each sample and keep one of them, chosen by the critics "
            "(discriminators) [default: 1]."
        ),
    ] = None,
    choose: Annotated[
        str,
        typer.Option(
            help="How: best, the one with the highest score; sample, one that is drawn with the softmax of the scores "
            "as probabilities, calibrated if the critics were; sample:SCALE, of the scores times this."
        ),
    ] = "best",
    out: Annotated[
        str,
        typer.Option(
            help="A folder for one file a sample, one file for all such as grid.png, or - for text."
        ),
    ] = "samples/",
    label: Annotated[
        str | None,
        typer.Option(
            "--label",
            "--condition",
            help="The condition of a conditional model: a label, a prompt, a file; or a folder of files, each for a "
            "sample of its name.",
        ),
    ] = None,
    user_object: UserObjects = None,
    device: Device = "auto",
    dtype: Annotated[
        str,
        typer.Option(
            help="In which the model computes: float32; or bfloat16, faster where the machine has it."
        ),
    ] = "float32",
    format: Annotated[
        str | None,
        typer.Option(help="Format of the files in a folder [default: the modality's first]."),
    ] = None,
    per_tar: Annotated[
        int | None,
        typer.Option(
            help="Pack so many samples at a time into tar files in WebDataset layout, instead of a file for each."
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="K/N",
            help="Write only the Kth of N parts of the folder, K from 1 to N; auto: of the processes of torchrun, or "
            "the tasks of a SLURM array.",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Keep the files of a folder that are finished; start if there are none.",
        ),
    ] = False,
    ray: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Write the folder as N tasks on a Ray cluster (RAY_ADDRESS, or this machine), as with --resume.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the files and the model as JSON.")
    ] = False,
) -> None:
    """Draw samples from a model. They are written as files in a folder, or all in one file."""
    from genkit import config as configuration
    from genkit.sampling import samples
    from genkit.sampling.opening import open_model
    from genkit.sampling.translating import translate
    from genkit.sampling.unrolled import is_long, save_long

    if user_object:
        sys.path.append(os.getcwd())  # its module may be a file of the working folder
    ends = _interpolation(interpolate, steps, n, start, best_of)
    latents = None if noise is None else _noise(noise, seed, best_of, resume, per_tar, shard, ray)
    is_counted, start, seed = n is not None, start or 0, seed or 0
    candidates = 1 if best_of is None else best_of
    if (n is not None and n < 1) or start < 0:
        raise ConfigError(
            f"-n {16 if n is None else n} --start {start}: at least one sample, of an index of at least 0, is needed"
        )
    controls = configuration.parse_overrides(settings or [])
    loaded_model = open_model(model, device, user_objects=user_object or (), dtype=dtype)
    if n is None:
        n = loaded_model.usual_count if latents is None else max(len(latents) - start, 1)
    if label is not None and _is_folder_of_conditions(label, loaded_model):
        is_special = bool(ends) or (noise, best_of, per_tar, shard, ray) != (None,) * 5 or start > 0
        if is_special or is_counted or out == "-":
            raise ConfigError(
                f"--condition {label} is a folder, and each of its files is for one sample: leave out -n, --start, "
                "--noise, --interpolate, --best-of, --per-tar, --shard, --ray, and name a folder with --out"
            )
        write = partial(translate, loaded_model, label, out, seed, controls, format, resume=resume)
        _tell(with_counts(write, "samples are written"), out, True, as_json, loaded_model)
        return
    text_format = samples.text_format_of(loaded_model.modality, format) if out == "-" else ""
    is_folder = out != "-" and not samples.is_joint(loaded_model.modality, out, len(ends) or n)
    if (ends or not is_folder) and (resume or (per_tar, shard, ray) != (None, None, None)):
        raise ConfigError(
            "--per-tar, --shard, --resume and --ray are for samples of consecutive indices in a folder: leave them "
            "out, or say --out samples/"
        )
    if ray is not None and shard is not None:
        raise ConfigError("--ray and --shard exclude each other: --ray 8 writes all of 8 shards")
    if text_format and as_json:
        raise ConfigError("--out - and --json exclude each other: both write to standard output")
    if out != "-":
        samples.format_of(loaded_model.modality, format)  # errors before the work, not after it
    chunks: Iterable[Samples]
    count = n
    if ends:
        points = loaded_model.interpolate(
            ends, seed, 8 if steps is None else steps, label, controls, latents
        )
        chunks, count = [points], len(points)
    elif latents is not None:
        chunks = [loaded_model.generate(n, 0, start, label, controls, noise=latents)]
    else:
        chunks = loaded_model.stream(
            n,
            seed,
            start,
            label=label,
            controls=controls,
            best_of=candidates,
            choose=choose,
        )
    if out == "-":
        for chunk in chunks:
            contents = chunk.encode(text_format)
            if text_format == "txt":  # a sample per line
                contents = [b" ".join(content.splitlines()) for content in contents]
            sys.stdout.buffer.writelines(
                content.removesuffix(b"\n") + b"\n" for content in contents
            )
        return
    paths: Sequence[Path]
    if n == 1 and not ends and noise is None and best_of is None and is_long(loaded_model, out):
        paths = [save_long(loaded_model, out, seed, start, label=label, controls=controls)]
    elif is_folder and not ends and noise is None:
        job: dict[str, Any] = {
            "n": n, "seed": seed, "start": start, "label": label, "controls": controls,
            "best_of": candidates, "choose": choose, "format": format, "per_tar": per_tar,
        }  # fmt: skip
        if ray is None:
            write = partial(loaded_model.generate_to, out, shard=shard, resume=resume, **job)
            paths = with_counts(write, "samples are drawn")
        else:
            from genkit.sampling.cluster import generate_on_ray

            names = user_object or ()
            write = partial(
                generate_on_ray,
                model,
                out,
                shards=ray,
                device=device,
                dtype=dtype,
                user_objects=names,
                **job,
            )
            paths = with_counts(write, "tasks on Ray are finished")
    else:
        paths = _saved(chunks, out, format, count)
    _tell(paths, out, is_folder, as_json, loaded_model)


def _tell(paths: Sequence[Path], out: str, is_folder: bool, as_json: bool, model: Model) -> None:
    """Print where samples were written: the folder or the file, or all files and the model as JSON."""
    from genkit.sampling.samples import describe_model

    if not as_json:
        print(Path(out) if is_folder else paths[0])
        return
    import json

    files = [str(path) for path in paths]
    print(json.dumps({"files": files, "model": describe_model(model)}, indent=1))


def _is_folder_of_conditions(label: str, model: Model) -> bool:
    """Whether a condition is a folder, of a model whose conditions are files."""
    return os.path.isdir(label) and bool(model.plugin.conditions().formats)


def _noise(noise: Path, *others: int | bool | str | None) -> Latents:
    """The noise of a file.

    Args:
        noise: the option of that name.
        others: values of the options that it excludes.

    Raises:
        ConfigError: if one of the others is given.
        ModelError: if the file cannot be read.
    """
    from genkit.sampling.noise import Latents

    if any(other is not None and other is not False for other in others):
        raise ConfigError(
            "--noise excludes --seed, --best-of, --per-tar, --shard, --resume and --ray: samples are drawn from the "
            "rows of its file"
        )
    return Latents.of(noise)


def _saved(chunks: Iterable[Samples], out: str, format: str | None, count: int) -> Sequence[Path]:
    """The files of samples that are written while they are drawn; how far it is, is told from time to time."""
    from genkit.sampling import samples
    from genkit.system.runtime import waiting

    drawn_count = 0

    def counted() -> Iterator[Samples]:
        nonlocal drawn_count
        for chunk in chunks:
            drawn_count += len(chunk)
            yield chunk

    with waiting(lambda: f"{drawn_count:,} of {count:,} samples are drawn", teller(quiet=False)):
        return samples.save(counted(), out, format=format, count=count)


def _interpolation(interpolate: str | None, steps: int | None, *others: int | None) -> list[int]:
    """The indices that a latent interpolation passes through; empty without --interpolate.

    Args:
        interpolate, steps: the options of that name.
        others: values of the options that --interpolate excludes.

    Raises:
        ConfigError: for --steps alone, for --interpolate together with one of the others, and for indices that are no
            numbers.
    """
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
