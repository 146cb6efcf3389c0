"""The sampler through the face: a seed is a sample, and a model folder is all it takes."""

import base64
import hashlib
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
import torch
from toys import duet, language, ring, step_language

import genkit
from genkit.errors import ConfigError, GenkitError, ModelError, PluginError, StorageError, UserError
from genkit.plugin import Critique, Sample
from genkit.sampling.chunks import (
    draw_alone,
    draw_together,
    has_equal_places,
    identify,
    units_of,
)
from genkit.sampling.drawing import CHUNK, LatentPoint, draw_chunk
from genkit.sampling.noise import choice_noise
from genkit.sampling.reranking import Choice, Reranker
from genkit.sampling.samples import save
from genkit.system.runtime import overlapped


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    torch.set_num_threads(1)
    return {
        modality.id: genkit.train(modality, out=folder / modality.id, items=512, threads=1)
        for modality in (ring, language, step_language, duet)
    }


@pytest.mark.parametrize("name", ["ring", "language", "duet"])
def test_sample_is_the_same_in_any_batch(models, name):
    model = models[name]
    whole = model.generate(150, seed=3)
    assert torch.equal(model.generate(1, seed=3, start=100).x, whole.x[100:101])
    assert torch.equal(model.generate(90, seed=3, start=40).x, whole.x[40:130])
    order = random.Random(0).sample(range(150), 150)
    assert torch.equal(model.generate(seed=3, indices=order).x, whole.x[order])
    streamed = torch.cat([chunk.x for chunk in model.stream(150, seed=3)])
    assert torch.equal(streamed, whole.x)
    assert not torch.equal(model.generate(150, seed=4).x, whole.x)


def test_stream_is_in_constant_memory_pieces(models):
    assert [len(chunk) for chunk in models["ring"].stream(150, start=40)] == [CHUNK - 40, CHUNK, 62]


@pytest.mark.parametrize("name", ["ring", "language", "duet"])
def test_a_model_folder_is_all_that_generating_needs(models, name, tmp_path):
    model = models[name]
    moved = tmp_path / "moved"
    shutil.copytree(model.path, moved)
    again = genkit.load(moved, modality=model.modality)
    assert torch.equal(again.generate(70, seed=1).x, model.generate(70, seed=1).x)
    saved = genkit.load(again.save(tmp_path / "saved"), modality=model.modality)
    assert torch.equal(saved.generate(70, seed=1).x, model.generate(70, seed=1).x)


def test_labels_and_controls_choose_what_is_drawn(models):
    model = models["duet"]
    default = model.generate(6)
    assert default.sample.condition.tolist() == [0, 1, 2, 0, 1, 2]
    one = model.generate(6, label="class1")
    assert one.sample.condition.tolist() == [1] * 6
    assert torch.equal(one.x[1], default.x[1])  # the same noise under the same label
    assert not torch.equal(model.generate(6, controls={"scale": 0.1}).x, default.x)
    with pytest.raises(ConfigError, match=r"scal: no such setting.*'scale'"):
        model.generate(6, controls={"scal": 0.1})
    with pytest.raises(ConfigError, match="Did you mean 'class2'"):
        model.generate(6, label="clas2")
    with pytest.raises(ConfigError, match="unconditional"):
        models["ring"].generate(6, label="class1")
    with pytest.raises(ConfigError, match="no controls"):
        models["ring"].generate(6, controls={"scale": 1})


@pytest.mark.parametrize("arguments", [{"n": 0}, {"n": 4, "start": -1}, {"indices": []}])
def test_impossible_counts_are_refused(models, arguments):
    with pytest.raises(ConfigError, match="at least"):
        models["ring"].generate(**arguments)


def test_files_are_byte_equal_whatever_is_drawn_with_them(models, tmp_path):
    model = models["ring"]
    model.generate(40).save(tmp_path / "all")
    model.generate(3, start=30).save(tmp_path / "few")
    shuffled = random.Random(1).sample(range(40), 40)
    model.generate(indices=shuffled).save(tmp_path / "shuffled")

    def digest(folder, index):
        return hashlib.sha256((tmp_path / folder / f"{index:06d}.npy").read_bytes()).hexdigest()

    assert all(digest("all", index) == digest("few", index) for index in (30, 31, 32))
    assert all(digest("all", index) == digest("shuffled", index) for index in range(40))


