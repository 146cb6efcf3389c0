"""Presets, files and overrides -> one frozen RunConfig. The only room where names become plugins and settings.

Every naming error is raised here, before torch is imported: an unknown modality, preset, key, loss or penalty is
answered with the nearest right one. Knows no tensor and no network.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import (
    BaseModel,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from genkit import user_objects
from genkit.discovery import registry
from genkit.errors import ConfigError, ModelError, did_you_mean, first_line
from genkit.plugin import Modality
from genkit.recipe import LOSSES, PENALTIES, REWARDS, SECTIONS, Recipe, ScoreFunction, Settings


class RunSettings(Settings):
    """How long, where, and how often to look."""

    items: PositiveInt | None = 100_000
    """Length of the run: real samples seen (by critics; in pretraining: by the generator). None: minutes decide."""
    minutes: PositiveFloat | None = None
    """Length of the run in minutes of work, instead of items; such a run cannot be repeated exactly."""
    seed: NonNegativeInt = 0
    device: str = "auto"
    """auto (cuda, else mps, else cpu), or a torch device."""
    threads: PositiveInt | None = None
    """CPU threads; None: chosen with the plan, and then written down."""
    plan: Literal["auto", "fp32", "fp32-channels-last", "bf16", "bf16-channels-last"] = "auto"
    """Precision (penalties are always fp32) and memory format; auto: what is fastest, measured at the start, remembered
    for this machine and game, and then written down."""
    sample_items: PositiveInt | None = None
    """A sample preview at every so-many-th item; None: ten in a run."""
    samples: PositiveInt = 64
    """Samples on a preview."""
    checkpoint_seconds: PositiveFloat = 45
    """Work between two checkpoints, at most."""
    keep_checkpoints: PositiveInt = 3
    """The newest so many are kept."""
    strict: bool = False
    """Stop if any item of the data cannot be used, instead of going on without it."""
    init: str | None = None
    """Begin with the weights of this model or run (fine-tuning); everything else is new."""
    track: str | None = None
    """Report to this tracker too, by accelerate's name: tensorboard, wandb, mlflow ..."""

    @model_validator(mode="after")
    def _has_one_length(self) -> RunSettings:
        if (self.items is None) == (self.minutes is None):
            raise ValueError("give either items or minutes")
        return self


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run.

    Args:
        modality: the manifest.
        preset: the name of the preset that it started from.
        data: a path, a `builtin:` name, or a Python object that the plugin takes.
        options: an instance of the modality's options; None where it has none.
        recipe, run: the game, and the run.
    """

    modality: Modality
    preset: str
    data: Any
    options: Settings | None
    recipe: Recipe
    run: RunSettings

    @property
    def data_name(self) -> str | None:
        """The data as the user wrote them; an object by its type, None where there are none."""
        if self.data is None or isinstance(self.data, str | Path):
            return None if self.data is None else str(self.data)
        return f"<{type(self.data).__name__}>"

    def plain(self) -> dict[str, Any]:
        """As YAML or JSON data."""
        return {
            "modality": self.modality.id,
            "plugin": registry.origin(self.modality),
            "preset": self.preset,
            "data": self.data_name,
            "options": self.options.model_dump(mode="json") if self.options is not None else {},
            "recipe": self.recipe.model_dump(mode="json"),
            "run": self.run.model_dump(mode="json"),
        }


def build(
    modality: str | Modality,
    preset: str | None = None,
    data: Any = None,
    settings: Sequence[Mapping[str, Any]] = (),
) -> RunConfig:
    """One frozen configuration, checked.

    Args:
        modality: an id, or a manifest.
        preset: a name; None: the first of the modality's.
        data: None: the modality's default.
        settings: nested mappings with the keys `options`, `recipe` and `run`, later ones over earlier ones (a file,
            then overrides); all go over the preset.

    Raises:
        UnknownModality, ConfigError, PluginError.
    """
    manifest = registry.describe(modality) if isinstance(modality, str) else modality
    if not manifest.presets:
        raise ConfigError(f"{registry.origin(manifest)}: its manifest has no presets")
    preset = preset or next(iter(manifest.presets))
    chosen = manifest.presets.get(preset)
    if chosen is None:
        raise ConfigError(
            f"{manifest.id} has no preset {preset!r}.{did_you_mean(preset, manifest.presets)}"
        )
    defaults = (
        Recipe().model_dump()
    )  # below everything, so that a path reaches into what nobody has set
    merged: Any = {
        "options": dict(chosen.options),
        "recipe": merge(defaults, chosen.recipe),
        "run": dict(chosen.run),
    }
    for layer in settings:
        for key in layer:
            if key not in SECTIONS:
                raise ConfigError(f"{key}: no such setting.{_hint(str(key), manifest)}")
        layer = {key: value or {} for key, value in layer.items()}
        for key, value in layer.items():
            if not isinstance(value, Mapping):
                raise ConfigError(
                    f"{key} = {value!r}: must be a mapping, for example {key}.name=value"
                )
        if {"items", "minutes"} & set(
            layer.get("run", {})
        ):  # a length given later replaces the other kind of length
            merged["run"] = {
                key: value
                for key, value in merged["run"].items()
                if key not in ("items", "minutes")
            }
            layer["run"] = {"items": None, "minutes": None, **layer["run"]}
        merged = merge(merged, layer)
    options_class = registry.named_class(manifest, "options")
    if options_class is None and merged["options"]:
        raise ConfigError(f"options.{next(iter(merged['options']))}: {manifest.id} has no options")
    config = RunConfig(
        modality=manifest,
        preset=preset,
        data=manifest.data if data is None else data,
        options=None
        if options_class is None
        else validate(options_class, merged["options"], "options"),
        recipe=validate(Recipe, merged["recipe"], "recipe"),
        run=validate(RunSettings, merged["run"], "run"),
    )
    _admit_names(config)
    return config


def controls(modality: Modality, values: Mapping[str, Any]) -> Settings | None:
    """The modality's controls with some values set; None where it has none.

    Raises:
        ConfigError: for a key or a value that it does not take.
    """
    cls = registry.named_class(modality, "controls")
    if cls is None:
        if values:
            raise ConfigError(f"{next(iter(values))}: {modality.id} has no controls")
        return None
    instance: Settings = validate(cls, dict(values), "")
    return instance


def parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    """`["options.size=64", "recipe.critic.learning_rate=1e-4"]` as nested mappings; values are read as YAML.

    Raises:
        ConfigError: for a word that is not `path=value`.
    """
    import yaml

    tree: dict[str, Any] = {}
    for word in words:
        path, equals, text = word.partition("=")
        if not equals or not path:
            raise ConfigError(
                f"{word!r}: overrides are written path=value, for example recipe.batch_size=32"
            )
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"{word!r}: the value is not YAML ({first_line(error)})") from error
        *branches, leaf = path.split(".")
        node = tree
        for branch in branches:
            node = node.setdefault(branch, {})
            if not isinstance(node, dict):
                raise ConfigError(f"{word!r}: {branch} was given a value of its own before")
        node[leaf] = value
    return tree


def read_file(path: str | Path) -> dict[str, Any]:
    """A configuration file: YAML with any of the keys modality, preset, data, options, recipe, run.

    Raises:
        ConfigError: if it cannot be read or holds another key.
    """
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"{path}: not a readable configuration file ({first_line(error)})"
        ) from error
    allowed = ("modality", "preset", "data", *SECTIONS)
    if not isinstance(content, dict):
        raise ConfigError(
            f"{path}: holds a {type(content).__name__}, not a mapping with the keys {', '.join(allowed)}"
        )
    for key in content:
        if key not in (
            *allowed,
            "plugin",
            "genkit_run",
        ):  # the latter two are what a run's own config.yaml records
            raise ConfigError(f"{path}: {key}: no such setting.{did_you_mean(str(key), allowed)}")
    return content


def merge(below: Any, above: Any) -> Any:
    """Nested mappings, the second over the first; in a list, numbers address elements."""
    if (
        isinstance(above, Mapping)
        and isinstance(below, list | tuple)
        and all(str(key).isdecimal() for key in above)
    ):
        items = list(below)
        for key, value in above.items():
            if int(key) >= len(items):
                raise ConfigError(f"there is no element {key}: the list has {len(items)}")
            items[int(key)] = merge(items[int(key)], value)
        return items
    if isinstance(above, Mapping) and isinstance(below, Mapping):
        return {
            **below,
            **{key: _merge_key(key, below.get(key), value) for key, value in above.items()},
        }
    return above


def _merge_key(key: str, below: Any, above: Any) -> Any:
    """As `merge`, but an estimator or a constraint of another kind starts afresh: the old settings mean nothing."""
    both = isinstance(above, Mapping) and isinstance(below, Mapping)
    if (
        both
        and key in ("estimator", "constraint")
        and above.get("kind", below.get("kind")) != below.get("kind")
    ):
        return above
    return merge(below, above)


def validate(cls: Any, values: Any, where: str) -> Any:
    """An instance of a settings class.

    Raises:
        ConfigError: names each wrong key or value; an unknown key with the nearest right one.
    """
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        said: dict[str, list[str]] = {}  # a union answers once for each of its members
        for one in error.errors():
            path, message = _explain(cls, one, values, where)
            said.setdefault(path, []).append(message)
        raise ConfigError(
            "; ".join(f"{path}: {' or '.join(dict.fromkeys(all))}" for path, all in said.items())
        ) from error


def _explain(cls: type[BaseModel], error: Any, values: Any, where: str) -> tuple[str, str]:
    """(the path as the user wrote it with the value found there, what is wrong)."""
    path = [where] if where else []
    node = values
    for part in error[
        "loc"
    ]:  # pydantic's path also names members of unions, which nobody has written
        if (isinstance(node, Mapping) and part in node) or (
            isinstance(node, list | tuple) and isinstance(part, int)
        ):
            node = node[part]
            path.append(str(part))
    name, message = ".".join(path), error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        return (
            name,
            f"no such setting.{did_you_mean(str(error['loc'][-1]), _keys_at(cls, error['loc'][:-1]))}",
        )
    if error["type"] == "missing":
        return f"{name}.{error['loc'][-1]}", "must be given"
    if error["type"].startswith("model_"):
        keys = ", ".join(sorted(_keys_at(cls, error["loc"])))
        return (
            f"{name} = {node!r}",
            f"must be settings of its own, written {name}.NAME=value, NAME out of {keys}",
        )
    return f"{name} = {node!r}" if error["loc"] else name, message


def _keys_at(cls: Any, path: Sequence[Any]) -> set[str]:
    """The keys that the models at a path of a settings class have."""
    models = set(_models(cls))
    for part in path:
        inner: set[Any] = set()
        for model in models:
            field = model.model_fields.get(part)
            inner |= (
                set(_models(field.annotation)) if field else {model}
            )  # an index, a name or the tag of a union
        models = inner
    return {name for model in models for name in model.model_fields}


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def _hint(key: str, manifest: Modality) -> str:
    """Where a key without its section belongs, or the nearest section."""
    sections = {
        "options": registry.named_class(manifest, "options"),
        "recipe": Recipe,
        "run": RunSettings,
    }
    for section, cls in sections.items():
        if cls is not None and key in cls.model_fields:
            return f" Did you mean '{section}.{key}'?"
    return did_you_mean(key, SECTIONS)


def options_for(
    modality: Modality, known: Mapping[str, Any], given: Iterable[Mapping[str, Any]], where: object
) -> Any:
    """The options of a model, to begin another run with; names of its author's code must come from the user.

    Args:
        known: the options as the model folder has them.
        given: the user's own layers, which go over them.
        where: the model, for messages.

    Raises:
        ModelError: if one names code that the user did not name.
    """
    mine = {key for layer in given for key in layer.get("options") or {}}
    for key, name in _own_names(registry.named_class(modality, "options"), known).items():
        if key not in mine and not user_objects.is_admitted(name):
            raise ModelError(
                f"{where}: its options.{key} is code of its author's, {name!r}, and no model folder makes genkit "
                f"import any: if you trust it, give options.{key} yourself, or another"
            )
    return known


def _own_names(options_class: Any, values: Mapping[str, Any]) -> dict[str, str]:
    """Option -> `module:attribute`, of those that name code."""
    fields = {} if options_class is None else options_class.model_fields
    takes = [
        key
        for key, field in fields.items()
        if any(isinstance(mark, user_objects.Named) for mark in field.metadata)
    ]
    return {key: name for key in takes if isinstance(name := values.get(key), str) and ":" in name}


def _admit_names(config: RunConfig) -> None:
    """Import and try what the user named: the only place where settings become code. Built-in names cost no torch."""
    recipe, estimator = config.recipe, config.recipe.estimator
    if recipe.loss not in LOSSES:
        user_objects.loss_named(recipe.loss)
    for name in recipe.penalties:
        if name not in PENALTIES:
            user_objects.penalty_named(name)
    if isinstance(estimator, ScoreFunction) and estimator.reward not in REWARDS:
        user_objects.reward_named(estimator.reward)
    if config.options is not None:
        for key, name in _own_names(type(config.options), dict(config.options)).items():
            user_objects.admit_network(f"options.{key}", name)
