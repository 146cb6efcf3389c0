"""What a plugin declares, plain data and torch-free: its manifest, its presets, the facts of its data, conditions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genkit.plugin.modality import ModalityPlugin


@dataclass(frozen=True)
class Preset:
    """A named set of options and recipe settings that are known to work together.

    Args:
        summary: one line for lists and help.
        options: values for the plugin's options, as plain data.
        recipe: values for `genkit.recipe.Recipe`, as plain data.
        run: values for `genkit.config.RunSettings` (items, how often samples are drawn), as plain data.
    """

    summary: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Modality:
    """A plugin's manifest: plain data, so that lists and help pages need no import of torch.

    Args:
        id: what users type; equals the name of the entry point. Lower-case letters, digits and underscores.
        title: a few words, for lists.
        plugin: `"module:Class"` of a `ModalityPlugin`; within one process also the class itself.
        summary: one line, for lists and help.
        media_type: of one encoded sample (RFC 6838).
        formats: file endings that `encode` can write, the default first.
        preview_formats: file endings of what `preview` writes of many samples, the default first.
        options: `"module:Class"` of a `genkit.recipe.Settings`: what can be set when training. None: nothing.
        controls: `"module:Class"` of a `genkit.recipe.Settings`: what can be set when generating (truncation,
            temperature, length). None: nothing. A control `<part>_seed` that is not None is the seed of the noise part
            `<part>`, and of all parts `<part>.<more>`: the sampler applies it, the plugin only declares it.
        presets: the first is the default.
        data: the default data source, None where there is none.
        models: trained models that ship with the plugin: name -> `"package:folder"`, a model folder among the files of
            an installed package. The first is what the modality's id means where a model is expected.
        pipeline_tag: the task of such models in the Hugging Face Hub's list of tasks; empty where it has none.
    """

    id: str
    title: str
    plugin: str | type[ModalityPlugin]
    summary: str = ""
    media_type: str = "application/octet-stream"
    formats: tuple[str, ...] = ("npy",)
    preview_formats: tuple[str, ...] = ()
    options: str | type[Any] | None = None
    controls: str | type[Any] | None = None
    presets: Mapping[str, Preset] = field(default_factory=lambda: {"default": Preset()})
    data: str | None = None
    models: Mapping[str, str] = field(default_factory=dict)
    pipeline_tag: str = ""

    def to_json(self) -> dict[str, Any]:
        """The manifest as JSON data.

        Raises:
            TypeError: if it holds anything but plain data and `"module:name"` strings.
        """
        plain: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        plain["presets"] = {
            name: {f.name: getattr(preset, f.name) for f in fields(preset)}
            for name, preset in self.presets.items()
        }
        result: dict[str, Any] = json.loads(json.dumps(plain))
        return result

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Modality:
        """The manifest from the data that `to_json` gives."""
        presets = {name: Preset(**preset) for name, preset in plain["presets"].items()}
        formats = {name: tuple(plain[name]) for name in ("formats", "preview_formats")}
        return cls(**{**plain, **formats, "presets": presets})


@dataclass(frozen=True)
class Facts:
    """What the DATA decide about the networks: channels, size, label names, vocabulary, rate.

    Saved with the model; networks are built from options and facts alone, without the data.

    Args:
        values: plain JSON data.
        files: small files by name (a tokenizer, say), kept in the model's `assets/`.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.values[name]


@dataclass(frozen=True)
class Conditions:
    """The values that `ModalityPlugin.condition` takes, beside None: what a form can offer and a server may pass on.

    Args:
        labels: values of a finite list, such as the names of classes.
        text: whether any text is a value, such as a prompt. No text is ever read as a path.
        formats: endings of the files whose paths are values, the best known first; their content may come from anybody.
        pipeline_tag: the Hub's task of models that draw from such values, where it is not the modality's.
    """

    labels: tuple[str, ...] = ()
    text: bool = False
    formats: tuple[str, ...] = ()
    pipeline_tag: str = ""

    def __bool__(self) -> bool:
        return bool(self.labels or self.text or self.formats)