def test_the_sidecar_tells_who_each_file_is(models, tmp_path):
    model = models["duet"]
    written = model.generate(3, seed=9, start=5, label="class2", controls={"scale": 0.5}).save(
        tmp_path / "out"
    )
    assert [path.name for path in written] == [
        "000005.npy",
        "000006.npy",
        "000007.npy",
        "samples.json",
    ]
    told = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert told["samples"][1] == {
        "file": "000006.npy",
        "seed": 9,
        "index": 6,
        "label": "class2",
        "condition": 2,
    }
    assert told["controls"] == {"scale": 0.5}
    weights = (model.path / "model.safetensors").read_bytes()
    assert told["model"]["sha256"] == hashlib.sha256(weights).hexdigest()


def test_a_joint_file_is_the_modalitys_preview(models, tmp_path):
    (path,) = models["duet"].generate(70).save(tmp_path / "points.txt")
    assert len(path.read_text().splitlines()) == 70
    with pytest.raises(ConfigError, match=r"duet writes \.txt"):
        models["duet"].generate(4).save(tmp_path / "points.png")
    with pytest.raises(ConfigError, match="no joint file"):
        models["ring"].generate(4).save(tmp_path / "points.txt")


def test_samples_can_be_indexed_and_iterated(models):
    samples = models["duet"].generate(5, seed=2)
    assert samples.seeds == [(2, index) for index in range(5)]
    assert torch.equal(samples[3].x, samples.x[3:4])
    assert samples[1:3].seeds == [(2, 1), (2, 2)]
    assert torch.equal(torch.cat([one.x for one in samples]), samples.x)
    with pytest.raises(IndexError):
        samples[5]


def test_drawing_leaves_the_global_generators_alone(models):
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    models["duet"].generate(4)
    genkit.load(models["duet"].path, modality=duet)
    assert torch.equal(torch.rand(2), expected)


# Walks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ring", "language", "duet"])
def test_an_interpolation_passes_through_its_identities(models, name):
    model = models[name]
    interpolation = model.interpolate(
        [3, 170, 5], seed=2, steps=4, label="class1" if name == "duet" else None
    )
    assert len(interpolation) == 9
    ends = model.generate(seed=2, indices=[3, 170, 5], label=interpolation.label)
    torch.testing.assert_close(interpolation.x[::4], ends.x)
    assert interpolation.seeds[5] == (2, LatentPoint(170, 5, 0.25))
    assert [place.share for _, place in interpolation.seeds] == [
        0,
        0.25,
        0.5,
        0.75,
        0,
        0.25,
        0.5,
        0.75,
        1,
    ]


def test_an_interpolation_moves_evenly_and_is_the_same_however_long_it_is(models):
    model = models["ring"]
    long = model.interpolate([1, 2, 3], steps=100)
    assert torch.equal(model.interpolate([1, 2], steps=100).x[:100], long.x[:100])
    jumps = (long.x[1:] - long.x[:-1]).norm(dim=1)
    assert jumps.max() < 0.2 * (long.x[0] - long.x[-1]).norm().clamp(1)
    torch.testing.assert_close(model.interpolate([1, 2], steps=10).x, long.x[:101:10])
    assert len(model.interpolate([1, 1], steps=1)) == 2


def test_a_step_has_the_condition_of_the_nearer_identity(models):
    interpolation = models["duet"].interpolate([0, 1], steps=4)
    assert interpolation.sample.condition.tolist() == [0, 0, 0, 1, 1]
    assert (
        models["duet"].interpolate([0, 1], steps=4, label="class2").sample.condition.tolist()
        == [2] * 5
    )


def test_the_files_of_an_interpolation_say_between_which_samples_each_lies(models, tmp_path):
    interpolation = models["duet"].interpolate([7, 2], seed=1, steps=2)
    interpolation[1:].save(tmp_path)
    rows = json.loads((tmp_path / "samples.json").read_text())["samples"]
    assert rows[0] == {
        "file": "000001.npy", "seed": 1, "start": 7, "end": 2, "share": 0.5, "label": None, "condition": 1,
    }  # fmt: skip
    assert [row["file"] for row in rows] == ["000001.npy", "000002.npy"]


@pytest.mark.parametrize(
    "arguments", [{"indices": [1]}, {"indices": [1, -2]}, {"indices": [1, 2], "steps": 0}]
)
def test_what_is_no_interpolation_is_refused(models, arguments):
    with pytest.raises(ConfigError, match="at least two indices"):
        models["ring"].interpolate(**arguments)


