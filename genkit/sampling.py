"""Identities -> noise -> samples -> files. The one sampler.

Sample i of seed S is the same whatever else is drawn with it: the sampler always runs whole chunks of CHUNK rows,
aligned to the index and padded, in float32. Knows no modality and no training.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from genkit import artifact, config, registry
from genkit.data import global_seeds, join
from genkit.drawing import CHUNK, Between, draw_blocks, draw_chunk, draw_walk, in_parts, rows_of, unrolls
from genkit.errors import ConfigError, ModelError, PluginError, UnknownModality, did_you_mean, first_line
from genkit.files import make_folder, write_whole, writing
from genkit.jury import Jury, open_jury
from genkit.own import admit_network, known
from genkit.plugin import Facts, Modality, ModalityPlugin, Sample, Unrolling, capabilities_of
from genkit.runtime import WORKERS, lay_out, overlapped, pick_device


@dataclass(frozen=True)
class Samples:
    """Drawn samples and who they are.

    Args:
        sample: the batch.
        seed, indices: the identity of row b is (seed, indices[b]); of a walk, its place on it.
        label: what was asked for; None: the model's default.
        model: where they come from.
        controls: as they were drawn.
        walk: between which two identities each row of a walk lies; None: they are no walk.
        columns: how many belong side by side on a sheet; None: the modality's choice.
        best_of: so many candidates there were for each.
    """

    sample: Sample
    seed: int
    indices: tuple[int, ...]
    label: str | None
    model: Model
    controls: Any
    walk: tuple[Between, ...] | None = None
    columns: int | None = None
    best_of: int = 1

    @property
    def x(self) -> Tensor:
        """[N, *event]."""
        return self.sample.x

    @property
    def seeds(self) -> list[tuple[int, int | Between]]:
        """Each sample's identity: (seed, index), on a walk (seed, Between)."""
        return [(self.seed, who) for who in self.walk or self.indices]

    def __len__(self) -> int:
        """How many."""
        return len(self.indices)

    def __repr__(self) -> str:
        event = "x".join(map(str, self.x.shape[1:]))
        return f"<{len(self)} samples of {self.model.modality.id} [{event}], seed {self.seed}>"

    def __getitem__(self, row: int | slice) -> Samples:
        """One of them, or some."""
        rows = range(len(self))[row]
        rows = rows if isinstance(rows, range) else range(rows, rows + 1)
        picked = tuple(self.indices[place] for place in rows)
        walk = None if self.walk is None else tuple(self.walk[place] for place in rows)
        return replace(self, sample=self.sample[list(rows)], indices=picked, walk=walk)

    def __iter__(self) -> Iterator[Samples]:
        """One at a time."""
        return (self[row] for row in range(len(self)))

    def encode(self, format: str | None = None) -> list[bytes]:
        """Each sample as the bytes of an ordinary file."""
        format = format or self.model.modality.formats[0]
        with registry.asking(self.model.modality, "encode"):
            return self.model.plugin.encode_each(self.sample, format, self.controls)

    def save(self, path: str | Path) -> list[Path]:
        """Write them: into a folder, one file each and `samples.json`; or as one joint file, by the path's ending."""
        return save([self], path)

    def _repr_png_(self) -> bytes | None:
        if "png" not in self.model.modality.sheets:
            return None
        return self.model.plugin.sheet(self.sample, "png", self.controls, self.columns)


