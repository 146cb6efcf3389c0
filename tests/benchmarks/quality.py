"""A preset of pictures against plain loops, for equal time on the same cores, before several judges.

    python tests/benchmarks/quality.py [recipe.loss=hinge ...] --data FOLDER [--size 32 --minutes 1 2 4 8 --seeds 0]
        [--preset NAME --racers genkit plain canonical --real FOLDER --out quality]

Racers work in alternating slices of some seconds. At each mark every racer draws 5,000 pictures from averaged weights
where it has some, and the judges of `judges.py` look at them; the first row of a table is one half of the real pictures
before the other. OUT-N.png shows 8 x 8 samples of each racer beside real pictures at 4x zoom.

`plain` is what a practitioner writes in forty lines: a DCGAN of width 32 with a linear start, spectral norm in the
critic, hinge loss, Adam 2e-3 (0, 0.99), averaged weights of half-life 10,000 pictures with a ramp-up of 5 %, bf16,
channels-last. `canonical` is the loop of pytorch/examples (width 64, BatchNorm in both, Adam 2e-4 (0.5, 0.999), fp32).
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable

import torch
from judges import Panel
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, relu
from torch.nn.utils.parametrizations import spectral_norm

from genkit import config
from genkit.engine import plan
from genkit.engine.data import open_data
from genkit.engine.game import Game
from genkit.engine.views import model_of
from genkit.system.runtime import Runtime
from genkit_image.options import Options
from genkit_image.pictures import CheckedPictures
from genkit_image.sources import open_source

SAMPLES, REALS, SLICE_SECONDS, BATCH = 5_000, 10_000, 5.0, 64


class Racer:
    """One of those who race.

    Args:
        step: does one step of `BATCH` reals.
        draw: count -> pictures [N, C, H, W] in [-1, 1].
        progress: is told the share of the whole race that has been run.
    """

    def __init__(
        self,
        step: Callable[[], object],
        draw: Callable[[int], Tensor],
        progress: Callable[[float], object] = lambda share: None,
    ) -> None:
        self.step, self.draw, self.progress = step, draw, progress
        self.steps, self.seconds = 0, 0.0

    def run(self, until: float, total: float) -> None:
        """A slice of the race, which ends at `until` seconds at the latest."""
        start, stop = self.seconds, min(self.seconds + SLICE_SECONDS, until)
        while self.seconds < stop:
            self.progress(self.seconds / total)
            now = time.perf_counter()
            self.step()
            self.seconds += time.perf_counter() - now
            self.steps += 1
        assert self.seconds >= start


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("settings", nargs="*")
    parser.add_argument("--data", required=True)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--preset")
    parser.add_argument("--racers", nargs="+", default=["genkit", "plain", "canonical"])
    parser.add_argument("--out", default="quality")
    arguments = parser.parse_args()
    checked = CheckedPictures(open_source(arguments.data), Options(size=arguments.size))
    pixels = torch.from_numpy(checked.pixels(range(len(checked.usable)), checked.channels))
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(5))
    real = normalised(pixels[order[:REALS]])
    panel, half = Panel(real), len(real) // 2
    print(f"{arguments.data}: {len(pixels):,} pictures {list(pixels.shape[1:])}")
    report("real", Panel(real[:half]).figures(real[half:]), "")
    for seed in arguments.seeds:
        race(arguments, pixels, panel, seed)


def race(arguments, pixels: Tensor, panel: Panel, seed: int) -> None:
    torch.manual_seed(seed)
    makers = {"genkit": lambda: ours(arguments, seed), "plain": plain, "canonical": canonical}
    racers = {
        name: makers[name]() if name == "genkit" else makers[name](pixels)
        for name in arguments.racers
    }
    total = 60 * max(arguments.minutes)
    drawn: dict[str, Tensor] = {}
    for minutes in sorted(arguments.minutes):
        while any(racer.seconds < 60 * minutes for racer in racers.values()):
            for racer in racers.values():
                racer.run(60 * minutes, total)
        for name, racer in racers.items():
            drawn[name] = rounded(racer.draw(SAMPLES))
            note = f"seed {seed}, {minutes:g} min, {BATCH * racer.steps:,} pictures"
            report(name, panel.figures(drawn[name]), note)
    sheet = torch.cat([panel.real[:64], *(one[:64] for one in drawn.values())])
    save(sheet, f"{arguments.out}-{seed}.png")


def report(name: str, figures: dict[str, float], note: str) -> None:
    print(
        f"{name:<10}",
        "  ".join(f"{key} {value:.3f}" for key, value in figures.items()),
        note,
        flush=True,
    )


def normalised(pixels: Tensor) -> Tensor:
    return pixels.float() / 127.5 - 1


def rounded(x: Tensor) -> Tensor:
    """As a file would hold them."""
    return ((x + 1) * 127.5).round().clamp(0, 255) / 127.5 - 1


def save(x: Tensor, path: str, zoom: int = 4) -> None:
    """Blocks of 64 pictures [N, C, H, W], 8 x 8 each, side by side."""
    side, blocks = x.shape[2], len(x) // 64
    tiles = ((x.expand(-1, 3, -1, -1) + 1) * 127.5).round().clamp(0, 255).byte()
    tiles = tiles.view(blocks, 8, 8, 3, side, side).permute(1, 4, 0, 2, 5, 3)
    picture = Image.fromarray(tiles.reshape(8 * side, blocks * 8 * side, 3).numpy())
    picture.resize((zoom * picture.width, zoom * picture.height), Image.Resampling.NEAREST).save(
        path
    )


# Racers ----------------------------------------------------------------------------------------------------------


def ours(arguments, seed: int) -> Racer:
    layers = [
        {
            "options": {"size": arguments.size},
            "run": {"seed": seed, "minutes": max(arguments.minutes)},
        },
        config.parse_overrides(arguments.settings),
    ]
    chosen = config.build("image", arguments.preset, arguments.data, layers)
    plugin, dataset, _ = open_data(chosen)
    game = Game(chosen, plugin, dataset, Runtime("cpu"))
    print(plan.choose(game))
    return Racer(
        game.play_round,
        lambda count: model_of(game).draw(range(count), 1).x,
        lambda share: game.has_worked(60 * share * max(arguments.minutes)),
    )


def plain(pixels: Tensor, width: int = 32, latent: int = 64) -> Racer:
    channels, base = pixels.shape[1], pixels.shape[2] // 8
    maps = [width * 4, width * 2, width]
    layers: list[nn.Module] = [
        nn.Linear(latent, maps[0] * base**2),
        nn.Unflatten(1, (maps[0], base, base)),
    ]
    for inputs, outputs in zip(maps, [*maps[1:], channels], strict=True):
        layers += [nn.BatchNorm2d(inputs), nn.ReLU(), nn.ConvTranspose2d(inputs, outputs, 4, 2, 1)]
    generator = nn.Sequential(*layers, nn.Tanh()).to(memory_format=torch.channels_last)
    layers = []
    for inputs, outputs in zip([channels, *maps[:0:-1]], maps[::-1], strict=True):
        layers += [spectral_norm(nn.Conv2d(inputs, outputs, 4, 2, 1)), nn.LeakyReLU(0.2)]
    layers += [nn.Flatten(), spectral_norm(nn.Linear(maps[0] * base**2, 1))]
    critic = nn.Sequential(*layers).to(memory_format=torch.channels_last)
    average = copy.deepcopy(generator).eval().requires_grad_(False)
    steps = [
        torch.optim.Adam(net.parameters(), 2e-3, (0.0, 0.99), fused=True)
        for net in (critic, generator)
    ]
    count = 0

    def half():
        return torch.autocast("cpu", torch.bfloat16, cache_enabled=False)

    def step() -> None:
        nonlocal count
        real = normalised(pixels[torch.randint(len(pixels), (BATCH,))])
        with half():
            fake = generator(torch.randn(BATCH, latent))
            logits = critic(
                torch.cat([real, fake.detach()]).to(memory_format=torch.channels_last)
            ).float()
        steps[0].zero_grad()
        (relu(1 - logits[:BATCH]).mean() + relu(1 + logits[BATCH:]).mean()).backward()
        steps[0].step()
        steps[1].zero_grad()
        with half():
            loss = -critic(fake).float().mean()
        loss.backward()
        steps[1].step()
        count += BATCH
        share = 1 - 0.5 ** (BATCH / min(10_000, 0.05 * count))
        with torch.no_grad():
            for mine, theirs in zip(average.parameters(), generator.parameters(), strict=True):
                mine.lerp_(theirs, share)

    @torch.no_grad()
    def draw(number: int) -> Tensor:
        for layer in average:
            if isinstance(layer, nn.BatchNorm2d):
                layer.reset_running_stats()
                layer.momentum = None
        average.train()
        for _ in range(16):
            average(torch.randn(BATCH, latent))
        average.eval()
        return torch.cat([average(torch.randn(250, latent)) for _ in range(number // 250)])

    return Racer(step, draw)


def canonical(pixels: Tensor) -> Racer:
    """Widths 256-128-64; written as in the example."""
    channels, base = pixels.shape[1], pixels.shape[2] // 8
    generator = nn.Sequential(
        *(nn.ConvTranspose2d(100, 256, base, 1, 0, bias=False), nn.BatchNorm2d(256), nn.ReLU(True)),
        *(nn.ConvTranspose2d(256, 128, 4, 2, 1, bias=False), nn.BatchNorm2d(128), nn.ReLU(True)),
        *(nn.ConvTranspose2d(128, 64, 4, 2, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(True)),
        *(nn.ConvTranspose2d(64, channels, 4, 2, 1, bias=False), nn.Tanh()),
    )
    critic = nn.Sequential(
        *(nn.Conv2d(channels, 64, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, True)),
        *(nn.Conv2d(64, 128, 4, 2, 1, bias=False), nn.BatchNorm2d(128), nn.LeakyReLU(0.2, True)),
        *(nn.Conv2d(128, 256, 4, 2, 1, bias=False), nn.BatchNorm2d(256), nn.LeakyReLU(0.2, True)),
        nn.Conv2d(256, 1, base, 1, 0, bias=False),
    )
    for layer in (*generator, *critic):
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, 0.0, 0.02)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, 0.02)
    steps = [torch.optim.Adam(net.parameters(), 2e-4, (0.5, 0.999)) for net in (critic, generator)]
    ones, zeros = torch.ones(BATCH), torch.zeros(BATCH)

    def step() -> None:
        real = normalised(pixels[torch.randint(len(pixels), (BATCH,))])
        critic.zero_grad()
        binary_cross_entropy_with_logits(critic(real).flatten(), ones).backward()
        fake = generator(torch.randn(BATCH, 100, 1, 1))
        binary_cross_entropy_with_logits(critic(fake.detach()).flatten(), zeros).backward()
        steps[0].step()
        generator.zero_grad()
        binary_cross_entropy_with_logits(critic(fake).flatten(), ones).backward()
        steps[1].step()

    @torch.no_grad()
    def draw(number: int) -> Tensor:
        generator.eval()
        samples = torch.cat([generator(torch.randn(250, 100, 1, 1)) for _ in range(number // 250)])
        generator.train()
        return samples

    return Racer(step, draw)


if __name__ == "__main__":
    main()
