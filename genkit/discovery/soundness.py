"""Whether a plugin's manifest, presets and requirements are in order, and settings; knows not how plugins are found."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

from genkit.errors import ConfigError, did_you_mean, first_line
from genkit.plugin import Modality, Preset
from genkit.user_objects import resolve

if TYPE_CHECKING:
    from importlib.metadata import Distribution

    from pydantic import BaseModel

_ID = re.compile(r"[a-z][a-z0-9_]{0,31}")


def is_id(id: str) -> bool:
    """Whether a modality may have this id: a lower-case letter, then lower-case letters, digits, `_`; at most 32."""
    return _ID.fullmatch(id) is not None


def form_fault(manifest: Modality) -> str:
    """What is wrong with the values of a manifest, whether it is installed or not; empty if nothing is."""
    if not (isinstance(manifest.id, str) and is_id(manifest.id)):
        return (
            f"the id {manifest.id!r} is not lower-case letters, digits and underscores, at most 32"
        )
    for name in ("title", "summary", "media_type", "pipeline_tag"):
        if not isinstance(value := getattr(manifest, name), str):
            return f"its {name} = {value!r}: a text was expected"
    for name in ("formats", "preview_formats"):
        value = getattr(manifest, name)
        if not (isinstance(value, tuple) and all(isinstance(ending, str) for ending in value)):
            return f"its {name} = {value!r}: a tuple of file endings was expected, such as ('png',)"
    if not manifest.formats:
        return "its formats are empty: one at least that `encode` can write is needed"
    if not isinstance(manifest.presets, Mapping) or not manifest.presets:
        return "its manifest has no presets"
    if not (isinstance(manifest.models, Mapping) and all(map(_is_model, manifest.models.items()))):
        return f"its models = {manifest.models!r}: a mapping was expected, of names to 'package:folder'"
    for name, preset in manifest.presets.items():
        if not (isinstance(name, str) and isinstance(preset, Preset)):
            return f"its preset {name!r} is a {type(preset).__name__}; a genkit.plugin.Preset was expected"
        for part in ("options", "recipe", "run"):
            if not isinstance(value := getattr(preset, part), Mapping):
                return f"its preset {name!r}: {part} = {value!r}: a mapping was expected"
    return ""


def _is_model(entry: tuple[object, object]) -> bool:
    """Whether an entry of a manifest's models is a name and `package:folder`."""
    name, place = entry
    return isinstance(name, str) and isinstance(place, str) and all(place.partition(":"))


def check_manifest(id: str, manifest: object) -> str:
    """What is wrong with the object that an entry point names; empty if it is a valid manifest.

    Args:
        id: the name of the entry point.
        manifest: the object.
    """
    if not isinstance(manifest, Modality):
        return f"its entry point names a {type(manifest).__name__}, not a genkit.plugin.Modality"
    if manifest.id != id:
        return (
            f"its manifest calls itself {manifest.id!r}, its entry point {id!r}; they must be equal"
        )
    if fault := form_fault(manifest):
        return fault
    try:
        manifest.to_json()
    except (TypeError, ValueError, AttributeError) as error:
        return f"its manifest is not plain data ({error})"
    return ""


def preset_faults_of(*targets: str) -> list[str]:
    """What `preset_fault` says of each manifest `module:attribute`; called in a child process."""
    return [preset_fault(resolve(target)) for target in targets]


def preset_fault(manifest: Modality) -> str:
    """What is wrong with the first preset whose options or recipe are not valid; empty: all are in order."""
    from genkit.recipe import Recipe

    options = resolve(manifest.options) if isinstance(manifest.options, str) else manifest.options
    for name, preset in manifest.presets.items():
        parts = [("recipe", Recipe, preset.recipe)]
        if options is not None:
            parts.append(("options", options, preset.options))
        for part, cls, values in parts:
            try:
                validate(cls, dict(values), part)
            except ConfigError as error:
                return f"its preset {name!r}: {error}"
            except Exception as error:  # of the plugin's own validators
                return f"its preset {name!r}: {part}: {first_line(error)}"
    return ""


