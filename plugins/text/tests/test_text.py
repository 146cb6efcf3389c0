"""Text through the one engine: every preset trains, resumes, is saved and drawn from like any modality's."""

import json
import shutil

import pytest
import torch
import toys
from language_models import write_language_model
from torch import nn
from torch.nn.functional import kl_div, log_softmax, one_hot

import genkit
from genkit.config import build
from genkit.errors import ConfigError, ModelError
from genkit.plugin import Critique, Facts, Networks, Sample
from genkit_text import features, modality
from genkit_text.drawing import pick
from genkit_text.generators import check_decoding, make_generator
from genkit_text.options import Options
from genkit_text.plugin import TextPlugin

WORDS = [
    "the",
    "king",
    "said",
    "unto",
    "him",
    "go",
    "and",
    "see",
    "what",
    "thou",
    "hast",
    "done",
    "this",
    "day",
]
LINES = [
    " ".join(WORDS[(start + step * stride) % 14] for step in range(2 + start % 4))
    for start in range(14)
    for stride in (1, 3, 5)
]
SMALL = {"embedding": 8, "hidden": 8, "critic_embedding": 8, "critic_hidden": 8}
QUICK = [{"kind": "pretrain", "items": 32}, {"kind": "critics", "items": 16}, {"kind": "game"}]


def small(preset, **more):
    """A preset, cut down to seconds."""
    recipe = {"batch_size": 8, "critic": {"steps": 1}}
    if len(modality.presets[preset].recipe.get("stages", ())) > 1:
        recipe["stages"] = QUICK
    if "seqgan" in preset and "fast" not in preset:
        recipe["estimator"] = {"rollouts": 2}
    if preset == "cooperative":
        recipe["estimator"] = {"group": 4}
        # A rate in shares of a run is another one in a longer run.
        recipe["generator"] = {"learning_rate": 1e-3}
    return {
        "preset": preset,
        "options": {**SMALL, **more.pop("options", {})},
        "recipe": recipe,
        "threads": 1,
        **more,
    }


class Counting(nn.Module):
    """A critic of one's own: one logit a line, from how often each symbol is in it."""

    def __init__(self, options, facts):
        super().__init__()
        self.symbols = facts["symbols"]
        self.out = nn.Linear(self.symbols, 1)

    def forward(self, sample):
        shown = (
            one_hot(sample.x, self.symbols).float() if sample.relaxed is None else sample.relaxed
        )
        return Critique((self.out((shown * sample.mask[..., None]).sum(1))[:, 0],))


def nothing_skipped(run):
    """Whether every turn of every player had a finite gradient, and there were some."""
    logged = [json.loads(row) for row in (run / "metrics.jsonl").read_text().splitlines()]
    skipped = [value for row in logged for name, value in row.items() if name.endswith(".skipped")]
    return skipped and not any(skipped)


@pytest.mark.parametrize("preset", ["seqgan", "relgan"])
def test_a_critic_of_ones_own_plays_where_a_built_in_one_is_named(tmp_path, preset):
    settings = small(preset, options={"critic": Counting})
    model = genkit.train("text", LINES, out=tmp_path / "run", items=80, **settings)
    assert model.info["options"]["critic"] == f"{__name__}:Counting"
    assert len(model.generate(3, best_of=2)) == 3
    assert nothing_skipped(tmp_path / "run")


def test_the_decay_of_a_built_in_critic_is_not_that_of_ones_own():
    with pytest.raises(ConfigError, match="critic_decay is of the built-in critics"):
        build("text", "seqgan-paper", settings=[{"options": {"critic": Counting}}])


@pytest.mark.parametrize("preset", [name for name in modality.presets if name != "lm"])
def test_a_preset_trains_resumes_and_loads(tmp_path, preset):
    settings = small(preset, run={"plan": "fp32"})
    whole = genkit.train("text", LINES, out=tmp_path / "a", items=80, **settings)
    genkit.train("text", LINES, out=tmp_path / "b", items=56, **settings)
    parts = genkit.train("text", LINES, out=tmp_path / "b", items=80, resume=True)
    made = genkit.load(tmp_path / "a").generate(20)
    assert torch.equal(made.x, whole.generate(20).x)
    assert torch.equal(made.x, parts.generate(20).x)
    for name, value in whole.generator.state_dict().items():
        assert torch.equal(value, parts.generator.state_dict()[name]), name
    assert {word for line in made.encode() for word in line.decode().split()} <= set(WORDS)
    assert nothing_skipped(tmp_path / "a")


def test_every_preset_is_a_configuration():
    json.dumps(modality.to_json())
    for preset in modality.presets:
        assert build("text", preset).preset == preset


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    out = tmp_path_factory.mktemp("text") / "run"
    return genkit.train("text", LINES, out=out, items=600, **small("mle"))


