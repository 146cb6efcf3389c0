"""The manifest of the text plugin. Imports no torch: networks and options are named by `"module:Class"` strings."""

from typing import Any

from genkit.plugin import Modality, Preset

_LIKELIHOOD_OPTIMIZER = {"learning_rate": 5e-3, "betas": (0.9, 0.999), "gradient_clip": 5.0}
_FALLING_RATE = {"start": 5e-3, "end": 5e-4, "items": 300_000, "shape": "cosine"}
_TEACHING_RATE = {"start": 1e-3, "end": 5e-5, "share": 0.25, "delay": 0.75}
_PRETRAIN_STAGE: dict[str, Any] = {
    "kind": "pretrain",
    "items": 400_000,
    "generator": _LIKELIHOOD_OPTIMIZER,
}
_CRITICS_STAGE = {"kind": "critics", "items": 50_000}
_GAME_STAGE = {"kind": "game"}
# Shares of the data: what a generator learns, what its critics compare it with, and what says which critics are best.
_FOR_GENERATOR, _FOR_CRITICS, _HELD_OUT = [0.0, 0.75], [0.75, 0.95], [0.95, 1.0]

_BEST_CRITICS_STAGE = {
    **_CRITICS_STAGE,
    "part": _FOR_CRITICS,
    "early_stopping": {"part": _HELD_OUT, "interval": 5_000},
}

# The counts of the code of Yu et al. 2017, in items. An epoch is 10,000 lines. The generator is pretrained for 120
# epochs; the critic sees 50 times 3 epochs before the game, and 5 times 3 in each of its 200 rounds.
_PAPER_OPTIMIZER = {"learning_rate": 1e-2, "betas": (0.9, 0.999), "gradient_clip": 5.0}
_EPOCH = 10_000
_ROLLOUT_ESTIMATOR = {
    "kind": "score_function",
    "reward": "probability",
    "credit": "monte_carlo",
    "baseline": "none",
}

_SMALL_GENERATOR = {"embedding": 128, "hidden": 256, "dropout": 0.3}
_CONVOLUTIONAL_CRITIC = {"critic": "convolutional", "critic_embedding": 64, "critic_dropout": 0.25}

