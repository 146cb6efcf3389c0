"""The loss term that gives pictures the power spectrum of real ones."""

import pytest
import torch

from genkit.plugin import Facts, Networks, Sample
from genkit_image.measures import power, spectra
from genkit_image.options import Options
from genkit_image.plugin import ImagePlugin
from genkit_image.spectrum import Spectrum

SHAPE = (12, 16)


def noise(count: int, channels: int, seed: int) -> torch.Tensor:
    return torch.randn(count, channels, *SHAPE, generator=torch.Generator().manual_seed(seed))


def coloured(x: torch.Tensor, gains: torch.Tensor) -> torch.Tensor:
    return torch.fft.irfft2(torch.fft.rfft2(x) * gains, s=SHAPE)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_filter_of_noise_learns_a_spectrum_by_this_term_alone(channels):
    # Power that falls by the square of the frequency, as in photographs, and differs between channels.
    rows, columns = torch.fft.fftfreq(SHAPE[0])[:, None], torch.fft.rfftfreq(SHAPE[1])[None]
    truth = (1 / (0.05 + (rows**2 + columns**2).sqrt())) * torch.arange(1, channels + 1)[
        :, None, None
    ]
    term = Spectrum(channels, SHAPE)
    gains = torch.zeros(channels, *truth.shape[1:], requires_grad=True)  # their logarithms
    optimizer = torch.optim.Adam([gains])
    for step in range(500):
        optimizer.param_groups[0]["lr"] = 0.03 * (1 - step / 500)
        real = coloured(noise(64, channels, 2 * step), truth)
        loss = term(real, coloured(noise(64, channels, 2 * step + 1), gains.exp()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        samples, real = (
            coloured(noise(4000, channels, 10**6 + i), each)
            for i, each in enumerate((gains.exp(), truth))
        )
    before = spectra(power(noise(4000, channels, 5)), power(real))["spectrum_worst_db"]
    after = spectra(power(samples), power(real))["spectrum_worst_db"]
    assert before > 10
    assert after < 1


@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])
def test_tints_are_pulled_to_vary_as_in_real_pictures_and_brightness_is_not(strength):
    draws = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    real = noise(64, 3, 1)

    def gradient(direction):
        """Of the strength of a light of this colour, where real pictures have it with strength 1."""
        light = (draws[:, :1] * torch.tensor(direction))[:, :, None, None]
        factor = torch.tensor(strength, requires_grad=True)
        Spectrum(3, SHAPE)(real + light, real + factor * light).backward()
        return factor.grad

    tint, brightness = gradient([1.0, -0.5, -0.5]), gradient([1.0, 1.0, 1.0])
    assert torch.sign(tint) == torch.sign(torch.tensor(strength).log())
    assert brightness.abs() < 1e-5


def test_channels_of_the_right_power_that_know_nothing_of_each_other_have_a_slope():
    real = noise(64, 1, 0).repeat(1, 3, 1, 1) + 0.3 * noise(64, 3, 1)
    independent = torch.stack([real[:, 0], real[:, 1].roll(1, 0), real[:, 2].roll(2, 0)], 1)
    slopes = []
    for fake in (real.clone(), independent):
        fake.requires_grad_()
        Spectrum(3, SHAPE)(real, fake).backward()
        slopes.append(fake.grad.abs().max())
    assert slopes[0] == 0 < slopes[1]
    # A step against it makes differences between channels smaller, as they are in real pictures.
    stepped = (
        independent.detach() - 0.1 * independent.grad / independent.grad.norm() * independent.norm()
    )
    differences = [(x[:, 0] - x[:, 1]).square().mean() for x in (real, stepped, independent)]
    assert differences[0] < differences[1] < differences[2]


def test_brightness_is_left_to_the_critics_and_equal_pictures_have_no_slope():
    term = Spectrum(1, SHAPE)
    fake = noise(8, 1, 0).requires_grad_()
    term(fake.detach() + 3, fake).backward()
    assert torch.allclose(fake.grad, torch.zeros(()), atol=1e-6)


@pytest.mark.parametrize("level", [-1.0, 0.0])
def test_pictures_of_one_colour_give_a_finite_slope(level):
    flat = torch.full((4, 3, *SHAPE), level)
    for real, fake in (
        (flat, flat.clone()),
        (flat, noise(4, 3, 0)),
        (noise(4, 3, 0), flat.clone()),
    ):
        fake.requires_grad_()
        term = Spectrum(3, SHAPE)(real, fake)
        term.backward()
        assert term.isfinite()
        assert fake.grad.isfinite().all()


def test_the_plugin_has_the_term_for_the_generator_alone_and_only_if_asked():
    real, fake = (Sample(noise(4, 1, seed).repeat(1, 1, 2, 1)[:, :, :16]) for seed in (0, 1))
    for asked in (False, True):
        options = Options(size=16, features=4, spectrum=asked)
        plugin = ImagePlugin(options, Facts({"channels": 1, "labels": [], "augment": False}))
        networks = plugin.networks()
        assert isinstance(networks, Networks)
        names = {
            player: set(plugin.terms(player, networks, real, fake, {}))
            for player in ("generator", "critic")
        }
        assert names == {"generator": {"spectrum"} if asked else set(), "critic": set()}
