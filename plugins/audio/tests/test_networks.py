"""The networks of sound: the published sizes, and one endless sound that is the same however it is cut."""

import itertools

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn.functional import conv1d, pad

from genkit.adversarial import r1_penalty
from genkit.errors import ConfigError
from genkit.plugin import Noise, Sample
from genkit.sampling.noise import draw
from genkit.system.runtime import lay_out
from genkit_audio.critics import PhaseShuffle, SpectrumCritic, make_critics, moved, spectrum
from genkit_audio.generators import KERNEL, make_generator
from genkit_audio.options import Controls, Options

TINY = {
    "samples": 1024, "content": 6, "texture": 5, "features": 4, "critic_features": 4, "spectrum_features": 2
}  # fmt: skip
STREAM = {**TINY, "architecture": "stream", "hop": 64}
RATE = 8000


def noise_for(generator, rows=2, seed=0, steps=None):
    """The noise of some samples, as the engine draws it: as in training, or exactly what some steps need."""
    parts = {}
    for part, spec in generator.noise.items():
        wanted = range(spec.steps or 0) if steps is None else steps.get(part, range(0))
        spec = Noise(
            spec.shape, spec.distribution, None if spec.steps is None else len(wanted), spec.dtype
        )
        parts[part] = torch.from_numpy(draw(spec, part, seed, range(rows), wanted.start))
    return parts


def unrolled(generator, steps, condition=None):
    noise = noise_for(generator, steps=generator.needs(steps, None))
    with torch.no_grad():
        return generator.unroll(noise, condition, None, steps).x


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


# Endless sounds --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hop", [64, 256, 1024])
def test_a_sound_is_the_same_whole_and_in_any_pieces(hop):
    torch.manual_seed(0)
    generator = make_generator(Options(**{**STREAM, "hop": hop}), 3, RATE).eval()
    labels = torch.arange(2)
    for first, stop, sizes in ((0, 5000, (64, 1000)), (3_000_017, 3_000_217, (1, 7))):
        whole = unrolled(generator, range(first, stop), labels)
        assert whole.shape == (2, 1, stop - first)
        assert 0.05 < whole.std() < 0.9
        assert whole.unfold(2, 100, 100).std(3).min() > 1e-3  # it sounds everywhere
        for size in sizes:
            starts = range(first, stop, size)
            pieces = [unrolled(generator, range(at, min(at + size, stop)), labels) for at in starts]
            torch.testing.assert_close(torch.cat(pieces, 2), whole, rtol=0, atol=1e-6)


def test_the_sound_of_training_is_the_beginning_of_the_endless_one():
    torch.manual_seed(0)
    generator = make_generator(Options(**STREAM), 0, RATE).eval()
    with torch.no_grad():
        window = generator(noise_for(generator)).x
    assert window.shape == (2, 1, 1024)
    torch.testing.assert_close(
        unrolled(generator, range(3000))[:, :, :1024], window, rtol=0, atol=1e-6
    )


def test_all_noise_that_is_asked_for_is_heard_and_no_other():
    torch.manual_seed(0)
    generator = make_generator(Options(**STREAM), 0, RATE).eval()
    assert generator.noise["texture"].steps == generator.needs(range(1024), None)["texture"].stop
    wanted = range(640, 704)
    asked = generator.needs(wanted, None)["texture"]
    assert asked.start == wanted.start // 64
    texture = torch.randn(1, 40, 5, requires_grad=True)
    content = torch.randn(1, 6)
    x = generator.unroll({"content": content, "texture": texture}, None, None, range(64 * 20)).x
    (slope,) = torch.autograd.grad(x[:, :, wanted.start : wanted.stop].abs().sum(), texture)
    heard = slope.abs().sum((0, 2)).nonzero().flatten().tolist()
    assert heard == list(asked)


def test_a_sound_lasts_as_long_as_asked_for():
    endless, window = (make_generator(Options(**options), 0, RATE) for options in (STREAM, TINY))
    lengths = [
        (None, 1024),
        (Controls(), 1024),
        (Controls(seconds=2.5), 20_000),
        (Controls(seconds=1e-9), 1),
    ]
    assert [endless.length(controls) for controls, _ in lengths] == [
        expected for _, expected in lengths
    ]
    noise = noise_for(window)
    whole = window(noise).x
    assert torch.equal(window(noise, None, Controls(seconds=0.1)).x, whole[:, :, :800])
    with pytest.raises(ConfigError, match=r"seconds = 3: .* last 0\.128 s at most"):
        window(noise, None, Controls(seconds=3))


