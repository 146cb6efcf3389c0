"""What clips are judged by: the truth of real ones is found, and every fault made by hand is told."""

import numpy as np
import pytest
import torch

import genkit
from genkit.errors import ConfigError, DataError
from genkit.kit.distances import frechet
from genkit.plugin import Evidence, Facts, Sample
from genkit_image import lite0
from genkit_video import features
from genkit_video.measures import dynamics, measures, rates
from genkit_video.moving import Moving
from genkit_video.options import Controls, Options
from genkit_video.plugin import VideoPlugin
from genkit_video.tracking import residual, track, truth


def plugin(**options):
    facts = Facts({"channels": 1, "rate": 12.0, "labels": []})
    return VideoPlugin(Options(size=32, **options), facts)


def sample(clips):
    """uint8 clips [N, T, H, W, C] as a Sample x [N, C, T, H, W]."""
    return Sample(torch.from_numpy(clips).movedim(-1, 1).float() / 127.5 - 1)


def shuffled(clips, seed=0):
    """Clips [N, T, ...] with the frames of each in a random order."""
    order = np.random.default_rng(seed).random(clips.shape[:2]).argsort(1)
    return np.take_along_axis(clips, order.reshape(*order.shape, 1, 1, 1), 1)


def moving(count, size=32, frames=16):
    """Clips [N, T, H, W, 1] and the whole pixels [N, 2, T, 2] where their glyphs are."""
    source = Moving((size, size))
    starts = [index % (20 - frames + 1) for index in range(count)]
    clips = [source.clip(index)[start : start + frames] for index, start in enumerate(starts)]
    places = [
        source.truth(index)[:, start : start + frames].astype(int)
        for index, start in enumerate(starts)
    ]
    return np.stack(clips)[..., None], np.stack(places)


def alone(count):
    """Clips of one glyph each."""
    source, clips = Moving((32, 32)), np.zeros((count, 16, 32, 32, 1), np.uint8)
    for index, clip in enumerate(clips):
        for frame, (y, x) in zip(clip, source.truth(index)[0].astype(int), strict=False):
            frame[y : y + source.side, x : x + source.side, 0] = source.glyphs[index]
    return clips


@pytest.mark.parametrize(("size", "count"), [(32, 40), (64, 3)])
def test_glyphs_of_real_clips_are_found_to_the_pixel_and_keep_the_rule(size, count):
    clips, places = moving(count, size)
    tracks = track(clips)
    either = [(tracks.places == order).all((1, 2, 3)) for order in (places, places[:, ::-1])]
    assert np.any(either, 0).all()
    assert tracks.is_pair.mean() > 0.98
    assert residual(tracks).max() < 0.32  # rounding to whole pixels makes 0.29
    report = truth(clips)
    assert report["tracked"] == 1
    assert report["speed"] == pytest.approx(0.1 * (size - Moving((size, size)).side), rel=0.05)
    assert report["content"] < 0.02


def test_what_breaks_the_rule_is_told():
    clips, _ = moving(20)
    real, mixed = truth(clips), truth(shuffled(clips))
    assert mixed["residual"] > 8 * real["residual"]
    assert mixed["speed"] > 2 * real["speed"]
    slow = truth(clips[:, :8].repeat(2, 1))
    assert slow["speed"] < 0.7 * real["speed"]
    assert truth(clips[:, :1].repeat(16, 1))["speed"] == 0
    changed = np.concatenate([clips[:, :8], np.roll(clips, 1, 0)[:, 8:]], 1)
    assert truth(changed)["residual"] > 4 * real["residual"]
    assert truth(changed)["content"] > 0.2


def test_one_glyph_three_and_none_are_not_two():
    clips, _ = moving(20)
    assert truth(alone(20))["two_glyphs"] < 0.05
    assert truth(np.maximum(clips, np.roll(alone(20), 1, 0)))["two_glyphs"] < 0.5
    nothing = truth(np.zeros_like(clips))
    assert (nothing["two_glyphs"], nothing["tracked"], nothing["residual"]) == (0, 0, None)


