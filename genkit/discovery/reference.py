"""Reference pages in Markdown, made from a modality's manifest and the settings classes that it names.

Imports no torch. The documentation site and `genkit plugins show --markdown` use the same text; authors of plugins can
use it for a README. A page does not list optional capabilities: only the plugin's classes have them, and these import
torch.
"""

from __future__ import annotations

import itertools
import json
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from genkit.discovery import registry
from genkit.discovery.soundness import settings_in
from genkit.errors import ConfigError, did_you_mean
from genkit.plugin import Modality, Preset
from genkit.recipe import SECTIONS, differences
from genkit.user_objects import Named

_BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "multiple_of": "a multiple of"}


def markdown(modality: Modality) -> str:
    """The reference page of a modality: what it writes, its options, controls and presets.

    Raises:
        PluginError: if a settings class that it names cannot be imported.
    """
    facts = {
        "distribution": f"`{registry.home_of(modality).distribution}`",
        "one sample": f"{_endings(modality.formats)}, `{modality.media_type}`",
        "preview of many samples": _endings(modality.preview_formats) or "none",
        "default data": f"`{modality.data}`" if modality.data else "none",
        "models that ship": ", ".join(f"`{modality.id}:{name}`" for name in modality.models)
        or "none",
    }
    blocks = [
        f"# {modality.title}: `{modality.id}`",
        modality.summary,
        _table(("", ""), facts.items()),
    ]
    parts = (("options", "Options", "options.NAME=value"), ("controls", "Controls", "NAME=value"))
    for part, title, syntax in parts:
        purpose = "For training" if part == "options" else "For generating"
        rows = _settings(registry.named_class(modality, part))
        blocks += [f"## {title}", f"{purpose}: `{syntax}`." if rows else "None."]
        blocks += (
            [_table((part.removesuffix("s"), "type", "default", "meaning"), rows)] if rows else []
        )
    blocks += [
        "## Presets",
        "The first is the default. Each sets what its table lists; other settings keep their defaults.",
    ]
    for name, preset in modality.presets.items():
        blocks += _preset(name, preset)
    return "\n\n".join(filter(None, blocks)) + "\n"


def explained(roots: Mapping[str, Any], path: str) -> Iterator[str]:
    """Lines that say what a setting means, and what settings it holds.

    Args:
        roots: settings classes by the first word of a path: `recipe`, `options` ...
        path: of the setting, such as `recipe.estimator`; a number or a name stands for an element of a list or a
            mapping. A single root explains all of its settings.

    Raises:
        ConfigError: if there is no such setting.
    """
    root, *words = path.split(".")
    if root not in roots:
        raise ConfigError(f"{path}: no such setting.{did_you_mean(root, roots)}")
    classes, field, at = [roots[root]], None, root
    is_element = False
    for word in words:
        fields = {name: one for cls in classes for name, one in cls.model_fields.items()}
        if word in fields:
            field, is_element = fields[word], False
        elif field is None or is_element or not _holds_many(field.annotation):
            raise ConfigError(f"{at}.{word}: no such setting.{did_you_mean(word, fields)}")
        else:
            is_element = True
        at = f"{at}.{word}"
        classes = list(dict.fromkeys(settings_in(field.annotation)))
    if field is not None:
        yield f"{at}: {spell_type(field.annotation, field.metadata)} [default: {default(field)}]"
        yield from _paragraph(field, "    ")
    for cls in classes:
        yield f"\n{cls.__name__}: {' '.join((cls.__doc__ or '').split())}"
        for name, one in cls.model_fields.items():
            kind = spell_type(one.annotation, one.metadata)
            yield f"  {name}: {kind} [default: {default(one)}]"
            yield from _paragraph(one, "      ")


def _paragraph(field: Any, margin: str) -> Iterator[str]:
    """The meaning and the bounds of a setting in one line, if anything is said of it."""
    text = f"{meaning(field)} {bounds(field)}".strip()
    if text:
        yield f"{margin}{text}"


