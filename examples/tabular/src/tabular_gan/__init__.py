"""The manifest of the table plugin. Imports no torch: the plugin and its options are named by strings."""

from genkit.plugin import Modality, Preset

_ITEMS = 300_000
_PLAYER = {"learning_rate": {"start": 1e-3, "end": 1e-4, "items": _ITEMS, "shape": "cosine"}, "betas": (0.5, 0.99)}
_PENALTY = {"weight": 0.1, "interval": 2}

modality = Modality(
    id="tabular",
    title="Rows of a table",
    summary="Rows of a CSV file with a header: numbers, counts and categories, and how they depend on each other.",
    plugin="tabular_gan.plugin:TabularPlugin",
    options="tabular_gan.options:Options",
    media_type="text/csv",
    formats=("csv",),
    preview_formats=("csv", "jsonl"),
    data="builtin:flats",
    presets={
        "small": Preset(
            summary="Two perceptrons with relativistic loss, R1 and R2; Gumbel-softmax: half a minute on a CPU.",
            recipe={
                "batch_size": 128,
                "loss": "relativistic",
                "penalties": {"r1": _PENALTY, "r2": _PENALTY},
                "generator": _PLAYER,
                "critic": _PLAYER,
                "ema_halflife_items": 20_000,
            },
            run={"items": _ITEMS},
        )
    },
)
