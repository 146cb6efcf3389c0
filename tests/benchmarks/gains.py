"""What critics of lines know that maximum likelihood does not: python tests/benchmarks/gains.py [--data FILE]

The lines, each once, are divided: 60 % train a model by maximum likelihood, 25 % critics against its samples, and the
rest says what these critics gain (see `genkit.evaluation.gains`). The model has seen none of the critics' lines: else a
critic learns which lines the model knows by heart. Prints a row for each critic, for each length of its training.
OUT keeps the parts of the lines and the runs: `model`, which is taken as it is if it is there, and one for each row.
"""

import argparse
import random
from pathlib import Path

import genkit
from genkit_text.options import Options
from genkit_text.sources import open_source

SHARES = {"model": 0.6, "critic": 0.25, "test": 0.15}
SCHEDULE = {"start": 5e-3, "end": 2e-4, "share": 1.0, "shape": "cosine"}
CRITICS = {
    "convolutional": {"critic": "convolutional"},
    "recurrent": {"critic": "recurrent", "critic_hidden": 128},
    "bidirectional": {"critic": "bidirectional", "critic_hidden": 128},
    "bidirectional, word vectors": {
        "critic": "bidirectional",
        "critic_hidden": 128,
        "critic_vectors": "wordllama",
    },
    "encoder": {"critic": "encoder", "critic_hidden": 256},
}
FIGURES = (
    "critic_pairs",
    "critic_scale",
    "gain",
    "gain_least",
    "gain_step",
    "effective_share",
    "held_out_nll",
)


def divided(source, seed):
    """The parts of the lines of a source, by name."""
    lines = list(dict.fromkeys(open_source(source, Options()).lines))
    random.Random(seed).shuffle(lines)
    parts, start = {}, 0
    for name, share in SHARES.items():
        stop = start + round(share * len(lines))
        parts[name], start = lines[start:stop], stop
    return parts


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default="builtin:kjv")
    parser.add_argument("--items", type=int, default=300_000, help="lines of the model's training")
    parser.add_argument("--epochs", type=int, nargs="+", default=[4, 12, 24])
    parser.add_argument("--critics", nargs="+", choices=CRITICS, default=list(CRITICS))
    parser.add_argument("--tokenizer", default="words")
    parser.add_argument("--dropout", type=float, default=0.4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("gains"))
    parser.add_argument("--critic-dropout", type=float, default=0.5)
    arguments = parser.parse_args()
    parts = divided(arguments.data, arguments.seed)
    common = {"threads": arguments.threads, "seed": arguments.seed}
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, lines in parts.items():
        text = "".join(f"{line}\n" for line in lines)
        (arguments.out / f"{name}.txt").write_text(text, encoding="utf-8")
    model = arguments.out / "model"
    if not (model / "model").exists():
        genkit.train(
            "text", parts["model"], out=model, preset="mle", items=arguments.items, **common,
            options={"tokenizer": arguments.tokenizer, "dropout": arguments.dropout},
            recipe={"generator": {"learning_rate": SCHEDULE}},
        )  # fmt: skip
    for name in arguments.critics:
        for epochs in arguments.epochs:
            run = arguments.out / f"{name}, {epochs} epochs"
            genkit.train(
                "text", parts["critic"], out=run, preset="mle", init=model, **common,
                items=epochs * len(parts["critic"]),
                options={**CRITICS[name], "critic_dropout": arguments.critic_dropout},
                recipe={"critic": {"learning_rate": 1e-3}, "stages": [{"kind": "critics"}]},
            )  # fmt: skip
            evaluation = genkit.evaluate(run, parts["test"], 10_000, features="ngrams")
            figures = evaluation.row(run.name).figures
            told = ", ".join(f"{key} {figures[key]}" for key in FIGURES)
            print(f"{run.name}: {told}", flush=True)


if __name__ == "__main__":
    main()
