"""Those who race in `quality.py`: a preset of genkit, and two loops of a DCGAN written by hand.

`plain` is what a practitioner writes in forty lines: width 32 with a linear start, spectral norm in the critic, hinge
loss, Adam 2e-3 (0, 0.99), averaged weights of half-life 10,000 pictures with a ramp-up of 5 %, bf16, channels-last.
`canonical` is the loop of pytorch/examples, one stage fewer: widths 256, 128, 64, BatchNorm in both networks, Adam 2e-4
(0.5, 0.999), fp32.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, relu
from torch.nn.utils.parametrizations import spectral_norm

from genkit import config
from genkit.engine import plan
from genkit.engine.data import open_data
from genkit.engine.game import Game
from genkit.engine.views import model_of
from genkit.system.runtime import Runtime

BATCH = 64


class Racer:
    """One of those who race.

    Args:
        step: does one step.
        draw: count -> pictures [N, C, H, W] in [-1, 1].
        batch: real pictures of a step.
        progress: is told before each step how many seconds were worked.
    """

    def __init__(
        self,
        step: Callable[[], object],
        draw: Callable[[int], Tensor],
        batch: int = BATCH,
        progress: Callable[[float], object] = lambda seconds: None,
    ) -> None:
        self.step, self.draw, self.batch, self.progress = step, draw, batch, progress
        self.items, self.seconds = 0, 0.0

    def run(self, until: float) -> None:
        """Work until so many seconds were worked in all."""
        while self.seconds < until:
            self.progress(self.seconds)
            start = time.perf_counter()
            self.step()
            self.seconds += time.perf_counter() - start
            self.items += self.batch


def take_turns(racers: dict[str, Racer], until: float, slice_seconds: float) -> None:
    """All work in alternating slices until each has worked for so many seconds in all."""
    while any(racer.seconds < until for racer in racers.values()):
        for racer in racers.values():
            racer.run(min(until, racer.seconds + slice_seconds))


def ours(preset: str | None, data: str, layers: list[dict]) -> tuple[Racer, Game]:
    """A game of genkit with the fastest plan, which is measured here."""
    chosen = config.build("image", preset, data, layers)
    plugin, dataset, _ = open_data(chosen)
    game = Game(chosen, plugin, dataset, Runtime("cpu"))
    print(plan.choose(game)[0])
    batch = chosen.recipe.batch_size

    def draw(count: int) -> Tensor:
        return model_of(game).draw(range(count), 1).x

    return Racer(game.play_round, draw, batch, game.has_worked), game


def normalised(pixels: Tensor) -> Tensor:
    return pixels.float() / 127.5 - 1


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
    """Written as in the example."""
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
