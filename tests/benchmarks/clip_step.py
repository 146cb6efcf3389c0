"""One step of the engine on clips against a hand-written loop doing the same arithmetic, alternating in one process.

    python tests/benchmarks/clip_step.py [--size 64 --frames 16 --batch 16 --pairs 10 --steps 2]

The preset `stream` on random clips in memory, without penalties, in plain fp32. The hand-written loop has the same
networks, optimisers, loss and data; it draws its noise with torch.randn and keeps no books. The printed ratio is the
median over pairs of (engine's time / loop's time); below 1.05 is the aim.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from step import in_turn
from torch.nn.functional import softplus

from genkit import config
from genkit.engine.game import Game
from genkit.engine.optimizers import make_optimizer
from genkit.plugin import Facts, Sample
from genkit.system.runtime import Runtime
from genkit_video import modality
from genkit_video.plugin import VideoPlugin


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--steps", type=int, default=2)
    arguments = parser.parse_args()
    options = {"size": arguments.size, "frames": arguments.frames}
    recipe = {"batch_size": arguments.batch, "penalties": {"r1": None, "r2": None}}
    chosen = config.build(modality, "stream", settings=[{"options": options, "recipe": recipe}])
    plugin = VideoPlugin(chosen.options, Facts({"channels": 1, "rate": 8.0, "labels": []}))
    clips = (
        torch.rand(4 * arguments.batch, 1, arguments.frames, arguments.size, arguments.size) * 2 - 1
    )
    game = Game(chosen, plugin, clips, Runtime("cpu", plan="fp32"))
    by_hand = hand_written(plugin, chosen.recipe, clips)

    def engine() -> None:
        game.play_round()

    engine_ms, hand_ms, ratios = in_turn(engine, by_hand, arguments.pairs, arguments.steps)
    size, threads = arguments.size, torch.get_num_threads()
    title = f"stream {arguments.frames}x{size}x{size} batch {arguments.batch}, {threads} threads"
    print(f"{title}: engine {engine_ms:.1f} ms, loop {hand_ms:.1f} ms a step")
    print(f"ratio engine / loop: median {statistics.median(ratios):.3f} (of {len(ratios)} pairs)")


def hand_written(plugin, recipe, clips):
    """The plain loop that everybody writes, as a function of no arguments that does one step."""
    networks = plugin.networks()
    generator, critics = (
        networks.generator.train(),
        [critic.train() for critic in networks.critics.values()],
    )
    generator_step = make_optimizer(recipe.generator, list(generator.parameters()))
    critic_steps = [make_optimizer(recipe.critic, list(critic.parameters())) for critic in critics]
    average = [parameter.detach().clone() for parameter in generator.parameters()]

    def draw() -> Sample:
        shapes = {
            part: (*([] if of.steps is None else [of.steps]), *of.shape)
            for part, of in generator.noise.items()
        }
        return generator(
            {part: torch.randn(recipe.batch_size, *shape) for part, shape in shapes.items()}
        )

    def step() -> None:
        real, fake = Sample(clips[torch.randint(len(clips), (recipe.batch_size,))]), draw()
        for critic, critic_step in zip(critics, critic_steps, strict=True):
            critic_step.zero_grad(set_to_none=True)
            softplus(critic(fake.detach()).logits[0] - critic(real).logits[0]).mean().backward()
            critic_step.step()
        generator_step.zero_grad(set_to_none=True)
        loss = torch.zeros(())
        for critic in critics:
            critic.requires_grad_(False)
            with torch.no_grad():
                at_real = critic(real).logits[0]
            loss = loss + softplus(at_real - critic(fake).logits[0]).mean()
        loss.backward()
        for critic in critics:
            critic.requires_grad_(True)
        generator_step.step()
        torch._foreach_lerp_(
            average, [parameter.detach() for parameter in generator.parameters()], 0.01
        )

    return step


if __name__ == "__main__":
    main()
