"""The networks of clips: shapes, the published sizes, and one endless clip that is the same however it is cut."""

import copy
import itertools

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from genkit.engine.optimizers import impose
from genkit.errors import ConfigError
from genkit.plugin import Critique, Noise, Sample
from genkit.recipe import Constraint
from genkit.sampling.noise import draw
from genkit.system.runtime import lay_out
from genkit_video import modality
from genkit_video.critics import ClipCritic, RandomFrames, make_critics
from genkit_video.generators import Stream, make_generator
from genkit_video.layered import Layered
from genkit_video.options import Controls, Options

TINY = {"size": 16, "features": 4, "critic_features": 4, "content": 6, "motion": 5}
PUBLISHED = {**TINY, "critic_norm": "batch"}
MOCOGAN = {**PUBLISHED, "architecture": "mocogan"}
TGAN = {**PUBLISHED, "architecture": "tgan"}
RATE = 8.0


def noise_for(generator, rows=2, seed=0, steps=None):
    """The noise of some samples, as the engine draws it: as in training, or exactly what some frames need."""
    parts = {}
    for part, spec in generator.noise.items():
        wanted = range(spec.steps or 0) if steps is None else steps.get(part, range(0))
        spec = Noise(
            spec.shape, spec.distribution, None if spec.steps is None else len(wanted), spec.dtype
        )
        parts[part] = torch.from_numpy(draw(spec, part, seed, range(rows), wanted.start))
    return parts


def unrolled(generator, steps, controls, condition=None, **keywords):
    noise = noise_for(generator, steps=generator.needs(steps, controls), **keywords)
    with torch.no_grad():
        return generator.unroll(noise, condition, controls, steps).x


def learned(generator):
    """With statistics that are not those of the beginning, and much contrast; in eval mode."""
    with torch.no_grad():
        for _ in range(3):
            generator(noise_for(generator, rows=8, seed=7))
        if isinstance(generator.renderer, Layered):
            generator.renderer.object.body[-1].weight.mul_(10)
            return generator.eval()
        body = getattr(generator.renderer, "pictures", generator.renderer).body
        if isinstance(body[-1], nn.Tanh):
            body[-2].weight.mul_(10)
    return generator.eval()


def endless(options):
    chosen = Options(**{**TINY, **options})
    return learned(make_generator(chosen, 1, chosen.categories, RATE))


def rounding(options):
    """Of frames that are computed in other batches: nothing bounds residual ones, and objects settle steeply."""
    return 4e-6 if "renderer" in options else 1e-6


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


# Endless clips ---------------------------------------------------------------------------------------------------

ENDLESS = {
    "stream": {},
    "stream, residual": {"renderer": "residual"},
    "stream, layered": {"renderer": "layered", "objects": 3},
    "stream, beginning": {"cut": "start"},
    "stream, no waves": {"waves": 0, "spacing": 3},
    "mocogan": {**MOCOGAN, "categories": 3},
}


@pytest.mark.parametrize(
    "controls", [None, Controls(fps=8), Controls(fps=24), Controls(fps=5), Controls(fps=29.97)]
)
@pytest.mark.parametrize("options", ENDLESS.values(), ids=ENDLESS)
def test_a_clip_is_the_same_whole_and_in_any_pieces(options, controls):
    torch.manual_seed(0)
    generator = endless(options)
    total = 80
    whole = unrolled(generator, range(total), controls)
    assert whole.shape == (2, 1, total, 16, 16)
    change = (whole[:, :, 1:] - whole[:, :, :-1]).abs().amax((0, 1, 3, 4))
    # It moves; objects that settle on pixels may rest for a frame.
    assert (change.median() if options.get("renderer") == "layered" else change.min()) > 1e-4
    for size in (1, 7, 64):
        pieces = [
            unrolled(generator, range(first, min(first + size, total)), controls)
            for first in range(0, total, size)
        ]
        torch.testing.assert_close(torch.cat(pieces, 2), whole, rtol=0, atol=rounding(options))


