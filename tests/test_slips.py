"""What plugins get wrong is one sentence: it names the plugin, the call, what was found and what was expected.

Every slip is a change of one thing in a sound modality; none may bring a traceback, or be told as the user's mistake.
"""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from toys import Mixture, RingOptions, ring

import genkit
from genkit.discovery import registry
from genkit.engine.data import facts_fault
from genkit.errors import ConfigError, PluginError
from genkit.plugin import Critique, Facts, Modality, Networks, Noise, Preset, Sample

X = torch.randn(99, 2, generator=torch.Generator().manual_seed(0))


def slipped(tmp_path, plugin, **manifest):
    """Train a modality for a few rounds whose plugin, or manifest, is wrong; the error that it brings."""
    modality = replace(ring, id="slip", plugin=plugin, options=RingOptions, **manifest)
    settings = {"options": {"width": 8}, "recipe": {"batch_size": 16}}
    with pytest.raises(PluginError) as caught:
        genkit.train(modality, out=tmp_path / "run", items=320, threads=1, **settings)
    assert not (tmp_path / "run" / "model").exists()
    assert str(caught.value).startswith("plugin local 0 (slip) failed at ")
    return str(caught.value).removeprefix("plugin local 0 (slip) failed at ")


@pytest.mark.parametrize(
    "use",
    [
        lambda: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory")),
        lambda: torch.empty(2**60, dtype=torch.uint8),
        lambda: np.empty(2**60, np.uint8),
        lambda: bytearray(2**60),
    ],
    ids=["a device", "torch", "NumPy", "Python"],
)
def test_memory_that_runs_out_is_no_fault_of_the_plugin(use):
    with (
        pytest.raises(
            genkit.GenkitError, match="memory ran out at an update of the generator of"
        ) as caught,
        registry.asking(ring, "an update of the generator"),
    ):
        list(use())
    assert not isinstance(caught.value, PluginError)


# Facts -----------------------------------------------------------------------------------------------------------

FACTS = {
    "numbers as keys": (Facts({"names": {0: "a"}}), "values['names'] = {0: 'a'}: plain JSON data"),
    "no text as a key": (Facts({"names": {True: 1}}), "texts as keys"),
    "a number as a name": (Facts({3: 1}), "facts.values[3] = 1: plain JSON data"),
    "a tuple": (Facts({"size": (64,)}), "use lists, not tuples"),
    "a tuple within": (Facts({"a": {"b": [(1,)]}}), "use lists, not tuples"),
    "a set": (Facts({"a": {1}}), "plain JSON data were expected (TypeError"),
    "an integer without a text": (Facts({"a": 10**5000}), "facts.values['a'] = a int: plain JSON"),
    "a list": (Facts([1, 2]), "facts.values is a list; a mapping was expected"),
    "no files": (Facts({}, None), "facts.files is a NoneType; a mapping was expected"),
    "a file in a folder": (Facts({}, {"a/b.txt": b""}), "'a/b.txt' is no plain file name"),
    "a file outside": (Facts({}, {"../x": b""}), "'../x' is no plain file name"),
    "a file anywhere": (Facts({}, {"/abs": b""}), "'/abs' is no plain file name"),
    "a file without a name": (Facts({}, {"": b""}), "'' is no plain file name"),
    "a name of no text": (Facts({}, {"a\0b": b""}), "characters that not every system takes"),
    "a name without end": (Facts({}, {"a" * 300: b""}), "is no plain file name"),
    "a number as a file": (Facts({}, {3: b""}), "facts.files[3]"),
}


@pytest.mark.parametrize("slip", FACTS)
def test_facts_that_json_changes_are_refused(slip):
    facts, fault = FACTS[slip]
    assert fault in facts_fault(facts)


def test_facts_that_json_keeps_are_taken():
    kept = {"a": [1, 2.5, None, True, "\udcff"], "b": {"c": {}}, "n": np.float64(0.5)}
    assert facts_fault(Facts(kept, {"vocabulary.json": b"{}"})) == ""


