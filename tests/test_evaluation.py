"""Evaluation: figures are what is known of toys whose distribution is known, and a wrong request is one sentence."""

import csv
import io
import itertools
import json
import math
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from torch import nn
from toys import Duet, Language, PointCritic, duet, language

import genkit
from genkit.errors import ConfigError, DataError, GenkitError, PluginError
from genkit.evaluation import features as feature_module
from genkit.evaluation import real as real_module
from genkit.evaluation import scores
from genkit.evaluation.real import noise
from genkit.plugin import Facts, FeatureNetwork, Modality, ModalityPlugin, Networks, Noise, Sample
from genkit.sampling.model import Model
from genkit.sampling.reading import Reader

CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def _fewer_resamples():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scores, "FRECHET_RESAMPLES", (5, 20))
        yield


# Models whose distribution is known -------------------------------------------------------------------------------


class Normal(nn.Module):
    """Points [2] of a normal distribution."""

    def __init__(self, mean=0.0, deviation=1.0):
        super().__init__()
        self.noise = {"z": Noise((2,))}
        self.mean, self.deviation = mean, deviation

    def forward(self, noise, condition=None, controls=None):
        return Sample(self.mean + self.deviation * noise["z"])


class Repeats(Normal):
    """Points of a list, again and again."""

    def __init__(self, points):
        super().__init__()
        self.points = points

    def forward(self, noise, condition=None, controls=None):
        return Sample(self.points[: len(noise["z"])])


class Points(ModalityPlugin):
    """Any points."""

    def networks(self):
        return Networks(Normal(), {"critic": PointCritic(8)})


points = Modality("points", "Points", Points)


def model(generator, modality=points, options=None, facts=None, **info):
    """A model of a generator, as if it had been opened from a folder."""
    plugin = (
        modality.plugin
        if isinstance(modality.plugin, type)
        else {"duet": Duet, "language": Language}[modality.id]
    )
    return Model(modality, plugin(options, facts), generator.eval(), info, CPU)


def normal_points(count, seed=0, mean=0.0, deviation=1.0):
    numbers = torch.Generator().manual_seed(seed)
    return mean + deviation * torch.randn(count, 2, generator=numbers)


def duet_model(modality=duet, seed=0):
    """An untrained model of the duet."""
    from toys import DuetOptions

    torch.manual_seed(seed)
    options = DuetOptions()
    facts = Duet.inspect(None, options)
    plugin = modality.plugin if isinstance(modality.plugin, type) else Duet
    built = plugin(options, facts)
    return Model(modality, built, built.networks().generator.eval(), {"conditional": True}, CPU)


def first_coordinate(x, facts):
    """A feature function, as a user would write it."""
    return x[:, :1].float()


# What figures are ---------------------------------------------------------------------------------------------------


def test_distances_of_known_distributions_lie_in_their_intervals():
    evaluation = genkit.evaluate(model(Normal(1.0, 2.0)), normal_points(1600), 800)
    row, real = evaluation.row("model").figures, evaluation.row("real").figures
    truth = 2 * 1.0**2 + 2 * (2.0 - 1.0) ** 2
    assert row["fd-values"].low < truth < row["fd-values"].high
    assert row["fd-values"].high - row["fd-values"].low < truth / 2
    assert real["fd-values"].value < 0.05
    truth = kernel_truth(1.0, 2.0)
    assert row["kd-values"].low < truth < row["kd-values"].high
    assert row["kd-values"].high - row["kd-values"].low < truth
    assert real["kd-values"].low < 0 < real["kd-values"].high
    for name in ("precision", "recall", "density", "coverage"):
        assert real[f"{name}-values"].value > 0.9
    assert row["density-values"].value < 0.75  # twice as wide
    assert row["recall-values"].value > 0.9
    assert (
        evaluation.row("noise").figures["fd-values"].value < 0.05
    )  # coordinates alike and independent


def kernel_truth(mean, deviation):
    """The squared kernel discrepancy of N(mean, deviation^2) and N(0, 1) in two dimensions, from their moments.

    The kernel is a sum of powers of x . y, and the mean of such a power is the product of two tensors of moments.
    """
    ones, unit = np.ones(2), np.eye(2)
    moments = [
        mean * ones,
        deviation**2 * unit + mean**2 * np.outer(ones, ones) - unit,
        mean**3
        + mean
        * deviation**2
        * sum(unit.reshape(shape) for shape in ((2, 2, 1), (2, 1, 2), (1, 2, 2))),
    ]
    return sum(
        math.comb(3, power) / 2**power * np.square(moment).sum()
        for power, moment in enumerate(moments, 1)
    )


