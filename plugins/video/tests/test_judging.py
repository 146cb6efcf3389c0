"""The judge on clips whose truth is known: real ones pass, and every fault made by hand is told."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import genkit
from genkit.errors import ConfigError
from genkit.kit.distances import frechet
from genkit_video import embedding
from genkit_video.__main__ import main
from genkit_video.judging import dynamics, evaluate, rates, shuffled
from genkit_video.moving import Moving
from genkit_video.tracking import residual, track, truth


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


def test_the_small_network_is_repeatable_and_sees_shuffled_frames(monkeypatch):
    monkeypatch.setattr(embedding, "STEPS", 20)
    monkeypatch.setattr(embedding, "BATCH", 18)
    clips, _ = moving(160)
    state = torch.get_rng_state()
    network, accuracy = embedding.small(clips[:80], seed=1)
    assert (torch.get_rng_state() == state).all()
    assert accuracy > 1.3 / 6
    points = network.points(clips)
    assert points.shape == (160, embedding.WIDTH)
    np.testing.assert_array_equal(embedding.small(clips[:80], seed=1)[0].points(clips), points)
    mixed = network.points(shuffled(clips[120:]))
    assert frechet(mixed, points[80:120]) > 3 * frechet(points[120:], points[80:120])


class Logits(torch.nn.Module):
    def forward(self, x, rescale: bool = True, resize: bool = True, return_features: bool = False):
        assert x.shape[1] == 3
        assert x.shape[3] == 224
        assert rescale is resize is False
        assert return_features
        return x.mean([3, 4]).flatten(1)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_embedders_are_named_and_only_enough_clips_make_fvd(tmp_path, monkeypatch):
    torch.jit.script(Logits()).save(tmp_path / "i3d.pt")
    network = embedding.i3d(tmp_path / "i3d.pt")
    assert (network.name, network.distance_name(2047), network.distance_name(2048)) == (
        "I3D of Kinetics-400 (i3d.pt)", "frechet", "fvd",
    )  # fmt: skip
    clips, _ = moving(3)
    points = network.points(clips)
    np.testing.assert_allclose(points, np.tile(clips.mean((2, 3, 4)) / 127.5 - 1, 3), atol=1e-3)
    (tmp_path / "other.pt").write_text("no")
    with pytest.raises(ConfigError, match=r"--i3d .*other.pt: no TorchScript file"):
        embedding.i3d(tmp_path / "other.pt")
    (tmp_path / "own_points.py").write_text(
        "def each(clips):\n    return clips.mean((2, 3, 4))\n\n\ndef one(clips):\n    return clips.mean()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert embedding.user_embedder("own_points:each", clips.shape[1:]).points(clips).shape == (
        3,
        16,
    )
    with pytest.raises(
        ConfigError, match=r"makes \(\) of clips \(2, 16, 32, 32, 1\); \(2, D\) was expected"
    ):
        embedding.user_embedder("own_points:one", clips.shape[1:])


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run whose model has learned nothing."""
    folder = tmp_path_factory.mktemp("runs") / "one"
    small = {"size": 32, "features": 4, "critic_features": 4}
    look = {"plan": "fp32", "samples": 1, "sample_items": 4}
    clips, _ = moving(8)
    genkit.train(
        "video",
        clips,
        out=folder,
        items=4,
        threads=1,
        options=small,
        recipe={"batch_size": 4},
        run=look,
    )
    return folder


def run(capsys, *words):
    code = 0
    try:
        main([*map(str, words), "--device", "cpu"])
    except SystemExit as ended:
        code = ended.code or 0
    return code, *capsys.readouterr()


def test_evaluate_prints_a_column_for_each_set(saved, capsys):
    words = "evaluate", saved, "--data", "builtin:moving", "-n", 4, "--embedder", "none"
    code, out, err = run(capsys, *words, "--seed", 3)
    assert (code, "judging shuffled" in err) == (0, True)
    assert out.splitlines()[0].split() == ["MODEL", "REAL", "SHUFFLED"]
    told = {"frozen", "looping", "flickering", "two_glyphs", "residual", "speed_of_real", "content"}
    assert {line.split()[0] for line in out.splitlines()[1:]} >= told
    code, out, err = run(capsys, *words, "--seed", 3, "--json", "-q", "seconds=2")
    report = json.loads(out)
    assert (code, err, report["shape"], report["rows"]["real"]["two_glyphs"] > 0.9) == (
        0,
        "",
        [24, 32, 32, 1],
        True,
    )
    model = genkit.load(saved, "cpu")
    assert evaluate(model, "builtin:moving", 4, "none", controls={"seconds": 2}, seed=3) == report


def test_any_clips_can_be_judged(saved):
    clips, _ = moving(12, 48)
    report = evaluate(genkit.load(saved, "cpu"), clips, 6, "none")
    assert report["data"] == "<ndarray>"
    assert set(report["rows"]["model"]) == {"frozen", "looping", "flickering", "motion"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere", "--data", "builtin:moving"], "nowhere"),
        (["one", "--data", "builtin:movin"], "Did you mean 'moving'?"),
        (["one", "--data", "builtin:moving", "-n", "1"], "samples = 1"),
        (["one", "--data", "builtin:moving", "-n", "2", "seconds=0.1"], "at least 3 are needed"),
        (
            ["one", "--data", "builtin:moving", "-n", "2", "--embedder", "big"],
            "small, none or module:function",
        ),
        (
            ["one", "--data", "builtin:moving", "-n", "2", "--embedder", "none", "--i3d", "a.pt"],
            "exclude each other",
        ),
        (["one", "--data", "builtin:moving", "-n", "2", "--i3d", "a.pt"], "no TorchScript file"),
    ],
)
def test_the_users_mistakes_are_one_sentence_and_exit_code_2(
    saved, capsys, monkeypatch, words, said
):
    monkeypatch.chdir(saved.parent)
    code, out, err = run(capsys, "evaluate", *words, "-q")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith("genkit_video: ")
    assert said in err


def test_help_costs_no_torch():
    code = (
        "import sys, runpy\nsys.argv = ['genkit_video', 'evaluate', '--help']\n"
        "try: runpy.run_module('genkit_video', alter_sys=True)\nfinally: assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-W", "error", "-c", code], check=False).returncode == 0
