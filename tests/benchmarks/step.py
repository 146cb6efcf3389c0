"""One step of the engine against a hand-written loop doing the same arithmetic, alternating in one process.

    python tests/benchmarks/step.py [--preset dcgan --size 64 --batch 64 --pairs 20 --steps 4 --plan fp32 --device cpu
        --cpu-time]

For presets without penalties. The hand-written loop has the same networks, optimisers, loss and data, in plain fp32; it
draws its noise with torch.randn and keeps no books. The printed ratio is the median over pairs of (engine's time /
loop's time); with `--plan fp32` below 1.05 is the aim. With `--plan auto` the engine computes as it chooses, and the
matrix products per second that it reaches are compared with those of 2048-cube products on the same machine. With
`--cpu-time` times are seconds of this process on all cores, so that other work on the machine counts less.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time

import torch
from torch.nn.functional import relu, softplus
from torch.utils.flop_counter import FlopCounterMode

from genkit import config
from genkit.engine import plan
from genkit.engine.data import open_data
from genkit.engine.game import Game
from genkit.engine.optimizers import make_optimizer
from genkit.plugin import Sample
from genkit.recipe import PLANS
from genkit.system.runtime import Runtime


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--preset", default="dcgan")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--plan", default="fp32", choices=["auto", *PLANS])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cpu-time", action="store_true")
    arguments = parser.parse_args()
    settings = {"options": {"size": arguments.size}, "recipe": {"batch_size": arguments.batch}}
    chosen = config.build("image", arguments.preset, settings=[settings])
    plugin, dataset, _ = open_data(chosen)
    game = Game(
        chosen,
        plugin,
        dataset,
        Runtime(arguments.device, plan="fp32" if arguments.plan == "auto" else arguments.plan),
    )
    if arguments.plan == "auto":
        print(plan.choose(game))
    pixels = torch.from_numpy(dataset.pictures.pixels(range(len(dataset)), 1))
    by_hand = hand_written(plugin, chosen.recipe, pixels.to(game.runtime.device))

    def engine() -> None:
        game.play_round()

    clock = time.process_time if arguments.cpu_time else time.perf_counter
    engine_ms, hand_ms, ratios = in_turn(
        engine, by_hand, arguments.pairs, arguments.steps, game.runtime.wait, clock
    )
    size, threads = arguments.size, torch.get_num_threads()
    title = f"{arguments.preset} {size}x{size} batch {arguments.batch}, {threads} threads"
    print(f"{title}: engine {engine_ms:.1f} ms, loop {hand_ms:.1f} ms a step")
    ratio = statistics.median(ratios)
    print(
        f"ratio engine / loop: median {ratio:.3f} (of {len(ratios)} pairs), {1 / ratio:.2f}x its items per second"
    )
    if arguments.plan == "auto":
        with FlopCounterMode(display=False) as counter:
            by_hand()
        reached = counter.get_total_flops() / (1e6 * engine_ms)
        peaks = {kind: peak(kind, game.runtime) for kind in (torch.float32, torch.bfloat16)}
        print(
            f"{reached:.0f} GFLOP/s of matrix products in the engine's step; products alone: ",
            end="",
        )
        print(
            ", ".join(
                f"{str(kind)[6:]} {value:.0f} ({reached / value:.0%})"
                for kind, value in peaks.items()
            )
        )


def in_turn(
    engine, by_hand, pairs: int, steps: int, wait=lambda: None, clock=time.perf_counter
) -> tuple[float, float, list[float]]:
    """(milliseconds a step of either, the median; the ratio of the engine's time to the loop's in each pair)."""
    times = {engine: [], by_hand: []}
    for step in times:
        run(step, 2, wait, clock)
    for pair in range(pairs):
        for step in (engine, by_hand) if pair % 2 else (by_hand, engine):
            times[step].append(run(step, steps, wait, clock))
    engine_ms, hand_ms = (1e3 * statistics.median(spent) / steps for spent in times.values())
    return engine_ms, hand_ms, [one / other for one, other in zip(*times.values(), strict=True)]


def peak(kind: torch.dtype, runtime: Runtime) -> float:
    """GFLOP/s of 2048-cube matrix products, the best of 5."""
    one, other = (torch.randn(2048, 2048).to(runtime.device, kind) for _ in range(2))
    seconds = min(run(lambda: one @ other, 2, runtime.wait) / 2 for _ in range(5))
    return 2 * 2048**3 / seconds / 1e9


def run(step, count: int, wait, clock=time.perf_counter) -> float:
    wait()
    began = clock()
    for _ in range(count):
        step()
    wait()
    return clock() - began


def hand_written(plugin, recipe, pixels):
    """The plain loop that everybody writes, as a function of no arguments that does one step."""
    networks = plugin.networks()
    device = pixels.device
    generator = networks.generator.train().to(device)
    critics = [critic.train().to(device) for critic in networks.critics.values()]
    make_generator_step = make_optimizer(recipe.generator, list(generator.parameters()))
    critic_steps = [
        make_optimizer(recipe.critic, [weight for weight in critic.parameters() if weight.requires_grad])
        for critic in critics
    ]  # fmt: skip
    average = [parameter.detach().clone() for parameter in generator.parameters()]
    latent, hinge = plugin.options.latent, recipe.loss == "hinge"

    def draw() -> Sample:
        return generator({"z": torch.randn(recipe.batch_size, latent, device=device)})

    def step() -> None:
        rows = torch.randint(len(pixels), (recipe.batch_size,), device=device)
        real = Sample(pixels[rows].float() / 127.5 - 1)
        with torch.set_grad_enabled(recipe.reuses_fakes):
            fake = draw()
        for critic, make_critic_step in zip(critics, critic_steps, strict=True):
            make_critic_step.zero_grad(set_to_none=True)
            loss = torch.zeros((), device=device)
            for at_real, at_fake in zip(
                critic(real).logits, critic(fake.detach()).logits, strict=True
            ):
                if hinge:
                    loss = loss + relu(1 - at_real).mean() + relu(1 + at_fake).mean()
                else:
                    loss = loss + softplus(-at_real).mean() + softplus(at_fake).mean()
            loss.backward()
            make_critic_step.step()
        make_generator_step.zero_grad(set_to_none=True)
        weights = [group["params"] for each in critic_steps for group in each.param_groups]
        for weight in itertools.chain(*weights):
            weight.requires_grad_(False)
        fake = fake if recipe.reuses_fakes else draw()
        loss = torch.zeros((), device=device)
        for logits in itertools.chain(*(critic(fake).logits for critic in critics)):
            loss = loss + (-logits.mean() if hinge else softplus(-logits).mean())
        loss.backward()
        for weight in itertools.chain(*weights):
            weight.requires_grad_(True)
        make_generator_step.step()
        torch._foreach_lerp_(
            average, [parameter.detach() for parameter in generator.parameters()], 0.01
        )

    return step


if __name__ == "__main__":
    main()
