"""From spectra back to waves: exact lengths, any stretch by itself, the critics and terms of HiFi-GAN, sound files."""

import numpy as np
import pytest
import soundfile
import torch
from pydantic import ValidationError

import genkit
from genkit.config import build
from genkit.errors import ConfigError
from genkit.plugin import Critique, Facts, Networks, Sample
from genkit_audio import modality
from genkit_audio.options import Controls, Options
from genkit_audio.plugin import AudioPlugin
from genkit_audio.sources import open_sounds
from genkit_audio.spectra import FLOOR, hop_of, log_mel
from genkit_audio.vocoder import PeriodCritic, ScaleCritic, Vocoder
from genkit_audio.writing import encode

RATE = 8000
HOP = hop_of(RATE)
TINY = {
    "architecture": "vocoder", "samples": 1024, "mels": 20, "width": 8, "blocks": 2, "corrections": 2,
    "critics": "periods", "critic_features": 2,
}  # fmt: skip


def tone(count, pitch=440.0, rate=RATE):
    return 0.5 * (2 * torch.pi * pitch * torch.arange(count) / rate).sin()


def generator_for(rate=RATE, **options):
    torch.manual_seed(0)
    return Vocoder(Options(**{**TINY, **options}), rate).eval()


def plugin_for(**options):
    return AudioPlugin(Options(**{**TINY, **options}), Facts({"rate": RATE, "labels": []}))


def unrolled(generator, condition, steps, controls=None):
    with torch.no_grad():
        return generator.unroll({}, condition, controls, steps).x


@pytest.fixture
def speech(tmp_path):
    """Gives the path of a tone of so many values at a rate."""

    def write(count, rate=RATE, name="speech.wav"):
        (tmp_path / name).write_bytes(encode(tone(count, rate=rate)[None].numpy(), "wav", rate))
        return str(tmp_path / name)

    return write


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    sounds = torch.stack([tone(4000, 200.0 + 50 * number) for number in range(8)])
    run = {"items": 48, "plan": "fp32", "sample_items": 1000}
    recipe = {"batch_size": 8, "stages": {"0": {"items": 16}}}
    options = {**TINY, "rate": RATE}
    return genkit.train(
        modality, sounds, "vocoder", folder, options=options, recipe=recipe, run=run, threads=1
    )


# Any stretch -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("corrections", [0, 1, 3])
def test_a_wave_is_the_same_whole_and_in_any_pieces(corrections):
    generator = generator_for(corrections=corrections)
    condition = log_mel(torch.randn(2, 40 * HOP).clamp(-1, 1), RATE, 20)
    whole = unrolled(generator, condition, range(40 * HOP))
    assert whole.shape == (2, 1, 40 * HOP)
    assert 0.05 < whole.std() < 0.9
    for size in (77, HOP, 1000):
        starts = range(0, 40 * HOP, size)
        pieces = [
            unrolled(generator, condition, range(at, min(at + size, 40 * HOP))) for at in starts
        ]
        torch.testing.assert_close(torch.cat(pieces, 2), whole, rtol=0, atol=1e-6)
    assert not unrolled(
        generator, condition, range(40 * HOP, 41 * HOP)
    ).any()  # behind its end is silence


def test_only_the_frames_around_a_stretch_decide_it():
    generator = generator_for()
    condition = log_mel(torch.randn(1, 60 * HOP).clamp(-1, 1), RATE, 20)
    reach = 2 + 3 * 2 + 3 * 3  # of the transform, two corrections and three convolutions, in frames
    steps = range(30 * HOP, 31 * HOP)
    far, near = condition.clone(), condition.clone()
    far[:, :, : 30 - reach], far[:, :, 31 + reach :] = 0, 0
    near[:, :, 30 - reach] += 100  # little of it arrives
    before = unrolled(generator, condition, steps)
    torch.testing.assert_close(unrolled(generator, far, steps), before, rtol=0, atol=0)
    assert not torch.equal(unrolled(generator, near, steps), before)


def test_what_is_drawn_is_what_was_trained():
    """A file that is one window is told as the window was."""
    generator, x = generator_for(), tone(1024)[None]
    with torch.no_grad():
        window = generator({}, log_mel(x, RATE, 20)).x
    torch.testing.assert_close(
        unrolled(generator, log_mel(x, RATE, 20), range(1024)), window, rtol=0, atol=1e-6
    )


