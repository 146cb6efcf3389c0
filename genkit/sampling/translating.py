"""A folder in, a folder out: a sample for each of many files, on which it is conditioned.

Knows the model, and the names of files; which files conditions are, its plugin says.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from genkit.discovery import registry
from genkit.errors import ConfigError
from genkit.plugin import capabilities_of
from genkit.sampling.listing import (
    LIST,
    SAMPLES,
    Names,
    is_of,
    read_listing,
    rows_beside,
    write_listing,
)
from genkit.sampling.model import Model
from genkit.sampling.samples import format_of, header_of
from genkit.sampling.unrolled import save_long
from genkit.system.files import make_folder, names_in, user_path, write_files


def translate(
    model: Model,
    source: str | Path | Sequence[str | Path],
    path: str | Path,
    seed: int = 0,
    controls: Mapping[str, Any] | None = None,
    format: str | None = None,
    resume: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> Sequence[Path]:
    """Draw a sample for each of some files, conditioned on it, and write it under the file's name.

    Each sample has the size or length of its own condition, where the model can draw it so. Sample i of the files in
    the order of their names has the identity (seed, i). A file is written whole or not at all.

    Args:
        model: whose conditions are files.
        source: a folder, or paths of files.
        path: the folder of the samples, with a samples.json.
        seed, controls: as for `Model.generate`.
        format: of the samples' files; None: the modality's first.
        resume: keep the samples that are there already, of the same model, controls and conditions.
        progress: is called with the numbers of samples that are written, and of all.

    Returns:
        The paths of the samples, and of samples.json.

    Raises:
        ConfigError: if the model's conditions are no files; if there are none, or two of one name; if the folder holds
            files that the samples would replace.
        UserError: for a file that the plugin cannot use; those before it are written.
    """
    folder, format = user_path(path), format_of(model.modality, format)
    files = condition_files(model, source)
    settings = model.settings(controls)
    header = header_of(model, settings, 1)
    names = [f"{file.stem}.{format}" for file in files]
    listing = read_listing(folder)
    old_rows = {} if listing is None else {row["file"]: row for row in listing.rows()}
    if any(file.parent.resolve() == folder.resolve() for file in files):
        raise ConfigError(
            f"{folder} is the folder of the conditions: name another one for the samples with --out"
        )
    own_names = [
        name
        for name in sorted(names_in(folder))
        if name not in old_rows and (name in names or (name == LIST and listing is None))
    ]
    if own_names:
        raise ConfigError(
            f"{folder} holds {own_names[0]}, which a sample would replace and no samples.json of genkit lists: choose "
            "another folder with --out, or move it away"
        )
    rows = [
        {"file": name, "seed": seed, "index": index, "label": str(file)}
        for index, (name, file) in enumerate(zip(names, files, strict=True))
    ]
    is_same = listing is not None and is_of(listing.header, header)
    whole_names = {
        row["file"]
        for row in rows
        if resume
        and is_same
        and old_rows.get(row["file"]) == row
        and os.path.exists(folder / str(row["file"]))
    }
    make_folder(folder)
    count = 0
    try:
        for row, file in zip(rows, files, strict=True):
            if row["file"] not in whole_names:
                _write(model, folder / names[count], seed, count, file, controls, format)
            count += 1
            if progress is not None:
                progress(count, len(rows))
    finally:
        other_rows = rows_beside(listing, header, SAMPLES, Names(names))
        if count:
            write_listing(folder, header, itertools.chain(other_rows, rows[:count]))
    return [*(folder / name for name in names), folder / LIST]


def condition_files(model: Model, source: str | Path | Sequence[str | Path]) -> list[Path]:
    """The files of a folder, or those that are named, that a model takes as conditions, in the order of their names.

    Raises:
        ConfigError: if its conditions are no files; if there is no such file, or two of one name.
    """
    with registry.asking(model.modality, "conditions"):
        endings = model.plugin.conditions().formats
    if not endings:
        raise ConfigError(
            f"{source}: this model takes no files as conditions, so that a folder of them is none either"
        )
    if isinstance(source, str | Path):
        folder = user_path(source)
        if not folder.is_dir():
            raise ConfigError(f"{folder}: there is no such folder of conditions")
        files = [folder / name for name in sorted(names_in(folder))]
        files = [file for file in files if file.suffix[1:].lower() in endings]
    else:
        files = sorted((user_path(one) for one in source), key=lambda file: file.name)
    if not files:
        raise ConfigError(
            f"{source} holds no file that this model takes as a condition: their names end in "
            f"{', '.join(f'.{ending}' for ending in endings)}"
        )
    stems = [file.stem for file in files]
    if len(set(stems)) < len(stems):
        stem = next(one for one in stems if stems.count(one) > 1)
        raise ConfigError(
            f"two conditions are called {stem}, so that their samples would be one file: rename one of them"
        )
    return files


def _write(
    model: Model, path: Path, seed: int, index: int, condition: Path, controls: Any, format: str
) -> None:
    """Write one sample; part by part, where the model and its plugin can."""
    if {"unroll", "writer"} <= capabilities_of(model.plugin, model.generator):
        save_long(model, path, seed, index, str(condition), controls)
        return
    (content,) = model.generate(1, seed, index, str(condition), controls).encode(format)
    write_files(path.parent, [(path.name, content)])
