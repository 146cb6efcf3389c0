"""Whether a plugin's presets and requirements are in order; knows manifests and metadata, not how plugins are found."""

from __future__ import annotations

from genkit.errors import first_line
from genkit.plugin import Modality
from genkit.user_objects import resolve


def preset_faults_of(*targets: str) -> list[str]:
    """What `preset_fault` says of each manifest `module:attribute`; called in a child process."""
    return [preset_fault(resolve(target)) for target in targets]


def preset_fault(manifest: Modality) -> str:
    """What is wrong with the first preset whose options or recipe are not valid; empty: all are in order."""
    from pydantic import ValidationError

    from genkit.recipe import Recipe

    options = resolve(manifest.options) if isinstance(manifest.options, str) else manifest.options
    for name, preset in manifest.presets.items():
        parts = [("recipe", Recipe, preset.recipe)]
        if options is not None:
            parts.append(("options", options, preset.options))
        for part, cls, values in parts:
            try:
                cls.model_validate(dict(values))
            except ValidationError as error:
                first = error.errors()[0]
                path = ".".join(map(str, (part, *first["loc"])))
                return f"its preset {name!r}: {path}: {first['msg']}"
            except Exception as error:  # of the plugin's own validators
                return f"its preset {name!r}: {part}: {first_line(error)}"
    return ""


def missing_requirements(path: str) -> list[str]:
    """What a distribution declares to need and is not installed, or in another version; extras left out.

    Args:
        path: the folder of its metadata.
    """
    from importlib.metadata import Distribution, PackageNotFoundError, version

    from packaging.requirements import InvalidRequirement, Requirement

    missing = []
    try:
        lines = Distribution.at(path).requires or []
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