def test_corrections_bring_a_spectrum_nearer_to_what_was_told():
    x = torch.randn(2, 4096).clamp(-1, 1) * 0.3
    told = log_mel(x, RATE, 20)
    gaps = []
    for corrections in (0, 2, 8):
        made = unrolled(generator_for(corrections=corrections), told, range(4096))[:, 0]
        gaps.append((log_mel(made, RATE, 20) - told).abs().mean().item())
    assert gaps[0] > 2 * gaps[1] > 2 * gaps[2]


def test_silence_stays_silent():
    told = log_mel(torch.zeros(1, 2048), RATE, 20)
    assert unrolled(generator_for(), told, range(2048)).abs().max() < 100 * FLOOR


def test_half_precision_is_for_layers_alone():
    """Transforms and bands stay in float32: spectra span decades."""
    generator, x = generator_for(corrections=2), torch.randn(2, 1024).clamp(-1, 1) * 0.3
    told = log_mel(x, RATE, 20)
    plain = unrolled(generator, told, range(1024))
    with torch.autocast("cpu", torch.bfloat16):
        half = generator({}, told)
        torch.testing.assert_close(log_mel(x, RATE, 20), told, rtol=0, atol=0)
        loss = generator.pretrain_loss(Sample(x[:, None], told))
    loss.backward()
    assert half.x.dtype == loss.dtype == torch.float32
    assert 0 < (half.x - plain).abs().max() < 0.1 * plain.abs().max()


# Length ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, HOP - 1, HOP, 5 * HOP + 1, 3001])
def test_a_sound_is_exactly_as_long_as_the_file(model, speech, count, tmp_path):
    path = speech(count)
    assert model.generate(1, label=path).x.shape == (1, 1, count)
    out, _ = genkit.translate(model, [path], tmp_path / "out")
    model.generate(1, label=path).save(tmp_path / "whole.wav")
    assert out.read_bytes() == (tmp_path / "whole.wav").read_bytes()
    (written,) = open_sounds(out).items
    assert (written.frames, written.rate) == (count, RATE)


def test_a_file_of_another_rate_lasts_as_long(model, speech):
    assert model.generate(1, label=speech(11025, 11025)).x.shape == (1, 1, RATE)


def test_seconds_cut_a_sound_off_or_add_silence(model, speech):
    path = speech(2000)
    whole = model.generate(1, label=path).x
    short = model.generate(1, label=path, controls={"seconds": 0.1}).x
    long = model.generate(1, label=path, controls={"seconds": 0.5}).x
    torch.testing.assert_close(short, whole[:, :, :800], rtol=0, atol=1e-6)
    assert long.shape == (1, 1, 4000)
    assert not long[:, :, 2000:].any()


def test_a_spectrum_without_a_last_row_tells_of_whole_frames():
    generator, condition = generator_for(), torch.zeros(1, 20, 7)
    assert generator.length(None, condition) == 7 * HOP
    assert generator.length(None) == 1024
    assert generator.length(Controls(seconds=0.01), condition) == 80


def test_all_rows_and_interpolations_follow_the_same_file(model, speech):
    samples = model.generate(3, label=speech(700))
    assert (samples.x == samples.x[:1]).all()
    assert model.interpolate([0, 1], steps=2, label=speech(700)).x.shape == (3, 1, 700)


# What it refuses -------------------------------------------------------------------------------------------------


def test_what_is_no_sound_is_refused_in_one_sentence(model, tmp_path, speech):
    (tmp_path / "noise.wav").write_bytes(b"no sound at all")
    (tmp_path / "many").mkdir()
    for name in ("a.wav", "b.wav"):
        speech(100, name=f"many/{name}")
    soundfile.write(tmp_path / "nan.wav", np.full(100, np.nan), RATE, subtype="FLOAT")
    for path in ("missing.wav", "noise.wav", "many", "nan.wav"):
        with pytest.raises(ConfigError, match=r"give the path of one sound file$") as raised:
            model.generate(1, label=str(tmp_path / path))
        assert "\n" not in str(raised.value)
    with pytest.raises(ConfigError, match="or a condition"):
        model.generate(1)


def test_other_conditions_are_refused():
    with pytest.raises(ConfigError, match=r"\[1, 7, 5\].*20"):
        generator_for()({}, torch.zeros(1, 7, 5))
    with pytest.raises(ConfigError, match="needs a condition"):
        generator_for()({})
    for wrong in ({"architecture": "vocoder"}, {"critics": "periods"}):
        with pytest.raises(ValidationError, match="conditional"):
            Options(**wrong, conditional=True)


