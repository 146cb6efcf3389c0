"""Evaluation: likelihoods equal their definition, what cannot be said is counted, curves, the two commands."""

import csv
import json
import math
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import genkit
from genkit.errors import ConfigError, DataError, GenkitError
from genkit.plugin import Facts, Modality, ModalityPlugin, Networks, Noise, Sample, Skipped
from genkit_text.__main__ import main
from genkit_text.curves import check_picture, plot, to_csv
from genkit_text.evaluation import curve, evaluate, nll
from genkit_text.options import Controls

HELD_OUT = ["abab", "ba", "abba", "b", "aab", "bba"]


class Letters:
    """One symbol a letter, the end before them; an unknown letter is dropped, as tokenizers do."""

    def __init__(self, letters, end):
        self.letters, self.end, self.unknown = letters, end, None
        self.size = len(letters) + (end is not None)

    def encode_each(self, lines):
        shift = self.end is not None
        return [
            [self.letters.index(letter) + shift for letter in line if letter in self.letters]
            for line in lines
        ]

    def encode(self, line):
        return self.encode_each([line])[0]

    def decode(self, symbols):
        symbols = list(symbols)[: symbols.index(self.end)] if self.end in symbols else symbols
        return "".join(self.letters[symbol - (self.end is not None)] for symbol in symbols)


class Bigrams(nn.Module):
    """Each symbol depends on the one before; the first, on the last symbol of the prompt."""

    def __init__(self, facts):
        super().__init__()
        self.end, self.size = facts["end"], facts["symbols"]
        self.noise = {"symbols": Noise((), "uniform", facts["length"], "float64")}
        seeded = torch.Generator().manual_seed(facts["seed"])
        self.table = nn.Parameter(torch.randn(self.size + 1, self.size, generator=seeded))

    def logits(self, before, first):
        logits = self.table[before]
        if self.end is None or not first:
            return logits
        return logits.index_fill(-1, torch.tensor([self.end]), -torch.inf)

    def start(self, condition, rows):
        last = -torch.ones(rows, dtype=torch.long) if condition is None else condition.max(1).values
        return torch.where(last < 0, self.size, last)

    def forward(self, noise, condition=None, controls=None):
        before, x = self.start(condition, len(noise["symbols"])), []
        mask = [torch.ones(len(before), dtype=torch.bool)]
        for step, uniform in enumerate(noise["symbols"].T):
            shares = (
                (self.logits(before, step == 0).double() / controls.temperature)
                .softmax(1)
                .cumsum(1)
            )
            drawn = (uniform[:, None] * shares[:, -1:] >= shares[:, :-1]).sum(1)
            before = drawn if self.end is None else torch.where(mask[-1], drawn, self.end)
            x.append(before)
            mask.append(mask[-1] if self.end is None else mask[-1] & (before != self.end))
        return Sample(torch.stack(x, 1), condition, torch.stack(mask[:-1], 1))

    def log_prob(self, sample, temperature=1.0):
        before, steps = self.start(sample.condition, len(sample)), []
        for step in range(sample.x.shape[1]):
            logits = self.logits(before, step == 0) / temperature
            steps.append(logits.log_softmax(1).gather(1, sample.x[:, step, None])[:, 0])
            before = sample.x[:, step]
        return torch.stack(steps, 1).where(sample.mask, 0.0)


class Stub(ModalityPlugin):
    """Text as the plugin has it, with a small generator; sources are lists, of pairs where there are prompts."""

    @property
    def vocabulary(self):
        return Letters(self.facts["letters"], self.facts["end"])

    @classmethod
    def open(cls, source, options):
        if isinstance(source, str):
            with open(source, encoding="utf-8") as file:
                source = file.read().splitlines()
        asked = bool(source) and isinstance(source[0], tuple)
        pairs = [one if asked else ("", one) for one in source]
        kept = [(prompt, line) for prompt, line in pairs if line]
        skipped = [
            Skipped(f"line {number}", "empty")
            for number, (_, line) in enumerate(pairs, 1)
            if not line
        ]
        prompts, lines = (
            [prompt for prompt, _ in kept] if asked else None,
            [line for _, line in kept],
        )
        return SimpleNamespace(
            source=SimpleNamespace(title="the lines", lines=lines, prompts=prompts, skipped=skipped)
        )

    def networks(self):
        return Networks(Bigrams(self.facts), {})


