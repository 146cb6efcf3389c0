"""The default recipe against the DCGAN loop that everybody writes, on the same two cores in alternating slices.

    python tests/benchmarks/race.py --data FASHION_MNIST_FOLDER [--preset NAME] [--minutes 1 2 4 8] [recipe.x=y ...]

Both train on the 60,000 pictures at 32 x 32. The loop is the one of pytorch/examples, one stage fewer: widths 256, 128,
64, BatchNorm in both networks, Adam 2e-4 (0.5, 0.999), batch 64, fp32. After so many minutes of their own each, 10,000
samples are compared with the training pictures by the Fréchet distance over garments-cnn (see garments.py); neither
measuring nor drawing counts. The plan is measured and remembered before the race begins.
"""

from __future__ import annotations

import argparse
import time

import torch
from garments import Judge
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from genkit import config
from genkit.engine import plan
from genkit.engine.data import open_data
from genkit.engine.game import Game
from genkit.engine.views import model_of
from genkit.system.runtime import Runtime

SLICE_SECONDS = 10.0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("settings", nargs="*")
    parser.add_argument("--data", required=True)
    parser.add_argument("--preset")
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--classifier", default="garments-cnn.safetensors")
    parser.add_argument("--alone", action="store_true", help="leave the loop out")
    parser.add_argument("--preview", help="a PNG of the last samples")
    arguments = parser.parse_args()
    judge = Judge(arguments.data, arguments.classifier)
    print(
        f"garments-cnn: {judge.accuracy:.1%} right; test pictures to training pictures {judge.real:.3f}"
    )
    game, told = begin(arguments)
    print(told)
    pixels = judge.learn.checked.pixels(range(len(judge.learn)), 1)
    racers = {
        "genkit": Racer(
            lambda: game.play_round(), lambda count: model_of(game).draw(range(count), 1).x
        )
    }
    if not arguments.alone:
        racers["loop"] = canonical(torch.from_numpy(pixels))
    batch = {"genkit": game.config.recipe.batch_size, "loop": 64}
    for minutes in arguments.minutes:
        while any(racer.seconds < 60 * minutes for racer in racers.values()):
            for racer in racers.values():
                racer.run(min(SLICE_SECONDS, 60 * minutes - racer.seconds))
        line, found = [f"{minutes:g} min"], {}
        for name, racer in racers.items():
            found[name], classes = judge.distance(racer.draw)
            line.append(
                f"{name} {found[name]:.2f} ({racer.steps * batch[name]:,} items, {classes} classes)"
            )
        line += [f"ratio {found['genkit'] / found['loop']:.3f}"] if "loop" in found else []
        print("  ".join(line), flush=True)
    if arguments.preview:
        with open(arguments.preview, "wb") as file:
            file.write(
                game.plugin.preview(model_of(game).draw(range(100), 1), "png", game.controls)
            )


class Racer:
    """One of the two, and how long it has worked."""

    def __init__(self, step, draw) -> None:
        self.step, self.draw = step, draw
        self.steps, self.seconds = 0, 0.0

    def run(self, seconds: float) -> None:
        began = time.perf_counter()
        while (now := time.perf_counter()) < began + seconds:
            self.step()
            self.steps += 1
        self.seconds += now - began


def begin(arguments) -> tuple[Game, str]:
    overrides = config.parse_overrides(arguments.settings)
    chosen = config.build("image", arguments.preset, arguments.data, [overrides])
    plugin, dataset, _ = open_data(chosen)
    game = Game(chosen, plugin, dataset, Runtime("cpu"))
    return game, plan.choose(game)


def canonical(pixels: torch.Tensor) -> Racer:
    """Widths 256-128-64; written as in the example."""

    def block(layer, norm, activation):
        return [layer, *([nn.BatchNorm2d(norm)] if norm else []), activation]

    generator = nn.Sequential(
        *block(nn.ConvTranspose2d(100, 256, 4, 1, 0, bias=False), 256, nn.ReLU(True)),
        *block(nn.ConvTranspose2d(256, 128, 4, 2, 1, bias=False), 128, nn.ReLU(True)),
        *block(nn.ConvTranspose2d(128, 64, 4, 2, 1, bias=False), 64, nn.ReLU(True)),
        *block(nn.ConvTranspose2d(64, 1, 4, 2, 1, bias=False), 0, nn.Tanh()),
    )
    critic = nn.Sequential(
        *block(nn.Conv2d(1, 64, 4, 2, 1, bias=False), 0, nn.LeakyReLU(0.2, True)),
        *block(nn.Conv2d(64, 128, 4, 2, 1, bias=False), 128, nn.LeakyReLU(0.2, True)),
        *block(nn.Conv2d(128, 256, 4, 2, 1, bias=False), 256, nn.LeakyReLU(0.2, True)),
        nn.Conv2d(256, 1, 4, 1, 0, bias=False),
    )
    for layer in (*generator, *critic):
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, 0.0, 0.02)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, 0.02)
    optimizers = [
        torch.optim.Adam(net.parameters(), 2e-4, (0.5, 0.999)) for net in (critic, generator)
    ]
    ones, zeros = torch.ones(64), torch.zeros(64)

    def step() -> None:
        real = pixels[torch.randint(len(pixels), (64,))].float() / 127.5 - 1
        critic.zero_grad()
        binary_cross_entropy_with_logits(critic(real).flatten(), ones).backward()
        fake = generator(torch.randn(64, 100, 1, 1))
        binary_cross_entropy_with_logits(critic(fake.detach()).flatten(), zeros).backward()
        optimizers[0].step()
        generator.zero_grad()
        binary_cross_entropy_with_logits(critic(fake).flatten(), ones).backward()
        optimizers[1].step()

    @torch.no_grad()
    def draw(count: int) -> torch.Tensor:
        generator.eval()
        drawn = torch.cat([generator(torch.randn(100, 100, 1, 1)) for _ in range(count // 100)])
        generator.train()
        return drawn

    return Racer(step, draw)


if __name__ == "__main__":
    main()