def test_a_seed_is_a_line_in_any_batch(model, tmp_path):
    model.generate(100, seed=3).save(tmp_path / "all")
    model.generate(3, seed=3, start=30).save(tmp_path / "few")
    model.generate(seed=3, indices=[99, 7, 64, 63, 0]).save(tmp_path / "shuffled")
    for folder, indices in (("few", (30, 31, 32)), ("shuffled", (0, 7, 63, 64, 99))):
        for index in indices:
            name = f"{index:06d}.txt"
            assert (tmp_path / folder / name).read_bytes() == (tmp_path / "all" / name).read_bytes()


def test_lines_are_one_file_or_one_stream(model, tmp_path):
    samples = model.generate(12, seed=5)
    samples.save(tmp_path / "lines.txt")
    samples.save(tmp_path / "lines.jsonl")
    lines = (tmp_path / "lines.txt").read_text().splitlines()
    assert lines == [line.decode() for line in samples.encode()]
    assert [
        json.loads(row)["text"] for row in (tmp_path / "lines.jsonl").read_text().splitlines()
    ] == lines


def test_a_prompt_begins_every_line(model):
    for line in model.generate(8, label="go and see").encode():
        assert line.decode().startswith("go and see")
    with pytest.raises(ConfigError, match="knows no symbol"):
        model.generate(1, label="xylophone")


def test_controls_are_taken_and_checked(model):
    sharp = model.generate(40, controls={"top_k": 1})
    assert len({bytes(line) for line in sharp.encode()}) == 1
    assert {
        len(line.decode().split())
        for line in model.generate(30, controls={"max_new_tokens": 2}).encode()
    } <= {
        1,
        2,
    }
    for temperature in (0, 1e-40, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match="temperature"):
            model.generate(1, controls={"temperature": temperature})


def test_pretraining_learns_the_language(model):
    """After 600 lines the likelihood is far better than that of uniform words."""
    data = model.plugin.dataset(LINES)
    batch = data.__getitems__(list(range(len(data))))
    with torch.no_grad():
        per_symbol = -model.generator.log_prob(batch).sum() / batch.mask.sum()
    assert per_symbol < 0.9 * torch.tensor(15.0).log()


# Pretrained models -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    return write_language_model(tmp_path_factory.mktemp("lm"), LINES)


def test_a_language_model_is_tuned_resumed_and_drawn_from_without_its_folder(
    tmp_path, language_model
):
    folder = tmp_path / "pretrained"
    shutil.copytree(language_model, folder)
    settings = small("lm", options={"pretrained": str(folder)}, run={"plan": "fp32"})
    whole = genkit.train("text", LINES, out=tmp_path / "a", items=80, **settings)
    genkit.train("text", LINES, out=tmp_path / "b", items=56, **settings)
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
    parts = genkit.train("text", LINES, out=tmp_path / "b", items=80, resume=True)
    shutil.rmtree(folder)
    made = genkit.load(tmp_path / "a").generate(10)
    assert torch.equal(made.x, whole.generate(10).x)
    assert torch.equal(made.x, parts.generate(10).x)
    prompted = [
        line.decode() for line in genkit.load(tmp_path / "a").generate(3, label="the king").encode()
    ]
    assert all(line.startswith("the king") for line in prompted)
    logged = [
        json.loads(row) for row in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()
    ]
    assert logged[-1]["generator.divergence"] > 0
    assert nothing_skipped(tmp_path / "a")


def test_divergence_is_the_mean_over_what_was_written(language_model):
    options = Options(generator="decoder", pretrained=str(language_model))
    corpus = TextPlugin.open(LINES, options)
    plugin = TextPlugin(options, TextPlugin.inspect(corpus, options))
    networks = plugin.networks()
    plugin.initialise(networks)
    networks.generator.eval()
    networks.frozen["reference"].eval()
    fake = plugin.dataset(corpus).__getitems__(list(range(10)))
    assert plugin.terms("generator", networks, fake, fake, {})[
        "divergence"
    ].item() == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        for parameter in networks.generator.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    found = plugin.terms("generator", networks, fake, fake, {})["divergence"]
    now, before = (
        log_softmax(network.logits(fake), 2).where(torch.isfinite(network.logits(fake)), -1e9)
        for network in (networks.generator, networks.frozen["reference"])
    )
    expected = kl_div(before, now, reduction="none", log_target=True).sum(2)[fake.mask].mean()
    torch.testing.assert_close(found, expected)
    found.backward()
    assert all(parameter.grad is None for parameter in networks.frozen["reference"].parameters())
    assert all(parameter.grad.isfinite().all() for parameter in networks.generator.parameters())


def test_lines_must_fit_into_a_language_model(language_model):
    with pytest.raises(
        ConfigError, match=r"reads 32 symbols at most.*set options\.length to 31 or less"
    ):
        TextPlugin.inspect(
            LINES, Options(generator="decoder", pretrained=str(language_model), length=40)
        )


