"""Files of samples of any length, drawn and written part by part, in constant memory where the format allows it.

Knows the model that unrolls, and the plugin that writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from genkit.discovery import registry
from genkit.plugin import Unrolling, capabilities_of
from genkit.sampling.model import Model
from genkit.sampling.samples import format_of, is_joint
from genkit.system.files import make_folder, user_path, writing


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
    path, settings = user_path(path), model.settings(controls)
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
