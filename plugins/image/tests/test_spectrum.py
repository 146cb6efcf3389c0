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