# Requests that share a chunk --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ring", "language", "duet"])
def test_samples_have_the_bits_that_they_have_alone_whatever_they_share_a_chunk_with(models, name):
    model, controls = models[name], models[name].generate(1).controls
    label = "class1" if name == "duet" else None
    assert has_equal_places(model, model.conditions_for(None)([0]))
    interpolation = model.interpolate([3, 170], seed=2, steps=4)
    asked = [
        ((7, [0], None), model.generate(1, seed=7)),
        ((2, interpolation.interpolation, None), interpolation),
        ((8, [0], label), model.generate(1, seed=8, label=label)),
        ((7, range(60, 75), None), model.generate(15, seed=7, start=60)),
        ((2**60, [10**12, 5], label), model.generate(0, 2**60, label=label, indices=[10**12, 5])),
    ]
    requests = [identify(*words[:2], model.conditions_for(words[2])) for words, _ in asked]
    for order in (requests, requests[::-1], requests[2:3]):
        drawn, start = draw_together(model, order, controls), 0
        for request in order:
            alone = asked[requests.index(request)][1]
            rows = drawn[start : start + len(request)]
            start += len(request)
            assert torch.equal(rows.x, alone.x)
            if alone.sample.mask is not None:
                assert torch.equal(rows.mask, alone.sample.mask)
            if alone.sample.condition is not None:
                assert torch.equal(rows.condition, alone.sample.condition)
        assert start == len(drawn)


class Uneven(torch.nn.Module):
    """A generator whose last rows differ from its first in the last bits, as those of a blocked matrix product may."""

    def __init__(self, body):
        super().__init__()
        self.body, self.noise = body, body.noise

    def forward(self, *inputs):
        sample = self.body(*inputs)
        sample.x[60:] = torch.nextafter(sample.x[60:], torch.tensor(torch.inf))
        return sample


def test_where_places_differ_each_request_has_whole_chunks_for_itself(models):
    model = models["ring"]
    uneven = replace(model, generator=Uneven(model.generator))
    assert not has_equal_places(uneven)
    points = [*range(50, 130), 500, 7]
    units = units_of(uneven, points)
    assert units == [range(14), range(14, 78), range(78, 80), range(80, 81), range(81, 82)]
    request = identify(3, points, uneven.conditions_for(None))
    parts = [draw_alone(uneven, request[unit.start : unit.stop], None).x for unit in units]
    assert torch.equal(torch.cat(parts), uneven.generate(seed=3, indices=points).x)
    interpolation = uneven.interpolate([1, 2, 3], steps=40)
    points = interpolation.interpolation
    request = identify(0, points, uneven.conditions_for(None))
    parts = [
        draw_alone(uneven, request[unit.start : unit.stop], None).x
        for unit in units_of(uneven, points)
    ]
    assert [len(part) for part in parts] == [64, 17]
    assert torch.equal(torch.cat(parts), interpolation.x)


def test_the_best_of_several_is_drawn_with_its_whole_chunk(models):
    model = models["duet"]
    request = identify(3, [5, 6], model.conditions_for("class2"))
    drawn = draw_alone(model, request, model.generate(1).controls, best_of=3)
    expected = model.generate(2, seed=3, start=5, label="class2", best_of=3)
    assert torch.equal(drawn.x, expected.x)


# Half precision --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ring", "step_language", "duet"])
def test_samples_in_half_precision_are_the_same_in_any_batch(models, name):
    exact = models[name]
    model = genkit.load(exact.path, modality=exact.modality, dtype="bfloat16")
    whole = model.generate(150, seed=3)
    assert torch.equal(model.generate(1, seed=3, start=100).x, whole.x[100:101])
    assert whole.x.dtype == exact.generate(1).x.dtype
    weights = list(model.generator.parameters())
    assert {weight.dtype for weight in weights} == {torch.float32}
    assert not any(weight.requires_grad for weight in weights)
    error = whole.x - exact.generate(150, seed=3).x
    if whole.x.is_floating_point():
        assert 0 < error.std() < 0.02 * whole.x.std()
    else:
        assert (error != 0).any(1).float().mean() < 0.1


def test_figures_of_a_model_in_half_precision_say_so(models):
    model = genkit.load(models["ring"].path, modality=models["ring"].modality, dtype="bfloat16")
    evaluation = genkit.evaluate(model, torch.randn(400, 2), n=100)
    protocols = {
        row.kind: [one.protocol for one in row.figures.values()] for row in evaluation.rows
    }
    assert all("bfloat16" in protocol for protocol in protocols["model"])
    assert not any("bfloat16" in protocol for protocol in protocols["real"])