def test_intervals_are_as_wide_as_figures_vary():
    rows = []
    for seed in range(40):
        draw = np.random.default_rng(seed)
        one, other = draw.normal(size=(2, 120, 3)).astype(np.float32)
        rows.append(scores.figures(one * 1.2 + 0.3, other, other, "x", "fd-x", seed))
    for name in ("fd-x", "kd-x", "precision-x", "recall-x", "density-x"):
        values = [row[name].value for row in rows]
        widths = [row[name].high - row[name].low for row in rows]
        assert 0.6 < np.mean(widths) / 2 / scores.DEVIATIONS / np.std(values) < 1.7, name


def test_a_share_that_no_item_has_has_an_interval_nevertheless():
    numbers = np.random.default_rng(0)
    assert scores.mean_figure(np.zeros(100, bool), numbers)[:3] == (0.0, 0.0, 0.03)
    assert scores.mean_figure(np.ones(100, bool), numbers)[:3] == (1.0, 0.97, 1.0)
    assert scores.mean_figure(np.zeros(100), numbers)[:3] == (0.0, 0.0, 0.03)
    assert scores.mean_figure(None, numbers).value is None


def test_an_evaluation_is_repeated_exactly_and_depends_on_its_seed():
    data = normal_points(300)
    one, again, other = (
        genkit.evaluate(model(Normal()), data, 100, seed=seed).to_json() for seed in (1, 1, 2)
    )
    assert one == again
    assert one["rows"] != other["rows"]
    assert one["real"][0]["sha256"] != other["real"][0]["sha256"]


def test_samples_are_those_that_generate_gives():
    evaluation = genkit.evaluate(model(Normal()), normal_points(200), 70, seed=3)
    assert torch.equal(evaluation.row("model").samples.x, model(Normal()).generate(16, seed=3).x)


# Real items ----------------------------------------------------------------------------------------------------------


def parts_of(data, count=100, modality=points, **settings):
    plain = model(Normal(), modality)
    return real_module.real_items(plain, data, "the data", None, count, 0, **settings)


def test_halves_and_the_rest_are_disjoint_and_shuffled():
    data = torch.arange(500.0)[:, None].repeat(1, 2)
    real = parts_of(data, 150)
    halves = [part.x[:, 0].tolist() for part in (real.reference, real.other, real.more(1000))]
    assert [len(half) for half in halves] == [150, 150, 200]
    assert sorted(itertools.chain(*halves)) == data[:, 0].tolist()
    assert all(half != sorted(half) for half in halves)
    assert real.items == 500


def test_few_items_leave_some_to_train_a_network_on_if_there_are_networks():
    data = torch.arange(40.0)[:, None].repeat(1, 2)
    assert len(parts_of(data).reference) == 20
    with pytest.raises(DataError, match="no items are left beside the 40 that are compared"):
        parts_of(data).more(1)
    real = parts_of(data, modality=networked(lambda sample: sample.x))
    assert (len(real.reference), len(real.more(100))) == (15, 10)


class Faulty:
    """Items of which every fifth cannot be read and every seventh is not finite."""

    def __len__(self):
        return 70

    def __getitem__(self, index):
        if index % 5 == 0:
            raise OSError("damaged")
        return torch.full((2,), math.nan if index % 7 == 0 else float(index))


