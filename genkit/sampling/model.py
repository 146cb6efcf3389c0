"""A trained model that draws samples; all sampling goes through it.

Sample i of seed S is the same whatever else is drawn with it: the generator always runs on whole chunks of CHUNK rows,
aligned to the index and padded, in float32. Knows plugins, generators and the model folder; no particular modality and
no training.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from genkit import config
from genkit.discovery import registry
from genkit.errors import ConfigError, ModelError, PluginError, UnknownModality, first_line
from genkit.plugin import Facts, Modality, ModalityPlugin, Sample, Unrolling, capabilities_of
from genkit.sampling.batching import join
from genkit.sampling.drawing import (
    CHUNK,
    LatentPoint,
    draw_blocks,
    draw_chunk,
    draw_interpolation,
    in_parts,
    rows_of,
    unrolls,
)
from genkit.sampling.model_folder import find_model, read_critics, read_model, save_model
from genkit.sampling.reranking import Reranker, open_reranker
from genkit.sampling.samples import Samples, format_of, is_joint
from genkit.system.files import file_hash, make_folder, user_path, writing
from genkit.system.runtime import lay_out, pick_device
from genkit.system.seeding import global_seeds
from genkit.system.tensors import build
from genkit.user_objects import admit_network, not_placeholder


@dataclass(frozen=True)
class Model:
    """A trained generator with everything that is needed to draw from it.

    Args:
        modality: the manifest.
        plugin: built from the model's own options and facts.
        generator: in eval mode.
        info: the model's description as plain data (`config.json`).
        device: of the generator.
        path: the model folder that it was read from; None: it was not read from disk.
        sha256: of the weights file, in hexadecimal; None: it was not read from disk.
        critics: the critics' weights, saved with the model; None: those in its folder.
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
        # One memory format for all models: samples do not depend on the plan of the training run.
        lay_out(self.generator, channels_last=True)

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
            n, start: draw the indices start .. start + n - 1.
            seed: seed and index are a sample's identity.
            label: the condition for a conditional model (a label, a prompt, a file); None: its default.
            controls: values of the modality's controls.
            indices: draw these indices, in this order, instead of those of n and start.
            best_of: draw this many candidates for each sample and keep the one with the critics' highest score.

        Raises:
            ConfigError: for a control, label or number that the model does not accept; for `best_of` > 1 if it has no
                critics.
        """
        chosen_indices: Sequence[int] = (
            range(start, start + n) if indices is None else [int(index) for index in indices]
        )
        if not len(chosen_indices) or min(chosen_indices) < 0:
            raise ConfigError(
                f"n = {n}, start = {start}: at least one sample, of an index of at least 0, is needed"
            )
        if best_of < 1:
            raise ConfigError(
                f"best_of = {best_of}: at least one candidate for each sample is needed"
            )
        settings = config.controls(self.modality, controls or {})
        sample = self.draw(chosen_indices, seed, label, settings, best_of=best_of)
        return Samples(sample, seed, tuple(chosen_indices), label, self, settings, best_of=best_of)

    def stream(
        self,
        n: int,
        seed: int = 0,
        start: int = 0,
        label: str | None = None,
        controls: Mapping[str, Any] | None = None,
        best_of: int = 1,
    ) -> Iterator[Samples]:
        """Draw the samples of `generate`, at most CHUNK at a time, in constant memory; arguments as there."""
        stop = start + n
        while start < stop:
            count = min(CHUNK - start % CHUNK, stop - start)
            yield self.generate(count, seed, start, label, controls, best_of=best_of)
            start += count

    def interpolate(
        self,
        indices: Sequence[int],
        seed: int = 0,
        steps: int = 8,
        label: str | None = None,
        controls: Mapping[str, Any] | None = None,
    ) -> Samples:
        """Draw a latent interpolation through several identities of one seed.

        Conditions that depend on the index (a default condition, say) are those of the nearer identity.

        Args:
            indices: of at least two identities; repeat the first at the end to close the loop.
            steps: samples per pair of identities, from the first of the pair up to, but without, the second; the last
                identity of all is added at the end.
            seed, label, controls: as in `generate`.

        Raises:
            ConfigError: for fewer than two indices or no steps, and as in `generate`.
        """
        ends = [int(index) for index in indices]
        if len(ends) < 2 or min(ends) < 0 or steps < 1:
            request = f"an interpolation through {', '.join(map(str, ends)) or 'nothing'} in steps = {steps}"
            raise ConfigError(
                f"{request}: at least two indices, of at least 0, and at least one step are needed"
            )
        settings = config.controls(self.modality, controls or {})
        interpolation = [
            LatentPoint(a, b, step / steps)
            for a, b in itertools.pairwise(ends)
            for step in range(steps)
        ]
        interpolation.append(LatentPoint(ends[-2], ends[-1], 1.0))
        # A preview has a row for each of several pairs, and the last identity alone in a row below them.
        columns = steps if len(ends) > 2 else len(interpolation)
        conditions = self.conditions_for(label)
        with registry.asking(self.modality, "the generator"):
            sample = draw_interpolation(
                self.generator, interpolation, seed, conditions, settings, self.device
            )
        places, points = tuple(range(len(interpolation))), tuple(interpolation)
        return Samples(sample, seed, places, label, self, settings, points, columns)

    def unroll(
        self,
        seed: int = 0,
        index: int = 0,
        label: str | None = None,
        controls: Mapping[str, Any] | None = None,
        steps: int | None = None,
        stop: int | None = None,
    ) -> Iterator[Sample]:
        """Draw one sample of any length part by part, each [1, ...] on the CPU, in constant memory.

        The first steps equal those of `generate`, bit for bit.

        Args:
            seed, index: the identity of the sample.
            label, controls: as in `generate`.
            steps: length of each part; None: the generator's own block size.
            stop: total number of steps; None: endless.

        Raises:
            ConfigError: if the model's samples have a fixed length, or if `steps`, `stop` or `index` is too small.
        """
        if not unrolls(self.generator):
            raise ConfigError("samples of this model have one length: it cannot be unrolled")
        size = cast(Unrolling, self.generator).block if steps is None else steps
        if size < 1 or index < 0 or (stop is not None and stop < 1):
            raise ConfigError(
                f"steps = {size}, stop = {stop}, index = {index}: steps and stop must be at least 1, index at least 0"
            )
        settings = config.controls(self.modality, controls or {})
        condition = self.conditions_for(label)([index])
        blocks = draw_blocks(self.generator, [index], seed, condition, settings, self.device)
        return self._asked(in_parts(self.generator, blocks, size, stop))

    def _asked(self, parts: Iterator[Sample]) -> Iterator[Sample]:
        """The parts of an endless sample on the CPU; what the generator raises is told as the plugin's."""
        while True:
            with registry.asking(self.modality, "the generator"):
                part = next(parts, None)
            if part is None:
                return
            yield part.to("cpu")

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
            indices: of the samples, in any order.
            seed: the user's seed, or the name of an internal stream.
            label: as in `generate`.
            controls: an instance of the modality's controls.
            conditions: indices -> their conditions, instead of the plugin's.
            best_of: candidates per sample: the first has the noise of the identity itself, the others that of streams
                of their own.
        """
        seeds = [seed, *(f"{seed}/candidate {number}" for number in range(1, best_of))]
        conditions = conditions or self.conditions_for(label)
        at_once = rows_of(self.generator)
        pieces: list[Sample] = []
        order: list[int] = []
        chunks: dict[int, list[int]] = {}
        for place, index in enumerate(indices):
            chunks.setdefault(index // at_once, []).append(place)
        for chunk, places in sorted(chunks.items()):
            whole = range(chunk * at_once, (chunk + 1) * at_once)
            rows = [indices[place] - whole.start for place in places]
            condition = conditions(whole)
            candidates = (
                draw_chunk(self.generator, whole, name, condition, controls, self.device)
                for name in seeds
            )
            with registry.asking(self.modality, "the generator"):
                batch = next(candidates) if best_of == 1 else self.reranker.best(candidates)
                pieces.append(batch[rows].to("cpu"))
            order += places
        samples = join(pieces)
        if order == list(range(len(order))):
            return samples
        inverse = torch.empty(len(order), dtype=torch.long)
        inverse[torch.tensor(order)] = torch.arange(len(order))
        return samples[inverse]

    def save(self, path: str | Path) -> Path:
        """Write the model folder; returns its path."""
        path = user_path(path)
        facts = self.plugin.facts
        metadata = {"items": str(self.info.get("items", 0))}
        critics = read_critics(self.path) if self.critics is None else self.critics
        save_model(path, self.info, self.generator.state_dict(), facts.files, metadata, critics)
        return path

    @cached_property
    def reranker(self) -> Reranker:
        """The model's critics, which choose among the candidates of `best_of`; read from the folder at first use.

        Raises:
            ConfigError, ModelError: if the folder has no critics, or they cannot be read.
        """
        return open_reranker(self.plugin, self.info, self.path, self.device)

    def conditions_for(self, label: str | None) -> Callable[[Sequence[int]], Tensor | None]:
        """A function: sample indices -> their conditions [B, ...] under this label, or None.

        Raises:
            ConfigError: for a label if the model is unconditional. The function raises it too, if a conditional model
                has no default condition and there is no label.
        """
        has_condition = "condition" in capabilities_of(self.plugin, self.generator)
        if not has_condition and label is not None:
            raise ConfigError(f"label {label!r}: this model is unconditional")

        def conditions(indices: Sequence[int]) -> Tensor | None:
            condition = (
                condition_of(self.modality, self.plugin, label, indices) if has_condition else None
            )
            if condition is None and self.info.get("conditional"):
                raise ConfigError(
                    "this model is conditional and has no default condition: choose one with --label or --condition"
                )
            return condition

        return conditions


def condition_of(
    modality: Modality, plugin: ModalityPlugin, label: str | None, indices: Sequence[int]
) -> Tensor | None:
    """What a plugin with the capability `condition` answers, [B, ...] or None.

    Raises:
        PluginError: if it answers anything else.
        UserError: for a label that the plugin cannot use.
    """
    with registry.asking(modality, "condition"):
        condition = plugin.condition(label, indices)
    if condition is not None and not (
        isinstance(condition, Tensor) and len(condition) == len(indices)
    ):
        kind = (
            f"{list(condition.shape)}"
            if isinstance(condition, Tensor)
            else type(condition).__name__
        )
        fault = f"it returned {kind} for {len(indices)} indices; a tensor [{len(indices)}, ...] was expected"
        raise PluginError(registry.origin(modality), "condition", fault)
    return condition


def open_model(
    path: str | Path,
    device: str = "auto",
    modality: Modality | None = None,
    user_objects: Sequence[str] = (),
) -> Model:
    """Open a model folder, or the model of a run folder.

    Nothing in the folder is executed: it names a plugin, which must be installed. If an option of the model names a
    user's own network class, that class is not imported: sampling needs no critic, and a generator's class must be
    listed in `user_objects`.

    Args:
        path: of the folder.
        device: auto, cpu, cuda, mps ...
        modality: the manifest, for a model whose modality is not installed.
        user_objects: `module:attribute` of each network class that may be imported to build the model.

    Raises:
        ConfigError: if one of `user_objects` cannot be imported.
        ModelError: if the folder is missing, damaged or not a model's, or its plugin is not installed.
    """
    for name in user_objects:
        admit_network("user_objects", name)
    folder = find_model(path)
    info, tensors, assets = read_model(folder)
    digest = file_hash(folder / "model.safetensors")
    manifest = modality or _manifest_for(info, folder)
    options_class = registry.named_class(manifest, "options")
    options = None
    try:
        if options_class is not None:
            options = config.validate(options_class, info["options"], "options")
    except ConfigError as error:
        raise ModelError(f"{folder / 'config.json'}: {error}") from error
    try:
        with global_seeds("open"):  # new networks draw their weights from the global generators
            plugin = registry.load(manifest)(options, Facts(info["facts"], assets))
            networks = build(
                lambda: {"": not_placeholder(plugin.generator(), folder)},
                tensors,
                folder / "model.safetensors",
            )
    except (ModelError, PluginError, ConfigError):
        raise
    except Exception as error:  # a plugin may raise anything for facts that it did not write
        reason = f"{registry.origin(manifest)} cannot build a network from it ({first_line(error)})"
        raise ModelError(f"{folder / 'config.json'}: {reason}") from error
    target_device = pick_device(device)
    generator = networks[""].to(target_device).eval().requires_grad_(False)
    return Model(manifest, plugin, generator, info, target_device, folder, digest)


def _manifest_for(info: Mapping[str, Any], folder: Path) -> Modality:
    """The manifest of the plugin that made a model.

    Raises:
        ModelError: if that plugin is not installed; it says what to install.
    """
    maker = info["plugin"]
    try:
        return registry.describe(f"{maker.get('distribution')}:{info['modality']}")
    except UnknownModality as error:
        maker_name = f"{maker.get('distribution')} {maker.get('version')} ({info['modality']})"
        others = [row.name for row in registry.found() if row.id == info["modality"]]
        hint = f" Did you mean {others[0]!r}?" if others else ""
        cure = f"pip install {maker.get('distribution')}.{hint}"
        if maker.get("distribution") == "local":
            cure = "register its modality with genkit.register, or pass it as modality="
        raise ModelError(
            f"{folder} was made with {maker_name}, which is not installed here: {cure}"
        ) from error


# Files of samples of any length --------------------------------------------------------------------------------


def save_long(
    model: Model,
    path: str | Path,
    seed: int = 0,
    index: int = 0,
    label: str | None = None,
    controls: Mapping[str, Any] | None = None,
) -> Path:
    """Draw one sample and write its file part by part, in constant memory where the format allows it.

    Args:
        model: with the capabilities `unroll` and `writer`.
        path: of the file; its ending is one of the modality's formats.
        seed, index, label, controls: as for `Model.unroll`.

    Returns:
        The path.

    Raises:
        ConfigError: if the modality cannot write such a file.
    """
    path, settings = user_path(path), config.controls(model.modality, controls or {})
    format = format_of(model.modality, path.suffix[1:].lower())
    condition = model.conditions_for(label)([index])
    stop = cast(Unrolling, model.generator).length(settings, condition)
    make_folder(path.parent)
    with (
        registry.asking(model.modality, "writer"),
        writing(path) as file,
        model.plugin.writer(file, format, settings) as write,
    ):
        for part in model.unroll(seed, index, label, controls, stop=stop):
            write(part)
    return path


def is_long(model: Model, path: str | Path) -> bool:
    """Whether a path is the file of one sample that the model can draw and write part by part.

    Raises:
        ConfigError: if it is a file that the modality cannot write.
    """
    ending = Path(path).suffix[1:].lower()
    is_able = {"unroll", "writer"} <= capabilities_of(model.plugin, model.generator)
    return is_able and is_joint(model.modality, path) and ending in model.modality.formats
