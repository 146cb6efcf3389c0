"""What an update of a generator costs: the engine's rollouts and per-symbol rewards against a serial Monte-Carlo loop.

    python tests/benchmarks/rollouts.py [--rounds 3] [--threads 2]

One update of SeqGAN's generator (V = 5,000, 20 steps, batch 64, N = 16 rollouts of every prefix, its convolutional
critic) by the estimator, in float32 and as the plan `bf16`; the same with a recurrent critic and no rollouts; and the
loop that every SeqGAN code has: for each rollout, for each prefix, write the line anew from its beginning and ask the
critic. Same networks, same sampler, same threads, taken in turn.
"""

from __future__ import annotations

import argparse
import time

import torch

from genkit.adversarial import LOSSES
from genkit.engine.estimators import FakeRequest, Score, ScoreFunctionEstimator
from genkit.plugin import Facts, Sample
from genkit.recipe import ScoreFunction
from genkit.sampling.noise import draw
from genkit.system.runtime import keep_freed_memory
from genkit_text.critics import make_critic
from genkit_text.drawing import pick
from genkit_text.generators import make_generator
from genkit_text.options import Options

BATCH, ROLLOUTS = 64, 16
FACTS = Facts(
    {
        "symbols": 5000,
        "length": 20,
        "end": None,
        "unknown": None,
        "prompt_length": 0,
        "decoder": None,
    }
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    torch.manual_seed(0)
    updates(arguments.rounds)


def updates(rounds: int) -> None:
    """An update of a generator, five ways."""
    generator = make_generator(Options(), FACTS)
    critics = {
        kind: make_critic(Options(critic=kind), FACTS).eval()
        for kind in ("convolutional", "recurrent")
    }
    optimizer = torch.optim.Adam(generator.parameters(), 1e-4, fused=True)

    def estimate(kind, **settings):
        estimator = ScoreFunctionEstimator(
            ScoreFunction(kind="score_function", reward="probability", **settings),
            LOSSES["non_saturating"],
        )

        def judge(sample, rows=None):
            critique = critics[kind](sample)
            return [Score(1.0, critique, None, sample.mask if critique.per_step else None)]

        def update():
            loss, _, _ = estimator(generator, FakeRequest(None, BATCH, noises(generator)), judge)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        return update

    def serial():
        critic = critics["convolutional"]
        noise = noises(generator)
        with torch.no_grad():
            fake = generator(noise("generator", BATCH))
            rewards = torch.zeros(BATCH, 20)
            for rollout in range(ROLLOUTS):
                for prefix in range(1, 20):
                    line = from_beginning(
                        generator, fake, prefix, noise(f"{rollout} {prefix}", BATCH)
                    )
                    rewards[:, prefix - 1] += critic(line).logits[0].sigmoid()
                rewards[:, 19] += critic(fake).logits[0].sigmoid()
            rewards = rewards / ROLLOUTS
        loss = -((rewards - rewards.mean()) * generator.log_prob(fake)).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def half(update):
        def in_bf16():
            with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
                update()

        return in_bf16

    rollouts = estimate("convolutional", credit="monte_carlo", rollouts=ROLLOUTS)
    steps = estimate("recurrent", credit="per_step")
    ways = {"serial": serial, "rollouts": rollouts, "rollouts, bf16": half(rollouts)}
    ways |= {"per symbol": steps, "per symbol, bf16": half(steps)}
    found = in_turn(ways, rounds)
    for name, seconds in found.items():
        print(
            f"{name:<18} {seconds * 1e3:9.0f} ms an update, {found['serial'] / seconds:7.2f} times the serial loop"
        )


def from_beginning(generator, sample, prefix, noise) -> Sample:
    """A line whose first symbols are given, written symbol by symbol from its beginning."""
    logits, state = generator.begin(None, sample.x[:, :0])
    x = sample.x.clone()
    for step in range(20):
        drawn = pick(logits, noise["symbols"][:, step])
        if step >= prefix:
            x[:, step] = drawn
        if step < 19:
            logits, state = generator.advance(state, generator.embed(x[:, step]))
    return sample.with_x(x)


def noises(generator):
    """As the engine's."""
    return lambda purpose, rows: {
        part: torch.from_numpy(draw(spec, part, purpose, range(rows)))
        for part, spec in generator.noise.items()
    }


def in_turn(ways, rounds) -> dict[str, float]:
    """Median seconds of each."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            found[name].append(time.perf_counter() - began)
    return {name: sorted(values)[len(values) // 2] for name, values in found.items()}


if __name__ == "__main__":
    main()