def test_frozen_looping_and_flickering_clips_are_told():
    clips, _ = moving(40)
    real, other = dynamics(clips[::2]), clips[1::2]
    assert max(rates(dynamics(other), real).values()) <= 0.05
    frozen = other[:, :1].repeat(16, 1)
    assert rates(dynamics(frozen), real) == {"frozen": 1, "looping": 0, "flickering": 0}
    assert rates(dynamics(other[:, np.arange(16) % 5]), real)["looping"] == 1
    dimmed = (other * np.where(np.arange(16) % 2, 1, 0.5)[:, None, None, None]).astype(np.uint8)
    assert rates(dynamics(dimmed), real)["flickering"] == 1


def test_what_so_few_frames_cannot_show_has_no_value():
    clips, _ = moving(12)
    whole = measures(clips[:6], clips[6:], False)
    assert list(whole) == ["frozen", "looping", "flickering", "motion"]
    assert None not in whole.values()
    assert [
        name
        for name, value in measures(clips[:6, :7], clips[6:, :7], False).items()
        if value is None
    ] == ["looping"]
    assert measures(clips[:6, :2], clips[6:, :2], False)["flickering"] is None
    assert set(measures(clips[:6, :1], clips[6:, :1], False).values()) == {None}


def test_dynamics_of_many_clips_are_those_of_each():
    clips, _ = moving(70, frames=8)
    whole = dynamics(clips)
    for values, alone in zip(whole, dynamics(clips[66:]), strict=True):
        np.testing.assert_array_equal(values[66:], alone)


# Real clips -------------------------------------------------------------------------------------------------------


def test_references_are_as_long_and_as_fast_as_generated_clips():
    opened = plugin().open("builtin:moving", plugin().options)
    tgan = {"architecture": "tgan", "critic_norm": "batch"}
    for options, controls, frames, rate in (
        ({}, {}, 16, 12),
        ({}, {"seconds": 2, "fps": 24}, 48, 24),
        (tgan, {"fps": 6}, 8, 6),
    ):
        model, chosen = plugin(**options), Controls(**controls)
        references = model.references(opened, chosen)
        batch = references.random_batch([5, 9], np.array([1, 2], np.uint64))
        assert (batch.x.shape, references.checked.rate) == ((2, 1, frames, 32, 32), rate)
        generator = model.networks().generator
        assert (len(generator.times(chosen)) if options else generator.length(chosen)) == frames
        assert (references.checked is opened) == (not controls)


def test_references_begin_where_training_clips_do():
    numbers = np.broadcast_to(np.arange(20, dtype=np.uint8)[:, None, None], (40, 20, 32, 32))
    starts = {}
    for cut in ("start", "random"):
        references = plugin(cut=cut).references(numbers, Controls())
        batch = references.random_batch(list(range(40)), np.arange(40, dtype=np.uint64))
        starts[cut] = set(((batch.x[:, 0, 0, 0, 0] + 1) * 127.5).round().tolist())
    assert starts == {"start": {0}, "random": {0, 1, 2, 3, 4}}
    with pytest.raises(DataError, match=r"none of the 40 items .* be used: .*too short: 20 frames"):
        plugin().references(numbers, Controls(seconds=2))


# Networks ---------------------------------------------------------------------------------------------------------


def test_frames_are_seen_by_the_network_of_pictures():
    clips, _ = moving(5)
    network = plugin().feature_networks({}, None)["lite0-frames"]
    assert network.distance == "fd-lite0-frames"
    pictures = sample(clips).x[:, :, [2, 6, 10, 14]].movedim(2, 1).flatten(0, 1)
    resized = torch.nn.functional.interpolate(
        pictures.expand(-1, 3, -1, -1), (64, 64), mode="bilinear"
    )
    wanted = lite0.pretrained()(resized).view(5, 4, -1).mean(1)
    assert torch.allclose(network.features(sample(clips)), wanted, atol=1e-4)


