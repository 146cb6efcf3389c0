"""genkit: train and sample adversarial generators of any medium.

    genkit.generate("image", 16, seed=0).save("grid.png")
    model = genkit.train("image", data="photos/", out="runs/photos", items=500_000)
    genkit.load("runs/photos").generate(16, seed=0).save("grid.png")

The public API. Its names are imported on first use, so that `import genkit` is fast and imports no torch.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as in typing, whose import would take ten times as long as all else here

__version__ = "0.1.0"

_SOURCES = {
    "train": ("genkit.engine.training", "train"),
    "distill": ("genkit.engine.distillation", "distill"),
    "Progress": ("genkit.engine.clock", "Progress"),
    "check_data": ("genkit.engine.data", "check_data"),
    "DataReport": ("genkit.engine.data", "DataReport"),
    "evaluate": ("genkit.evaluation.evaluating", "evaluate"),
    "Evaluation": ("genkit.evaluation.results", "Evaluation"),
    "generate": ("genkit.sampling.opening", "generate"),
    "load": ("genkit.sampling.opening", "open_model"),
    "Model": ("genkit.sampling.model", "Model"),
    "Samples": ("genkit.sampling.samples", "Samples"),
    "save": ("genkit.sampling.samples", "save"),
    "translate": ("genkit.sampling.translating", "translate"),
    "generate_on_ray": ("genkit.sampling.cluster", "generate_on_ray"),
    "Client": ("genkit.serving.clients", "Client"),
    "AsyncClient": ("genkit.serving.clients", "AsyncClient"),
    "plugins": ("genkit.discovery.registry", "found"),
    "register": ("genkit.discovery.registry", "register"),
    "unregister": ("genkit.discovery.registry", "unregister"),
    "GenkitError": ("genkit.errors", "GenkitError"),
    "UserError": ("genkit.errors", "UserError"),
    "Interrupted": ("genkit.errors", "Interrupted"),
}

__all__ = [
    "AsyncClient",
    "Client",
    "DataReport",
    "Evaluation",
    "GenkitError",
    "Interrupted",
    "Model",
    "Progress",
    "Samples",
    "UserError",
    "__version__",
    "check_data",
    "distill",
    "evaluate",
    "generate",
    "generate_on_ray",
    "load",
    "plugins",
    "register",
    "save",
    "train",
    "translate",
    "unregister",
]

if TYPE_CHECKING:
    from typing import Any

    from genkit.discovery.registry import found as plugins
    from genkit.discovery.registry import register, unregister
    from genkit.engine.clock import Progress
    from genkit.engine.data import DataReport, check_data
    from genkit.engine.distillation import distill
    from genkit.engine.training import train
    from genkit.errors import GenkitError, Interrupted, UserError
    from genkit.evaluation.evaluating import evaluate
    from genkit.evaluation.results import Evaluation
    from genkit.sampling.cluster import generate_on_ray
    from genkit.sampling.model import Model
    from genkit.sampling.opening import generate
    from genkit.sampling.opening import open_model as load
    from genkit.sampling.samples import Samples, save
    from genkit.sampling.translating import translate
    from genkit.serving.clients import AsyncClient, Client


def __getattr__(name: str) -> Any:
    if name not in _SOURCES:
        raise AttributeError(f"module 'genkit' has no attribute {name!r}")
    import importlib

    module, attribute = _SOURCES[name]
    value = globals()[name] = getattr(importlib.import_module(module), attribute)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