KEPT = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "vocab_size": 20,
}
LLAMA = {"model_type": "llama", **KEPT, "num_key_value_heads": 2}
GEMMA = {"model_type": "gemma", **KEPT, "num_key_value_heads": 2, "head_dim": 4}


@pytest.mark.parametrize("configuration", [LLAMA, GEMMA], ids=["llama", "gemma"])
def test_other_transformers_are_one_policy_too(configuration):
    facts = {
        "symbols": 20,
        "length": 5,
        "end": 0,
        "unknown": None,
        "prompt_length": 0,
        "decoder": configuration,
    }
    torch.manual_seed(0)
    generator = make_generator(Options(generator="decoder"), Facts(facts)).eval()
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.mul_(5)
        check_decoding(generator, "it")
        noise = torch.rand(40, 5, dtype=torch.float64)
        sample = generator({"symbols": noise})
        logits = generator.logits(sample)
        again = torch.stack([pick(logits[:, step], noise[:, step]) for step in range(5)], 1)
    assert torch.equal(again[sample.mask], sample.x[sample.mask])


def test_a_transformer_that_keeps_nothing_is_refused_at_the_door():
    known = {
        "model_type": "mamba",
        "vocab_size": 20,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "state_size": 4,
    }
    facts = {
        "symbols": 20,
        "length": 5,
        "end": 0,
        "unknown": None,
        "prompt_length": 0,
        "decoder": known,
    }
    generator = make_generator(Options(generator="decoder"), Facts(facts)).eval()
    with pytest.raises(ConfigError, match=r"options\.pretrained = 'it' cannot be drawn from"):
        check_decoding(generator, "it")


def test_nothing_in_a_model_folder_names_code(tmp_path):
    (tmp_path / "m.py").write_text("raise SystemExit('executed')")
    hostile = {
        "_name_or_path": str(tmp_path),
        "auto_map": {"AutoModelForCausalLM": "m.C", "AutoModel": "m.C"},
    }
    hostile |= {"attn_implementation": "evil/kernel", "_attn_implementation": "evil/kernel"}
    facts = {"symbols": 20, "length": 5, "end": 0, "unknown": None, "prompt_length": 0}
    plain = Facts({**facts, "decoder": {**LLAMA, **hostile}})
    assert make_generator(Options(generator="decoder"), plain).noise["symbols"].steps == 5
    with pytest.raises(ValueError, match="Unrecognized configuration class"):
        make_generator(
            Options(generator="decoder"),
            Facts({**facts, "decoder": {"model_type": "vit", **hostile}}),
        )


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda folder: (folder / "assets" / "tokenizer.json").unlink(), "tokenizer"),
        (
            lambda folder: (folder / "assets" / "tokenizer.json").write_text("{"),
            "tokenizer cannot be read",
        ),
        (lambda folder: change(folder, end=999), "its end is symbol 999"),
    ],
)
def test_a_damaged_model_is_one_sentence(model, tmp_path, break_it, said):
    folder = shutil.copytree(model.path, tmp_path / "model")
    break_it(folder)
    with pytest.raises(ModelError, match=said):
        genkit.load(folder).generate(1, label="the king").encode()


def change(folder, **facts):
    known = json.loads((folder / "config.json").read_text())
    known["facts"] |= facts
    (folder / "config.json").write_text(json.dumps(known))


def test_a_critics_decay_is_half_the_squared_norm_of_its_last_layer():
    options = Options(critic="convolutional", critic_decay=0.2)
    plugin = TextPlugin(options, TextPlugin.inspect(LINES, options))
    networks = plugin.networks()
    out = networks.critics["critic"].out
    expected = 0.1 * (out.weight.square().sum() + out.bias.square().sum())
    sample = Sample(torch.zeros(1, 2))
    torch.testing.assert_close(
        plugin.terms("critic", networks, sample, sample, {})["decay"], expected
    )
    assert plugin.terms("generator", Networks(networks.generator, {}), sample, sample, {}) == {}


def test_answers_are_learned_beside_their_prompts(tmp_path):
    rows = [{"prompt": line.split()[0], "text": " ".join(line.split()[1:])} for line in LINES]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = small("seqgan-fast", options={"prompt_field": "prompt"})
    made = genkit.train("text", str(file), out=tmp_path / "run", items=64, **settings)
    answers = [line.decode() for line in made.generate(4, label="the").encode()]
    assert all(answer and set(answer.split()) <= set(WORDS) for answer in answers)
    assert made.plugin.condition("the", [0]).shape == (1, made.plugin.facts["prompt_length"])
    with pytest.raises(ConfigError, match="give a label"):
        made.generate(1)