def test_facts_are_checked_before_a_run_begins(tmp_path):
    class Slip(Mixture):
        @classmethod
        def inspect(cls, source, options):
            return Facts({"names": {0: "a"}})

    assert slipped(tmp_path, Slip).startswith("inspect: facts.values['names']")


# Data ------------------------------------------------------------------------------------------------------------


class Items:
    def __init__(self, item):
        self.item = item

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        return self.item(index)


class Whole(Items):
    def __getitems__(self, indices):
        return self.item(indices)


def with_notes():
    items = Items(lambda index: X[index])
    items.notes = "hello"
    return items


DATA = {
    "a mistake in its code": (lambda: Items(lambda index: X[indx]), "an item: NameError"),  # noqa: F821
    "one that comes late": (lambda: Items(lambda i: X[i] if i != 3 else no_name), "NameError"),  # noqa: F821
    "fewer rows": (lambda: Whole(lambda indices: Sample(X[indices[1:]])), "items were given for"),
    "fewer items": (lambda: Whole(lambda indices: [*X[indices[1:]]]), "items were given for"),
    "an exit": (lambda: sys.exit(0), "dataset: SystemExit"),
    "notes that are one text": (with_notes, "its notes = 'hello': a sequence of sentences"),
    "a mask of numbers": (lambda: Items(lambda i: Sample(X[i], mask=torch.ones(2))), "its mask is"),
    "a mask of another length": (
        lambda: Items(lambda i: Sample(X[i], mask=torch.ones(3, dtype=torch.bool))),
        "its mask is [8, 3] of torch.bool for samples [8, 2]; a bool for each step was expected",
    ),
}


@pytest.mark.parametrize("slip", DATA)
def test_data_sets_that_break_the_contract_are_told_as_the_plugins(tmp_path, slip):
    dataset, fault = DATA[slip]

    class Slip(Mixture):
        def dataset(self, source):
            return dataset()

    assert fault in slipped(tmp_path, Slip)


@pytest.mark.parametrize("odd", [0, 3])
def test_an_item_of_another_dtype_is_left_out_wherever_it_stands(tmp_path, odd):
    class Slip(Mixture):
        def dataset(self, source):
            return Items(lambda i: X[i].double() if i == 3 else X[i])

    modality, notes = replace(ring, id="slip", plugin=Slip), []
    genkit.train(
        modality,
        out=tmp_path / "run",
        items=512,
        threads=1,
        seed=odd,
        progress=lambda p: notes.append(p.note),
    )
    assert any(
        "item 3 (values of torch.float64; others have torch.float32" in n for n in notes if n
    )


# Networks --------------------------------------------------------------------------------------------------------


class Shared(nn.Module):
    def __init__(self, critic, body):
        super().__init__()
        self.critic, self.body = critic, body

    def forward(self, sample):
        return self.critic(sample)


def noise(spec):
    def change(networks):
        networks.generator.noise = spec
        return networks

    return change


def lazy(networks):
    networks.generator.more = nn.LazyLinear(3)
    return networks


def of_critics(critics):
    return lambda networks: Networks(networks.generator, critics(networks.critics["critic"]))