def test_a_folder_of_samples_has_one_precision(models, tmp_path):
    exact = models["ring"]
    model = genkit.load(exact.path, modality=exact.modality, dtype="bfloat16")
    model.generate_to(tmp_path, n=4)
    assert json.loads((tmp_path / "samples.json").read_text())["dtype"] == "bfloat16"
    with pytest.raises(ConfigError, match="dtype"):
        exact.generate_to(tmp_path, n=4, resume=True)
    with pytest.raises(ConfigError, match="draws in float32 or bfloat16"):
        genkit.load(exact.path, modality=exact.modality, dtype="float8")


def test_a_model_in_half_precision_is_saved_as_it_was(models, tmp_path):
    exact = models["ring"]
    model = genkit.load(exact.path, modality=exact.modality, dtype="bfloat16")
    copy = genkit.load(model.save(tmp_path / "copy"), modality=exact.modality)
    assert torch.equal(copy.generate(5).x, exact.generate(5).x)


# The best of several ---------------------------------------------------------------------------------------------


def candidates(model, count, seed=0):
    """The first chunk, drawn so many times."""
    whole = range(CHUNK)
    condition = model.plugin.condition(None, whole) if model.modality.id == "duet" else None
    controls = model.generate(1).controls
    names = [seed, *(f"{seed}/candidate {number}" for number in range(1, count))]
    return [
        draw_chunk(model.generator, whole, name, condition, controls, model.place) for name in names
    ]


@pytest.mark.parametrize("name", ["ring", "step_language", "duet"])
def test_the_best_of_several_is_the_same_in_any_batch(models, name):
    model = models[name]
    whole = model.generate(150, seed=3, best_of=3)
    assert torch.equal(model.generate(1, seed=3, start=100, best_of=3).x, whole.x[100:101])
    assert torch.equal(
        torch.cat([chunk.x for chunk in model.stream(90, seed=3, start=40, best_of=3)]),
        whole.x[40:130],
    )
    assert not torch.equal(model.generate(150, seed=3).x, whole.x)


@pytest.mark.parametrize("name", ["ring", "language", "step_language", "duet"])
def test_critics_choose_whom_they_like_best(models, name):
    model, rows = models[name], torch.arange(CHUNK)
    drawn = candidates(model, 4)
    scores = torch.stack([model.reranker.scores(sample) for sample in drawn])
    best = torch.stack([sample.x for sample in drawn])[scores.argmax(0), rows]
    assert torch.equal(model.generate(CHUNK, best_of=4).x, best)
    assert torch.equal(model.generate(CHUNK, best_of=1).x, drawn[0].x)
    assert len(scores.argmax(0).unique()) == 4


class Said(torch.nn.Module):
    """A critic whose logit is the sample."""

    def forward(self, sample):
        return Critique((sample.x,))


@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_a_drawn_candidate_has_the_softmax_of_the_scores_as_its_distribution(scale):
    rows, scores = 20_000, torch.tensor([0.3, -1.2, 2.0])
    reranker = Reranker({"critic": Said()}, {"critic": 1.0}, "")
    drawn = [Sample(score.expand(rows)) for score in scores]
    luck = [choice_noise(name, range(rows)) for name in (0, "0/candidate 1", "0/candidate 2")]
    chosen = reranker.choose(Choice(3, True, scale), drawn, luck).x
    shares = torch.stack([(chosen == score).float().mean() for score in scores])
    torch.testing.assert_close(shares, (scale * scores).softmax(0), atol=0.012, rtol=0)
    assert set(reranker.choose(Choice(3), drawn, luck).x.tolist()) == {2.0}


@pytest.mark.parametrize("name", ["ring", "step_language", "duet"])
def test_a_drawn_candidate_is_the_same_in_any_batch(models, name):
    model, how = models[name], {"seed": 3, "best_of": 3, "choose": "sample:0.5"}
    whole = model.generate(150, **how)
    assert torch.equal(model.generate(1, start=100, **how).x, whole.x[100:101])
    pieces = [chunk.x for chunk in model.stream(90, start=40, **how)]
    assert torch.equal(torch.cat(pieces), whole.x[40:130])
    for other in ({"choose": "best"}, {"best_of": 1, "choose": "best"}):
        assert not torch.equal(model.generate(150, **{**how, **other}).x, whole.x)