def test_items_that_cannot_be_used_are_counted_and_left_out():
    evaluation = genkit.evaluate(model(Normal()), Faulty(), 100)
    (real,) = evaluation.real
    usable = sum(index % 5 != 0 and index % 7 != 0 for index in range(70))
    assert (real["items"], real["reference"], real["skipped"]) == (70, usable // 2, 70 - usable)
    assert any(f"{70 - usable} items cannot be used" in note for note in evaluation.notes)
    assert any(f"two halves of {usable // 2} of its 70" in note for note in evaluation.notes)


def test_noise_is_the_same_values_in_other_places():
    sample = Sample(torch.arange(60.0).reshape(10, 2, 3))
    other = noise(sample, 0)
    assert sorted(other.x.flatten().tolist()) == list(range(60))
    assert not torch.equal(other.x, sample.x)
    assert torch.equal(noise(sample, 0).x, other.x)
    assert not torch.equal(noise(sample, 1).x, other.x)


def test_noise_keeps_the_mask_and_the_last_valid_step_of_each_row():
    steps = torch.randint(1, 9, (50, 6), generator=torch.Generator().manual_seed(0))
    lengths = 1 + torch.arange(50) % 6
    mask = torch.arange(6) < lengths[:, None]
    x = torch.where(mask, steps, 0)
    x[torch.arange(50), lengths - 1] = 9  # the end symbol
    other = noise(Sample(x, mask=mask), 0)
    assert torch.equal(other.mask, mask)
    assert (other.x[torch.arange(50), lengths - 1] == 9).all()
    assert (other.x[~mask] == 0).all()
    assert torch.equal(other.x[mask].sort().values, x[mask].sort().values)
    assert not torch.equal(other.x, x)


def test_samples_have_the_conditions_of_the_other_half():
    seen = {}

    class Watching(Duet):
        def measures(self, evidence):
            seen[evidence.generator is not None] = evidence
            return {}

    genkit.evaluate(duet_model(replace(duet, plugin=Watching)), "x", 60)
    drawn = seen[True].samples
    assert torch.equal(
        drawn.condition, seen[False].samples.condition
    )  # noise: the other half, permuted
    assert sorted(drawn.condition.tolist()) != [index % 3 for index in range(60)]


def test_a_label_chooses_samples_and_real_items():
    evaluation = genkit.evaluate(duet_model(), "x", 100, label="class2")
    (real,) = evaluation.real
    assert (
        30 <= real["reference"] <= 50
    )  # of 300 points in three classes, and some are kept to train networks on
    for row in evaluation.rows:
        assert row.samples.sample.condition.unique().tolist() == [2]
    with pytest.raises(ConfigError, match="label 'class7': no such label"):
        genkit.evaluate(duet_model(), "x", 100, label="class7")


# Memorised samples ---------------------------------------------------------------------------------------------------


def test_copies_of_training_items_are_found_and_shown_beside_them():
    held_out, training = normal_points(400), normal_points(300, seed=5)
    copies = training[:64] + 1e-4
    evaluation = genkit.evaluate(model(Repeats(copies)), held_out, 64, training=training)
    row = evaluation.row("model")
    assert row.figures["memorised-values"].value == 1.0
    assert evaluation.row("real").figures["memorised-values"].value < 0.1
    assert (row.nearest.x - row.samples.x).abs().max() < 1e-3
    assert evaluation.real[0]["originals"] == 300
    evaluation = genkit.evaluate(model(Repeats(copies)), held_out, 64)
    assert evaluation.row("model").figures["memorised-values"].value < 0.1  # of the reference


# Feature networks ----------------------------------------------------------------------------------------------------


def networked(features, distance="fd-mine", protocol=None, plugin=Points):
    """A modality of points with one feature network."""

    class Networked(plugin):
        def feature_networks(self, weights, training):
            return {"mine": FeatureNetwork(features, distance, protocol or {})}

    return replace(points, plugin=Networked)


def test_networks_and_functions_are_chosen_by_name():
    data = {"data": "x", "n": 60}
    everything = genkit.evaluate(duet_model(), **data)
    assert {"fd-points", "kd-points", "fd-centred", "memorised-centred"} <= set(everything.names)
    assert "FID" not in everything.names
    few = genkit.evaluate(duet_model(), **data, features="points")
    assert "fd-centred" not in few.names
    own = genkit.evaluate(duet_model(), **data, features=[first_coordinate, "points"])
    assert [name for name in own.names if name.startswith("fd-")] == [
        "fd-first_coordinate",
        "fd-points",
    ]
    by_name = genkit.evaluate(duet_model(), **data, features=[f"{__name__}:first_coordinate"])
    assert (
        by_name.row("real").figures["fd-first_coordinate"]
        == own.row("real").figures["fd-first_coordinate"]
    )
    none = genkit.evaluate(duet_model(), **data, features=[])
    assert none.names == ["spread", "gap", "judge's width"]


def test_a_file_of_weights_brings_its_network_along(tmp_path):
    (tmp_path / "factor.txt").write_text("3")
    weights = {"multiple": tmp_path / "factor.txt"}
    evaluation = genkit.evaluate(duet_model(), "x", 60, weights=weights)
    row = evaluation.row("real").figures
    assert row["FID"].value == pytest.approx(9 * row["fd-points"].value, rel=1e-4)
    assert "KID" in row
    with pytest.raises(ConfigError, match="weights for other"):
        genkit.evaluate(duet_model(), "x", 60, weights={"other": tmp_path / "factor.txt"})
    with pytest.raises(ConfigError, match="points has no feature networks"):
        genkit.evaluate(model(Normal()), normal_points(99), 40, weights=weights)


@pytest.mark.parametrize(
    ("features", "says"),
    [
        (["pints"], "no such network. Did you mean 'points'"),
        (["nowhere:features"], "cannot be imported"),
        ([f"{__name__}:CPU"], "is a device; a function"),
        ([f"{__name__}:flat"], r"gives \[2\] for 2 samples; \[2, F\] was expected"),
        ([lambda x, facts: x], "that no module has under a name of its own"),
    ],
)
def test_a_network_that_does_not_exist_or_work_is_refused(features, says):
    with pytest.raises(ConfigError, match=says):
        genkit.evaluate(duet_model(), "x", 60, features=features)


def flat(x, facts):
    return x[:, 0]


@pytest.mark.parametrize(
    ("features", "says"),
    [
        (lambda sample: sample.x[:1], r"feature network mine: it gives \[1, 2\] for 40 samples"),
        (lambda sample: sample.x / 0, "values that are not finite"),
        (lambda sample: sample.x[5000], "feature network mine"),
    ],
)
def test_a_networks_fault_is_the_plugins(features, says):
    with pytest.raises(PluginError, match=says):
        genkit.evaluate(model(Normal(), networked(features)), normal_points(200), 40)


def test_features_of_real_items_are_computed_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    sizes = []

    def features(sample):
        sizes.append(len(sample))
        return sample.x

    def evaluate(protocol=None, **settings):
        sizes.clear()
        asked = model(Normal(), networked(features, protocol=protocol))
        return genkit.evaluate({"a": [asked, asked]}, normal_points(200), 40, **settings)

    first = evaluate()
    assert sizes == [40] * 5  # real, reference, noise, two models
    again = evaluate()
    assert sizes == [40] * 3
    assert again.to_json() == first.to_json()
    assert evaluate(cache=False).to_json() == first.to_json()
    assert sizes == [40] * 5
    evaluate(protocol={"weights": "others"})
    assert sizes == [40] * 5
    evaluate(seed=1)  # other halves
    assert sizes == [40] * 5
    for path in tmp_path.rglob("*.safetensors"):
        path.write_bytes(b"damaged")
    assert evaluate().to_json() == first.to_json()
    assert sizes == [40] * 5


def test_the_cache_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(feature_module, "CACHE_BYTES", 1000)
    asked = model(Normal(), networked(lambda sample: sample.x))
    for seed in range(3):
        genkit.evaluate(asked, normal_points(200), 40, seed=seed)
    files = list(tmp_path.rglob("*.safetensors"))
    assert 0 < sum(path.stat().st_size for path in files) <= 1000


def test_features_of_the_users_code_are_never_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    genkit.evaluate(model(Normal()), normal_points(200), 40, features=first_coordinate)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_too_few_samples_for_a_covariance_are_named():
    def wide(sample):
        return sample.x.repeat(1, 20) ** torch.arange(1, 41)

    evaluation = genkit.evaluate(model(Normal(), networked(wide)), normal_points(200), 40)
    assert evaluation.row("model").figures["fd-mine"].value is None
    assert evaluation.row("model").figures["kd-mine"].value is not None
    (note,) = (note for note in evaluation.notes if "covariance" in note)
    assert note.startswith(
        "fd-mine has no value: a covariance of 40 features needs more than 40 samples"
    )


# Rows ----------------------------------------------------------------------------------------------------------------


def test_what_shows_the_scale_stands_before_the_models():
    evaluation = genkit.evaluate({"one": duet_model(), "other": duet_model(seed=1)}, "x", 60)
    rows = [(row.name, row.kind) for row in evaluation.rows]
    assert rows == [
        ("real", "real"), ("noise", "noise"), ("swapped", "corruption"), ("one", "model"), ("other", "model"),
    ]  # fmt: skip
    assert (
        evaluation.row("real").figures["fd-points"].value
        < evaluation.row("noise").figures["fd-points"].value
    )
    assert evaluation.row("one").figures != evaluation.row("other").figures
    assert all(row.figures.keys() == evaluation.rows[0].figures.keys() for row in evaluation.rows)


def test_a_control_that_is_varied_has_a_row_and_a_point_for_each_value():
    evaluation = genkit.evaluate(
        {"a": [duet_model(), duet_model(seed=1)]}, "x", 60, vary={"scale": [0.5, 2.0]}
    )
    rows = [(row.title, row.controls["scale"]) for row in evaluation.rows if row.kind == "model"]
    assert rows == [("a @ 0.5", 0.5), ("a @ 2.0", 2.0)] * 2
    assert list(evaluation.curves) == [("spread", "gap")]
    from genkit.evaluation.plots import curves

    line = curves(evaluation, "spread", "gap")["a"]
    assert [(point.text, point.models) for point in line] == [("0.5", 2), ("2.0", 2)]
    spreads = [row.figures["spread"].value for row in evaluation.rows if row.value == 0.5]
    assert line[0].x == pytest.approx(np.mean(spreads))
    assert line[0].errors[0] == pytest.approx(np.std(spreads, ddof=1))
    assert "<svg" in evaluation._repr_html_()


def test_models_with_other_real_items_have_scales_of_their_own():
    class Scaled(Points):
        def dataset(self, source):
            return source * self.facts["factor"]

    scaled = replace(points, plugin=Scaled)
    models = {
        f"by {factor}": model(Normal(), scaled, facts=Facts({"factor": factor}))
        for factor in (1.0, 2.0)
    }
    evaluation = genkit.evaluate(models, normal_points(200), 50)
    names = [(row.name, row.real) for row in evaluation.rows]
    assert names == [
        ("real", 0), ("noise", 0), ("by 1.0", 0), ("real (2)", 1), ("noise (2)", 1), ("by 2.0", 1),
    ]  # fmt: skip
    assert any("compare each with the row" in note for note in evaluation.notes)


def test_a_judge_reaches_the_measures():
    evaluation = genkit.evaluate(duet_model(), "x", 60, judge=duet_model(seed=1), features=[])
    assert evaluation.row("model").figures["judge's width"].value == 32
    assert evaluation.row("real").figures["judge's width"].value == 32
    assert evaluation.row("real").figures["spread"].low is None


def test_symbols_are_compared_by_the_users_function_alone():
    symbols = model(*_language())
    with pytest.raises(ConfigError, match="language has neither feature networks nor measures"):
        genkit.evaluate(symbols, "x", 60)
    evaluation = genkit.evaluate(symbols, "x", 60, features=first_coordinate)
    assert "fd-first_coordinate" in evaluation.names


def _language():
    from toys import LanguageGenerator, LanguageOptions

    options = LanguageOptions(width=8)
    return LanguageGenerator(options), language, options


# What it becomes -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluation():
    return genkit.evaluate(
        {"<b>": duet_model()}, "x", 60, vary={"scale": [0.5, 2.0]}, judge=duet_model()
    )


def test_every_figure_says_what_it_was_computed_from(evaluation):
    plain = json.loads(json.dumps(evaluation.to_json(), allow_nan=False))
    assert plain["schema"] == 1
    digest = plain["real"][0]["sha256"]
    figure = plain["rows"][-1]["figures"]["fd-points"]
    network = next(one for one in plain["real"][0]["networks"] if one["name"] == "points")
    for part in (
        f"points@{network['sha256'][:8]}", "60 samples", f"60 real of x@{digest[:8]}", "seed 0", "float32",
        f"genkit {genkit.__version__}",
    ):  # fmt: skip
        assert part in figure["protocol"]
    assert plain["rows"][-1]["figures"]["spread"]["protocol"].startswith(
        "local 0 (duet), 60 samples"
    )
    assert figure["low"] <= figure["value"] <= figure["high"]
    assert plain["rows"][-1]["controls"] == {"scale": 2.0}
    assert plain["protocol"]["judge"]["modality"] == "duet"


def test_the_table_has_a_line_for_each_figure_and_stays_narrow(evaluation):
    text = str(evaluation)
    assert max(map(len, text.splitlines())) <= 120
    for row in evaluation.rows:
        figure = row.figures["fd-points"]
        assert row.title in text
        assert f"{figure.value:.4g} [{figure.low:.4g}, {figure.high:.4g}]" in text
    assert (
        sum(line.startswith("fd-points") for line in text.splitlines()) == 2
    )  # the rows go on in a second table


def test_the_csv_table_has_a_line_for_each_row(evaluation):
    rows = list(csv.DictReader(io.StringIO(evaluation.to_csv())))
    assert [row["name"] for row in rows] == ["real", "noise", "swapped", "<b>", "<b>"]
    assert [row["scale"] for row in rows] == ["", "", "", "0.5", "2.0"]
    assert float(rows[3]["fd-points"]) == evaluation.row("<b> @ 0.5").figures["fd-points"].value
    assert rows[3]["spread low"] == ""


class Links(HTMLParser):
    """What a page refers to, and whether its elements are closed."""

    def __init__(self):
        super().__init__()
        self.links, self.open, self.tags = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [
            value for name, value in attributes if name in ("src", "href", "data", "srcset")
        ]
        if tag not in ("meta", "img", "br", "line", "circle", "polyline"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_one_file_that_needs_no_other(evaluation, tmp_path):
    path = evaluation.save_html(tmp_path / "new" / "page.html")
    text = path.read_text(encoding="utf-8")
    page = Links()
    page.feed(text)
    assert page.open == []
    assert all(link.startswith("data:") for link in page.links)
    assert "http" not in text
    assert "url(" not in text
    assert page.tags.count("svg") == 1
    assert "&lt;b&gt; @ 0.5" in text
    assert "<b>" not in text
    figure = evaluation.row("real").figures["fd-points"]
    assert f"{figure.value:.4g} <small>[{figure.low:.4g}, {figure.high:.4g}]</small>" in text
    assert evaluation.row("real").samples.x[0, 0].item() == pytest.approx(
        float(text.split("<li>")[1].split()[0]), rel=1e-3
    )
    assert "Samples and the nearest training items" in text
    assert evaluation.to_json()["real"][0]["sha256"] in text


def test_the_page_shows_samples_as_notebooks_do():
    class Drawn(Points):
        def preview(self, samples, format, controls, columns=None):
            return b"PNG " + str(columns).encode()

    drawn = replace(points, plugin=Drawn, preview_formats=("png",))
    still = replace(drawn, media_type="application/points")
    text = genkit.evaluate(model(Normal(), still), normal_points(99), 40)._repr_html_()
    assert text.count('src="data:image/png;base64,UE5HIE5vbmU="') == 3  # samples of each row
    assert text.count('src="data:image/png;base64,UE5HIDg="') == 2  # eight beside the nearest
    played = replace(drawn, media_type="video/mp4")
    assert (
        "<video controls"
        in genkit.evaluate(model(Normal(), played), normal_points(99), 40)._repr_html_()
    )


# Wrong requests ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"n": 1}, ConfigError, "n = 1: at least 2"),
        ({"models": []}, ConfigError, "no model was given"),
        ({"data": None}, ConfigError, "name the real items"),
        (
            {"data": normal_points(3)},
            DataError,
            "two halves of at least two items, and 3 of 3 can be used",
        ),
        ({"data": "nowhere"}, DataError, "pass a tensor"),
        ({"controls": {"scale": 1}}, ConfigError, "points has no controls"),
        ({"vary": {"scale": [1, 2]}}, ConfigError, "points has no controls"),
        ({"vary": {"a": [1], "b": [2]}}, ConfigError, "one control is varied at a time"),
        ({"vary": {"scale": []}}, ConfigError, "a list of values is needed"),
        ({"label": "red"}, ConfigError, "this model is unconditional"),
    ],
)
def test_a_wrong_request_is_one_sentence(settings, error, says):
    request = {"models": model(Normal()), "data": normal_points(200), "n": 40, **settings}
    with pytest.raises(error, match=says):
        genkit.evaluate(**request)


