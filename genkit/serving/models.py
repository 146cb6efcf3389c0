"""The models of a server: opened when they are asked for, measured, and closed when memory is short.

Knows model folders, manifests and the sampler; no queue and no web.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from genkit import config
from genkit.discovery import registry
from genkit.errors import ConfigError, GenkitError, UserError, did_you_mean
from genkit.plugin import Conditions, Modality, Unrolling, capabilities_of
from genkit.sampling.chunks import draw_parts, draw_together, has_equal_places, identify
from genkit.sampling.drawing import CHUNK, noise_of, unrolls
from genkit.sampling.model import Model
from genkit.sampling.model_folder import has_critics, read_model_config
from genkit.sampling.model_names import find_model
from genkit.sampling.opening import check_controls, manifest_for, open_model
from genkit.sampling.samples import TEXT_FORMATS

log = logging.getLogger("genkit.serving")

Result = TypeVar("Result")
OnDevice = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Runs a function in the thread of the device."""


LONGEST_WINDOW = 0.25
"""Seconds that a batch waits at most for company, if nobody sets another."""


class UnknownModel(UserError):
    """A model that the server does not have."""


class Unavailable(GenkitError):
    """A model that cannot be opened now; what is wrong is in the server's log, not in the message."""


@dataclass
class Measured:
    """What was measured of a model for conditions of one kind.

    Args:
        shares_chunks: whether requests may share a chunk.
        seconds: of one forward pass: a chunk of CHUNK samples, or a block of one sample of any length. Kept up to date.
        nbytes: of one sample, or of one step of it, on the CPU.
    """

    shares_chunks: bool
    seconds: float
    nbytes: float

    def observe(self, seconds: float) -> None:
        """Take a forward pass into account that took so long."""
        self.seconds += 0.2 * (seconds - self.seconds)

    @property
    def window(self) -> float:
        """Seconds that a batch may wait for company: as long as it takes, so waiting at most doubles its cost."""
        return min(self.seconds, LONGEST_WINDOW) if self.shares_chunks else 0.0