NETWORKS = {
    "None": (lambda n: None, "networks: it returned a NoneType; a genkit.plugin.Networks was"),
    "a tuple": (
        lambda n: (n.generator, n.critics),
        "it returned a tuple; a genkit.plugin.Networks",
    ),
    "a bare critic": (of_critics(lambda one: one), "its critics are a PointCritic; a mapping of"),
    "no module": (of_critics(lambda one: {"critic": print}), "is a builtin_function_or_method"),
    "a number as a name": (of_critics(lambda one: {1: one}), "the name 1 in its critics"),
    "the generator's name": (of_critics(lambda one: {"generator": one}), "the name 'generator'"),
    "a weight of two players": (
        lambda n: Networks(n.generator, {"critic": Shared(n.critics["critic"], n.generator.body)}),
        "its 'critic' has a weight, body.0.weight, that 'generator' has too",
    ),
    "a weight without a shape": (lazy, "its 'generator' has a weight without a shape, more.weight"),
    "noise below zero": (noise({"z": Noise((-3,))}), "with a tuple of sizes as its shape"),
    "noise of a fraction": (noise({"z": Noise((2.0,))}), "with a tuple of sizes as its shape"),
    "noise of a kind": (
        noise({"z": Noise((2,), "gauss")}),
        "distribution = 'gauss': must be 'normal",
    ),
    "noise of a dtype": (
        noise({"z": Noise((2,), dtype="half")}),
        "dtype = 'half': must be 'float32'",
    ),
    "noise of no steps": (
        noise({"z": Noise((2,), steps=0)}),
        "steps = 0: must be None, or a number",
    ),
    "noise without end": (noise({"z": Noise((2,)), "w": Noise((10**13,))}), "failed at"),
}


@pytest.mark.parametrize("slip", [name for name in NETWORKS if name != "noise without end"])
def test_networks_that_break_the_contract_are_told_as_the_plugins(tmp_path, slip):
    change, fault = NETWORKS[slip]

    class Slip(Mixture):
        def networks(self):
            return change(super().networks())

    assert fault in slipped(tmp_path, Slip)


def test_noise_that_no_memory_holds_is_told_as_the_generators(tmp_path):
    class Slip(Mixture):
        def networks(self):
            return NETWORKS["noise without end"][0](super().networks())

    modality = replace(ring, id="slip", plugin=Slip)
    with pytest.raises(genkit.GenkitError, match="memory ran out at the generator of local 0"):
        genkit.train(modality, out=tmp_path / "run", items=320, threads=1)


ANSWERS = {
    "a tuple": (lambda x, z, _: (x, x), "it returned a tuple; a genkit.plugin.Sample was expected"),
    "None": (lambda x, z, _: None, "it returned a NoneType; a genkit.plugin.Sample was expected"),
    "no tensor": (lambda x, z, _: Sample(x.tolist()), "its x is a list; a tensor was expected"),
    "another length": (lambda x, z, _: Sample(x[:, :1]), "it returned samples [8, 1]"),
    "another dtype": (
        lambda x, z, _: Sample(x.double()),
        "it returned samples torch.float64, but the data are torch.float32",
    ),
    "whole numbers": (
        lambda x, z, _: Sample(x.long()),
        "it returned samples torch.int64, but the data are torch.float32",
    ),
    "no gradient": (lambda x, z, _: Sample(x.detach()), "no gradient comes back from its samples"),
    "its input": (lambda x, z, _: (z.zero_(), Sample(x))[1], "it wrote into its noise (z)"),
    "a mask of numbers": (
        lambda x, z, _: Sample(x, mask=torch.ones(8, 2)),
        "its mask is [8, 2] of",
    ),
    "an error later": (lambda x, z, late: 1 / 0 if late else Sample(x), "ZeroDivisionError"),
    "None later": (lambda x, z, late: None if late else Sample(x), "AttributeError"),
    "an exit": (lambda x, z, _: sys.exit(0), "SystemExit: 0"),
}


@pytest.mark.parametrize("slip", ANSWERS)
def test_what_a_generator_gets_wrong_is_told_as_the_plugins(tmp_path, slip):
    answer, fault = ANSWERS[slip]

    class Slip(Mixture):
        def networks(self):
            networks, passes = super().networks(), []

            def change(_, inputs, sample):
                passes.append(1)
                return answer(sample.x, inputs[0]["z"], len(passes) > 9)

            def forward(*inputs):
                return change(
                    None, inputs, type(networks.generator).forward(networks.generator, *inputs)
                )

            networks.generator.forward = forward
            return networks

    said = slipped(tmp_path, Slip)
    assert said.startswith(("the generator: ", "an update of the "))
    assert fault in said