def test_models_of_several_modalities_are_not_compared():
    with pytest.raises(
        ConfigError, match=r"b is a model of duet, and a one of points: only models of one modality"
    ):
        genkit.evaluate({"a": model(Normal()), "b": duet_model()}, normal_points(99))
    with pytest.raises(ConfigError, match="the judge is a model of duet"):
        genkit.evaluate(model(Normal()), normal_points(99), judge=duet_model())


def test_a_control_is_varied_or_set():
    with pytest.raises(ConfigError, match="scale is varied, and is 1 among the controls"):
        genkit.evaluate(duet_model(), "x", 40, controls={"scale": 1}, vary={"scale": [1, 2]})
    with pytest.raises(ConfigError, match="Did you mean 'scale'"):
        genkit.evaluate(duet_model(), "x", 40, vary={"scael": [1, 2]})


def test_samples_that_are_broken_or_of_another_shape_are_refused():
    with pytest.raises(GenkitError, match="model made values that are not finite"):
        genkit.evaluate(model(Normal(math.nan)), normal_points(99), 40)
    with pytest.raises(DataError, match=r"samples of model are \[2\], and real items \[3\]"):
        genkit.evaluate(model(Normal()), torch.zeros(99, 3), 40)


@pytest.mark.parametrize(
    ("method", "answer", "says"),
    [
        ("measures", {"a": math.inf}, "it gives a = inf; a finite number or None was expected"),
        ("measures", [1], "it returned a list"),
        ("feature_networks", [1], "did not return a mapping"),
        ("references", 3, "it returned a int; a map-style data set was expected"),
    ],
)
def test_a_plugins_answer_that_breaks_the_contract_is_told(method, answer, says):
    faulty = type("FaultyPoints", (Points,), {method: lambda *_: answer})
    with pytest.raises(PluginError, match=says):
        genkit.evaluate(model(Normal(), replace(points, plugin=faulty)), normal_points(99), 40)


