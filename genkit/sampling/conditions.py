"""The conditions of samples: what a plugin makes of a label, checked."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from genkit.discovery import registry
from genkit.errors import PluginError
from genkit.plugin import Modality, ModalityPlugin


def condition_of(
    modality: Modality, plugin: ModalityPlugin, label: str | None, indices: Sequence[int]
) -> Tensor | None:
    """What a plugin with the capability `condition` answers, [B, ...] or None.

    Raises:
        PluginError: if it answers anything else.
        UserError: for a label that the plugin cannot use.
    """
    with registry.asking(modality, "condition"):
        condition = plugin.condition(label, indices)
    if condition is not None and not (
        isinstance(condition, Tensor) and len(condition) == len(indices)
    ):
        kind = (
            f"{list(condition.shape)}"
            if isinstance(condition, Tensor)
            else type(condition).__name__
        )
        fault = f"it returned {kind} for {len(indices)} indices; a tensor [{len(indices)}, ...] was expected"
        raise PluginError(registry.origin(modality), "condition", fault)
    return condition
