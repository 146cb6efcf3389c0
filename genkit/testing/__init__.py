"""Tests for plugin authors: whether a modality fulfils genkit's plugin contract.

conformance   the public entry points: a class to inherit for pytest, and a function to call
checks        the checks of every modality
optional      the checks of optional capabilities
subject       the modality under test: its data, small games, models and samples, computed once and shared
findings      comparisons and messages that the checks share

The public API is `ModalityConformance` and `check_modality`.
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