@pytest.mark.parametrize(
    ("best_of", "choose", "message"),
    [
        (2, "worst", "choose = 'worst': best, sample, or sample:SCALE"),
        (2, "sample:0.0", "with a positive number"),
        (2, "sample:-1", "with a positive number"),
        (2, "sample:", "with a positive number"),
        (1, "sample", "one of several candidates is chosen: give best_of"),
    ],
)
def test_a_choice_that_is_none_is_a_mistake(models, best_of, choose, message):
    with pytest.raises(ConfigError, match=message):
        models["ring"].generate(2, best_of=best_of, choose=choose)


def test_heads_patches_and_valid_steps_are_averaged_and_critics_weighed(models):
    duet, steps = models["duet"], models["step_language"]
    (sample,) = candidates(duet, 1)
    with torch.no_grad():
        said = {name: critic(sample).logits for name, critic in duet.reranker.critics.items()}
    each = {name: (one + patches.mean(1)) / 2 for name, (one, patches) in said.items()}
    torch.testing.assert_close(duet.reranker.scores(sample), each["narrow"] + 0.5 * each["wide"])
    (sample,) = candidates(steps, 1)
    with torch.no_grad():
        (logits,) = steps.reranker.critics["critic"](sample).logits
    means = [row[valid].mean() for row, valid in zip(logits, sample.mask, strict=True)]
    torch.testing.assert_close(steps.reranker.scores(sample), torch.stack(means))


def test_one_candidate_needs_no_critics_and_several_say_that_they_do(models, tmp_path):
    old = shutil.copytree(models["duet"].path, tmp_path / "old")
    (old / "critics.safetensors").unlink()
    model = genkit.load(old, modality=duet)
    assert torch.equal(model.generate(5).x, models["duet"].generate(5).x)
    with pytest.raises(ConfigError, match=r"old has no critics\.safetensors: an earlier genkit"):
        model.generate(5, best_of=2)
    with pytest.raises(ConfigError, match="at least one candidate"):
        model.generate(5, best_of=0)


def test_critics_that_have_not_learned_choose_nothing(tmp_path):
    alone = {"stages": [{"kind": "pretrain"}]}
    model = genkit.train(language, out=tmp_path, items=256, threads=1, recipe=alone)
    with pytest.raises(ConfigError, match="critics were not trained"):
        model.generate(4, best_of=2)


def test_a_model_takes_its_critics_along(models, tmp_path):
    model = models["duet"]
    saved = genkit.load(model.save(tmp_path / "saved"), modality=duet)
    assert torch.equal(saved.generate(5, best_of=3).x, model.generate(5, best_of=3).x)
    models["ring"].save(tmp_path / "ring")
    (tmp_path / "old").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(models["ring"].path / name, tmp_path / "old")
    genkit.load(tmp_path / "old", modality=ring).save(tmp_path / "ring")
    assert not (tmp_path / "ring" / "critics.safetensors").exists()  # those were another model's


CRITICS = {
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:200]),
    "a pickle": lambda file: file.write_bytes(pickle.dumps({"a": 1})),
    "another model's": lambda file: shutil.copy(file.parent / "model.safetensors", file),
    "without weights of their word": lambda file: change(file.parent, critics={"narrow": 1.0}),
    "a list of words": lambda file: change(file.parent, critics=["narrow"]),
}


@pytest.mark.parametrize("damage", CRITICS)
def test_damaged_critics_are_one_clear_sentence_and_no_hindrance_without_them(
    models, tmp_path, damage
):
    folder = shutil.copytree(models["duet"].path, tmp_path / "model")
    CRITICS[damage](folder / "critics.safetensors")
    model = genkit.load(folder, modality=duet)
    assert len(model.generate(2)) == 2
    with pytest.raises(ModelError) as error:
        model.generate(2, best_of=2)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


def test_the_sidecar_tells_of_how_many_each_is_the_best(models, tmp_path):
    model = models["duet"]
    model.generate(3).save(tmp_path)
    assert "best_of" not in (tmp_path / "samples.json").read_text()
    model.generate_to(tmp_path / "drawn", 2, best_of=3, choose="sample:0.5")
    assert '"choose": "sample:0.5"' in (tmp_path / "drawn/samples.json").read_text()
    save(model.stream(2, best_of=3), tmp_path)
    told = json.loads((tmp_path / "samples.json").read_text())
    critics = (model.path / "critics.safetensors").read_bytes()
    assert (told["best_of"], told["critics_sha256"]) == (3, hashlib.sha256(critics).hexdigest())
    assert [row["file"] for row in told["samples"]] == [
        "000000.npy",
        "000001.npy",
    ]  # the third is not of three