def test_text_and_another_modality_train_in_one_process(tmp_path):
    genkit.train("text", LINES, out=tmp_path / "a", items=16, **small("mle"))
    genkit.train(toys.ring, out=tmp_path / "b", items=256, threads=1)
    assert genkit.load(tmp_path / "a").generate(2).x.shape == (
        2,
        TextPlugin.inspect(LINES, Options())["length"],
    )


def test_the_best_of_several_is_what_the_critic_prefers(tmp_path):
    model = genkit.train("text", LINES, out=tmp_path / "run", items=200, **small("seqgan-fast"))
    scores = [
        model.reranker.scores(model.generate(30, seed=1, best_of=count).sample).mean().item()
        for count in (1, 8)
    ]
    assert scores[1] > scores[0]


def test_the_best_of_several_begins_with_its_prompt_in_a_decoder_too(tmp_path):
    options = {"generator": "decoder", "critic": "decoder", "heads": 2}
    model = genkit.train(
        "text", LINES, out=tmp_path / "run", items=80, **small("seqgan-fast", options=options)
    )
    lines = [
        line.decode()
        for line in model.generate(3, label="go and see what thou", best_of=4).encode()
    ]
    assert all(line.startswith("go and see what thou") for line in lines)


def test_a_game_begins_with_a_model_of_likelihood_whatever_its_critic_was(tmp_path):
    genkit.train("text", LINES, out=tmp_path / "mle", items=80, **small("mle"))
    said = []
    settings = small("seqgan-fast", options={"critic": "convolutional"})
    settings["recipe"] |= {
        "stages": [{"kind": "game"}],
        "estimator": {"kind": "score_function", "credit": "terminal"},
    }
    settings["recipe"]["generator"] = {"learning_rate": 0.0}
    model = genkit.train(
        "text", LINES, out=tmp_path / "game", items=16, init=tmp_path / "mle",
        progress=lambda progress: said.append(progress.note), **settings,
    )  # fmt: skip
    assert any("starts with fresh weights" in note for note in said if note)
    assert torch.equal(model.generate(20).x, genkit.load(tmp_path / "mle").generate(20).x)


def test_a_run_that_starts_from_a_model_keeps_its_vocabulary_whatever_the_data_are(tmp_path):
    """Symbols of new data would be others, and weights of as many would fit them without a word."""
    shuffled = {
        **small("mle"),
        "recipe": {**small("mle")["recipe"], "stages": [{"kind": "critics"}]},
    }
    first = genkit.train("text", LINES, out=tmp_path / "mle", items=80, **small("mle"))
    other = [line.replace(WORDS[-1], "aardvark") for line in LINES]
    model = genkit.train(
        "text", other, out=tmp_path / "tuned", items=16, init=tmp_path / "mle", **shuffled
    )
    assert model.plugin.facts == first.plugin.facts
    assert model.generate(20).encode() == first.generate(20).encode()
    shutil.rmtree(tmp_path / "mle")
    again = genkit.train("text", other, out=tmp_path / "tuned", items=32, resume=True)
    assert again.generate(20).encode() == model.generate(20).encode()


def test_a_critic_sees_the_known_vectors_of_words_beside_its_own(tmp_path):
    pytest.importorskip("wordllama", exc_type=ImportError)
    settings = small("mle", options={"critic": "bidirectional", "critic_vectors": "wordllama"})
    settings["recipe"] |= {"stages": [{"kind": "critics"}]}
    model = genkit.train("text", LINES, out=tmp_path / "run", items=64, **settings)
    (critic,) = model.reranker.critics.values()
    assert not any("vectors" in name for name in critic.state_dict()), "the table stays where it is"
    vectors = critic.embedding.vectors
    assert vectors.shape[0] == model.plugin.facts["symbols"]
    assert vectors.std().item() == pytest.approx(1, abs=0.05)
    opened = genkit.load(tmp_path / "run")
    assert torch.equal(opened.generate(9, best_of=3).x, model.generate(9, best_of=3).x)
    samples = model.generate(9).sample
    before = model.reranker.scores(samples)
    critic.embedding.vectors = torch.zeros_like(vectors)
    assert not torch.allclose(model.reranker.scores(samples), before)


def test_vectors_that_are_not_there_are_said_to_be_missing(monkeypatch, tmp_path):
    monkeypatch.setattr("genkit_text.features.find_spec", lambda name: None)
    features._word_table.cache_clear()
    options = {"critic_vectors": "wordllama"}
    with pytest.raises(ConfigError, match=r"pip install 'genkit-gan-text\[wordllama\]'"):
        genkit.train("text", LINES, out=tmp_path, items=8, **small("mle", options=options))
    with pytest.raises(ConfigError, match="critic_vectors are for a convolutional, recurrent"):
        build(modality, "lm", LINES, [{"options": {"critic_vectors": "wordllama"}}])