class OpenModel:
    """A model in memory.

    Args:
        id: its name for clients.
        model: opened.

    Attributes:
        conditions: what `label` and `condition` of a request may be.
        nbytes: of its weights.
    """

    def __init__(self, id: str, model: Model) -> None:
        self.id, self.model = id, model
        with registry.asking(model.modality, "conditions"):
            self.conditions: Conditions = model.plugin.conditions()
        modules = [model.generator]
        tensors = [t for module in modules for t in (*module.parameters(), *module.buffers())]
        self.nbytes = sum(tensor.nbytes for tensor in tensors)
        self.unrolls = unrolls(model.generator)
        self.capabilities = capabilities_of(model.plugin, model.generator)
        self._measured: dict[Hashable, Measured] = {}

    def measured(self, condition: Tensor | None) -> Measured | None:
        """What was measured for conditions like this one; None: nothing yet."""
        return self._measured.get(self._kind(condition))

    def measure(self, condition: Tensor | None, controls: Any) -> Measured:
        """Measure the model, in the thread of its device.

        Args:
            condition: [B, ...] of the kind to measure; the first is used.
            controls: an instance of the modality's controls, with their defaults.
        """
        kind = self._kind(condition)
        if kind in self._measured:
            return self._measured[kind]
        one = None if condition is None else condition[:1]
        shares = has_equal_places(self.model, one, controls)
        request = identify(0, [0], lambda indices: one)
        for _ in range(2):  # the first may wait for libraries
            start = time.perf_counter()
            if self.unrolls:
                block = cast(Unrolling, self.model.generator).block
                sample = next(draw_parts(self.model, request, controls, block))
                nbytes = sample.x.nbytes / block
            else:
                sample = draw_together(self.model, [request], controls)
                nbytes = sample.x.nbytes
            seconds = time.perf_counter() - start
        self._measured[kind] = Measured(shares, seconds, nbytes)
        return self._measured[kind]

    def passes(self, controls: Any, condition: Tensor | None) -> int:
        """Forward passes of one sample of any length; of a chunk for other models."""
        if not self.unrolls:
            return 1
        return -(-self.steps(controls, condition) // cast(Unrolling, self.model.generator).block)

    def steps(self, controls: Any, condition: Tensor | None) -> int:
        """Steps of one sample; 1 for a model whose samples have one length."""
        if not self.unrolls:
            return 1
        one = None if condition is None else condition[:1]
        with registry.asking(self.model.modality, "length"):
            return cast(Unrolling, self.model.generator).length(controls, one)

    def _kind(self, condition: Tensor | None) -> Hashable:
        """What conditions have in common for which the model computes alike."""
        if condition is None or self.unrolls:
            return None
        return tuple(condition.shape[1:]), condition.dtype


@dataclass
class _Entry:
    """A model of the catalogue: what its folder says, and the model while it is open."""

    manifest: Modality
    info: Mapping[str, Any]
    source: Any
    bytes_expected: int
    model: OpenModel | None = None
    users: int = 0
    last_use: float = 0.0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Catalogue:
    """The models of a server, by their names for clients.

    Args:
        sources: name -> a folder, or an opened model, which stays open.
        device: to open models on.
        user_objects: that models may be built from, see `open_model`.
        memory: bytes that open models may have together; None: any.

    Raises:
        ModelError: for a folder that is no model's, or whose plugin is not installed.
        ConfigError: for a user object that cannot be imported.
    """

    def __init__(
        self,
        sources: Mapping[str, Any],
        device: str = "auto",
        user_objects: Sequence[str] = (),
        memory: int | None = None,
    ) -> None:
        self.device, self.user_objects, self.memory = device, tuple(user_objects), memory
        self._entries = {id: _entry(source) for id, source in sources.items()}
        for id, entry in self._entries.items():
            if isinstance(entry.source, Model):
                entry.model = OpenModel(id, entry.source)
            if memory is not None and entry.bytes_expected > memory:
                raise ConfigError(
                    f"the model {id} has {entry.bytes_expected / 1e6:,.0f} MB of weights, more than "
                    f"the {memory / 1e6:,.0f} MB that all models together may have"
                )
        self._freed, self._turn = asyncio.Event(), asyncio.Lock()

    @property
    def ids(self) -> list[str]:
        """The names of all models; the first is the default."""
        return list(self._entries)

    @property
    def open_models(self) -> list[OpenModel]:
        """The models that are in memory."""
        return [entry.model for entry in self._entries.values() if entry.model is not None]

    def manifest(self, id: str) -> Modality:
        """The manifest of a model's modality.

        Raises:
            UnknownModel: if there is no such model.
        """
        return self._entry(id).manifest

    def controls(self, id: str, values: Mapping[str, Any]) -> Any:
        """An instance of a model's controls.

        Raises:
            UnknownModel: if there is no such model.
            ConfigError: for an unknown control or an invalid value.
        """
        entry = self._entry(id)
        return config.controls(entry.manifest, values, entry.info.get("controls"))

    def describe(self, id: str) -> dict[str, Any]:
        """What can be said of a model without opening it, and more if it is open, as JSON data.

        Raises:
            UnknownModel: if there is no such model.
        """
        entry = self._entry(id)
        manifest, info = entry.manifest, entry.info
        controls = registry.named_class(manifest, "controls")
        schema: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
        if controls is not None:
            schema = controls.model_json_schema()
            for name, value in info.get("controls", {}).items():
                schema["properties"][name]["default"] = value
        description = {
            "id": id,
            "modality": manifest.id,
            "title": manifest.title,
            "media_type": manifest.media_type,
            "formats": list(manifest.formats),
            "preview_formats": list(manifest.preview_formats),
            "is_text": manifest.formats[0] in TEXT_FORMATS,
            "preset": info.get("preset"),
            "items": info.get("items"),
            "conditional": bool(info.get("conditional")),
            "controls": schema,
            "open": entry.model is not None,
        }
        if entry.model is not None:
            description |= _details(entry.model)
        return description

    @asynccontextmanager
    async def using(self, id: str, on_device: OnDevice) -> AsyncIterator[OpenModel]:
        """A context in which a model is open.

        Args:
            on_device: to measure a model that has just been opened.

        Raises:
            UnknownModel: if there is no such model.
            Unavailable: if it cannot be opened.
        """
        entry = self._entry(id)
        async with (
            self._turn
        ):  # while one waits for room, none of those in its way is taken up anew
            if entry.model is None and not entry.users:
                await self._make_room(entry)
            entry.users += 1
        try:
            async with entry.lock:
                if entry.model is None:
                    entry.model = await self._open(id, entry)
                    await self._measure(entry.model, on_device)
            entry.last_use = time.monotonic()
            yield entry.model
        finally:
            entry.users -= 1
            self._freed.set()

    def _entry(self, id: str) -> _Entry:
        entry = self._entries.get(id)
        if entry is None:
            raise UnknownModel(f"model {id!r}: no such model here.{did_you_mean(id, self.ids)}")
        return entry

    async def _make_room(self, entry: _Entry) -> None:
        """Close models that nobody uses, those first that were not used for longest, until another fits in."""
        while self.memory is not None:
            others = [o for o in self._entries.values() if o.model is not None or o.users]
            if sum(other.bytes_expected for other in others) + entry.bytes_expected <= self.memory:
                return
            unused = [o for o in others if not o.users and not isinstance(o.source, Model)]
            if unused:
                oldest = min(unused, key=lambda other: other.last_use)
                assert oldest.model is not None
                log.info("model %s is unloaded", oldest.model.id)
                oldest.model = None
                del oldest
                gc.collect()
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
            else:
                self._freed.clear()
                await self._freed.wait()

    async def _open(self, id: str, entry: _Entry) -> OpenModel:
        start = time.monotonic()
        try:
            model = await asyncio.to_thread(
                open_model, entry.source, self.device, entry.manifest, self.user_objects
            )
            loaded_model = OpenModel(id, model)
        except GenkitError as error:
            log.error("model %s cannot be opened: %s", id, error)
            raise Unavailable(
                f"The model {id!r} cannot be opened; the server's log says why."
            ) from error
        log.info("model %s is open after %.1f s", id, time.monotonic() - start)
        return loaded_model

    async def _measure(self, loaded_model: OpenModel, on_device: OnDevice) -> None:
        """Measure an opened model with its default condition, if it has one."""
        model, controls = loaded_model.model, loaded_model.model.settings()
        try:
            condition = await asyncio.to_thread(model.conditions_for(None), [0])
        except UserError:  # no default: measured at the first request
            return
        measured = await on_device(lambda: loaded_model.measure(condition, controls))
        log.info(
            "model %s: %.1f ms for %s",
            loaded_model.id,
            1e3 * measured.seconds,
            f"{CHUNK} samples" if not loaded_model.unrolls else "a block of a sample",
        )


def _entry(source: Any) -> _Entry:
    """The entry of a model, from what its folder says."""
    if isinstance(source, Model):
        size = sum(parameter.nbytes for parameter in source.generator.parameters())
        return _Entry(source.modality, source.info, source, size)
    folder = find_model(source)
    info = read_model_config(folder)
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    manifest = manifest_for(info, folder)
    check_controls(manifest, info, folder)
    return _Entry(manifest, info, Path(folder), size)


def _details(loaded_model: OpenModel) -> dict[str, Any]:
    """What an open model says of itself, as JSON data."""
    model, conditions = loaded_model.model, loaded_model.conditions
    is_long = {"unroll", "writer"} <= loaded_model.capabilities
    parts = noise_of(model.generator)
    return {
        "sha256": model.sha256,
        "labels": list(conditions.labels),
        "text": conditions.text,
        "condition_formats": list(conditions.formats),
        "needs_condition": not _has_default(model),
        "noise": {
            part: {"shape": list(spec.shape), "steps": spec.steps} for part, spec in parts.items()
        },
        "stream_formats": list(model.modality.formats) if is_long else [],
        "best_of": has_critics(model.path),
    }


def _has_default(model: Model) -> bool:
    """Whether samples can be drawn without naming a condition."""
    try:
        model.conditions_for(None)([0])
    except UserError:
        return False
    return True
