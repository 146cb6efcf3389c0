"""Builds the configuration of a run, a frozen `RunConfig`, from a preset, configuration files and overrides.

An unknown modality, preset, key, loss or penalty is an error here, before torch is imported; the message names the
closest valid one.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from genkit import user_objects
from genkit.discovery import registry, soundness
from genkit.errors import SYNONYMS, ConfigError, ModelError, PluginError, did_you_mean, first_line
from genkit.plugin import Modality
from genkit.recipe import LOSSES, PENALTIES, REWARDS, SECTIONS, Recipe, ScoreFunction, Settings
from genkit.system.files import user_path, without_place

validate = soundness.validate


class RunSettings(Settings):
    """Length and device of a run, and how often it writes samples and checkpoints."""

    items: PositiveInt | None = 100_000
    """Length of the run: real samples seen (by critics; in pretraining: by the generator). None: minutes decide."""
    minutes: PositiveFloat | None = None
    """Length of the run in minutes of work, instead of items; such a run cannot be repeated exactly."""
    seed: NonNegativeInt = 0
    """Seed of everything random."""
    device: str = "auto"
    """auto (cuda, else mps, else cpu), or a torch device."""
    threads: PositiveInt | None = None
    """CPU threads; None: chosen together with the plan, and then recorded in the run's config.yaml."""
    plan: Literal["auto", "fp32", "fp32-channels-last", "bf16", "bf16-channels-last"] = "auto"
    """Precision (penalties are always fp32) and memory format; auto: the fastest, measured at the start, remembered for
    this machine and configuration, and then recorded in the run's config.yaml."""
    sample_items: PositiveInt | None = None
    """Items between two previews of samples; None: a tenth of the run."""
    samples: PositiveInt = 64
    """Samples in a preview."""
    evaluate: Annotated[int, Field(ge=2)] | None = None
    """Samples by which the model is evaluated at each preview: the first distance of `genkit evaluate` to as many items
    of the run's data; the model that is the best by it is kept in `best/`. None: it is not evaluated."""
    checkpoint_seconds: PositiveFloat = 45
    """A checkpoint is written after so many seconds of work."""
    keep_checkpoints: PositiveInt = 3
    """Number of checkpoints that are kept, the newest ones."""
    strict: bool = False
    """Stop if any item of the data cannot be used, instead of going on without it."""
    init: str | None = None
    """Start with the weights of this model or run (fine-tuning); everything else starts anew."""
    teacher: str | None = None
    """Distillation: the model that the generator learns from, beside the data, by its samples of the same noise.
    `genkit distill` sets it, and takes over the model's settings. The run keeps a copy of the model, in `teacher/`."""
    teacher_sha256: str | None = None
    """Of the teacher's weights, in hexadecimal; None: any weights, and those of the run are then recorded in the run's
    config.yaml."""
    track: str | None = None
    """Also log to this experiment tracker, by accelerate's name: tensorboard, wandb, mlflow ..."""

    @model_validator(mode="after")
    def _has_one_length(self) -> RunSettings:
        if (self.items is None) == (self.minutes is None):
            raise ValueError("give either items or minutes")
        if self.init is not None and self.teacher is not None:
            raise ValueError(
                "init and teacher exclude each other: a student begins with fresh weights"
            )
        return self


@dataclass(frozen=True)
class RunConfig:
    """The complete configuration of a run.

    Args:
        modality: the manifest.
        preset: the name of the preset on which it is based.
        data: a path, a `builtin:` name, or a Python object that the plugin accepts; None for a modality without data.
        options: an instance of the modality's options; None for a modality without options.
        recipe: the game: networks' optimisers, loss, penalties, stages.
        run: length, device, how often samples and checkpoints are written.
    """

    modality: Modality
    preset: str
    data: Any
    options: Settings | None
    recipe: Recipe
    run: RunSettings

    @property
    def data_name(self) -> str | None:
        """The data as the user wrote it; `<type>` for a Python object, None if there is no data."""
        if self.data is None or isinstance(self.data, str | Path):
            return None if self.data is None else str(self.data)
        return f"<{type(self.data).__name__}>"

    def plain(self) -> dict[str, Any]:
        """The configuration as YAML or JSON data, from which `build` makes the same one.

        A penalty of the preset that was taken away is there as null, so that it stays away.
        """
        recipe = self.recipe.model_dump(mode="json")
        preset_penalties = self.modality.presets[self.preset].recipe.get("penalties", {})
        recipe["penalties"] = {**dict.fromkeys(preset_penalties), **recipe["penalties"]}
        return {
            "modality": self.modality.id,
            "plugin": registry.origin(self.modality),
            "preset": self.preset,
            "data": self.data_name,
            "options": self.options.model_dump(mode="json") if self.options is not None else {},
            "recipe": recipe,
            "run": self.run.model_dump(mode="json"),
        }


