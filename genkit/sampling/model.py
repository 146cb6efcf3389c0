"""Identities -> noise -> samples -> files. The one sampler.

Sample i of seed S is the same whatever else is drawn with it: the sampler always runs whole chunks of CHUNK rows,
aligned to the index and padded, in float32. Knows no modality and no training.
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
from genkit.sampling.samples import Samples
from genkit.system.files import file_hash
from genkit.system.runtime import lay_out, pick_device
from genkit.system.seeding import global_seeds
from genkit.system.tensors import build
from genkit.user_objects import admit_network, not_placeholder


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
        lay_out(
            self.generator, channels_last=True
        )  # always: bits do not depend on the plan that it was trained by

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
        chosen: Sequence[int] = (
            range(start, start + n) if indices is None else [int(index) for index in indices]
        )
        if not len(chosen) or min(chosen) < 0:
            raise ConfigError(
                f"n = {n}, start = {start}: at least one sample, of an index of at least 0, is needed"
            )
        if best_of < 1:
            raise ConfigError(
                f"best_of = {best_of}: at least one candidate for each sample is needed"
            )
        settings = config.controls(self.modality, controls or {})
        sample = self.draw(chosen, seed, label, settings, best_of=best_of)
        return Samples(sample, seed, tuple(chosen), label, self, settings, best_of=best_of)

    def stream(
        self,
        n: int,
        seed: int = 0,
        start: int = 0,
        label: str | None = None,
        controls: Mapping[str, Any] | None = None,
        best_of: int = 1,
    ) -> Iterator[Samples]:
        """The same samples as `generate`, with its arguments, in constant memory: at most CHUNK at a time."""
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
        """Draw an interpolation from identity to identity.

        A step under a default condition has that of the nearer identity.

        Args:
            indices: of at least two identities; the first again at the end closes the interpolation.
            steps: samples from one identity to the next, which is the first of the next `steps`; the last identity
                is one more.
            seed, label, controls: as in `generate`.

        Raises:
            ConfigError: for indices or steps that are no interpolation, and as `generate`.
        """
        ends = [int(index) for index in indices]
        if len(ends) < 2 or min(ends) < 0 or steps < 1:
            asked = f"an interpolation through {', '.join(map(str, ends)) or 'nothing'} in steps = {steps}"
            raise ConfigError(
                f"{asked}: at least two indices, of at least 0, and at least one step are needed"
            )
        settings = config.controls(self.modality, controls or {})
        interpolation = [
            LatentPoint(a, b, step / steps)
            for a, b in itertools.pairwise(ends)
            for step in range(steps)
        ]
        interpolation.append(LatentPoint(ends[-2], ends[-1], 1.0))
        columns = (
            steps if len(ends) > 2 else len(interpolation)
        )  # a row for each pair, the last identity alone below them
        sample = draw_interpolation(
            self.generator, interpolation, seed, self.conditions_for(label), settings, self.device
        )
        return Samples(
            sample,
            seed,
            tuple(range(len(interpolation))),
            label,
            self,
            settings,
            tuple(interpolation),
            columns,
        )

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
            raise ConfigError(
                f"steps = {size}, stop = {stop}, index = {index}: steps of at least 1 are needed"
            )
        settings = config.controls(self.modality, controls or {})
        told = seed, self.conditions_for(label)([index]), settings, self.device
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
        ask, at_once = conditions or self.conditions_for(label), rows_of(self.generator)
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
            drawn = next(candidates) if best_of == 1 else self.reranker.best(candidates)
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
        critics = read_critics(self.path) if self.critics is None else self.critics
        save_model(path, self.info, self.generator.state_dict(), facts.files, metadata, critics)
        return path

    @cached_property
    def reranker(self) -> Reranker:
        """The critics, which choose where `best_of` asks them to; read from the folder when they are first asked."""
        return open_reranker(self.plugin, self.info, self.path, self.device)

    def conditions_for(self, label: str | None) -> Callable[[Sequence[int]], Tensor | None]:
        """(sample indices -> their conditions [B, ...] or None), for what the user asked for.

        Raises:
            ConfigError: if an unconditional model is asked for a label; when called, if a conditional one has no default.
        """
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
    path: str | Path,
    device: str = "auto",
    modality: Modality | None = None,
    user_objects: Sequence[str] = (),
) -> Model:
    """A model folder, or the model of a run folder, ready to draw from.

    Nothing in the folder is executed: it names a plugin, which must be installed. Where an option of it names a user's
    network, that is not imported for it: a critic is done without, for a generator `user_objects` must name it.

    Args:
        path: of the folder.
        device: auto, cpu, cuda, mps ...
        modality: the manifest, for a model whose modality is not installed.
        user_objects: `module:attribute` of each network class that the user trusts the model to be built from.

    Raises:
        ConfigError: if one of `user_objects` cannot be imported.
        ModelError: if the folder is missing, foreign, damaged, or its plugin is not installed.
    """
    for name in user_objects:
        admit_network("user_objects", name)
    folder = find_model(path)
    info, tensors, assets = read_model(folder)
    digest = file_hash(folder / "model.safetensors")
    manifest = modality or _manifest_for(info, folder)
    options_class = registry.named_class(manifest, "options")
    try:
        options = (
            None
            if options_class is None
            else config.validate(options_class, info["options"], "options")
        )
    except ConfigError as error:
        raise ModelError(f"{folder / 'config.json'}: {error}") from error
    try:
        with global_seeds(
            "open"
        ):  # building networks draws their first weights from the global generators
            plugin = registry.load(manifest)(options, Facts(info["facts"], assets))
            networks = build(
                lambda: {"": not_placeholder(plugin.networks().generator, folder)},
                tensors,
                folder / "model.safetensors",
            )
    except (ModelError, PluginError, ConfigError):
        raise
    except Exception as error:  # whatever a plugin makes of facts that are not its own
        why = f"{registry.origin(manifest)} cannot build a network from it ({first_line(error)})"
        raise ModelError(f"{folder / 'config.json'}: {why}") from error
    where = pick_device(device)
    return Model(
        manifest,
        plugin,
        networks[""].to(where).eval().requires_grad_(False),
        info,
        where,
        folder,
        digest,
    )


def _manifest_for(info: Mapping[str, Any], folder: Path) -> Modality:
    maker = info["plugin"]
    try:
        return registry.describe(f"{maker.get('distribution')}:{info['modality']}")
    except UnknownModality as error:
        made = f"{maker.get('distribution')} {maker.get('version')} ({info['modality']})"
        local = maker.get("distribution") == "local"
        cure = "genkit.register its modality first, or pass it as modality=" if local else error
        raise ModelError(
            f"{folder} was made with {made}, which is not installed here: {cure}"
        ) from error


# Files -----------------------------------------------------------------------------------------------------------