@dataclass(frozen=True)
class Model:
    """A generator with all that drawing from it needs.

    Args:
        modality: the manifest.
        plugin: built from the model's own options and facts.
        generator: in eval mode.
        info: what is known of it, as plain data (`config.json`).
        device: where it computes.
        path: the model folder; None: it was never written.
        sha256: of the weights as they were read, in hexadecimal; None: they never were.
        critics: the critics' weights, to be saved with it; None: those in its folder.
    """

    modality: Modality
    plugin: ModalityPlugin
    generator: nn.Module
    info: Mapping[str, Any]
    device: torch.device
    path: Path | None = None
    sha256: str | None = None
    critics: Mapping[str, Tensor] | None = None

    def __post_init__(self) -> None:
        lay_out(self.generator, channels_last=True)  # always: bits do not depend on the plan that it was trained by

    def __repr__(self) -> str:
        return f"<model of {self.modality.id}, {self.info.get('items', 0):,} items seen, {self.path or 'not saved'}>"

    def generate(
        self,
        n: int = 16,
        seed: int = 0,
        start: int = 0,
        label: str | None = None,
        controls: Mapping[str, Any] | None = None,
        indices: Sequence[int] | None = None,
        best_of: int = 1,
    ) -> Samples:
        """Draw samples.

        Args:
            n, start: the indices start .. start + n - 1; or `indices`, in any order.
            seed: with the index, a sample's identity.
            label: what a conditional model is asked for (a label, a prompt, a file); None: its default.
            controls: values of the modality's controls.
            best_of: draw so many candidates for each and keep the one that the model's critics like best.

        Raises:
            ConfigError: for a control, label or count that the model does not take, or critics that it does not have.
        """
        chosen: Sequence[int] = range(start, start + n) if indices is None else [int(index) for index in indices]
        if not len(chosen) or min(chosen) < 0:
            raise ConfigError(f"n = {n}, start = {start}: at least one sample, of an index of at least 0, is needed")
        if best_of < 1:
            raise ConfigError(f"best_of = {best_of}: at least one candidate for each sample is needed")
        settings = config.controls(self.modality, controls or {})
        sample = self.draw(chosen, seed, label, settings, best_of=best_of)
        return Samples(sample, seed, tuple(chosen), label, self, settings, best_of=best_of)

    def stream(self, n: int, seed: int = 0, start: int = 0, **arguments: Any) -> Iterator[Samples]:
        """The same samples as `generate`, in constant memory: at most CHUNK at a time."""
        stop = start + n
        while start < stop:
            count = min(CHUNK - start % CHUNK, stop - start)
            yield self.generate(count, seed, start, **arguments)
            start += count

    def interpolate(
        self,
        indices: Sequence[int],
        seed: int = 0,
        steps: int = 8,
        label: str | None = None,
        controls: Mapping[str, Any] | None = None,
    ) -> Samples:
        """Draw a walk from identity to identity.

        A step under a default condition has that of the nearer identity.

        Args:
            indices: of at least two identities; the first again at the end closes the walk.
            steps: samples from one identity to the next, which is the first of the next `steps`; the last identity
                is one more.
            seed, label, controls: as in `generate`.

        Raises:
            ConfigError: for indices or steps that are no walk, and as `generate`.
        """
        ends = [int(index) for index in indices]
        if len(ends) < 2 or min(ends) < 0 or steps < 1:
            asked = f"a walk through {', '.join(map(str, ends)) or 'nothing'} in steps = {steps}"
            raise ConfigError(f"{asked}: at least two indices, of at least 0, and at least one step are needed")
        settings = config.controls(self.modality, controls or {})
        walk = [Between(a, b, step / steps) for a, b in itertools.pairwise(ends) for step in range(steps)]
        walk.append(Between(ends[-2], ends[-1], 1.0))
        columns = steps if len(ends) > 2 else len(walk)  # a row for each pair, the last identity alone below them
        sample = draw_walk(self.generator, walk, seed, self._asker(label), settings, self.device)
        return Samples(sample, seed, tuple(range(len(walk))), label, self, settings, tuple(walk), columns)

    def unroll(
        self,
        seed: int = 0,
        index: int = 0,
        label: str | None = None,
        controls: Mapping[str, Any] | None = None,
        steps: int | None = None,
        stop: int | None = None,
    ) -> Iterator[Sample]:
        """One sample of any length, part by part [1, ...] on the CPU, in constant memory.

        Its first steps are those of `generate`, bit for bit.

        Args:
            seed, index: its identity.
            label, controls: as in `generate`.
            steps: of each part; None: the generator's choice.
            stop: steps in all; None: there is no end.

        Raises:
            ConfigError: if the model's samples have one length, or for steps that are none.
        """
        if not unrolls(self.generator):
            raise ConfigError("samples of this model have one length: there is nothing to unroll")
        size = cast(Unrolling, self.generator).block if steps is None else steps
        if size < 1 or index < 0 or (stop is not None and stop < 1):
            raise ConfigError(f"steps = {size}, stop = {stop}, index = {index}: steps of at least 1 are needed")
        settings = config.controls(self.modality, controls or {})
        told = seed, self._asker(label)([index]), settings, self.device
        parts = in_parts(self.generator, draw_blocks(self.generator, [index], *told), size, stop)
        return (part.to("cpu") for part in parts)

    def draw(
        self,
        indices: Sequence[int],
        seed: int | str,
        label: str | None = None,
        controls: Any = None,
        conditions: Callable[[Sequence[int]], Tensor | None] | None = None,
        best_of: int = 1,
    ) -> Sample:
        """The batch of samples with these identities, on the CPU.

        Args:
            conditions: indices -> conditions, in place of the plugin's.
            best_of: candidates for each: the first has the identity's own noise, the k-th that of a stream of its own.
        """
        seeds = [seed, *(f"{seed}/candidate {number}" for number in range(1, best_of))]
        ask, at_once = conditions or self._asker(label), rows_of(self.generator)
        pieces: list[Sample] = []
        order: list[int] = []
        chunks: dict[int, list[int]] = {}
        for place, index in enumerate(indices):
            chunks.setdefault(index // at_once, []).append(place)
        for chunk, wanted in sorted(chunks.items()):
            whole = range(chunk * at_once, (chunk + 1) * at_once)
            rows = [indices[place] - whole.start for place in wanted]
            told = ask(whole), controls, self.device
            candidates = (draw_chunk(self.generator, whole, name, *told) for name in seeds)
            drawn = next(candidates) if best_of == 1 else self.jury.best(candidates)
            pieces.append(drawn[rows].to("cpu"))
            order += wanted
        joined = join(pieces)
        if order == list(range(len(order))):
            return joined
        back = torch.empty(len(order), dtype=torch.long)
        back[torch.tensor(order)] = torch.arange(len(order))
        return joined[back]

    def save(self, path: str | Path) -> Path:
        """Write the model folder; returns it."""
        path = Path(path)
        facts = self.plugin.facts
        metadata = {"items": str(self.info.get("items", 0))}
        critics = artifact.read_critics(self.path) if self.critics is None else self.critics
        artifact.save_model(path, self.info, self.generator.state_dict(), facts.files, metadata, critics)
        return path

    @cached_property
    def jury(self) -> Jury:
        """The critics, which choose where `best_of` asks them to; read from the folder when they are first asked."""
        return open_jury(self.plugin, self.info, self.path, self.device)

    def _asker(self, label: str | None) -> Callable[[Sequence[int]], Tensor | None]:
        can = "condition" in capabilities_of(self.plugin, self.generator)
        if not can and label is not None:
            raise ConfigError(f"label {label!r}: this model is unconditional")

        def ask(indices: Sequence[int]) -> Tensor | None:
            with registry.asking(self.modality, "condition"):
                condition = self.plugin.condition(label, indices) if can else None
            if condition is None and self.info.get("conditional"):
                raise ConfigError(
                    "this model is conditional and has no default: say what to draw with --label or --condition"
                )
            return condition

        return ask


def open_model(
    path: str | Path, device: str = "auto", modality: Modality | None = None, own: Sequence[str] = ()
) -> Model:
    """A model folder, or the model of a run folder, ready to draw from.

    Nothing in the folder is executed: it names a plugin, which must be installed. Where an option of it names a network
    of one's own, that is not imported for it: a critic is done without, for a generator `own` must name it.

    Args:
        path: of the folder.
        device: auto, cpu, cuda, mps ...
        modality: the manifest, for a model whose modality is not installed.
        own: `module:attribute` of each network that the user trusts it to be built from.

    Raises:
        ConfigError: if one of `own` cannot be imported.
        ModelError: if the folder is missing, foreign, damaged, or its plugin is not installed.
    """
    for name in own:
        admit_network("own", name)
    folder = artifact.find_model(path)
    info, tensors, assets = artifact.read_model(folder)
    digest = artifact.file_hash(folder / "model.safetensors")
    manifest = modality or _manifest_for(info, folder)
    options_class = registry.named_class(manifest, "options")
    try:
        options = None if options_class is None else config.validate(options_class, info["options"], "options")
    except ConfigError as error:
        raise ModelError(f"{folder / 'config.json'}: {error}") from error
    try:
        with global_seeds("open"):  # building networks draws their first weights from the global generators
            plugin = registry.load(manifest)(options, Facts(info["facts"], assets))
            networks = artifact.build(
                lambda: {"": known(plugin.networks().generator, folder)}, tensors, folder / "model.safetensors"
            )
    except (ModelError, PluginError, ConfigError):
        raise
    except Exception as error:  # whatever a plugin makes of facts that are not its own
        why = f"{registry.origin(manifest)} cannot build a network from it ({first_line(error)})"
        raise ModelError(f"{folder / 'config.json'}: {why}") from error
    where = pick_device(device)
    return Model(manifest, plugin, networks[""].to(where).eval().requires_grad_(False), info, where, folder, digest)


def _manifest_for(info: Mapping[str, Any], folder: Path) -> Modality:
    maker = info["plugin"]
    try:
        return registry.describe(f"{maker.get('distribution')}:{info['modality']}")
    except UnknownModality as error:
        made = f"{maker.get('distribution')} {maker.get('version')} ({info['modality']})"
        local = maker.get("distribution") == "local"
        cure = "genkit.register its modality first, or pass it as modality=" if local else error
        raise ModelError(f"{folder} was made with {made}, which is not installed here: {cure}") from error


# Files -----------------------------------------------------------------------------------------------------------


def save(chunks: Iterable[Samples], path: str | Path, workers: int = WORKERS, format: str | None = None) -> list[Path]:
    """Write samples as they come.

    Args:
        chunks: of one model, seed and label.
        path: a folder (one file per sample, named by its index, and `samples.json`), or a file: one joint file, whose
            ending is one of the modality's sheets, or the file of a single sample, whose ending is one of its formats.
        format: of the folder's files; None: the modality's first.
        workers: threads that write the folder's files while the next chunk is drawn; 0: each chunk waits for its own.

    Returns:
        The files written, `samples.json` last.

    Raises:
        ConfigError: if the modality cannot write such a file.
    """
    chunks = iter(chunks)
    first = next(chunks)
    model, modality = first.model, first.model.modality
    joint, path = is_joint(modality, path), Path(path)
    if joint:
        ending = path.suffix[1:].lower()
        whole = join([first.sample, *(chunk.sample for chunk in chunks)])
        is_joint(modality, path, len(whole))
        make_folder(path.parent)
        if len(whole) == 1 and ending in modality.formats:
            (content,) = first.encode(ending)
        else:
            with registry.asking(modality, "sheet"):
                content = model.plugin.sheet(whole, ending, first.controls, first.columns)
        write_whole(path, content)
        return [path]
    format = format_of(modality, format)

    def write(chunk: Samples) -> None:
        artifact.write_files(path, zip(_names(chunk, format), chunk.encode(format), strict=True))

    every = itertools.chain([first], chunks)
    pieces = (chunk[place : place + CHUNK] for chunk in every for place in range(0, len(chunk), CHUNK))
    rows = [row for piece in overlapped(write, pieces, workers) for row in _rows(piece, format)]
    chosen = {"best_of": first.best_of, "critics_sha256": model.jury.sha256} if first.best_of > 1 else {}
    controls = {} if first.controls is None else first.controls.model_dump(mode="json")
    told = {"model": describe_model(model), "controls": controls, **chosen}
    document = {"schema": 1, **told, "samples": rows}
    document["samples"] = _rows_beside(path / "samples.json", document) + rows
    write_whole(path / "samples.json", _sidecar(document))
    return [*(path / row["file"] for row in rows), path / "samples.json"]


def _sidecar(document: dict[str, Any]) -> bytes:
    """The document as JSON with a line for each sample: as readable as indented all through, and many times quicker."""
    head = json.dumps({**document, "samples": []}, indent=1).removesuffix("]\n}")
    rows = ",".join(f"\n  {json.dumps(row)}" for row in document["samples"])
    return f"{head}{rows}\n ]\n}}\n".encode()


def _names(chunk: Samples, format: str) -> list[str]:
    return [f"{index:06d}.{format}" for index in chunk.indices]


def _rows(chunk: Samples, format: str) -> Iterator[dict[str, Any]]:
    """What samples.json says of each."""
    conditions = chunk.sample.condition
    classes = conditions is not None and conditions.ndim == 1  # where the label was left to the default
    for row, (name, (seed, who)) in enumerate(zip(_names(chunk, format), chunk.seeds, strict=True)):
        known = who._asdict() if isinstance(who, Between) else {"index": who}
        told = {"condition": conditions[row].item()} if conditions is not None and classes else {}
        yield {"file": name, "seed": seed, **known, "label": chunk.label, **told}


def save_long(model: Model, path: str | Path, seed: int = 0, index: int = 0, **arguments: Any) -> Path:
    """Draw one sample and write its file part by part, in constant memory where the format allows it.

    Args:
        arguments: label and controls, as for `Model.unroll`.

    Raises:
        ConfigError: if the modality cannot write such a file.
    """
    path, settings = Path(path), config.controls(model.modality, arguments.get("controls") or {})
    format = format_of(model.modality, path.suffix[1:].lower())
    condition = model._asker(arguments.get("label"))([index])
    stop = cast(Unrolling, model.generator).length(settings, condition)
    make_folder(path.parent)
    with (
        registry.asking(model.modality, "sink"),
        writing(path) as file,
        model.plugin.sink(file, format, settings) as write,
    ):
        for part in model.unroll(seed, index, stop=stop, **arguments):
            write(part)
    return path


def is_long(model: Model, path: str | Path) -> bool:
    """Whether the file of one sample can be written part by part."""
    ending = Path(path).suffix[1:].lower()
    can = {"unroll", "sink"} <= capabilities_of(model.plugin, model.generator)
    return can and is_joint(model.modality, path) and ending in model.modality.formats


def format_of(modality: Modality, format: str | None) -> str:
    """One of a modality's formats; None: the first.

    Raises:
        ConfigError: for any other.
    """
    if format is not None and format not in modality.formats:
        can = ", ".join(modality.formats)
        raise ConfigError(f"format {format!r}: {modality.id} writes {can}.{did_you_mean(format, modality.formats)}")
    return format or modality.formats[0]


def is_joint(modality: Modality, path: str | Path, n: int = 1) -> bool:
    """Whether a path means one file: it has an ending, and neither a slash behind it nor a folder of its name.

    Args:
        n: how many samples it is for.

    Raises:
        ConfigError: if the modality cannot write so many samples as one file of that ending.
    """
    if str(path).endswith(("/", os.sep)) or not Path(path).suffix or Path(path).is_dir():
        return False
    ending = Path(path).suffix[1:].lower()
    if ending not in modality.sheets and (n > 1 or ending not in modality.formats):
        can = ", ".join(f".{ending}" for ending in modality.sheets) or "no joint file"
        alone = ", ".join(f".{ending}" for ending in modality.formats)
        raise ConfigError(
            f"{path}: {modality.id} writes {can} for many samples, {alone} for one; a path that ends in / is a folder"
        )
    return True


def _rows_beside(path: Path, document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of an earlier samples.json of the same model, chosen alike, of files that were not written again."""
    written = {row["file"] for row in document["samples"]}
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        same = all(before[key] == document[key] for key in ("schema", "controls"))
        same = same and all(before.get(key) == document.get(key) for key in ("best_of", "critics_sha256"))
        if not same or before["model"]["sha256"] != document["model"]["sha256"]:
            return []
        return [row for row in before["samples"] if row["file"] not in written]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def describe_model(model: Model) -> dict[str, Any]:
    """What a sidecar says of a model."""
    return {
        "path": None if model.path is None else str(model.path),
        "sha256": model.sha256,
        "modality": model.modality.id,
        "plugin": model.info.get("plugin"),
        "genkit": model.info.get("genkit"),
        "torch": torch.__version__,
    }