TEXT = Modality(id="text", title="Text", plugin=Stub, controls="genkit_text.options:Controls")


def model_of(seed=0, letters="ab", length=6, end=0, prompt_length=0, modality=TEXT):
    symbols = len(letters) + (end is not None)
    values = {
        "letters": letters,
        "end": end,
        "symbols": symbols,
        "length": length,
        "prompt_length": prompt_length,
    }
    plugin = Stub(None, Facts({**values, "seed": seed}))
    info = {
        "schema": 1, "modality": modality.id, "plugin": {"distribution": "local", "version": "0"}, "options": {},
        "facts": plugin.facts.values, "items": 0, "conditional": bool(prompt_length),
    }  # fmt: skip
    return genkit.Model(
        modality, plugin, plugin.networks().generator.eval(), info, torch.device("cpu")
    )


def slow_nll(model, pairs, temperature=1.0):
    """Of (prompt, line) pairs, one probability after the other."""
    vocabulary, table, total, count = (
        model.plugin.vocabulary,
        model.generator.table.detach().double(),
        0.0,
        0,
    )
    for prompt, line in pairs:
        symbols = vocabulary.encode(line) + ([] if vocabulary.end is None else [vocabulary.end])
        before = max(vocabulary.encode(prompt), default=vocabulary.size)
        for step, symbol in enumerate(symbols):
            weights = (table[before] / temperature).exp()
            if step == 0 and vocabulary.end is not None:
                weights[vocabulary.end] = 0
            total -= math.log(weights[symbol] / weights.sum())
            before, count = symbol, count + 1
    return total / count, total / len(pairs), count


# One model -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_likelihood_is_its_definition_and_counts_the_end(temperature):
    model = model_of()
    report = evaluate(model, HELD_OUT, samples=8, controls={"temperature": temperature})
    found = report["held_out"]
    slow = slow_nll(model, [("", line) for line in HELD_OUT], temperature)
    assert [found["nll_per_symbol"], found["nll_per_line"], found["symbols"]] == pytest.approx(slow)
    assert (found["lines"], found["left_out"], found["temperature"]) == (
        len(HELD_OUT),
        0,
        temperature,
    )


def test_likelihood_does_not_depend_on_batches():
    model = model_of()
    many, once = evaluate(model, HELD_OUT * 50, samples=2), evaluate(model, HELD_OUT, samples=2)
    assert many["held_out"]["nll_per_symbol"] == pytest.approx(once["held_out"]["nll_per_symbol"])
    assert many["held_out"]["lines"] == 50 * len(HELD_OUT)


def test_lines_of_one_length_have_no_end():
    model = model_of(end=None, length=3)
    report = evaluate(model, ["aba", "bbb", "ab", "abab"], samples=10)
    assert (report["held_out"]["left_out"], report["held_out"]["symbols"]) == (2, 6)
    assert report["lengths"] == {"samples": {"3": 10}, "held_out": {"3": 2}}
    slow = slow_nll(model, [("", "aba"), ("", "bbb")])
    assert report["held_out"]["nll_per_line"] == pytest.approx(slow[1])