def build(
    modality: str | Modality,
    preset: str | None = None,
    data: Any = None,
    settings: Sequence[Mapping[str, Any]] = (),
) -> RunConfig:
    """Build and check a configuration.

    Args:
        modality: an id, `distribution:id`, or a manifest.
        preset: the name of a preset; None: the modality's first.
        data: the data source; None: the modality's default.
        settings: nested mappings with the keys `options`, `recipe` and `run`, which override the preset; later ones
            override earlier ones (a file, then the command line).

    Raises:
        UnknownModality: if no installed plugin provides the modality.
        ConfigError: for an unknown preset or setting, an invalid value, or a user object that does not work.
        PluginError: if the plugin cannot be used.
    """
    manifest = registry.manifest_of(modality)
    preset = preset or next(iter(manifest.presets))
    base = manifest.presets.get(preset) if isinstance(preset, str) else None
    if base is None:
        raise ConfigError(
            f"{manifest.id} has no preset {preset!r}.{did_you_mean(str(preset), manifest.presets)}"
        )
    defaults = Recipe().model_dump()  # so that an override can address a part of a default
    tree: Any = {
        "options": dict(base.options),
        "recipe": merge(defaults, base.recipe),
        "run": dict(base.run),
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
        # Items or minutes of a later layer replace both of the earlier ones.
        if {"items", "minutes"} & set(layer.get("run", {})):
            tree["run"] = {
                key: value for key, value in tree["run"].items() if key not in ("items", "minutes")
            }
            layer["run"] = {"items": None, "minutes": None, **layer["run"]}
        tree = merge(tree, layer)
    options_class = registry.named_class(manifest, "options")
    if options_class is None and tree["options"]:
        raise ConfigError(f"options.{next(iter(tree['options']))}: {manifest.id} has no options")
    try:
        config = RunConfig(
            modality=manifest,
            preset=preset,
            data=manifest.data if data is None else with_home(data),
            options=None
            if options_class is None
            else validate(options_class, tree["options"], "options"),
            recipe=validate(Recipe, tree["recipe"], "recipe"),
            run=validate(RunSettings, tree["run"], "run"),
        )
    except ConfigError as error:
        if settings and any(settings):
            build(manifest, preset, data)  # is it the user's mistake, or the preset's?
            raise
        raise PluginError(
            registry.origin(manifest), f"its preset {preset!r}", str(error)
        ) from error
    _admit_names(config)
    return config


def with_home(data: Any) -> Any:
    """The data source; of a path `~` at its start is the home folder, as in a shell."""
    if isinstance(data, str | Path) and str(data).startswith("~"):
        return type(data)(user_path(data))
    return data


def controls(
    modality: Modality, values: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> Settings | None:
    """An instance of a modality's controls; None for a modality without controls.

    Args:
        modality: the manifest.
        values: values of controls by name; the others have their defaults.
        defaults: those of a model, where they are not the modality's.

    Raises:
        ConfigError: for an unknown control or an invalid value.
    """
    cls, values = registry.named_class(modality, "controls"), {**(defaults or {}), **values}
    if cls is None:
        if values:
            raise ConfigError(f"{next(iter(values))}: {modality.id} has no controls")
        return None
    instance: Settings = validate(cls, values, "")
    return instance


def parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    """Overrides as nested dicts: `["options.size=64", "recipe.critic.learning_rate=1e-4"]`; values are YAML.

    Raises:
        ConfigError: for a word that is not `path=value`, whose value is not YAML, or whose path leads through a value.
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


def command(config: RunConfig) -> str | None:
    """The command line that trains with a configuration; None if there is none, for data that are a Python object, say.

    It repeats what decides about a model, not where it is written or how often it is saved. Paths are told by their
    last part alone.
    """
    import yaml

    plain, name = config.plain(), config.data_name
    if plain["plugin"].startswith("local ") or (name and name.startswith("<")):
        return None
    base = build(config.modality, config.preset, config.data).plain()
    settings = [
        f"{path}={yaml.safe_dump(value, default_flow_style=True, width=10**6).partition(chr(10))[0]}"
        for path, value in (
            *changes(base["options"], plain["options"], "options"),
            *changes(base["recipe"], plain["recipe"], "recipe"),
            *([("run.teacher", without_place(config.run.teacher))] if config.run.teacher else []),
        )
    ]
    try:
        layer = parse_overrides(settings)
        rebuilt = build(config.modality, config.preset, config.data, [layer]).plain()
    except ConfigError:  # a card without a command is better than a run without an end
        return None
    if any(rebuilt[section] != plain[section] for section in ("options", "recipe")):
        return None
    words = ["genkit", "train", config.modality.id, "--preset", config.preset]
    options = {"data": without_place(name), "init": without_place(config.run.init)}
    options |= {key: plain["run"][key] for key in ("items", "minutes", "seed", "plan", "threads")}
    for key, value in options.items():
        words += [] if value is None else [f"--{key}", str(value)]
    return shlex.join([*words, *settings])


def changes(base: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, new value) of each setting that differs, for `merge`.

    Mappings with other keys, lists, and what `merge` replaces as a whole are told whole.
    """
    is_alike = isinstance(base, Mapping) and isinstance(new, Mapping) and base.keys() == new.keys()
    if is_alike and not _is_other(path.rpartition(".")[2], base, new):
        for key in new:
            yield from changes(base[key], new[key], f"{path}.{key}" if path else key)
    elif base != new:
        yield path, new


def read_file(path: str | Path) -> dict[str, Any]:
    """Read a configuration file: YAML with any of the keys modality, preset, data, options, recipe, run.

    A run's own config.yaml is one, too; its keys `plugin` and `genkit_run` have no effect.

    Raises:
        ConfigError: if it cannot be read or has another key.
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
        if key not in (*allowed, "plugin", "genkit_run"):
            raise ConfigError(f"{path}: {key}: no such setting.{did_you_mean(str(key), allowed)}")
    return content


def merge(base: Any, override: Any) -> Any:
    """Nested mappings or lists with overrides; a mapping with numbers as keys overrides elements of a list.

    Args:
        base: what is overridden; it is not changed.
        override: what is set. A mapping is merged into a mapping; any other value replaces that of `base`.

    Raises:
        ConfigError: if a list has no such element.
    """
    if (
        isinstance(override, Mapping)
        and isinstance(base, list | tuple)
        and all(str(key).isdecimal() for key in override)
    ):
        items = list(base)
        for key, value in override.items():
            if int(key) >= len(items):
                raise ConfigError(f"there is no element {key}: the list has {len(items)}")
            items[int(key)] = merge(items[int(key)], value)
        return items
    if isinstance(override, Mapping) and isinstance(base, Mapping):
        return {
            **base,
            **{key: _merge_key(key, base.get(key), value) for key, value in override.items()},
        }
    return override


def _merge_key(key: str, base: Any, override: Any) -> Any:
    """The merged value of a key."""
    return override if _is_other(key, base, override) else merge(base, override)


def _is_other(key: str, base: Any, override: Any) -> bool:
    """Whether a value replaces the old one with all that belongs to it.

    An estimator or constraint of another kind does, and a schedule in another unit.
    """
    if not (isinstance(override, Mapping) and isinstance(base, Mapping)):
        return False
    if key in ("estimator", "constraint"):
        return bool(override.get("kind", base.get("kind")) != base.get("kind"))
    units = (("share", "items"), ("items", "share"))
    return any(_has_unit(override, new) and _has_unit(base, old) for new, old in units)


def _has_unit(schedule: Mapping[str, Any], unit: str) -> bool:
    """Whether a mapping is a schedule in this unit."""
    return "start" in schedule and schedule.get(unit) is not None


def _hint(key: str, manifest: Modality) -> str:
    """A hint for a key that is no section: the settings of this name in all sections, else the closest section."""
    names = dict.fromkeys((key, SYNONYMS.get(key, key)))
    sections = {
        "options": registry.named_class(manifest, "options"),
        "recipe": Recipe,
        "run": RunSettings,
    }
    paths = [
        f"'{section}.{name}'"
        for section, cls in sections.items()
        for name in names
        if cls is not None and name in cls.model_fields
    ]
    return f" Did you mean {' or '.join(paths)}?" if paths else did_you_mean(key, SECTIONS)


def options_for(
    modality: Modality,
    options: Mapping[str, Any],
    layers: Iterable[Mapping[str, Any]],
    model: object,
) -> Any:
    """The options of a model, for fine-tuning it in another run; unchanged, if they name no code that is not trusted.

    Args:
        modality: the manifest.
        options: the options in the model folder.
        layers: the user's settings, which override them.
        model: the model, for messages.

    Raises:
        ModelError: if an option names a user object that the user has not named, neither in this process nor in layers.
    """
    keys = {key for layer in layers for key in layer.get("options") or {}}
    for key, name in _user_names(registry.named_class(modality, "options"), options).items():
        if key not in keys and not user_objects.is_admitted(name):
            raise ModelError(
                f"{model}: its options.{key} is code of its author's, {name!r}, and no model folder makes genkit "
                f"import any: if you trust it, give options.{key} yourself, or another"
            )
    return options


def recipe_for(
    recipe: Mapping[str, Any], layers: Sequence[Mapping[str, Any]], model: object
) -> dict[str, Any]:
    """The recipe by which a model was trained, as a layer of settings for another run.

    Args:
        recipe: as a model's card has it: dotted path -> value of what differs from the default recipe.
        layers: the user's settings, which override it.
        model: the model, for messages.

    Raises:
        ConfigError: if the recipe is none of this genkit.
        ModelError: if it names a user object that the user has not named, neither in this process nor in layers.
    """
    tree: Any = Recipe().model_dump(mode="json")
    for path, value in recipe.items():
        layer: Any = value
        for key in reversed(path.split(".")):
            layer = {key: layer}
        tree = merge(tree, layer)
    estimator = tree.get("estimator")
    names = {"recipe.loss": tree.get("loss")}
    names |= {f"recipe.penalties.{name}": name for name in tree.get("penalties") or {}}
    names["recipe.estimator.reward"] = isinstance(estimator, Mapping) and estimator.get("reward")
    for path, name in names.items():
        is_code = isinstance(name, str) and ":" in name
        if is_code and not (user_objects.is_admitted(name) or _sets(layers, path)):
            raise ModelError(
                f"{model}: its {path} is code of its author's, {name!r}, and no model folder makes genkit import any: "
                f"if you trust it, give {path} yourself, or another"
            )
    return validate(Recipe, tree, "recipe").model_dump(mode="json")


def _sets(layers: Iterable[Mapping[str, Any]], path: str) -> bool:
    """Whether some layer sets what is at a dotted path, or something within it."""
    for layer in layers:
        node: Any = layer
        for key in path.split("."):
            node = node.get(key, ...) if isinstance(node, Mapping) else ...
        if node is not ...:
            return True
    return False


def own_network(options: Any, module: object) -> str:
    """The option by which the user named the class of a network, `options.critic = 'a:B'`; empty if none did."""
    names = {} if options is None else _user_names(type(options), dict(options))
    for key, name in names.items():
        if user_objects.is_admitted(name) and type(module) is user_objects.resolve(name):
            return f"options.{key} = {name!r}"
    return ""


def _user_names(options_class: Any, values: Mapping[str, Any]) -> dict[str, str]:
    """Option -> `module:attribute`, for the options that name a user object."""
    fields = {} if options_class is None else options_class.model_fields
    keys = [
        key
        for key, field in fields.items()
        if any(isinstance(mark, user_objects.Named) for mark in field.metadata)
    ]
    return {key: name for key in keys if isinstance(name := values.get(key), str) and ":" in name}


def _admit_names(config: RunConfig) -> None:
    """Import and try the user objects of a configuration; built-in names are not imported, so that torch is not."""
    recipe, estimator = config.recipe, config.recipe.estimator
    if recipe.loss not in LOSSES:
        user_objects.loss_named(recipe.loss)
    for name in recipe.penalties:
        if name not in PENALTIES:
            user_objects.penalty_named(name)
    if isinstance(estimator, ScoreFunction) and estimator.reward not in REWARDS:
        user_objects.reward_named(estimator.reward)
    if config.options is not None:
        for key, name in _user_names(type(config.options), dict(config.options)).items():
            user_objects.admit_network(f"options.{key}", name)