# Data, critics, terms --------------------------------------------------------------------------------------------


def test_windows_come_with_their_spectra():
    plugin = plugin_for(rate=RATE)
    batch = plugin.dataset(tone(5000)[None].repeat(3, 1)).random_batch(
        [0, 1], np.arange(2, dtype=np.uint64)
    )
    assert batch.x.shape == (2, 1, 1024)
    torch.testing.assert_close(batch.condition, log_mel(batch.x[:, 0], RATE, 20))


def test_parts_of_the_builtin_sounds_are_the_whole():
    names = {part: [sound.name for sound in open_sounds(f"builtin:drums{part}").items]
             for part in ("", "/train", "/held-out")}  # fmt: skip
    assert sorted(names["/train"] + names["/held-out"]) == names[""]
    assert len(names["/held-out"]) == 12
    with pytest.raises(ConfigError, match=r"drums/held-out"):
        open_sounds("builtin:drums/held_out")


@pytest.mark.parametrize("critic", [PeriodCritic, ScaleCritic])
def test_critics_judge_rows_by_themselves_at_any_length(critic):
    torch.manual_seed(0)
    judge = critic(2)
    for count in (1, 777, 1024):
        x = torch.randn(3, 1, count)
        whole, alone = judge(Sample(x)), judge(Sample(x[1:2]))
        assert len(whole.logits) == {PeriodCritic: 5, ScaleCritic: 3}[critic]
        assert len(whole.features) == 5 * len(whole.logits)
        for one, other in zip(
            [*whole.logits, *whole.features], [*alone.logits, *alone.features], strict=True
        ):
            torch.testing.assert_close(one[1:2], other, rtol=1e-4, atol=1e-5)


def test_a_critic_of_periods_sees_each_phase_of_a_period_alone():
    torch.manual_seed(0)
    judge, x = PeriodCritic(2), torch.randn(1, 1, 770)
    changed = x.clone()
    changed[0, 0, 3::7] = 0
    before, after = judge(Sample(x)).logits[3], judge(Sample(changed)).logits[3]  # the period 7
    different = (before != after).reshape(7, -1).any(1)
    assert different.tolist() == [phase == 3 for phase in range(7)]


def test_terms_are_their_formulas():
    plugin = plugin_for()
    real = Sample(tone(1024)[None, None], log_mel(tone(1024)[None], RATE, 20))
    fake = Sample(0.1 * tone(1024, 700.0)[None, None], real.condition)

    def seen(sample):
        return Critique((sample.x.mean((1, 2)),), (sample.x, 2 * sample.x[:, :, ::2]))

    networks = Networks(torch.nn.Identity(), {"period": seen})
    terms = plugin.terms("generator", networks, real, fake, {"period": seen(fake)})
    gap = (fake.x - real.x).abs()
    torch.testing.assert_close(terms["features"], gap.mean() + 2 * gap[:, :, ::2].mean())
    mel = np.abs(
        log_mel(fake.x[:, 0], RATE, 20).numpy() - log_mel(real.x[:, 0], RATE, 20).numpy()
    ).mean()
    assert terms["mel"].item() == pytest.approx(mel, rel=1e-5)
    assert plugin.terms("period", networks, real, fake, {}) == {}
    other = AudioPlugin(Options(), plugin.facts)
    assert other.terms("generator", networks, real, fake, {"period": seen(fake)}) == {}


def test_a_few_steps_bring_one_sound_nearer():
    x = (tone(1024) + 0.2 * tone(1024, 1500.0))[None]
    real = Sample(x[:, None], log_mel(x, RATE, 20))
    generator = generator_for(corrections=0)
    optimizer = torch.optim.AdamW(generator.parameters(), 1e-2)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = generator.pretrain_loss(real)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[-5:]) < 0.5 * losses[0]


def test_the_preset_plays_the_published_game():
    recipe = build(modality, "vocoder").recipe
    assert recipe.terms == {"mel": 45.0, "features": 2.0}
    assert (recipe.loss, recipe.critic.weight, recipe.critic.betas) == (
        "least_squares",
        2.0,
        (0.8, 0.99),
    )
    assert build(modality, "vocoder").options.samples == 8192
