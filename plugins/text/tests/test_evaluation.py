"""What lines are judged by: likelihoods equal their definition, what cannot be said is counted, known faults show."""

import json
import math
import random

import pytest
import torch
from torch import nn

import genkit
from genkit.errors import ConfigError, DataError
from genkit.kit.distances import frechet
from genkit.plugin import Evidence, Noise, Sample
from genkit_text import metrics
from genkit_text.features import ngram_features
from genkit_text.measures import symbols_of
from genkit_text.options import Controls, Options
from genkit_text.plugin import TextPlugin
from genkit_text.sources import open_source

LINES = ["abab", "ba", "abba", "b", "aab", "bba", "a"]
HELD_OUT = ["abab", "ba", "bab", "b", "aab", "bba"]


class Bigrams(nn.Module):
    """Each symbol depends on the one before; the first, on the last symbol of the prompt."""

    def __init__(self, plugin, seed=0):
        super().__init__()
        facts = plugin.facts
        self.end, self.size = facts["end"], facts["symbols"]
        self.noise = {"symbols": Noise((), "uniform", facts["length"], "float64")}
        seeded = torch.Generator().manual_seed(seed)
        self.table = nn.Parameter(torch.randn(self.size + 1, self.size, generator=seeded))

    def logits(self, before, first):
        logits = self.table[before]
        if self.end is None or not first:
            return logits
        return logits.index_fill(-1, torch.tensor([self.end]), -torch.inf)

    def start(self, condition, rows):
        last = -torch.ones(rows, dtype=torch.long) if condition is None else condition.max(1).values
        return torch.where(last < 0, self.size, last)

    def draw(self, count, condition=None, seed=1):
        """Lines, drawn symbol by symbol."""
        torch.manual_seed(seed)
        before, x = self.start(condition, count), []
        mask = [torch.ones(count, dtype=torch.bool)]
        for step in range(self.noise["symbols"].steps):
            symbols = self.logits(before, step == 0).softmax(1).multinomial(1)[:, 0]
            before = symbols if self.end is None else torch.where(mask[-1], symbols, self.end)
            x.append(before)
            mask.append(mask[-1] if self.end is None else mask[-1] & (before != self.end))
        return Sample(torch.stack(x, 1).detach(), condition, torch.stack(mask[:-1], 1))

    def log_prob(self, sample, temperature=1.0):
        before, steps = self.start(sample.condition, len(sample)), []
        for step in range(sample.x.shape[1]):
            logits = self.logits(before, step == 0) / temperature
            steps.append(logits.log_softmax(1).gather(1, sample.x[:, step, None])[:, 0])
            before = sample.x[:, step]
        return torch.stack(steps, 1).where(sample.mask, 0.0)


def plugin_of(source=LINES, **options):
    chosen = Options(**{"tokenizer": "characters", **options})
    return TextPlugin(chosen, TextPlugin.inspect(source, chosen))


def pairs_of(*pairs):
    """Lines with prompts as a source, for `prompt_field`."""
    return [{"prompt": prompt, "text": line} for prompt, line in pairs]


def real_of(plugin, source=HELD_OUT):
    lines = plugin.references(source, Controls())
    return lines.__getitems__(list(range(len(lines))))


def slow_nll(plugin, generator, pairs, temperature=1.0):
    """Of (prompt, line) pairs, one probability after the other: per symbol, per line."""
    vocabulary, table = plugin.vocabulary, generator.table.detach().double()
    total, count = 0.0, 0
    for prompt, line in pairs:
        symbols = vocabulary.encode(line) + ([] if vocabulary.end is None else [vocabulary.end])
        before = max(vocabulary.encode(prompt), default=generator.size)
        for step, symbol in enumerate(symbols):
            weights = (table[before] / temperature).exp()
            if step == 0 and vocabulary.end is not None:
                weights[vocabulary.end] = 0
            total -= math.log(weights[symbol] / weights.sum())
            before, count = symbol, count + 1
    return total / count, total / len(pairs)


# Real lines -------------------------------------------------------------------------------------------------------