def test_a_clip_is_the_same_in_any_pieces_after_an_hour():
    torch.manual_seed(0)
    generator = endless({})
    controls, late = Controls(fps=29.97), range(10_000_000, 10_000_020)
    whole = unrolled(generator, late, controls)
    pieces = [unrolled(generator, range(step, step + 1), controls) for step in late]
    torch.testing.assert_close(torch.cat(pieces, 2), whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("options", ENDLESS.values(), ids=ENDLESS)
def test_the_clip_of_training_is_the_beginning_of_the_endless_one(options):
    torch.manual_seed(0)
    generator = endless(options)
    with torch.no_grad():
        clip = generator(noise_for(generator)).x
    assert clip.shape == (2, 1, 16, 16, 16)
    for controls in (None, Controls(fps=8)):
        torch.testing.assert_close(
            unrolled(generator, range(40), controls)[:, :, :16],
            clip,
            rtol=0,
            atol=rounding(options),
        )


@pytest.mark.parametrize("options", ENDLESS.values(), ids=ENDLESS)
def test_more_frames_per_second_show_the_same_motion(options):
    torch.manual_seed(0)
    generator = endless(options)
    slow, fast = (unrolled(generator, range(4 * fps), Controls(fps=fps)) for fps in (8, 24))
    torch.testing.assert_close(fast[:, :, ::3], slow, rtol=0, atol=1e-5)


def test_as_much_noise_is_asked_for_as_is_looked_at():
    generator = make_generator(Options(**TINY, spacing=8), 1, 0, RATE)
    assert generator.noise["motion"].steps == 1 + 2 + 4
    assert generator.needs(range(16, 17), None) == {"motion": range(2, 8)}
    assert generator.needs(range(800, 864), Controls(fps=16)) == {"motion": range(50, 59)}
    cell = make_generator(Options(**MOCOGAN), 1, 0, RATE)
    assert cell.needs(range(16, 20), None) == {"motion": range(22)}
    assert cell.noise["motion"].steps == 18


def test_a_clip_lasts_as_long_as_asked_for():
    generator = make_generator(Options(**TINY), 1, 0, RATE)
    lengths = [
        (None, 16),
        (Controls(), 16),
        (Controls(seconds=3), 24),
        (Controls(seconds=3, fps=29.97), 90),
    ]
    assert [generator.length(controls) for controls, _ in lengths] == [
        expected for _, expected in lengths
    ]
    assert generator.length(Controls(seconds=0.01)) == 1


def test_waves_begin_anywhere_and_are_told_nowhere_else():
    torch.manual_seed(0)
    generator = make_generator(Options(**TINY, waves=2), 1, 0, RATE)
    assert isinstance(generator, Stream)
    noise = noise_for(generator, rows=4000)
    for moment in (0.0, 1e6):
        phases = generator.phases(noise, torch.tensor([moment], dtype=torch.float64))[:, 0]
        shares = torch.stack([torch.histc(phase, 10, 0, 1) / 4000 for phase in phases.detach().T])
        assert (shares - 0.1).abs().max() < 0.025
        around = torch.polar(torch.ones(4000, 2), 2 * torch.pi * phases.detach())
        assert (around.T @ noise["content"].to(around.dtype) / 4000).abs().max() < 0.08
    one, two = generator.phases(noise, torch.tensor([3.0, 4.0], dtype=torch.float64)).unbind(1)
    three = generator.phases(noise, torch.tensor([5.0], dtype=torch.float64))[:, 0]
    apart = (three - 2 * two + one).remainder(1)
    assert torch.minimum(apart, 1 - apart).max() < 1e-5  # the speed of a wave never changes


def test_content_stays_and_motion_changes_with_their_own_noise():
    torch.manual_seed(0)
    generator = endless({})
    noise, other = noise_for(generator, 1), noise_for(generator, 1, seed=1)
    with torch.no_grad():
        clip = generator(noise).x
        for part in noise:
            changed = generator({**noise, part: other[part]}).x
            assert not torch.allclose(changed, clip, atol=1e-3)


# Shapes and sizes ------------------------------------------------------------------------------------------------

KINDS = {
    "stream": {},
    "stream, spectral": {"critic_norm": "spectral"},
    "stream, batch": {"critic_norm": "batch"},
    "stream, residual": {"renderer": "residual"},
    "stream, residual, spectral": {"renderer": "residual", "critic_norm": "spectral"},
    "stream, layered": {"renderer": "layered"},
    "stream, no frame critic": {"critic_frames": 0},
    "tgan": TGAN,
    "mocogan": MOCOGAN,
}


@pytest.mark.parametrize(("size", "frames"), [(16, 16), ((20, 36), 8), (32, 32)])
@pytest.mark.parametrize(("channels", "classes"), [(1, 0), (3, 4)])
@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_networks_fit_sizes_channels_classes_and_lengths(options, size, frames, channels, classes):
    chosen = Options(**{**TINY, **options, "size": size, "frames": frames})
    generator = make_generator(chosen, channels, classes, RATE)
    labels = torch.arange(3) % classes if classes else None
    sample = generator(noise_for(generator, 3), labels)
    assert sample.x.shape == (3, channels, frames, *chosen.shape)
    critics = make_critics(chosen, channels, classes)
    for name, critic in critics.items():
        (logits,) = critic(sample).logits
        assert logits.shape == ((3,) if name in ("clip", "video") else (3, logits[0].numel()))
    names = {
        "tgan": {"clip"},
        "mocogan": {"image", "video"},
        "stream": {"clip", "frame"} if chosen.critic_frames else {"clip"},
    }
    assert set(critics) == names[chosen.architecture]


def test_tgan_is_the_published_one_in_its_sizes():
    options = Options(**modality.presets["tgan"].options)
    generator, critic = make_generator(options, 3, 0, RATE), make_critics(options, 3, 0)["clip"]
    assert (count(generator.temporal), count(generator.renderer), count(critic)) == (
        825_444,
        3_622_691,
        11_032_385,
    )
    code = generator.temporal(torch.zeros(2, 100, 1))
    assert code.shape == (2, 100, 16)
    weights = torch.cat(
        [parameter.flatten() for parameter in critic.parameters() if parameter.ndim > 1]
    )
    assert weights.abs().max() <= 0.01
    assert weights.std().item() == pytest.approx(0.01 / 3**0.5, rel=0.01)
    assert all(norm.bias is None for norm in critic.modules() if isinstance(norm, nn.BatchNorm3d))
    recipe = modality.presets["tgan"].recipe
    assert recipe["critic"]["constraint"] == {
        "kind": "singular_values",
        "bound": 1.0,
        "interval": 5,
    }


def test_small_tgan_has_the_widths_of_its_name():
    options = Options(**modality.presets["tgan-small"].options)
    renderer = make_generator(options, 1, 0, RATE).renderer
    assert [
        layer.in_channels for layer in renderer.body if isinstance(layer, nn.ConvTranspose2d)
    ] == [64, 32, 16, 8]
    critic = make_critics(options, 1, 0)["clip"]
    assert [layer.out_channels for layer in critic.body if isinstance(layer, nn.Conv3d)] == [
        8,
        16,
        32,
    ]


def test_a_stream_with_a_beginning_ages_until_it_is_as_old_as_in_training():
    generator = endless({"cut": "start", "waves": 0, "frames": 8})
    steps = range(20)
    noise = {
        "content": torch.zeros(1, 6),
        "motion": torch.zeros(1, len(generator.needs(steps, None)["motion"]), 5),
    }
    with torch.no_grad():
        x = generator.unroll(noise, None, None, steps).x
    change = (x[:, :, 1:] - x[:, :, :-1]).abs().amax((0, 1, 3, 4))
    assert change[:7].min() > 1e-4
    assert change[7:].max() < 1e-6


def test_content_steers_the_renderer_of_a_stream_the_same_in_all_frames():
    torch.manual_seed(0)
    renderer = make_generator(Options(**TINY), 1, 0, RATE).renderer.eval()
    content, told = torch.randn(2, 6), torch.randn(1, 1, 128).expand(2, 3, -1)
    frames = renderer(content, told)
    assert frames.shape == (2, 1, 3, 16, 16)
    torch.testing.assert_close(frames[:, :, :1].expand_as(frames), frames, rtol=0, atol=1e-6)
    assert (frames[0] - frames[1]).abs().max() > 1e-4


def test_mocogan_has_the_published_layers():
    options = Options(**modality.presets["mocogan"].options, categories=6)
    generator, critics = make_generator(options, 3, 6, RATE), make_critics(options, 3, 6)
    assert generator.renderer.pictures.body[0].in_channels == 50 + 6 + 10
    assert generator.renderer.pictures.body[0].out_channels == 512
    image, video = critics["image"].critic, critics["video"]
    assert [layer.out_channels for layer in image.body if isinstance(layer, nn.Conv2d)] == [
        64,
        128,
        256,
        1,
    ]
    assert [layer.out_channels for layer in video.modules() if isinstance(layer, nn.Conv3d)] == [
        64,
        128,
        256,
        512,
        7,
    ]
    assert video.head.kernel_size == (4, 4, 4)
    assert image(Sample(torch.zeros(1, 3, 64, 64))).logits[0].shape == (1, 16)


def test_tgan_keeps_its_motion_at_other_rates_and_says_where_it_ends():
    torch.manual_seed(0)
    generator = learned(make_generator(Options(**TGAN), 1, 0, RATE))
    noise = noise_for(generator)
    with torch.no_grad():
        plain, twice, half, short = (
            generator(noise, None, controls).x
            for controls in (None, Controls(fps=16), Controls(fps=4), Controls(seconds=0.5))
        )
        torch.testing.assert_close(twice[:, :, ::2], plain, rtol=0, atol=1e-6)
        torch.testing.assert_close(half, plain[:, :, ::2], rtol=0, atol=1e-6)
        torch.testing.assert_close(short, plain[:, :, :4], rtol=0, atol=1e-6)
        assert twice.shape[2] == 32
        with pytest.raises(ConfigError, match=r"seconds = 3: .* last 2 s at most"):
            generator(noise, None, Controls(seconds=3))


def test_singular_value_clipping_takes_in_every_scale_of_the_critic():
    torch.manual_seed(0)
    critic = make_critics(Options(**TGAN), 1, 0)["clip"]
    impose(Constraint(kind="singular_values"), critic)
    norms = [layer for layer in critic.modules() if isinstance(layer, nn.BatchNorm3d)]
    for norm in norms:
        norm.running_var.fill_(0.04)
    impose(Constraint(kind="singular_values"), critic)
    assert norms
    for norm in norms:
        torch.testing.assert_close(norm.weight.detach(), torch.full_like(norm.weight, 0.2))


@pytest.mark.parametrize(
    "options",
    [
        {"size": 30},
        {**TGAN, "frames": 12},
        {"categories": 3},
        {**MOCOGAN, "categories": 1},
        {**MOCOGAN, "critic_norm": "none"},
        {**TGAN, "renderer": "residual"},
        {**MOCOGAN, "renderer": "layered"},
        {"objects": 0},
        {"renderer": "residual", "critic_norm": "batch"},
        {"critic_frames": 17},
    ],
    ids=str,
)
def test_options_that_do_not_work_are_refused(options):
    with pytest.raises(ValidationError):
        Options(**options)


def test_clips_too_short_for_mocogan_are_refused():
    with pytest.raises(ConfigError, match=r"options\.frames = 12: mocogan needs 13 or more"):
        make_critics(Options(**{**MOCOGAN, "size": 64, "frames": 12}), 1, 0)


# Rows and classes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_a_row_depends_on_its_own_noise_alone_and_every_parameter_learns(options):
    torch.manual_seed(0)
    chosen = Options(**{**TINY, **options})
    generator, critics = (
        make_generator(chosen, 1, 3, RATE),
        nn.ModuleDict(make_critics(chosen, 1, 3)),
    )
    both, labels = nn.ModuleList([generator, critics]), torch.arange(4) % 3
    optimizer = torch.optim.Adam(both.parameters(), 1e-2)
    for _ in range(
        2
    ):  # in the first step a residual branch's last weights are zero, and nothing before them learns
        optimizer.zero_grad()
        for critic in critics.values():
            critique = critic(generator(noise_for(generator, 4), labels))
            sum(
                part.square().mean() for part in [*critique.logits, *critique.outputs.values()]
            ).backward()
        optimizer.step()
    for name, parameter in both.named_parameters():
        assert parameter.grad.any(), name
    generator.eval()
    noise = noise_for(generator, 4)
    whole = generator(noise, labels).x
    alone = generator({part: values[2:3] for part, values in noise.items()}, labels[2:3]).x
    torch.testing.assert_close(alone, whole[2:3], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "options", [{}, {"renderer": "residual"}, {"renderer": "layered"}, TGAN, MOCOGAN], ids=str
)
def test_a_label_changes_what_is_made(options):
    torch.manual_seed(0)
    generator = learned(copy.deepcopy(make_generator(Options(**{**TINY, **options}), 1, 0, RATE)))
    assert generator(noise_for(generator, 1)).condition is None
    generator = make_generator(Options(**{**TINY, **options}), 1, 3, RATE).eval()
    noise = {
        part: values.expand(3, *values.shape[1:])
        for part, values in noise_for(generator, 1).items()
    }
    made = generator(noise, torch.arange(3))
    assert made.condition.tolist() == [0, 1, 2]
    for one, two in itertools.combinations(made.x, 2):
        assert not torch.equal(one, two)


def test_a_label_changes_what_the_clip_critic_says():
    torch.manual_seed(0)
    critic = ClipCritic(Options(**TINY), 1, 3)
    nn.init.normal_(critic.labels.weight)
    x = torch.randn(1, 1, 16, 16, 16).expand(3, -1, -1, -1, -1)
    assert len(set(critic(Sample(x, torch.arange(3))).logits[0].tolist())) == 3


def test_mocogan_draws_categories_of_its_own_as_evenly_as_its_noise():
    generator = make_generator(Options(**MOCOGAN, categories=3), 1, 3, RATE)
    noise = noise_for(generator, 300)
    drawn = generator.class_numbers(noise, None)
    assert torch.bincount(drawn, minlength=3).min() > 70
    assert generator.class_numbers(noise, torch.zeros(300, dtype=torch.long)).sum() == 0


def test_the_frame_critic_sees_different_frames_of_its_own_clips():
    class Brightness(nn.Module):
        def forward(self, sample):
            return Critique((sample.x.mean((1, 2, 3)) + 100 * sample.condition,))

    clips = torch.arange(6.0).view(1, 1, 6, 1, 1).expand(50, 1, 6, 2, 2)
    (seen,) = RandomFrames(Brightness(), 3)(Sample(clips, torch.arange(50))).logits
    assert seen.shape == (50, 3)
    frames = seen - 100 * torch.arange(50)[:, None]
    assert sorted(frames.unique().tolist()) == list(range(6))
    assert all(len(set(row)) == 3 for row in frames.tolist())


def test_networks_run_in_bfloat16_and_channels_last():
    torch.manual_seed(0)
    options = Options(**TINY, renderer="residual")
    generator, critics = make_generator(options, 1, 0, RATE), make_critics(options, 1, 0)
    noise = noise_for(generator)
    expected = critics["clip"](generator(noise)).logits[0]
    for network in (generator, *critics.values()):
        lay_out(network, True)
    torch.testing.assert_close(critics["clip"](generator(noise)).logits[0], expected)
    with torch.autocast("cpu", torch.bfloat16):
        logits = critics["clip"](generator(noise)).logits[0]
    logits.sum().backward()
    torch.testing.assert_close(logits.float(), expected, rtol=0.2, atol=0.1)