def test_the_small_network_is_trained_when_it_is_asked_for_repeatable_and_sees_shuffled_frames(
    monkeypatch,
):
    monkeypatch.setattr(features, "STEPS", 20)
    monkeypatch.setattr(features, "BATCH", 18)
    clips, _ = moving(160)
    asked = []

    def training(count):
        asked.append(count)
        return sample(clips[:80])

    first, second = (plugin().feature_networks({}, training)["small"] for _ in range(2))
    assert (asked, first.distance) == ([], "fd-small")
    state = torch.get_rng_state()
    protocol = dict(first.protocol)
    assert (torch.get_rng_state() == state).all()
    assert (asked, protocol["trained on"]["clips"]) == ([512], 80)
    assert protocol["accuracy"] > 1.3 / 6
    points = first.features(sample(clips))
    assert points.shape == (160, features.WIDTH)
    torch.rand(1)  # whatever the global generator's state
    assert torch.equal(second.features(sample(clips)), points)
    assert dict(second.protocol) == protocol
    assert asked == [512, 512]
    mixed = first.features(sample(shuffled(clips[120:])))
    assert frechet(mixed, points[80:120]) > 3 * frechet(points[120:], points[80:120])


def test_a_network_is_trained_on_however_few_clips(monkeypatch):
    monkeypatch.setattr(features, "STEPS", 1)
    clips, _ = moving(2)
    for count in (1, 2):
        body, _ = features.small(sample(clips[:count]).x)
        assert bool(body(sample(clips).x).isfinite().all())


class Logits(torch.nn.Module):
    def forward(self, x, rescale: bool = True, resize: bool = True, return_features: bool = False):
        assert x.shape[1] == 3
        assert x.shape[3] == 224
        assert rescale is resize is False
        assert return_features
        return x.mean([3, 4]).flatten(1)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_only_i3ds_distance_is_called_fvd(tmp_path):
    torch.jit.script(Logits()).save(tmp_path / "i3d.pt")
    clips, _ = moving(3, frames=4)
    networks = plugin().feature_networks({"i3d": tmp_path / "i3d.pt"}, None)
    assert [network.distance for network in networks.values()] == [
        "fd-lite0-frames",
        "fd-small",
        "FVD",
    ]
    points = networks["i3d"].features(sample(clips))
    np.testing.assert_allclose(points, np.tile(clips.mean((2, 3, 4)) / 127.5 - 1, 3), atol=1e-3)
    (tmp_path / "other.pt").write_text("no")
    with pytest.raises(ConfigError, match=r"weights for 'i3d': .*other.pt is no TorchScript file"):
        plugin().feature_networks({"i3d": tmp_path / "other.pt"}, None)
    with pytest.raises(ConfigError, match="'small': no network of that name takes a file"):
        plugin().feature_networks({"small": tmp_path / "i3d.pt"}, None)


# As a whole -------------------------------------------------------------------------------------------------------


def test_the_rule_is_measured_on_the_built_in_clips_alone():
    clips, _ = moving(8)
    evidence = [
        Evidence(sample(clips[:4]), sample(clips[4:]), data=data)
        for data in ("builtin:moving", "mine", clips)
    ]
    rows = [plugin().measures(one) for one in evidence]
    assert rows[0] == {**rows[1], **truth(clips[:4])}
    assert set(rows[1]) == set(rows[2]) == {"frozen", "looping", "flickering", "motion"}


def test_shuffled_frames_are_a_row_of_the_scale():
    clips, _ = moving(4)
    ((name, mixed),) = plugin().corruptions(sample(clips)).items()
    assert name == "shuffled"
    assert not torch.equal(mixed.x, sample(clips).x)
    assert torch.equal(mixed.x.sort(2).values, sample(clips).x.sort(2).values)


def test_a_model_is_compared_with_real_clips(tmp_path):
    clips, _ = moving(40)
    small = {"size": 32, "features": 4, "critic_features": 4}
    model = genkit.train(
        "video", clips, out=tmp_path / "run", items=4, threads=1, options=small, recipe={"batch_size": 4},
        run={"plan": "fp32", "samples": 1, "sample_items": 4},
    )  # fmt: skip
    evaluation = genkit.evaluate(model, clips, 6, features="lite0-frames", controls={"fps": 6})
    rows = {
        row.name: {name: figure.value for name, figure in row.figures.items()}
        for row in evaluation.rows
    }
    assert list(rows)[:3] == ["real", "noise", "shuffled"]
    assert len(rows) == 4
    assert rows["real"]["kd-lite0-frames"] < rows["noise"]["kd-lite0-frames"]
    assert rows["noise"]["motion"] > rows["shuffled"]["motion"] > rows["real"]["motion"]
    assert "residual" not in rows["real"]