def importable(target: str) -> bool:
    """Whether the top-level package of `module:attribute` can be found; nothing of it is run."""
    import importlib.util

    package = target.partition(":")[0].partition(".")[0]
    try:
        return package in sys.modules or importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def missing_requirements(home: Distribution) -> list[str]:
    """What a distribution declares to need and is not installed, or in another version; extras left out."""
    from importlib.metadata import PackageNotFoundError, version

    from packaging.requirements import InvalidRequirement, Requirement

    missing = []
    try:
        lines = home.requires or []
    except Exception:  # damaged metadata, which the doctor names
        return []
    for line in lines:
        try:
            requirement = Requirement(line)
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
                continue
            present = version(requirement.name)
        except InvalidRequirement:
            continue
        except PackageNotFoundError:
            missing.append(f"{requirement.name}{requirement.specifier}, which is not installed")
            continue
        if not requirement.specifier.contains(present, prereleases=True):
            missing.append(f"{requirement.name}{requirement.specifier}, but {present} is installed")
    return missing


# Settings ------------------------------------------------------------------------------------------------------------


def validate(cls: Any, values: Any, section: str) -> Any:
    """An instance of a settings class.

    Args:
        cls: a `genkit.recipe.Settings`.
        values: its values, as plain data.
        section: where the settings stand, `recipe` say, for messages; empty: at the top.

    Raises:
        ConfigError: names each wrong key or value; for an unknown key the closest valid one.
    """
    from pydantic import ValidationError

    for path, value in _leaves(values, section):
        if isinstance(value, int) and abs(value) > sys.float_info.max:
            raise ConfigError(f"{path}: must be a number below {sys.float_info.max:.0e}")
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        messages: dict[str, list[str]] = {}  # a union has an error for each of its members
        for part in error.errors():
            path, message = _explain(cls, part, values, section)
            messages.setdefault(path, []).append(message)
        raise ConfigError(
            "; ".join(
                f"{path}: {' or '.join(dict.fromkeys(lines))}" for path, lines in messages.items()
            )
        ) from error


def _leaves(values: Any, path: str) -> Iterator[tuple[str, Any]]:
    """(path, value) of all values that are neither mappings nor lists."""
    if isinstance(values, Mapping | list | tuple):
        pairs = values.items() if isinstance(values, Mapping) else enumerate(values)
        for key, value in pairs:
            yield from _leaves(value, f"{path}.{key}".lstrip("."))
    else:
        yield path, values


def _explain(cls: type[BaseModel], error: Any, values: Any, section: str) -> tuple[str, str]:
    """One of pydantic's errors as (the path and the value there, what is wrong with it).

    The path holds only what the user can have written: pydantic's own also names members of unions.
    """
    path = [section] if section else []
    node = values
    for part in error["loc"]:
        if (isinstance(node, Mapping) and part in node) or (
            isinstance(node, list | tuple) and isinstance(part, int) and part < len(node)
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
    """The names of the settings at a path within a settings class, a path as in pydantic's errors."""
    models = set(settings_in(cls))
    for part in path:
        inner: set[Any] = set()
        for model in models:
            field = model.model_fields.get(part)
            # A part that is no field is an index, a name or the tag of a union.
            inner |= set(settings_in(field.annotation)) if field else {model}
        models = {model for model in inner if _has_tag(model, part)} or inner
    return {name for model in models for name in model.model_fields}


def _has_tag(model: type[BaseModel], tag: Any) -> bool:
    """Whether a settings class is the member of a union with this tag."""
    return any(tag in get_args(field.annotation) for field in model.model_fields.values())


def settings_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """All settings classes within a type annotation."""
    from pydantic import BaseModel

    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from settings_in(argument)