def test_an_item_that_only_the_first_batch_lacks_is_told():
    class Uneven:
        def __len__(self):
            return 300

        def __getitem__(self, index):
            return torch.zeros(2) if index % 2 else (torch.zeros(2), torch.tensor(1))

    with pytest.raises((DataError, PluginError), match="condition"):
        Reader(Uneven(), points, 0).take(0, 300, 300)


# The command ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two short runs of the duet, which is registered meanwhile."""
    folder = tmp_path_factory.mktemp("runs")
    genkit.register(duet)
    for seed, name in enumerate(("one", "other")):
        genkit.train(duet, out=folder / name, items=96, threads=1, seed=seed)
    yield folder
    genkit.unregister("duet")


def test_the_command_prints_a_table_or_json_and_writes_its_files(runs, command, tmp_path):
    words = [
        "evaluate",
        runs / "one",
        f"second={runs / 'other'}",
        "--data",
        "x",
        "-n",
        60,
        "--features",
        "points",
    ]
    answer = command(
        *words,
        "scale=0.5",
        "--html",
        tmp_path / "new" / "page.html",
        "--csv",
        tmp_path / "table.csv",
    )
    assert answer.returncode == 0, answer.stderr
    assert "drawing 60 samples of one" in answer.stderr
    assert "real" in answer.stdout
    assert "<svg" not in (tmp_path / "new" / "page.html").read_text()
    names = [
        row["name"] for row in csv.DictReader((tmp_path / "table.csv").read_text().splitlines())
    ]
    assert names == ["real", "noise", "swapped", "second", "one"]
    answer = command(*words, "scale=0.5", "--json", "-q")
    assert (answer.returncode, answer.stderr) == (0, "")
    plain = json.loads(answer.stdout)
    models = {row["name"]: row for row in plain["rows"] if row["kind"] == "model"}
    assert models["one"]["controls"] == {"scale": 0.5}
    assert models["one"]["model"]["path"] == str(runs / "one" / "model")
    assert "fd-centred" not in models["one"]["figures"]
    same = genkit.evaluate(runs / "one", "x", 60, features="points", controls={"scale": 0.5})
    assert same.row("one").to_json()["figures"] == models["one"]["figures"]


