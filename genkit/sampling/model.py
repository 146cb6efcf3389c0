"""A trained model that draws samples; all sampling goes through it.

Sample i of seed S is the same whatever else is drawn with it: the generator always runs on whole chunks of CHUNK rows,
aligned to the index and padded. Knows plugins, generators and the model folder; no modality, no training.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from genkit import config
from genkit.discovery import registry
from genkit.errors import ConfigError
from genkit.plugin import Modality, ModalityPlugin, Sample, Unrolling, capabilities_of
from genkit.sampling import card as cards
from genkit.sampling import exporting, hub, inversion, projection
from genkit.sampling.batching import join
from genkit.sampling.bulk import write_job
from genkit.sampling.conditions import condition_of
from genkit.sampling.drawing import (
    CHUNK,
    DTYPES,
    Place,
    draw_blocks,
    draw_chunk,
    draw_interpolation,
    in_parts,
    latent_points,
    noise_of,
    parts_on_cpu,
    rows_of,
    unrolls,
)
from genkit.sampling.jobs import Job
from genkit.sampling.model_folder import read_critics, read_notes, save_model
from genkit.sampling.noise import Latents, Seed, choice_noise
from genkit.sampling.reranking import Choice, Reranker, open_reranker
from genkit.sampling.samples import Samples, format_of
from genkit.system.files import user_path
from genkit.system.runtime import lay_out
from genkit.system.tensors import STORED, stored_as


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
        dtype: in which the generator computes when it draws, one of DTYPES; the weights are float32 in any case.
    """

    modality: Modality
    plugin: ModalityPlugin
    generator: nn.Module
    info: Mapping[str, Any]
    device: torch.device
    path: Path | None = None
    sha256: str | None = None
    critics: Mapping[str, Tensor] | None = None
    dtype: str = DTYPES[0]

    def __post_init__(self) -> None:
        # One memory format for all models: samples do not depend on the plan of the training run.
        lay_out(self.generator, channels_last=True)

    def __repr__(self) -> str:
        return f"<model of {self.modality.id}, {self.info.get('items', 0):,} items seen, {self.path or 'not saved'}>"

    @property
    def place(self) -> Place:
        """Where the generator computes, and in which precision."""
        return Place(self.device, self.dtype)

    def settings(self, controls: Mapping[str, Any] | None = None) -> Any:
        """An instance of the modality's controls: these values, and for the others the model's own defaults.

        Raises:
            ConfigError: for an unknown control or an invalid value.
        """
        return config.controls(self.modality, controls or {}, self.info.get("controls"))

    def generate(
        self,
        n: int | None = None,
        seed: int = 0,
        start: int = 0,
        label: str | None = None,
        controls: Mapping[str, Any] | None = None,
        indices: Sequence[int] | None = None,
        best_of: int = 1,
        choose: str = "best",
        noise: Latents | Mapping[str, Any] | str | Path | None = None,
    ) -> Samples:
        """Draw samples.

        Args:
            n, start: draw the indices start .. start + n - 1. None: `usual_count`, or all that `noise` has.
            seed: seed and index are a sample's identity.
            label: the condition for a conditional model (a label, a prompt, a file); None: its default.
            controls: values of the modality's controls.
            indices: draw these indices, in this order, instead of those of n and start.
            best_of: draw this many candidates for each sample and keep one of them.
            choose: which. best: that with the critics' highest score; sample, or sample:SCALE: drawn, see `Choice`.
            noise: what samples are drawn from instead of a seed: row i belongs to index i. What `infer` and `project`
                found, its file, or tensors by part, [N, ...].

        Raises:
            ConfigError: for a control, label, number or noise that it does not accept; for `best_of` without critics.
        """
        latents = None if noise is None else self._latents(noise)
        if n is None:
            n = self.usual_count if latents is None else len(latents) - start
        chosen_indices: Sequence[int] = (
            range(start, start + n) if indices is None else [int(index) for index in indices]
        )
        if not len(chosen_indices) or min(chosen_indices) < 0:
            raise ConfigError(
                f"n = {n}, start = {start}: at least one sample, of an index of at least 0, is needed"
            )
        settings = self.settings(controls)
        if latents is not None:
            _check_rows(latents, chosen_indices)
            if best_of > 1:
                raise ConfigError("best_of draws candidates of other noise: leave it or noise out")
        origin = seed if latents is None else latents
        sample = self.draw(chosen_indices, origin, label, settings, None, best_of, choose)
        identity = origin, tuple(chosen_indices), label, self, settings
        return Samples(sample, *identity, best_of=best_of, choose=choose)

    @property
    def usual_count(self) -> int:
        """How many samples are drawn where no number is given: 16; 1 if there is no noise to tell them apart."""
        return 16 if noise_of(self.generator) else 1

    def stream(
        self,
        n: int,
        seed: int = 0,
        start: int = 0,
        label: str | None = None,
        controls: Mapping[str, Any] | None = None,
        best_of: int = 1,
        choose: str = "best",
    ) -> Iterator[Samples]:
        """Draw the samples of `generate`, at most CHUNK at a time, in constant memory; arguments as there."""
        stop = start + n
        while start < stop:
            count = min(CHUNK - start % CHUNK, stop - start)
            yield self.generate(count, seed, start, label, controls, None, best_of, choose)
            start += count

    def generate_to(
        self, path: str | Path, n: int, seed: int = 0, start: int = 0, label: str | None = None,
        controls: Mapping[str, Any] | None = None, best_of: int = 1, choose: str = "best", *,
        format: str | None = None, per_tar: int | None = None, shard: str | None = None, resume: bool = False,
        progress: Callable[[int, int], object] | None = None,
    ) -> Sequence[Path]:  # fmt: skip
        """Draw samples into a folder, in constant memory, alone or as one of several processes.

        Equal arguments give equal files, byte for byte, whoever writes which of them, each whole or not at all.
        `samples.json` appears when all are there; `samples.K-of-N.*.part` notes what is finished before.

        Args:
            path: of the folder.
            n, seed, start, label, controls, best_of, choose: as in `generate`.
            format: of the samples' files; None: the modality's first.
            per_tar: pack so many samples at a time into a tar file in WebDataset layout: number k holds the indices
                from k * per_tar on, each as `<index>.<format>` and `<index>.json`. None: each sample is a file.
            shard: `"K/N"`, K from 1 to N: write only every Nth piece, from the Kth on; a piece is a tar file, or the
                samples that are drawn at once. `"auto"`: as torchrun or a SLURM array numbers its processes.
            resume: keep the finished files of the same job; start if there are none. Else all are written anew.
            progress: is called with the numbers of samples that are finished, and that this call is to write.

        Returns:
            The paths of the files that this call writes; `samples.json` is the last, once it is there.

        Raises:
            ConfigError: as in `generate`; if the folder holds what samples must not replace, or lie among.
        """
        rest = best_of, choose, format_of(self.modality, format), per_tar
        job = Job(self, n, seed, start, label, dict(controls or {}), *rest)
        return write_job(job, path, shard, resume, progress)

    def interpolate(
        self,
        indices: Sequence[int],
        seed: int = 0,
        steps: int = 8,
        label: str | None = None,
        controls: Mapping[str, Any] | None = None,
        noise: Latents | Mapping[str, Any] | str | Path | None = None,
    ) -> Samples:
        """Draw a latent interpolation through several identities of one seed, or through noise that is given.

        Conditions that depend on the index (a default condition, say) are those of the nearer identity.

        Args:
            indices: of at least two identities; repeat the first at the end to close the loop.
            steps: samples per pair of identities, from the first of the pair up to, but without, the second; the last
                identity of all is added at the end.
            seed, label, controls, noise: as in `generate`.

        Raises:
            ConfigError: for fewer than two indices or no steps, and as in `generate`.
        """
        ends = [int(index) for index in indices]
        if len(ends) < 2 or min(ends) < 0 or steps < 1:
            request = f"an interpolation through {', '.join(map(str, ends)) or 'nothing'} in steps = {steps}"
            raise ConfigError(
                f"{request}: at least two indices, of at least 0, and at least one step are needed"
            )
        settings = self.settings(controls)
        interpolation = latent_points(ends, steps)
        # A preview has a row for each of several pairs, and the last identity alone in a row below them.
        columns = steps if len(ends) > 2 else len(interpolation)
        conditions = self.conditions_for(label)
        origin = seed if noise is None else self._latents(noise)
        if isinstance(origin, Latents):
            _check_rows(origin, ends)
        with registry.asking(self.modality, "the generator"):
            sample = draw_interpolation(
                self.generator, interpolation, origin, conditions, settings, self.place
            )
        places, points = tuple(range(len(interpolation))), tuple(interpolation)
        return Samples(sample, origin, places, label, self, settings, points, columns)

    def infer(self, source: Any, label: str | None = None) -> Latents:
        """The most likely noise of given samples, by a model whose generator can tell (by an encoder, say).

        `generate(noise=...)` draws from it; `interpolate([0, 1], noise=...)` goes from one of them to the next.

        Args:
            source: whatever the modality is trained on, or a list of paths of that kind; a Sample, a tensor or an array
                [N, *event] is taken as it is.
            label: the condition of all of them; None: that of the data, if there is one.

        Raises:
            DataError: if an item cannot be used.
            ConfigError: if the generator cannot tell (`project` searches instead), or if the model is conditional and
                no condition is known.
        """
        return projection.infer(self, projection.read(self, source, label))

    def reconstruct(self, source: Any, label: str | None = None) -> Samples:
        """What the model draws from the noise that it infers of given samples; arguments and errors as for `infer`."""
        targets = projection.read(self, source, label)
        return projection.redraw(self, targets, projection.infer(self, targets))

    def project(
        self, source: Any, label: str | None = None, steps: int = 500, starts: int = 16, features: float = 1.0,
        seed: int = 0, progress: Callable[[int, int], object] | None = None,
    ) -> projection.Projection:  # fmt: skip
        """The nearest samples that the model draws to given ones, and their noise.

        Continuous samples are searched for along the gradient of a distance: the mean square of values, and of
        features: the maps of the modality's feature networks (`genkit.plugin.FeatureNetwork`), and those that critics
        in the model's folder see. The noise of discrete ones is inferred.

        Args:
            source, label: as for `infer`.
            steps, starts, features, seed: of the search; see `genkit.sampling.inversion.Search`.
            progress: is called with the numbers of steps done and to do.

        Raises:
            DataError, ConfigError: as `infer` does; for settings that cannot be.
        """
        settings = inversion.Search(steps, starts, features=features, seed=seed)
        return projection.project(self, projection.read(self, source, label), settings, progress)

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
        settings = self.settings(controls)
        condition = self.conditions_for(label)([index])
        blocks = draw_blocks(self.generator, [index], seed, condition, settings, self.place)
        return parts_on_cpu(self.modality, in_parts(self.generator, blocks, size, stop))

    def draw(
        self,
        indices: Sequence[int],
        seed: Seed,
        label: str | None = None,
        controls: Any = None,
        conditions: Callable[[Sequence[int]], Tensor | None] | None = None,
        best_of: int = 1,
        choose: str = "best",
    ) -> Sample:
        """The batch of samples with these identities, on the CPU.

        Args:
            indices: of the samples, in any order.
            seed: the user's seed, the name of an internal stream, or noise that is given.
            label: as in `generate`.
            controls: an instance of the modality's controls.
            conditions: indices -> their conditions, instead of the plugin's.
            best_of, choose: as in `generate`; the first candidate has the identity's own noise, others that of streams.
        """
        choice = Choice.of(best_of, choose)
        seeds: list[Seed] = [seed]
        seeds += [f"{seed}/candidate {number}" for number in range(1, choice.count)]
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
            pool = (
                draw_chunk(self.generator, whole, name, condition, controls, self.place)
                for name in seeds
            )
            luck = (choice_noise(str(name), whole) for name in seeds)
            with registry.asking(self.modality, "the generator"):
                batch = next(pool) if best_of == 1 else self.reranker.choose(choice, pool, luck)
                pieces.append(batch[rows].to("cpu"))
            order += places
        samples = join(pieces)
        if order == list(range(len(order))):
            return samples
        inverse = torch.empty(len(order), dtype=torch.long)
        inverse[torch.tensor(order)] = torch.arange(len(order))
        return samples[inverse]

    def save(
        self,
        path: str | Path,
        dtype: str | None = None,
        critics: bool = True,
        card: Mapping[str, Any] | None = None,
        controls: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write the model folder; returns its path.

        Args:
            path: of the folder.
            dtype: float32, or float16 or bfloat16 for half the size. Weights are read back as float32, so what is drawn
                is what is stored; it may differ a little from what this model draws. None: as this model is stored.
            critics: whether the critics are written too, for fine-tuning and reranking.
            card: entries for the model's card: license, data_license, summary, limits, command, scores; those that it
                has already stay.
            controls: defaults that the model's controls are to have, beside those that it has already.

        Raises:
            ConfigError: for another dtype or entry, an unknown control or invalid value, or if float16 cannot hold a
                weight.
            ModelError: if the folder holds something else than a model.
            StorageError: if it cannot be written.
        """
        return self._write(user_path(path), dtype, critics, card, controls)

    def push_to_hub(
        self,
        name: str,
        private: bool | None = None,
        revision: str | None = None,
        dtype: str | None = None,
        critics: bool = False,
        message: str | None = None,
    ) -> str:
        """Write the model to a repository on the Hugging Face Hub, in one commit; returns the commit's address.

        The repository is made if there is none. Log in first, with `hf auth login` or the variable HF_TOKEN.

        Args:
            name: of the repository, `user/name`.
            private: whether a new repository is private; None: as your settings on the Hub say.
            revision: a branch to write to, made if there is none; None: the main branch.
            dtype: as in `save`.
            critics: whether the critics go too: others need them for fine-tuning and reranking.
            message: of the commit.

        Raises:
            ConfigError: if the name is not one of the Hub.
            ModelError: if huggingface_hub is not installed, or the Hub cannot be reached or refuses.
        """
        place = hub.hub_name(name, revision)
        if place is None:
            raise ConfigError(f"{name!r} names no model on the Hub: user/name is needed")
        with tempfile.TemporaryDirectory(prefix="genkit-push-") as folder:
            self._write(Path(folder), dtype, critics, name=place.repository)
            return hub.upload(Path(folder), place, private, message)

    def _write(
        self,
        path: Path,
        dtype: str | None,
        critics: bool,
        card: Mapping[str, Any] | None = None,
        controls: Mapping[str, Any] | None = None,
        **names: str,
    ) -> Path:
        """Write the model folder, as `save` does; `names` are further arguments of `save_model`."""
        stored_dtype = self.info.get("dtype", STORED[0])
        dtype = dtype or stored_dtype
        tensors = stored_as(dtype, self.generator.state_dict())
        critic_tensors: Mapping[str, Tensor] = {}
        if critics:
            critic_tensors = read_critics(self.path) if self.critics is None else self.critics
        facts, metadata = self.plugin.facts, {"items": str(self.info.get("items", 0))}
        info = {**self.info, "dtype": dtype}
        if controls:
            info["controls"] = {**info.get("controls", {}), **self._drawable(controls)}
        if controls or dtype != stored_dtype:  # scores are those of what is stored
            info = cards.extended(info, {"scores": None})
        info = cards.extended(info, card or {}, self.sha256 if dtype == stored_dtype else None)
        info["card"]["parameters"] = sum(one.numel() for one in self.generator.parameters())
        with registry.asking(self.modality, "conditions"):
            conditions: Any = self.plugin.conditions()
        task = getattr(conditions, "pipeline_tag", "") or self.modality.pipeline_tag
        if task:
            info["card"]["pipeline_tag"] = task
        save_model(
            path, info, tensors, facts.files, metadata, stored_as(dtype, critic_tensors),
            notes=read_notes(self.path), **names,
        )  # fmt: skip
        return path

    def _drawable(self, controls: Mapping[str, Any]) -> dict[str, Any]:
        """These controls as plain data, after a sample has been drawn with them, if one can be without a condition."""
        settings, conditions = self.settings(controls), self.conditions_for(None)
        try:
            conditions([0])
        except ConfigError:  # there is no default condition
            pass
        else:
            self.draw([0], 0, None, settings, conditions)
        plain: dict[str, Any] = settings.model_dump(mode="json", include=set(controls))
        return plain

    def export(
        self, path: str | Path, controls: Mapping[str, Any] | None = None, label: str | None = None,
        samples: int = 1000, seed: int = 0, opset: int = exporting.OPSET,
        tolerance: float = exporting.TOLERANCE,
    ) -> exporting.Export:  # fmt: skip
        """Write an ONNX file that draws the same samples elsewhere, and its reader `draw.py`; tell how equal they are.

        Args:
            path: of the file.
            controls, label: as in `generate`; the file's defaults. Controls that are numbers become inputs where the
                generator computes with them as tensors; all others are fixed.
            samples, seed: so many samples of this seed are drawn both ways, and compared; opset: of ONNX's operators.
            tolerance: the largest difference of a value; with a larger one nothing is written.

        Raises:
            ConfigError: for arguments that cannot be, a path of something else, or a missing library.
            PluginError, GenkitError: if the model cannot be exported, or its samples differ; they say why.
        """
        exporting.check_path(path)
        model = replace(self, dtype=DTYPES[0])
        result = exporting.export_model(model, controls, label, samples, seed, opset, tolerance)
        result.save(path)
        return result

    def _repr_html_(self) -> str:
        """What a notebook shows: the card."""
        return cards.as_html(self.info)

    def _repr_markdown_(self) -> str:
        """The model's card as Markdown."""
        return cards.markdown(self.info, str(self.path or "PATH"))

    def _latents(self, noise: Latents | Mapping[str, Any] | str | Path) -> Latents:
        """Noise that is given, as this model takes it; raises ConfigError if it does not fit."""
        return Latents.of(noise).fitted(noise_of(self.generator))

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
                    "this model is conditional and has no default condition: give a label or a condition"
                )
            return condition

        return conditions


def _check_rows(latents: Latents, indices: Sequence[int]) -> None:
    """Raise ConfigError unless noise that is given has a row for each index."""
    if max(indices) >= len(latents):
        raise ConfigError(
            f"index {max(indices)}: the noise is that of {len(latents)} samples, from 0 on"
        )