def _holds_many(annotation: Any) -> bool:
    """Whether a value of a type is a mapping or a list, whose elements paths can name."""
    origin = get_origin(annotation)
    is_one = isinstance(origin, type) and issubclass(origin, Mapping | Sequence)
    return is_one or any(_holds_many(inner) for inner in get_args(annotation))


def meaning(field: Any) -> str:
    """The docstring of a pydantic field, in one line."""
    return " ".join((field.description or "").split())


def bounds(field: Any) -> str:
    """The bounds of a pydantic field's numbers, such as `Must be >= 1.`; empty if there are none."""
    conditions = [*_bounds_of(field.metadata), *_bounds_in(field.annotation)]
    return f"Must be {' and '.join(dict.fromkeys(conditions))}." if conditions else ""


def default(field: Any) -> str:
    """The default of a pydantic field as in source code, a settings instance as `Name()`; `required` without one."""
    return (
        "required"
        if field.is_required()
        else spell_value(field.get_default(call_default_factory=True))
    )


def spell_type(annotation: Any, marks: Sequence[Any] = ()) -> str:
    """A type as in source code, without bounds and module names.

    A setting marked with `Named` is spelt as its built-in names and `module:attribute`.

    Args:
        annotation: a type, as pydantic keeps it for a field.
        marks: the field's metadata.
    """
    origin, inner = get_origin(annotation), get_args(annotation)
    for mark in marks:
        if isinstance(mark, Named):
            none = ["None"] if type(None) in inner else []
            return " | ".join([*map(repr, mark.built_in), "module:attribute", *none])
    if origin is Annotated:
        return spell_type(inner[0], inner[1:])
    if origin in (Union, types.UnionType):
        return " | ".join(spell_type(one) for one in inner)
    if origin is Literal:
        return f"Literal[{', '.join(map(repr, inner))}]"
    if origin is not None:
        return f"{origin.__name__}[{', '.join('...' if one is Ellipsis else spell_type(one) for one in inner)}]"
    return "None" if annotation is type(None) else str(annotation.__name__)


def spell_value(value: Any) -> str:
    """A value as in source code; a settings instance as `Name()`."""
    if isinstance(value, tuple):
        return f"({', '.join(map(spell_value, value))}{',' if len(value) == 1 else ''})"
    return f"{type(value).__name__}()" if hasattr(value, "model_dump") else repr(value)


def _preset(name: str, preset: Preset) -> Iterator[str]:
    yield f"### `{name}`"
    yield preset.summary
    sections = {key: value for key in SECTIONS if (value := getattr(preset, key))}
    rows = [
        (f"`{path}`", f"`{json.dumps(value)}`")
        for path, (_, value) in differences({}, sections).items()
        if path
    ]
    yield _table(("setting", "value"), rows) if rows else ""


def _settings(cls: Any) -> list[tuple[str, ...]]:
    fields = {} if cls is None else cls.model_fields
    return [
        (
            f"`{name}`",
            f"`{spell_type(field.annotation, field.metadata)}`",
            f"`{default(field)}`",
            f"{meaning(field)} {bounds(field)}".strip(),
        )
        for name, field in fields.items()
    ]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [
        head,
        ["---"] * len(head),
        *([cell.replace("|", r"\|") for cell in row] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _endings(endings: Iterable[str]) -> str:
    return ", ".join(f"`.{ending}`" for ending in endings)


def _bounds_of(metadata: Any) -> Iterator[str]:
    for mark in itertools.chain.from_iterable(
        getattr(mark, "metadata", (mark,)) for mark in metadata
    ):
        for name, sign in _BOUNDS.items():
            if (bound := getattr(mark, name, None)) is not None:
                yield f"{sign} {bound}"


def _bounds_in(annotation: Any) -> Iterator[str]:
    """The bounds within an annotation, those of nested types too; not those of nested settings classes."""
    if get_origin(annotation) is Annotated:
        yield from _bounds_of(get_args(annotation)[1:])
    for inner in get_args(annotation):
        if get_origin(annotation) is not Literal:
            yield from _bounds_in(inner)