def test_the_command_varies_a_control_and_takes_weights_and_no_networks(runs, command, tmp_path):
    words = ["evaluate", runs / "one", "--data", "x", "-n", 60, "--json", "--no-cache"]
    answer = command(
        *words, "--vary", "scale=0.5,2.0", "--features", "none", "--judge", runs / "other"
    )
    rows = [row for row in json.loads(answer.stdout)["rows"] if row["kind"] == "model"]
    assert [row["value"] for row in rows] == [0.5, 2.0]
    gained = {"critic_pairs", "critic_scale", "gain", "gain_least", "effective_share"}
    assert rows[0]["figures"].keys() == {"spread", "gap", "judge's width", *gained}
    (tmp_path / "factor").write_text("2")
    answer = command(
        *words, "--weights", f"multiple={tmp_path / 'factor'}", "--features", "multiple"
    )
    assert "FID" in json.loads(answer.stdout)["rows"][0]["figures"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--vary", "scale"], "--vary scale: it is written --vary temperature=0.6,0.8,1.0"),
        (["--weights", "inception"], "--weights inception: it is written --weights inception=FILE"),
        (["--features", "points,pionts"], "'pionts': no such network. Did you mean 'points'"),
        (["scael=2"], "Did you mean 'scale'"),
        (["-n", "1"], "n = 1: at least 2"),
        (["no/such/run"], "no/such/run"),
    ],
)
def test_the_commands_mistakes_are_one_sentence(words, says, runs, command):
    answer = command("evaluate", runs / "one", "--data", "x", "-q", *words)
    assert answer.returncode == 2
    assert says in answer.stderr
    assert answer.stderr.count("\n") == 1
    assert answer.stdout == ""