# Files beside the drawing ----------------------------------------------------------------------------------------


def tree(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("workers", [1, 3])
def test_threads_write_the_same_files_as_none(models, tmp_path, workers):
    model = models["duet"]
    plain = save(model.stream(200, seed=4, start=30), tmp_path / "plain", workers=0)
    quick = save(model.stream(200, seed=4, start=30), tmp_path / "quick", workers=workers)
    assert [path.name for path in quick] == [path.name for path in plain]
    assert tree(tmp_path / "quick") == tree(tmp_path / "plain")
    model.generate(200, seed=4, start=30).save(tmp_path / "whole")
    assert tree(tmp_path / "whole") == tree(tmp_path / "plain")


def failing(model, monkeypatch, at):
    """Make the model's plugin fail at one sample."""
    wrong, real = model.generate(1, start=at).x[0], model.plugin.encode

    def encode(sample, format, controls):
        if torch.equal(sample.x, wrong):
            raise ZeroDivisionError("cannot")
        return real(sample, format, controls)

    monkeypatch.setattr(model.plugin, "encode", encode)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_the_first_error_of_a_thread_stops_the_drawing(models, tmp_path, monkeypatch, workers):
    model, drawn = models["ring"], []
    failing(model, monkeypatch, at=70)

    def chunks():
        for chunk in model.stream(100 * CHUNK):
            drawn.append(len(chunk))
            yield chunk

    with pytest.raises(
        PluginError, match=r"local 0 \(ring\) failed at encode: ZeroDivisionError: cannot"
    ):
        save(chunks(), tmp_path, workers=workers)
    assert len(drawn) <= 2 + workers + 1
    assert_listed(tmp_path)


def assert_listed(folder):
    """Whatever was written is listed."""
    files = tree(folder)
    listed = json.loads(files.pop("samples.json", b'{"samples": []}'))["samples"]
    assert {row["file"] for row in listed} == files.keys()


def test_a_disk_that_takes_no_more_is_told_from_a_thread(models, tmp_path):
    def chunks():
        yield from models["ring"].stream(CHUNK)
        (tmp_path / "000070.npy").mkdir()
        yield from models["ring"].stream(2 * CHUNK, start=CHUNK)

    with pytest.raises(StorageError, match=r"cannot write .*000070\.npy"):
        save(chunks(), tmp_path)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ConfigError("no")])
def test_a_drawing_that_ends_early_leaves_whole_files_only(models, tmp_path, error):
    def chunks():
        yield from models["ring"].stream(5 * CHUNK)
        raise error

    with pytest.raises((KeyboardInterrupt, ConfigError)):
        save(chunks(), tmp_path, workers=2)
    assert_listed(tmp_path)
    files = tree(tmp_path)
    files.pop("samples.json", None)
    save(models["ring"].stream(5 * CHUNK), tmp_path / "whole")
    whole = tree(tmp_path / "whole")
    assert files.keys() <= whole.keys() - {"samples.json"}
    assert all(whole[name] == content for name, content in files.items())


def test_samples_of_two_models_are_not_mixed(models, tmp_path):
    ring_model, other = models["ring"], models["duet"]
    twin = genkit.train(ring, out=tmp_path / "run", items=256, threads=1, seed=5)
    ring_model.generate(5).save(tmp_path / "s")
    with pytest.raises(ConfigError, match=r"holds 2 samples of another model \(.*\), 000003\.npy"):
        twin.generate(3).save(tmp_path / "s")
    assert len(tree(tmp_path / "s")) == 6  # nothing was changed
    twin.generate(5).save(tmp_path / "s")  # all are replaced
    assert len(json.loads(tree(tmp_path / "s")["samples.json"])["samples"]) == 5
    twin.generate(2, start=5).save(tmp_path / "s")  # of the same model
    assert len(json.loads(tree(tmp_path / "s")["samples.json"])["samples"]) == 7
    other.generate(4).save(tmp_path / "t")
    with pytest.raises(ConfigError, match=r"holds 3 samples of other controls"):
        other.generate(1, controls={"scale": 0.5}).save(tmp_path / "t")