def test_references_are_the_lines_that_a_model_can_represent():
    references = plugin_of().references([*HELD_OUT, "abc", "aaaaaa", " ba ", "xyz"], Controls())
    assert len(references) == len(HELD_OUT) + 1
    assert [skipped.reason.split(";")[0] for skipped in references.skipped] == [
        "it holds symbols that the model does not know",
        "its length is 6 symbols",
        "none of its symbols is known",
    ]
    with pytest.raises(DataError, match=r"none of the 2 items of .* can be used: item 0 \(none of"):
        plugin_of().references(["xyz", "abababab"], Controls())


def test_references_have_prompts_that_a_model_can_represent():
    source = pairs_of(("a", "ab"), ("b", "ba"), ("ab", "b"))
    plugin = plugin_of(source, prompt_field="prompt")
    references = plugin.references(pairs_of(("b", "ab"), ("c", "a"), ("abb", "a")), Controls())
    assert [skipped.reason[:28] for skipped in references.skipped] == [
        "its prompt holds symbols tha",
        "its prompt has 3 symbols; th",
    ]
    (line,) = symbols_of(plugin, references.__getitems__([0]))
    assert plugin.vocabulary.decode(line) == "ab"


# Likelihoods ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_likelihood_is_its_definition_and_counts_the_end(temperature):
    plugin = plugin_of()
    generator, real = Bigrams(plugin), real_of(plugin)
    controls = Controls(temperature=temperature)
    row = plugin.measures(Evidence(generator.draw(8), real, controls, generator=generator))
    slow = slow_nll(plugin, generator, [("", line) for line in HELD_OUT], temperature)
    assert [row["held_out_nll"], row["held_out_nll_line"]] == pytest.approx(slow)
    many = real_of(plugin, HELD_OUT * 50)
    again = plugin.measures(Evidence(generator.draw(8), many, controls, generator=generator))
    assert again["held_out_nll"] == pytest.approx(row["held_out_nll"])


def test_lines_of_one_length_have_no_end():
    plugin = plugin_of(["aba", "bbb", "bab"])
    generator, real = Bigrams(plugin), real_of(plugin, ["aba", "bbb", "ab", "abab"])
    row = plugin.measures(Evidence(generator.draw(10), real, generator=generator))
    slow = slow_nll(plugin, generator, [("", "aba"), ("", "bbb")])
    assert row["held_out_nll_line"] == pytest.approx(slow[1])
    assert (row["length_mean"], row["length_gap"]) == (3, 0)


def test_a_judge_reads_strings_in_its_own_symbols():
    plugin, other = plugin_of(), plugin_of(["cab", "a", "b", "bca"])
    generator, judge = Bigrams(plugin, 1), Bigrams(other, 2)
    samples = generator.draw(64)
    row = plugin.measures(Evidence(samples, real_of(plugin), judge=(other, judge)))
    strings = [plugin.vocabulary.decode(line) for line in symbols_of(plugin, samples)]
    short = [line for line in strings if len(line) <= 3]
    assert 0 < len(short) < 64
    slow = slow_nll(other, judge, [("", line) for line in short])
    assert [row["judge_nll"], row["judge_nll_line"]] == pytest.approx(slow)
    assert row["unjudged"] == 1 - len(short) / 64
    foreign = plugin_of(["xy", "z"])
    none = plugin.measures(Evidence(samples, real_of(plugin), judge=(foreign, Bigrams(foreign))))
    assert (none["judge_nll"], none["unjudged"]) == (None, 1)