CRITIQUES = {
    "a tensor": (lambda y, x, _: y, "it returned a Tensor; a genkit.plugin.Critique was expected"),
    "no logits": (lambda y, x, _: Critique(()), "it returned logits = (); a tuple of tensors"),
    "texts": (lambda y, x, _: Critique(("a",)), "it returned logits of str; tensors of"),
    "whole numbers": (lambda y, x, _: Critique((y.long(),)), "it returned logits of torch.int64"),
    "another length": (lambda y, x, _: Critique((y[:3],)), "it returned logits [3] for 8 samples"),
    "no gradient": (
        lambda y, x, _: Critique((y.detach(),)),
        "no gradient comes back from its logits",
    ),
    "nothing finite": (lambda y, x, _: Critique((y * torch.nan,)), "logits that are not finite"),
    "its input": (lambda y, x, _: (x.mul_(0), Critique((y,)))[1], "it wrote into its input (x)"),
    "an error later": (lambda y, x, late: 1 / 0 if late else Critique((y,)), "ZeroDivisionError"),
}


@pytest.mark.parametrize("slip", CRITIQUES)
def test_what_a_critic_gets_wrong_is_told_as_the_plugins(tmp_path, slip):
    answer, fault = CRITIQUES[slip]

    class Slip(Mixture):
        def networks(self):
            networks, passes = super().networks(), []
            critic = networks.critics["critic"]

            def forward(sample):
                passes.append(1)
                critique = type(critic).forward(critic, sample)
                return answer(critique.logits[0], sample.x, len(passes) > 9)

            critic.forward = forward
            return networks

    said = slipped(tmp_path, Slip)
    assert said.startswith(("the critic 'critic': ", "an update of the "))
    assert fault in said


def test_a_generator_that_fails_when_it_draws_is_told_as_the_plugins(tmp_path):
    model = genkit.train(
        replace(ring, id="slip", plugin=Mixture), out=tmp_path / "run", items=256, threads=1
    )
    model.generator.register_forward_pre_hook(lambda *_: 1 / 0)
    for draw in (
        lambda: model.generate(3),
        lambda: model.interpolate([1, 2]),
        lambda: next(model.stream(3)),
    ):
        with pytest.raises(
            PluginError, match=r"\(slip\) failed at the generator: ZeroDivisionError"
        ):
            draw()


# Manifests -------------------------------------------------------------------------------------------------------

MANIFESTS = {
    "no id": ({"id": ""}, "the id '' is not lower-case letters"),
    "an odd id": ({"id": "Bad Id"}, "the id 'Bad Id' is not lower-case letters"),
    "no formats": ({"formats": ()}, "its formats are empty"),
    "a text as formats": ({"formats": "csv"}, "its formats = 'csv': a tuple of file endings"),
    "no title": ({"title": None}, "its title = None: a text was expected"),
    "no presets": ({"presets": {}}, "its manifest has no presets"),
    "a preset of None": ({"presets": {"a": None}}, "its preset 'a' is a NoneType; a genkit.plugin.Preset"),
    "a preset of a dict": ({"presets": {"a": {}}}, "its preset 'a' is a dict; a genkit.plugin.Preset"),
    "a list as a recipe": ({"presets": {"a": Preset(recipe=[1])}}, "its preset 'a': recipe = [1]: a mapping"),
}  # fmt: skip


@pytest.mark.parametrize("slip", MANIFESTS)
def test_manifests_are_checked_whether_they_are_installed_or_not(slip):
    values, fault = MANIFESTS[slip]
    wrong = replace(Modality(id="slip", title="Slip", plugin=Mixture), **values)
    for use in (genkit.train, genkit.check_data, genkit.register):
        with pytest.raises(PluginError, match="failed at description: ") as caught:
            use(wrong)
        assert fault in str(caught.value)


def test_what_is_no_modality_is_the_users_mistake():
    for wrong in (5, None, Mixture):
        with pytest.raises(
            ConfigError, match=r"the id of a modality, or a genkit\.plugin\.Modality"
        ):
            genkit.train(wrong)