def test_what_the_model_cannot_say_is_left_out_and_counted():
    report = evaluate(model_of(), [*HELD_OUT, "abc", "", "aaaaaa", " ba "], samples=2)
    assert (report["held_out"]["lines"], report["held_out"]["left_out"]) == (len(HELD_OUT) + 1, 3)
    with pytest.raises(DataError, match="say none of the 2 lines of the lines: they hold symbols"):
        evaluate(model_of(), ["xyz", "abababab"])
    with pytest.raises(DataError, match="the lines is empty"):
        evaluate(model_of(), [])
    with pytest.raises(
        DataError, match=r"none of the 2 items of the lines can be used: line 1 \(empty\)"
    ):
        evaluate(model_of(), ["", ""])


def test_samples_are_those_of_the_model_and_the_report_is_json():
    model = model_of(3)
    report = evaluate(
        model, HELD_OUT, 100, references=4, judge=model_of(4), training=["ab", "b"], seed=5
    )
    drawn = model.generate(100, seed=5)
    strings = [model.plugin.vocabulary.decode(row.tolist()) for row in drawn.x]
    assert report["copies"]["share"] == sum(line in ("ab", "b") for line in strings) / 100
    assert report["lengths"]["samples"] == {
        str(length): count
        for length in range(1, 7)
        if (count := [len(line) for line in strings].count(length))
    }
    assert (report["bleu"]["candidates"], report["bleu"]["references"]) == (100, 4)
    assert (report["self_bleu"]["references"], len(report["self_bleu"]["values"])) == (99, 5)
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_a_judge_reads_strings_in_its_own_symbols():
    model, judge = model_of(1), model_of(2, letters="cba", length=5)
    told = []
    report = evaluate(model, HELD_OUT, samples=64, judge=judge, tell=told.append)["judge"]
    drawn = model.generate(64).x.tolist()
    strings = [line for row in drawn if len(line := model.plugin.vocabulary.decode(row)) < 5]
    slow = slow_nll(judge, [("", line) for line in strings])
    assert [report["nll_per_symbol"], report["nll_per_line"], report["symbols"]] == pytest.approx(
        slow
    )
    assert (report["lines"], report["left_out"]) == (len(strings), 64 - len(strings))
    assert report["left_out"] > 0
    assert told[-1].startswith(f"the judge cannot say {report['left_out']} of 64 samples")


def test_prompts_condition_likelihood_samples_and_judge():
    pairs = [("a", "ab"), ("b", "ba"), ("ab", "b"), ("abb", "a"), ("c", "a")]
    model, judge = model_of(1, prompt_length=2), model_of(2, prompt_length=2)
    report = evaluate(model, pairs, samples=9, judge=judge)
    assert report["held_out"]["left_out"] == 2
    assert report["held_out"]["nll_per_line"] == pytest.approx(slow_nll(model, pairs[:3])[1])
    prompts = torch.tensor([[1, -1], [2, -1], [1, 2]])
    drawn = model.draw(
        range(9), 0, controls=Controls(), conditions=lambda asked: prompts[[i % 3 for i in asked]]
    )
    lines = [model.plugin.vocabulary.decode(row.tolist()) for row in drawn.x]
    answers = [
        (["a", "b", "ab"][place % 3], line) for place, line in enumerate(lines) if len(line) < 6
    ]
    assert report["judge"]["lines"] == len(answers)
    assert report["judge"]["nll_per_symbol"] == pytest.approx(slow_nll(judge, answers)[0])
    with pytest.raises(DataError, match="has none"):
        evaluate(model, HELD_OUT)


def test_an_infinite_likelihood_is_an_error_not_a_figure():
    model = model_of()
    impossible = Sample(
        torch.zeros(1, 6, dtype=torch.long), mask=torch.ones(1, 6, dtype=torch.bool)
    )
    for batches in ([impossible], []):
        with pytest.raises(GenkitError, match="lines is"):
            nll(model.generator, batches)