def test_prompts_condition_likelihood_and_judge():
    source = pairs_of(("a", "ab"), ("b", "ba"), ("ab", "b"))
    plugin = plugin_of(source, prompt_field="prompt")
    generator, judge = Bigrams(plugin, 1), Bigrams(plugin, 2)
    real = real_of(plugin, source)
    samples = generator.draw(9, real.condition[[0, 1, 2] * 3])
    row = plugin.measures(Evidence(samples, real, generator=generator, judge=(plugin, judge)))
    pairs = [(one["prompt"], one["text"]) for one in source]
    assert row["held_out_nll"] == pytest.approx(slow_nll(plugin, generator, pairs)[0])
    lines = [plugin.vocabulary.decode(line) for line in symbols_of(plugin, samples)]
    answers = [(pairs[place % 3][0], line) for place, line in enumerate(lines) if len(line) < 3]
    assert row["judge_nll"] == pytest.approx(slow_nll(plugin, judge, answers)[0])
    plain = plugin_of()
    with pytest.raises(ConfigError, match="the judge answers prompts, and the samples answer none"):
        plain.measures(Evidence(real_of(plain), real_of(plain), judge=(plugin, judge)))
    with pytest.raises(ConfigError, match="gives no likelihoods"):
        plugin.measures(Evidence(samples, real, judge=(plugin, nn.Identity())))


def test_a_likelihood_that_is_infinite_has_no_value():
    plugin = plugin_of()
    generator = Bigrams(plugin)
    with torch.no_grad():
        generator.table[:, 1] = -torch.inf
    row = plugin.measures(Evidence(generator.draw(4), real_of(plugin), generator=generator))
    assert row["held_out_nll"] is None


# Other measures ---------------------------------------------------------------------------------------------------


def test_measures_are_those_of_the_symbols_and_the_same_in_every_row():
    plugin = plugin_of()
    generator, real = Bigrams(plugin, 3), real_of(plugin)
    samples = generator.draw(100)
    evidence = Evidence(
        samples,
        real,
        Controls(),
        generator=generator,
        judge=(plugin, generator),
        training=["ab", "b"],
    )
    row, lines = plugin.measures(evidence), symbols_of(plugin, samples)
    references = [plugin.vocabulary.encode(line) for line in HELD_OUT]
    for order in (1, 5):
        assert row[f"bleu_{order}"] == metrics.bleu(lines, references, 5).values[order - 1]
        assert row[f"self_bleu_{order}"] == metrics.self_bleu(lines, 5).values[order - 1]
        assert row[f"distinct_{order}"] == metrics.distinct(lines, order)
        assert row[f"entropy_{order}"] == metrics.entropy(lines, order)
    strings = [plugin.vocabulary.decode(line) for line in lines]
    assert row["copies"] == sum(line in ("ab", "b") for line in strings) / 100
    assert row["length_mean"] == sum(map(len, strings)) / 100
    shares = [
        [sum(len(line) == length for line in some) / len(some) for length in range(6)]
        for some in (strings, HELD_OUT)
    ]
    assert row["length_gap"] == pytest.approx(
        sum(abs(one - other) for one, other in zip(*shares, strict=True)) / 2
    )
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    bare = plugin.measures(Evidence(real, samples))
    assert list(bare) == list(row)
    assert [name for name, value in bare.items() if value is None] == [
        "held_out_nll", "held_out_nll_line", "judge_nll", "judge_nll_line", "unjudged", "distinct_5", "entropy_5",
        "copies",
    ]  # fmt: skip
    assert {name for pair in plugin.curves for name in pair} <= set(row)


def test_a_prompt_that_a_line_continues_is_part_of_it():
    plugin = plugin_of()
    samples = real_of(plugin)
    begun = Sample(samples.x, torch.tensor([[2, 1, -1]] * len(samples)), samples.mask)
    assert symbols_of(plugin, begun) == [[2, 1, *line] for line in symbols_of(plugin, samples)]


def test_shuffled_symbols_are_a_row_of_the_scale():
    plugin = plugin_of(["abcdefgh", "ab"])
    real = real_of(plugin, ["abcdefgh", "hgfed"] * 8)
    torch.manual_seed(0)
    mixed = plugin.corruptions(real)["shuffled"]
    assert torch.equal(mixed.mask, real.mask)
    pairs = list(zip(symbols_of(plugin, real), symbols_of(plugin, mixed), strict=True))
    assert all(sorted(line) == sorted(other) for line, other in pairs)
    assert sum(line != other for line, other in pairs) > 12
    assert torch.equal(mixed.x[~real.mask], real.x[~real.mask])


# Networks ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kjv():
    return open_source("builtin:kjv/held-out", Options()).lines[:400]