def test_samples_that_are_not_finite_are_not_written(models, tmp_path):
    samples = models["ring"].generate(3)
    samples.x[1] = torch.nan
    with pytest.raises(GenkitError, match="values that are not finite; no file is written"):
        samples.save(tmp_path)
    assert not tree(tmp_path)


@pytest.mark.parametrize("content", ["text", None])
def test_a_plugin_that_writes_no_bytes_is_named(models, tmp_path, monkeypatch, content):
    model = models["duet"]
    monkeypatch.setattr(model.plugin, "encode", lambda *_: content)
    with pytest.raises(PluginError, match=r"failed at encode: it returned (a str|None); bytes"):
        model.generate(2).save(tmp_path)
    monkeypatch.setattr(model.plugin, "preview", lambda *_: content)
    with pytest.raises(PluginError, match=r"failed at preview: it returned (a str|None); bytes"):
        model.generate(2).save(tmp_path / "a.txt")


def test_notebooks_show_what_they_can(models, monkeypatch):
    assert models["ring"].generate(3)._repr_mimebundle_().keys() == {"text/plain"}
    lines = models["language"].generate(20)
    lines = replace(lines, model=replace(lines.model, modality=replace(language, formats=("txt",))))
    monkeypatch.setattr(lines.model.plugin, "encode", lambda one, *_: b"line\n%d" % one.x[0].item())
    shown = lines._repr_mimebundle_()["text/plain"].splitlines()
    assert shown[1:] == [f"line {row[0]}" for row in lines.x[:8].tolist()]
    samples = models["duet"].generate(10)
    playable = replace(duet, media_type="sound/x", preview_formats=("png",), formats=("npy",))
    samples = replace(samples, model=replace(samples.model, modality=playable))
    bundle = samples._repr_mimebundle_()
    first = base64.b64encode(samples[0].encode()[0]).decode()
    assert bundle["text/html"].startswith(
        f'<sound controls src="data:sound/x;base64,{first}"></sound> <'
    )
    assert bundle["text/html"].count("<sound") == 8
    assert base64.b64decode(bundle["image/png"]) == samples.model.plugin.preview(
        samples.sample, "png", samples.controls, None
    )


def test_a_condition_of_another_length_is_named(models, monkeypatch):
    model = models["duet"]
    monkeypatch.setattr(model.plugin, "condition", lambda *_: torch.zeros(3, dtype=torch.long))
    with pytest.raises(PluginError, match=r"failed at condition: it returned \[3\] for 64 indices"):
        model.generate(1)


def test_no_more_waits_than_there_are_threads():
    waiting, most, gate = [], [], threading.Semaphore(0)

    def work(item):
        gate.acquire()
        waiting.remove(item)
        return item

    def items():
        for item in range(12):
            waiting.append(item)
            most.append(len(waiting))
            gate.release()
            yield item

    assert list(overlapped(work, items(), workers=2)) == list(range(12))
    assert max(most) <= 2 + 1 + 1  # in work or waiting, and the one that is being made
    assert not waiting


# Foreign and damaged folders -------------------------------------------------------------------------------------