# The user's mistakes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"samples": 1}, "samples = 1"),
        ({"references": 0}, "references = 0"),
        ({"controls": {"temperature": 0}}, "temperature"),
        ({"controls": {"temperatur": 1}}, "Did you mean 'temperature'"),
        (
            {"judge": model_of(modality=Modality("ring", "Ring", Stub))},
            "the judge is a model of ring: only models of",
        ),
        (
            {"judge": model_of(letters="xy")},
            "the judge can say none of the 2,000 lines of the samples",
        ),
    ],
)
def test_what_cannot_be_asked_is_said_in_one_sentence(arguments, said):
    with pytest.raises((ConfigError, DataError), match=said) as caught:
        evaluate(model_of(), HELD_OUT, **arguments)
    assert "\n" not in str(caught.value)


def test_another_modality_is_refused():
    with pytest.raises(ConfigError, match="the model is a model of ring"):
        evaluate(model_of(modality=Modality("ring", "Ring", Stub)), HELD_OUT)


# Curves ----------------------------------------------------------------------------------------------------------


def test_a_row_of_the_curve_is_the_report_at_that_temperature():
    models = [("mle", model_of(1)), ("mle", model_of(2)), ("gan", model_of(3))]
    rows = curve(models, [*HELD_OUT, "c"], model_of(9), (0.5, 1.0), samples=50, seed=4)
    assert [(row["name"], row["temperature"]) for row in rows] == [
        ("mle", 0.5), ("mle", 1.0), ("mle", 0.5), ("mle", 1.0), ("gan", 0.5), ("gan", 1.0),
    ]  # fmt: skip
    report = evaluate(
        models[2][1], HELD_OUT, 50, n=4, judge=model_of(9), controls={"temperature": 0.5}, seed=4
    )
    row = rows[4]
    assert (row["judge_nll"], row["held_out_nll"]) == (
        report["judge"]["nll_per_symbol"], report["held_out"]["nll_per_symbol"],
    )  # fmt: skip
    assert (row["bleu"], row["self_bleu"]) == (
        report["bleu"]["values"][3],
        report["self_bleu"]["values"][3],
    )
    assert (row["held_out"], row["left_out"], row["samples"], row["references"]) == (
        len(HELD_OUT),
        1,
        50,
        6,
    )
    read = list(csv.DictReader(to_csv(rows).splitlines()))
    assert [float(one["self_bleu"]) for one in read] == [one["self_bleu"] for one in rows]


def test_only_models_with_the_same_symbols_share_a_curve_on_lines_that_all_can_say():
    rows = curve(
        [("a", model_of(length=6)), ("b", model_of(length=4))], HELD_OUT, None, (1.0,), samples=10
    )
    assert [(row["held_out"], row["left_out"], row["judge_nll"]) for row in rows] == [
        (4, 2, None)
    ] * 2
    with pytest.raises(ConfigError, match="a and b cut lines into different symbols"):
        curve([("a", model_of()), ("b", model_of(letters="ba"))], HELD_OUT)
    with pytest.raises(ConfigError, match="at least one model"):
        curve([], HELD_OUT)


@pytest.mark.parametrize("judge", [None, model_of(9)])
def test_a_curve_is_drawn_with_its_temperatures_and_error_bars(judge, tmp_path):
    models = [("mle", model_of(1)), ("mle", model_of(2)), ("gan", model_of(3))]
    rows = curve(models, HELD_OUT, judge, (0.5, 1.0), samples=20)
    text = plot(rows, tmp_path / "new" / "curve.svg").read_text()
    assert all(
        f"<!-- {word} -->" in text
        for word in ("0.5", "1", "gan", "mle (2 seeds)", "self-BLEU-4 of samples")
    )
    assert ("under the judge" in text) == (judge is not None)
    assert "#8c8c8c" in text  # the baseline's grey
    assert plot(rows, tmp_path / "curve.png").read_bytes()[:4] == b"\x89PNG"


def test_what_cannot_be_drawn_is_said_before_the_work(monkeypatch):
    with pytest.raises(ConfigError, match=r"curve.gif: a curve is drawn as .png, .svg, .pdf"):
        check_picture("curve.gif")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match=r"pip install 'genkit-gan-text\[curves\]'"):
        check_picture("curve.png")