def damaged(lines):
    """Real lines, with their words shuffled, and with their characters shuffled."""
    numbers = random.Random(0)
    words = [" ".join(numbers.sample(line.split(), len(line.split()))) for line in lines]
    return lines, words, ["".join(numbers.sample(line, len(line))) for line in lines]


def test_ngrams_are_projected_at_random_and_order_lines(kjv):
    rows = ngram_features(["", "ab", "aab", "ba"])
    assert rows.shape == (4, 96)
    assert torch.equal(ngram_features(["aab"])[0], rows[2])
    assert not torch.equal(rows[1, :32], rows[2, :32])
    assert torch.equal(rows[1, :32], rows[3, :32])  # the same characters in another order
    assert not torch.equal(rows[1, 32:], rows[3, 32:])
    features = ngram_features(kjv[:200])
    real, words, characters = (
        frechet(ngram_features(lines), features) for lines in damaged(kjv[200:])
    )
    assert real < 0.95 * words < 0.7 * characters


def test_networks_see_text_whatever_the_symbols(kjv):
    features = []
    for tokenizer in ("characters", "words"):
        plugin = plugin_of(kjv, tokenizer=tokenizer)
        network = plugin.feature_networks({}, None)["ngrams"]
        features.append(network.features(real_of(plugin, kjv[:20])))
    assert torch.equal(*features)
    assert network.distance == "fd-ngrams"
    with pytest.raises(ConfigError, match="'ngrams': no network of that name takes a file"):
        plugin.feature_networks({"ngrams": "file"}, None)


def test_wordllama_is_the_mean_of_the_vectors_of_tokens(kjv):
    pytest.importorskip("wordllama", exc_type=ImportError)
    plugin = plugin_of(kjv, tokenizer="words")
    network = plugin.feature_networks({}, None)["wordllama"]
    lines = ["the king", "the queen", "a horse"]
    reader = plugin_of(lines, tokenizer="words")
    features = reader.feature_networks({}, None)["wordllama"].features(real_of(reader, lines))
    assert (features.shape, network.distance) == ((3, 256), "fd-wordllama")
    near = torch.nn.functional.cosine_similarity(features[:1], features[1:])
    assert near[0] > near[1] + 0.1
    shuffled = plugin.corruptions(real_of(plugin, kjv[:50]))["shuffled"]
    whole = network.features(real_of(plugin, kjv[:50]))
    assert torch.cdist(network.features(shuffled), whole).argmin(1).tolist() == list(range(50))


# As a whole -------------------------------------------------------------------------------------------------------


def test_a_low_temperature_trades_diversity_for_quality(kjv, tmp_path):
    settings = {"threads": 1, "recipe": {"batch_size": 16}, "run": {"plan": "fp32", "samples": 1}}
    options = {"embedding": 8, "hidden": 16, "dropout": 0.0}
    kjv = [" ".join(word[:1] for word in line.split()) for line in kjv]
    model = genkit.train(
        "text", kjv, preset="mle", out=tmp_path / "mle", items=960, options=options, **settings
    )
    judge = genkit.train(
        "text", kjv, preset="mle", out=tmp_path / "judge", items=960, init=tmp_path / "mle", seed=1, **settings
    )  # fmt: skip
    evaluation = genkit.evaluate(
        {"mle": model}, kjv, 20, features="ngrams", vary={"temperature": [1.0, 0.3]}, judge=judge, training=kjv,
    )  # fmt: skip
    rows = {
        row.title: {name: figure.value for name, figure in row.figures.items()}
        for row in evaluation.rows
    }
    assert list(rows) == ["real", "noise", "shuffled", "mle @ 1.0", "mle @ 0.3"]
    warm, cold = rows["mle @ 1.0"], rows["mle @ 0.3"]
    assert cold["judge_nll"] < warm["judge_nll"]
    assert cold["held_out_nll"] > warm["held_out_nll"]
    assert cold["self_bleu_2"] > warm["self_bleu_2"]
    assert rows["real"]["copies"] == 1
    assert ("self_bleu_4", "judge_nll") in evaluation.curves