modality = Modality(
    id="text",
    title="Text",
    summary="Lines of text from files, folders, JSONL or lists, in characters, words, bytes or a tokenizer's pieces.",
    plugin="genkit_text.plugin:TextPlugin",
    options="genkit_text.options:Options",
    controls="genkit_text.options:Controls",
    media_type="text/plain",
    pipeline_tag="text-generation",
    formats=("txt",),
    preview_formats=("txt", "jsonl"),
    data="builtin:kjv",
    models={"kjv": "genkit_text:models/kjv"},
    presets={
        "seqgan-fast": Preset(
            summary="An LSTM against a critic that scores every symbol: no rollouts, minutes on a CPU.",
            options={**_SMALL_GENERATOR, "critic": "recurrent", "critic_dropout": 0.1},
            recipe={
                "batch_size": 64,
                "loss": "non_saturating",
                "estimator": {
                    "kind": "score_function",
                    "reward": "signed_probability",
                    "credit": "per_step",
                    "discount": 0.9,
                },
                "generator": {"learning_rate": 3e-4, "betas": (0.5, 0.999), "gradient_clip": 5.0},
                "critic": {"learning_rate": 1e-3, "betas": (0.5, 0.999)},
                "stages": [_PRETRAIN_STAGE, _CRITICS_STAGE, _GAME_STAGE],
                "ema_halflife_items": 20_000,
            },
            run={"items": 650_000},
        ),
        "mle": Preset(
            summary="Maximum likelihood alone: the baseline that every adversarial preset must be compared with.",
            options=_SMALL_GENERATOR,
            recipe={
                "batch_size": 64,
                "generator": _LIKELIHOOD_OPTIMIZER,
                "stages": [{"kind": "pretrain"}],
                "ema_halflife_items": 20_000,
            },
            run={"items": 400_000},
        ),
        "cooperative": Preset(
            summary="Likelihood of real lines, and, where critics gain, of its own as these weigh them (psi-MLE).",
            options={
                **_SMALL_GENERATOR,
                "critic": "bidirectional",
                "critic_dropout": 0.3,
            },
            recipe={
                "batch_size": 64,
                "loss": "non_saturating",
                "estimator": {"kind": "importance", "group": 16, "real": 0.5},
                "generator": {**_LIKELIHOOD_OPTIMIZER, "learning_rate": _TEACHING_RATE},
                "critic": {"learning_rate": 1e-3, "betas": (0.9, 0.999)},
                "stages": [
                    {
                        "kind": "pretrain",
                        "items": 300_000,
                        "part": _FOR_GENERATOR,
                        "generator": {**_LIKELIHOOD_OPTIMIZER, "learning_rate": _FALLING_RATE},
                    },
                    _BEST_CRITICS_STAGE,
                    {"kind": "generator", "part": _FOR_GENERATOR},
                ],
                "ema_halflife_items": 20_000,
            },
            run={"items": 450_000},
        ),
        "seqgan": Preset(
            summary="SeqGAN (Yu et al. 2017): 16 rollouts of every prefix, P(real) as reward; fewer critic steps.",
            options={**_SMALL_GENERATOR, **_CONVOLUTIONAL_CRITIC},
            recipe={
                "batch_size": 64,
                "loss": "non_saturating",
                "estimator": {**_ROLLOUT_ESTIMATOR, "baseline": "leave_one_out"},
                "generator": {"learning_rate": 1e-3, "betas": (0.9, 0.999), "gradient_clip": 5.0},
                "critic": {"learning_rate": 1e-4, "betas": (0.9, 0.999), "steps": 5},
                "stages": [_PRETRAIN_STAGE, _CRITICS_STAGE, _GAME_STAGE],
                "ema_halflife_items": 20_000,
            },
            run={"items": 500_000},
        ),
        "seqgan-paper": Preset(
            summary="SeqGAN with the counts of its authors' code, meant for 10,000 lines: many hours on a CPU.",
            options={"embedding": 32, "hidden": 32, **_CONVOLUTIONAL_CRITIC, "critic_decay": 0.2},
            recipe={
                "batch_size": 64,
                "loss": "non_saturating",
                "estimator": _ROLLOUT_ESTIMATOR,
                "generator": _PAPER_OPTIMIZER,
                "critic": {
                    "learning_rate": 1e-4,
                    "betas": (0.9, 0.999),
                    "steps": 5 * 3 * 2 * _EPOCH // 128,
                },
                "stages": [
                    {"kind": "pretrain", "items": 120 * _EPOCH},
                    {"kind": "critics", "items": 50 * 3 * _EPOCH},
                    _GAME_STAGE,
                ],
                "ema_halflife_items": 0,
            },
            run={"items": (120 + 50 * 3 + 200 * 5 * 3) * _EPOCH},
        ),
        "scratchgan": Preset(
            summary="ScratchGAN (de Masson d'Autume et al. 2019): no pretraining, large batches, discounted rewards.",
            options={
                "embedding": 64,
                "hidden": 128,
                "critic": "recurrent",
                "critic_hidden": 128,
                "critic_dropout": 0.1,
            },
            recipe={
                "batch_size": 512,
                "loss": "non_saturating",
                "estimator": {
                    "kind": "score_function",
                    "reward": "signed_probability",
                    "credit": "per_step",
                    "discount": 0.23,
                    "baseline": "moving_average",
                    "baseline_decay": 0.08,
                },
                "generator": {"learning_rate": 1e-3, "betas": (0.5, 0.999)},
                "critic": {"learning_rate": 5e-3, "betas": (0.5, 0.999), "weight_decay": 1e-6},
                "ema_halflife_items": 100_000,
            },
            run={"items": 4_000_000},
        ),
        "lm": Preset(
            summary="A pretrained causal language model (options.pretrained) against a critic, held near what it was.",
            options={
                "generator": "decoder",
                "pretrained": "distilbert/distilgpt2",
                "critic": "decoder",
            },
            recipe={
                "batch_size": 32,
                "loss": "relativistic",
                "estimator": {
                    "kind": "score_function",
                    "reward": "logit",
                    "credit": "terminal",
                    "group": 4,
                },
                "terms": {"divergence": 0.05},
                "generator": {
                    "optimizer": "adamw",
                    "learning_rate": 1e-5,
                    "betas": (0.9, 0.999),
                    "gradient_clip": 1.0,
                },
                "critic": {
                    "optimizer": "adamw",
                    "learning_rate": 2e-5,
                    "betas": (0.9, 0.999),
                    "gradient_clip": 1.0,
                },
                "stages": [{"kind": "critics", "items": 6_400}, _GAME_STAGE],
                "ema_halflife_items": 2_000,
            },
            run={"items": 60_000},
        ),
        "relgan": Preset(
            summary="RelGAN's game (Nie et al. 2019): Gumbel-softmax that sharpens, relativistic loss, convolutions.",
            options={**_SMALL_GENERATOR, **_CONVOLUTIONAL_CRITIC},
            recipe={
                "batch_size": 64,
                "loss": "relativistic",
                "estimator": {
                    "kind": "gumbel_softmax",
                    "temperature": {
                        "start": 1.0,
                        "end": 0.1,
                        "items": 200_000,
                        "delay": _PRETRAIN_STAGE["items"],
                    },
                    "hard": True,
                },
                "generator": {"learning_rate": 1e-4, "betas": (0.9, 0.999), "gradient_clip": 5.0},
                "critic": {"learning_rate": 1e-4, "betas": (0.9, 0.999), "gradient_clip": 5.0},
                "stages": [_PRETRAIN_STAGE, _GAME_STAGE],
                "ema_halflife_items": 20_000,
            },
            run={"items": 600_000},
        ),
    },
)
