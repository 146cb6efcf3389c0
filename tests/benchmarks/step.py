"""One step of the engine against a hand-written loop doing the same arithmetic, alternating in one process.

    python tests/benchmarks/step.py [--preset dcgan --size 64 --batch 64 --pairs 20 --steps 4]

The hand-written loop has the same networks, optimisers, loss and data; it draws its noise with torch.randn and keeps
no books. The printed ratio is the median over pairs of (engine's time / loop's time); below 1.05 is the aim.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch.nn.functional import relu, softplus

from genkit import config
from genkit.game import Game, make_optimizer
from genkit.plugin import Sample
from genkit.registry import load
from genkit.runtime import Runtime
from genkit.training import play_round


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--preset", default="dcgan")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--steps", type=int, default=4)
    arguments = parser.parse_args()
    settings = {"options": {"size": arguments.size}, "recipe": {"batch_size": arguments.batch}}
    chosen = config.build("image", arguments.preset, settings=[settings])
    cls = load(chosen.modality)
    plugin = cls(chosen.options, cls.inspect(chosen.data, chosen.options))
    dataset = plugin.dataset(chosen.data)
    game = Game(chosen, plugin, dataset, Runtime("cpu"))
    by_hand = hand_written(plugin, chosen.recipe, dataset.cache)

    def engine() -> None:
        play_round(game)

    ratios, times = [], {engine: [], by_hand: []}
    for step in (engine, by_hand):
        run(step, 2)
    for pair in range(arguments.pairs):
        order = (engine, by_hand) if pair % 2 else (by_hand, engine)
        for step in order:
            times[step].append(run(step, arguments.steps))
        ratios.append(times[engine][-1] / times[by_hand][-1])
    size, threads = arguments.size, torch.get_num_threads()
    title = f"{arguments.preset} {size}x{size} batch {arguments.batch}, {threads} threads"
    engine_ms, hand_ms = (1e3 * statistics.median(times[step]) / arguments.steps for step in (engine, by_hand))
    print(f"{title}: engine {engine_ms:.1f} ms, loop {hand_ms:.1f} ms a step")
    print(f"ratio engine / loop: median {statistics.median(ratios):.3f} (of {len(ratios)} pairs)")


def run(step, count: int) -> float:
    began = time.perf_counter()
    for _ in range(count):
        step()
    return time.perf_counter() - began


def hand_written(plugin, recipe, pixels):
    """The plain loop that everybody writes, as a function of no arguments that does one step."""
    networks = plugin.networks()
    generator, critic = networks.generator.train(), networks.critics["critic"].train()
    make_generator_step = make_optimizer(recipe.generator, list(generator.parameters()))
    make_critic_step = make_optimizer(recipe.critic, list(critic.parameters()))
    average = [parameter.detach().clone() for parameter in generator.parameters()]
    latent, hinge = plugin.options.latent, recipe.loss == "hinge"

    def draw() -> Sample:
        return generator({"z": torch.randn(recipe.batch_size, latent)})

    def step() -> None:
        rows = torch.randint(len(pixels), (recipe.batch_size,))
        real = Sample(pixels[rows].float() / 127.5 - 1)
        with torch.no_grad():
            fake = draw()
        make_critic_step.zero_grad(set_to_none=True)
        at_real, at_fake = critic(real).logits[0], critic(fake).logits[0]
        if hinge:
            loss = relu(1 - at_real).mean() + relu(1 + at_fake).mean()
        else:
            loss = softplus(-at_real).mean() + softplus(at_fake).mean()
        loss.backward()
        make_critic_step.step()
        make_generator_step.zero_grad(set_to_none=True)
        critic.requires_grad_(False)
        logits = critic(draw()).logits[0]
        loss = -logits.mean() if hinge else softplus(-logits).mean()
        loss.backward()
        critic.requires_grad_(True)
        make_generator_step.step()
        torch._foreach_lerp_(average, [parameter.detach() for parameter in generator.parameters()], 0.01)

    return step


if __name__ == "__main__":
    main()