# Commands --------------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path):
    """Two saved models, a judge and a file of held-out text, of a modality `text` that is registered here."""
    genkit.register(TEXT, replace=True)
    (tmp_path / "lines.txt").write_text("\n".join(HELD_OUT) + "\n")
    (tmp_path / "empty.txt").write_text("")
    for name, seed in (("one", 1), ("two", 2), ("judge", 3)):
        model_of(seed).save(tmp_path / name)
    yield tmp_path
    genkit.unregister("text")


def run(capsys, *words):
    code = 0
    try:
        main([*map(str, words), "--device", "cpu"])
    except SystemExit as ended:
        code = ended.code or 0
    return code, *capsys.readouterr()


def test_evaluate_prints_the_report(saved, capsys):
    words = (
        "evaluate",
        saved / "one",
        "--data",
        saved / "lines.txt",
        "--judge",
        saved / "judge",
        "-n",
        20,
    )
    code, out, err = run(capsys, *words, "temperature=0.5", "--json", "--seed", 3)
    assert (code, json.loads(out)["judge"]["lines"], "drawing 20 samples" in err) == (0, 20, True)
    wanted = evaluate(
        genkit.load(saved / "one", "cpu"), HELD_OUT, 20, judge=genkit.load(saved / "judge", "cpu"),
        controls={"temperature": 0.5}, seed=3,
    )  # fmt: skip
    assert json.loads(out) == wanted
    code, out, err = run(capsys, *words, "-q")
    assert (code, err) == (0, "")
    assert {line.partition(":")[0] for line in out.splitlines()} >= {
        "judge.nll_per_symbol",
        "bleu.values",
        "copies",
    }


def test_curve_prints_or_writes_the_table_and_draws(saved, capsys):
    words = (
        "curve",
        f"mle={saved / 'one'}",
        f"gan={saved / 'two'}",
        "--data",
        saved / "lines.txt",
        "--samples",
        10,
    )
    words = *words, "--temperatures", "0.5,1", "--out", saved / "new" / "curve.png"
    code, out, err = run(capsys, *words)
    assert (code, len(out.splitlines()), str(saved / "new" / "curve.png") in err) == (0, 5, True)
    code, printed, _ = run(capsys, *words, "--csv", saved / "rows.csv")
    assert (code, printed.split()) == (
        0,
        [str(saved / "rows.csv"), str(saved / "new" / "curve.png")],
    )
    assert (saved / "rows.csv").read_text() == out
    assert (saved / "new" / "curve.png").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["evaluate", "nowhere", "--data", "lines.txt"], "nowhere"),
        (["evaluate", "one", "--data", "empty.txt"], "is empty"),
        (["evaluate", "one", "--data", "lines.txt", "heat=2"], "heat"),
        (["evaluate", "one", "--data", "lines.txt", "--samples", "1"], "samples = 1"),
        (["curve", "one", "--data", "lines.txt", "--out", "a.png"], "NAME=MODEL"),
        (["curve", "a=one", "--data", "lines.txt", "--out", "a.gif"], "a.gif: a curve is drawn as"),
        (
            ["curve", "a=one", "--data", "lines.txt", "--out", "a.png", "--temperatures", "x"],
            "0.8,1",
        ),
    ],
)
def test_the_users_mistakes_are_one_sentence_and_exit_code_2(
    saved, capsys, monkeypatch, words, said
):
    monkeypatch.chdir(saved)
    code, out, err = run(capsys, *words, "-q")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith("genkit_text: ")
    assert said in err


def test_help_costs_no_torch():
    code = (
        "import sys, runpy\nsys.argv = ['genkit_text', '--help']\n"
        "try: runpy.run_module('genkit_text', alter_sys=True)\n"
        "finally: assert not {'torch', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], check=False)
    assert done.returncode == 0