# WaveGAN ---------------------------------------------------------------------------------------------------------


def test_wavegan_has_the_published_sizes():
    options = Options(features=64, critic_features=64, critics="wave")
    generator, critics = make_generator(options, 0, 16000), make_critics(options, 0)
    assert (count(generator), count(critics["wave"])) == (19_065_345, 17_427_969)
    shapes = [
        tuple(layer.weight.shape)
        for layer in generator.body
        if isinstance(layer, nn.ConvTranspose1d)
    ]
    assert shapes == [(1024, 512, 25), (512, 256, 25), (256, 128, 25), (128, 64, 25), (64, 1, 25)]
    assert generator.noise == {"content": Noise((100,), "uniform")}
    assert sum(isinstance(layer, PhaseShuffle) for layer in critics["wave"].body) == 4


@pytest.mark.parametrize(
    ("samples", "strides"), [(8192, [4] * 4 + [2]), (32768, [4] * 5 + [2]), (65536, [4] * 6)]
)
def test_windows_of_other_lengths_have_layers_of_their_own(samples, strides):
    options = Options(**{**TINY, "samples": samples, "features": 1, "critic_features": 1})
    generator, critic = make_generator(options, 0, RATE), make_critics(options, 0)["wave"]
    made = generator(noise_for(generator))
    assert made.x.shape == (2, 1, samples)
    assert critic(made).logits[0].shape == (2,)
    kinds = (generator, nn.ConvTranspose1d), (critic, nn.Conv1d)
    for network, kind in kinds:
        assert [layer.stride[0] for layer in network.body if isinstance(layer, kind)] == strides


def test_a_layer_of_the_generator_is_the_transpose_of_one_of_the_critic():
    """The authors' framework pads both so: <up(x), y> = <x, down(y)>."""
    torch.manual_seed(0)
    up, crop = nn.ConvTranspose1d(1, 1, KERNEL, 4, bias=False), nn.ConstantPad1d((-10, -11), 0)
    x, y = torch.randn(1, 1, 16), torch.randn(1, 1, 64)
    down = conv1d(pad(y, (10, 11)), up.weight, stride=4)
    torch.testing.assert_close((crop(up(x)) * y).sum(), (x * down).sum())
    generator, critic = make_generator(Options(), 0, RATE), make_critics(Options(), 0)["wave"]
    assert {layer.padding for layer in generator.body if isinstance(layer, nn.ConstantPad1d)} == {
        (-10, -11)
    }
    assert {layer.padding for layer in critic.body if isinstance(layer, nn.ConstantPad1d)} == {
        (10, 11)
    }


def test_phases_are_shuffled_by_whole_steps_with_reflected_edges():
    x = torch.arange(12.0).view(1, 2, 6)
    assert moved(x, 2)[0, 0].tolist() == [2, 1, 0, 1, 2, 3]
    assert moved(x, -2)[0, 1].tolist() == [8, 9, 10, 11, 10, 9]
    assert torch.equal(moved(x, 0), x)
    torch.manual_seed(0)
    shuffle, rows = PhaseShuffle(2), x.expand(3, -1, -1)
    seen = [shuffle(rows) for _ in range(200)]
    for once in seen:
        assert torch.equal(once, once[:1].expand(3, -1, -1))  # a batch moves as one
    kinds = [
        next(steps for steps in range(-2, 3) if torch.equal(once[:1], moved(x, steps)))
        for once in seen
    ]
    assert min(kinds.count(steps) for steps in range(-2, 3)) > 20
    assert PhaseShuffle(0)(x) is x
    assert shuffle.eval()(x) is x


# Spectra ---------------------------------------------------------------------------------------------------------


def test_a_spectrum_shows_what_sounds_when_and_how_loud():
    time = torch.arange(4096) / RATE
    tone = (2 * torch.pi * 1000 * time).sin() * (time > 0.256)
    seen = spectrum(torch.stack([tone, 0.1 * tone])[:, None], 256)
    assert seen.shape == (2, 1, 128, 64)
    loudest = seen[0, 0, :, 40:].mean(1).argmax()
    assert loudest == 1000 * 256 // RATE
    assert seen[0, 0, loudest, 36] > 5 * seen[0, 0, loudest, 28]
    torch.testing.assert_close(
        seen[0, 0, loudest, 50] / seen[1, 0, loudest, 50], torch.tensor(10**0.3), rtol=0.01, atol=0
    )


