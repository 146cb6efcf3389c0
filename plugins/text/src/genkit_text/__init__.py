"""Text for genkit: the manifest. Torch-free; everything heavy is named by strings."""

from genkit.plugin import Modality, Preset

_CAN = frozenset({"condition", "sheet", "log_prob", "complete", "relaxed", "pretrain_loss"})

modality = Modality(
    id="text",
    title="Text",
    summary="Lines of text from files, folders, JSONL or lists, in characters, words, bytes or a tokenizer's pieces.",
    plugin="genkit_text.plugin:TextPlugin",
    options="genkit_text.options:Options",
    controls="genkit_text.options:Controls",
    media_type="text/plain",
    formats=("txt",),
    sheets=("txt", "jsonl"),
    data="builtin:kjv",
    presets={
        "mle": Preset(
            summary="Maximum likelihood alone: the baseline that every adversarial preset must be compared with.",
            recipe={
                "batch_size": 64,
                "generator": {"learning_rate": 5e-3, "betas": (0.9, 0.999), "gradient_clip": 5.0},
                "stages": [{"kind": "pretrain"}],
                "ema_halflife_items": 5_000,
            },
            run={"items": 400_000},
            capabilities=_CAN,
        ),
    },
)
