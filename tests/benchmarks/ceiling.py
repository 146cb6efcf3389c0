"""What a critic of 10,000 lines can know: why no language GAN moves past maximum likelihood beside the oracle.

    python tests/benchmarks/ceiling.py [--seed 0] [--out FOLDER] [--marks 20000 60000 200000] [--threads 2]

Against the model of maximum likelihood, which rests, each critic learns alone: real lines are the 10,000 that the model
learned from. A figure is the share of pairs (a real line, a model's line) in which the real one scores higher: 0.5 is
chance, 1 is certain. Of real lines that the critic learned from, and of lines that neither has seen. Beside them the
best critic there is, which knows both distributions: log p(oracle) - log p(model) (Neyman and Pearson 1933).
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from oracle import FACTS, LINES, SIZE, Lines, Numbers, Oracle, draw, train

import genkit
from genkit.plugin import Facts, Sample
from genkit.sampling.model_folder import read_critics
from genkit.sampling.reranking import Reranker
from genkit.system.tensors import load_state
from genkit_text import modality as text
from genkit_text.critics import make_critic
from genkit_text.options import Options


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/ceiling"))
    parser.add_argument("--marks", type=int, nargs="+", default=[20_000, 60_000, 200_000])
    parser.add_argument(
        "--presets", nargs="+", default=["seqgan-fast", "seqgan"], help="whose critics"
    )
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    oracle = Oracle(arguments.seed)
    model, _ = train("mle", oracle, arguments.seed, arguments.out, arguments.threads, None)
    fakes = draw(model.generator, range(LINES, 2 * LINES), 2)

    def best(lines):
        with torch.no_grad():
            parts = [Sample(part) for part in lines.split(250)]
            return torch.cat(
                [(oracle.network.log_prob(x) - model.generator.log_prob(x)).sum(1) for x in parts]
            )

    print(f"both distributions known: {higher(best(oracle.test), best(fakes)):.3f} of unseen lines")
    for name in arguments.presets:
        for items in arguments.marks:
            score = learned(name, items, oracle, arguments)
            of_fakes, seen, unseen = score(fakes), score(oracle.lines), score(oracle.test)
            print(
                f"critic of {name}, {items:,} real lines read ({items / LINES:g} times each): "
                f"{higher(seen, of_fakes):.3f} of its own lines, {higher(unseen, of_fakes):.3f} of unseen lines",
                flush=True,
            )


def learned(name: str, items: int, oracle: Oracle, arguments):
    """A critic that has read so many lines beside fresh ones of the resting model, as a function of lines."""
    preset = text.presets[name]
    own = replace(preset, options={**preset.options, **SIZE})
    oracles = replace(text, id="oracle", plugin=Numbers, data=None, presets={name: own})
    out = arguments.out / f"{name}-{arguments.seed}"
    begin = {"resume": True} if out.exists() else {"init": arguments.out / f"mle-{arguments.seed}"}
    recipe = {"stages": [{"kind": "critics"}], "critic": {"steps": 1}}
    genkit.train(
        oracles, Lines(oracle.lines), out=out, items=items, seed=arguments.seed, threads=arguments.threads,
        recipe=recipe, options=own.options, **begin,
    )  # fmt: skip
    critic = make_critic(Options(**own.options), Facts(FACTS)).eval()
    tensors = {
        key.removeprefix("critic."): value for key, value in read_critics(out / "model").items()
    }
    load_state(critic, tensors, out / "model")
    reranker = Reranker({"critic": critic}, {"critic": 1.0}, "")
    return lambda lines: torch.cat(
        [reranker.scores(sample[rows]) for sample in [Lines(lines)] for rows in parts(lines)]
    )


def parts(lines):
    return [slice(at, at + 250) for at in range(0, len(lines), 250)]


def higher(real, fake) -> float:
    """The share of all pairs in which the real one is higher."""
    order = torch.cat([real, fake]).argsort().argsort().double() + 1
    return float((order[: len(real)].sum() / len(real) - (len(real) + 1) / 2) / len(fake))


if __name__ == "__main__":
    main()