def test_the_gradient_of_a_spectrum_is_right_and_bounded_in_silence():
    torch.manual_seed(0)
    x = (0.1 * torch.randn(1, 1, 1024)).requires_grad_()
    weights, direction = torch.randn(1, 1, 128, 16), torch.randn(1, 1, 1024)
    (slope,) = torch.autograd.grad((spectrum(x, 256) * weights).sum(), x)
    step = 1e-3
    with torch.no_grad():
        ends = [(spectrum(x + sign * step * direction, 256) * weights).sum() for sign in (1, -1)]
    torch.testing.assert_close(
        (slope * direction).sum(), (ends[0] - ends[1]) / (2 * step), rtol=1e-2, atol=0.1
    )
    critic = make_critics(Options(**TINY), 0)["spectrum"]
    for real in (torch.zeros(2, 1, 1024), x.detach()):
        real = real.clone().requires_grad_()
        penalty = r1_penalty(real, torch.stack(critic(Sample(real)).logits, 1))
        gradients = torch.autograd.grad(penalty.sum(), list(critic.parameters()), allow_unused=True)
        assert all(part is None or part.isfinite().all() for part in (penalty, *gradients))
    assert penalty.min() > 0


# Rows and classes ------------------------------------------------------------------------------------------------

KINDS = {"wavegan": TINY, "stream": STREAM}


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_a_row_depends_on_its_own_noise_alone_and_every_parameter_learns(options):
    torch.manual_seed(0)
    chosen = Options(**options)
    generator, critics = make_generator(chosen, 3, RATE), nn.ModuleDict(make_critics(chosen, 3))
    labels = torch.arange(4) % 3
    for critic in critics.values():
        critique = critic(generator(noise_for(generator, 4), labels))
        sum(part.square().mean() for part in critique.logits).backward()
    for name, parameter in [*generator.named_parameters(), *critics.named_parameters()]:
        assert parameter.grad.any(), name
    noise = noise_for(generator, 4)
    whole = generator(noise, labels)
    alone = generator({part: values[2:3] for part, values in noise.items()}, labels[2:3])
    torch.testing.assert_close(alone.x, whole.x[2:3], rtol=0, atol=1e-6)
    for critic in critics.eval().values():
        for one, among in zip(critic(alone).logits, critic(whole).logits, strict=True):
            torch.testing.assert_close(one, among[2:3], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_a_label_changes_what_is_made_and_what_critics_say(options):
    torch.manual_seed(0)
    chosen, labels = Options(**options), torch.arange(3)
    generator, critics = make_generator(chosen, 3, RATE), make_critics(chosen, 3)
    noise = {
        part: values.expand(3, *values.shape[1:])
        for part, values in noise_for(generator, 1).items()
    }
    made = generator(noise, labels)
    assert made.condition is labels
    for one, two in itertools.combinations(made.x, 2):
        assert not torch.equal(one, two)
    for critic in critics.values():
        for logits in critic.eval()(Sample(made.x[:1].expand(3, -1, -1), labels)).logits:
            assert len(set(logits.tolist())) == 3


@pytest.mark.parametrize("width", [1, 2, 3, 8])
def test_a_column_of_a_spectrum_is_what_a_convolution_makes_of_it(width):
    torch.manual_seed(0)
    layer, x = SpectrumCritic(Options(**STREAM), 0).bodies[0][2], torch.randn(2, 2, 16, width)
    plain = nn.functional.conv2d(x, layer.weight, layer.bias, stride=2, padding=1)
    torch.testing.assert_close(layer(x), plain)


def test_networks_run_in_bfloat16_and_channels_last():
    torch.manual_seed(0)
    generator, critics = (
        make_generator(Options(**STREAM), 0, RATE),
        make_critics(Options(**STREAM), 0),
    )
    noise = noise_for(generator)
    for critic in critics.values():
        expected = critic.eval()(generator(noise)).logits
        lay_out(critic, True)
        for found, plain in zip(critic(generator(noise)).logits, expected, strict=True):
            torch.testing.assert_close(found, plain)
        with torch.autocast("cpu", torch.bfloat16):
            logits = critic(generator(noise)).logits
        sum(part.sum() for part in logits).backward()
        for found, plain in zip(logits, expected, strict=True):
            torch.testing.assert_close(found.float(), plain, rtol=0.2, atol=0.1)


@pytest.mark.parametrize(
    "options", [{"samples": 12000}, {"samples": 512}, {"hop": 100}, {"critics": "none"}], ids=str
)
def test_options_that_do_not_work_are_refused(options):
    with pytest.raises(ValidationError):
        Options(**options)


def test_an_impossible_window_says_which_are_possible():
    with pytest.raises(ValidationError, match="choose 8192 or 16384"):
        Options(samples=12000)