def test_models_of_one_name_are_told_apart_by_their_paths(runs):
    from genkit.evaluation.evaluating import names_of

    assert [name for name, _ in names_of([runs / "one", runs / "other" / "model"])] == [
        "one",
        "other",
    ]
    assert [name for name, _ in names_of([runs / "one", f"{runs / 'one'}/model"])] == [
        str(runs / "one"), f"{runs / 'one'}/model",
    ]  # fmt: skip


# A run that evaluates itself -----------------------------------------------------------------------------------------


def bits(folder):
    """The weights of a run's newest checkpoint."""
    return (folder / "players.safetensors").read_bytes()


def test_a_run_that_evaluates_itself_ends_in_the_same_weights_and_keeps_its_best_model(
    train, checkpoint
):
    notes = []
    _, plain = train(duet, 640, "plain", run={"sample_items": 64})
    _, out = train(
        duet, 640, "evaluated", run={"sample_items": 64, "evaluate": 60},
        progress=lambda progress: notes.append(progress.note or ""),
    )  # fmt: skip
    assert bits(checkpoint(out)) == bits(checkpoint(plain))
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    values = {row["items"]: row["samples.fd-points"] for row in rows if "samples.fd-points" in row}
    best = json.loads((out / "best" / "config.json").read_text())
    assert best["evaluation"]["distance"] == "fd-points"
    assert best["evaluation"]["value"] <= min(values.values())
    assert best["items"] == best["evaluation"]["items"]
    assert sum("the best model so far, fd-points" in note for note in notes) >= 1
    drawn = genkit.load(out / "best", modality=duet).generate(8).x
    assert drawn.isfinite().all()
    assert not (plain / "best").exists()


def test_a_resumed_run_knows_its_best_model(train, tmp_path):
    settings = {"run": {"sample_items": 64, "evaluate": 60}}
    _, out = train(duet, 320, **settings)
    config = out / "best" / "config.json"
    description = json.loads(config.read_text())
    description["evaluation"]["value"] = -1.0  # nothing is better
    config.write_text(json.dumps(description))
    train(duet, 640, **settings, resume=True)
    assert json.loads(config.read_text())["evaluation"]["value"] == -1.0
    train(duet, 320, **settings, overwrite=True)
    assert json.loads(config.read_text())["evaluation"]["value"] > 0


def test_a_run_that_cannot_evaluate_itself_does_not_begin(train, tmp_path):
    with pytest.raises(ConfigError, match="language has neither feature networks nor measures"):
        train(language, 320, run={"evaluate": 60})
    assert not (tmp_path / "run").exists()