def change(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


DAMAGE = {
    "truncated weights": lambda folder: (folder / "model.safetensors").write_bytes(
        b"\x10\0\0\0\0\0\0\0{"
    ),
    "a pickle for weights": lambda folder: (folder / "model.safetensors").write_bytes(
        pickle.dumps({"a": 1})
    ),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "no JSON": lambda folder: (folder / "config.json").write_text("{"),
    "another program's config": lambda folder: (folder / "config.json").write_text(
        '{"architectures": []}'
    ),
    "a list": lambda folder: (folder / "config.json").write_text("[]"),
    "deep JSON": lambda folder: (folder / "config.json").write_text("[" * 100_000),
    "a newer layout": lambda folder: change(folder, schema=99),
    "options that ask for all memory": lambda folder: change(folder, options={"width": 10**9}),
    "options of another size": lambda folder: change(folder, options={"width": 77}),
    "options that do not exist": lambda folder: change(folder, options={"widht": 77}),
    "facts of the wrong kind": lambda folder: change(folder, facts={"labels": 3}),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_or_foreign_folder_is_one_clear_sentence(models, tmp_path, damage):
    folder = tmp_path / "model"
    shutil.copytree(models["duet"].path, folder)
    DAMAGE[damage](folder)
    if damage == "facts of the wrong kind":
        model = genkit.load(folder, modality=duet)
        with pytest.raises((UserError, PluginError)):
            model.generate(2)
        return
    with pytest.raises(ModelError) as error:
        genkit.load(folder, modality=duet)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_model_never_names_code_to_import(models):
    text = (models["duet"].path / "config.json").read_text()
    assert "genkit.testing" not in text
    assert "toys" not in text


def test_a_model_whose_plugin_is_not_installed_names_it(models):
    with pytest.raises(
        ModelError, match=r"made with local 0 \(ring\), which is not installed here"
    ):
        genkit.load(models["ring"].path)


def test_a_model_of_a_third_partys_plugin_that_is_missing_names_its_distribution(models, tmp_path):
    shutil.copytree(models["ring"].path, tmp_path / "model")
    change(
        tmp_path / "model",
        modality="hologram",
        plugin={"distribution": "genkit-hologram", "version": "2.1"},
    )
    with pytest.raises(
        ModelError,
        match=r"made with genkit-hologram 2\.1 \(hologram\), which is not installed here",
    ):
        genkit.load(tmp_path / "model")


def test_what_is_no_model_says_so(tmp_path):
    with pytest.raises(ModelError, match="does not exist"):
        genkit.load(tmp_path / "nothing")
    with pytest.raises(ModelError, match="neither a model folder"):
        genkit.load(tmp_path)


def test_import_genkit_and_help_import_no_torch():
    code = "import sys, genkit, genkit.cli; genkit.plugins(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_saving_refuses_a_folder_of_something_else(models, tmp_path):
    site = tmp_path / "site"
    (site / "assets").mkdir(parents=True)
    (site / "assets" / "logo.svg").write_text("mine")
    with pytest.raises(ModelError, match="no model folder"):
        models["duet"].save(site)
    assert (site / "assets" / "logo.svg").read_text() == "mine"
    models["duet"].save(tmp_path / "model")
    models["duet"].save(tmp_path / "model")  # over a model it may be


def test_generating_more_into_a_folder_keeps_the_rows_that_are_still_true(models, tmp_path):
    models["duet"].generate(4, seed=1, label="class0").save(tmp_path)
    written = models["duet"].generate(2, seed=1, start=2, label="class1").save(tmp_path)
    assert [path.name for path in written] == ["000002.npy", "000003.npy", "samples.json"]
    rows = json.loads((tmp_path / "samples.json").read_text())["samples"]
    assert {row["file"]: row["label"] for row in rows} == {
        "000000.npy": "class0", "000001.npy": "class0", "000002.npy": "class1", "000003.npy": "class1",
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"holds 2 samples of another seed, 000000\.npy"):
        models["duet"].generate(2, seed=2, start=2).save(tmp_path)
    models["duet"].generate(4, seed=2).save(tmp_path)  # all are replaced


@pytest.mark.parametrize("list_of_others", [None, "{", '{"samples": []}'])
def test_generating_replaces_no_file_of_the_users_own(models, tmp_path, list_of_others):
    (tmp_path / "000070.npy").write_text("mine")
    (tmp_path / "note.txt").write_text("mine")
    if list_of_others:
        (tmp_path / "samples.json").write_text(list_of_others)
    before = tree(tmp_path)
    draw = models["ring"].stream
    for chunks, count in (
        (draw(CHUNK + 7), CHUNK + 7),
        (draw(3, start=70), 3),
        (draw(9, start=69), None),
    ):
        with pytest.raises(
            ConfigError, match=r"holds \d files that the new samples would replace .* --out"
        ):
            save(chunks, tmp_path, count=count)
        assert tree(tmp_path) == before
    if not list_of_others:
        save(draw(70), tmp_path, count=70)
        save(draw(70), tmp_path, count=70)
        assert (tmp_path / "000070.npy").read_text() == "mine"


def test_a_path_that_ends_in_a_slash_is_a_folder(models, tmp_path):
    models["ring"].generate(2).save(f"{tmp_path}/v1.0/")
    assert (tmp_path / "v1.0" / "samples.json").exists()


def test_a_file_is_no_folder(models, tmp_path):
    (tmp_path / "note").write_text("mine")
    for path in (tmp_path / "note", f"{tmp_path}/note/", os.devnull):
        with pytest.raises(ConfigError, match="is no folder, and has no ending of a file"):
            models["ring"].generate(2).save(path)
    assert (tmp_path / "note").read_text() == "mine"
