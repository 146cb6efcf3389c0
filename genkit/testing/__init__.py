"""What plugin authors and the engine's own tests stand on.

conformance   whether a modality keeps the contract: a class to inherit, and a function to call
toys          modalities whose truth is known
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genkit.testing.conformance import ModalityConformance, check_modality

__all__ = ["ModalityConformance", "check_modality"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'genkit.testing' has no attribute {name!r}")
    from genkit.testing import conformance

    return getattr(conformance, name)
