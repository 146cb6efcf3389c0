"""The conformance suite: the toys pass it, and for each check there is a modality that it catches."""

import contextlib
import itertools
import json
import math
import re
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import toys
from torch import nn
from toy_curves import CurveGenerator, Curves, curves
from toy_factors import FactorGenerator, FactorPlugin, factors
from toys import duet, language, ring
from typer.testing import CliRunner

import genkit
from genkit.cli import app
from genkit.discovery import bundled
from genkit.errors import ConfigError, DataError
from genkit.plugin import Critique, Facts, FeatureNetwork, Networks, Posterior, Preset, Sample
from genkit.testing import conformance
from genkit.testing.conformance import CHECKS, MINIMUM, ModalityConformance, check_modality

NAMES = [check.name for check in CHECKS]
CALLS = itertools.count()


# Mutants: a toy with one fault each -------------------------------------------------------------------------------


def like(modality, *, preset=None, **parts):
    """A toy with other parts; `preset` replaces settings of its default preset."""
    presets = {"default": replace(modality.presets["default"], **(preset or {}))}
    return replace(modality, **{"presets": presets, **parts})


def points(generator=toys.PointGenerator, critic=toys.PointCritic):
    """The ring with a network of its own."""

    class Mutant(toys.Mixture):
        def networks(self):
            options = self.options
            return Networks(
                generator(options.width, options.latent), {"critic": critic(options.width)}
            )

    return like(ring, plugin=Mutant)


def speaker(generator):
    """The tiny language with a generator of its own."""

    class Mutant(toys.Language):
        def networks(self):
            return Networks(generator(self.options), {"critic": toys.LanguageCritic(self.options)})

    return like(language, plugin=Mutant)


class Loose(toys.RingOptions, extra="ignore"):
    pass


class LooseControls(toys.DuetControls, extra="ignore"):
    pass


class OtherDataEachTime(toys.Mixture):
    def dataset(self, source):
        return torch.randn(100, 2)


class TupleInFacts(toys.Mixture):
    @classmethod
    def inspect(cls, source, options):
        return Facts({"centre": (0.0, 0.0)})


class WideOnceItHasSeenData(toys.Mixture):
    def dataset(self, source):
        self.options = self.options.model_copy(update={"width": 16})
        return super().dataset(source)


class OtherGeneratorAlone(toys.Mixture):
    def generator(self):
        return toys.PointGenerator(16, self.options.latent)


class OneAxisMore(toys.PointGenerator):
    def forward(self, noise, condition=None, controls=None):
        return Sample(super().forward(noise).x[:, None])


class Flattens(toys.PointCritic):
    def forward(self, sample):
        return super().forward(Sample(sample.x.flatten(1)))


class OneVerdictForAll(toys.PointCritic):
    def forward(self, sample):
        return Critique((super().forward(sample).logits[0].mean()[None],))


class WithoutSlope(toys.PointGenerator):
    def forward(self, noise, condition=None, controls=None):
        x = super().forward(noise).x
        return Sample(x.detach() + 0 * x)


class SpareLayer(toys.PointGenerator):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.spare = nn.Linear(2, 2)


class CountsItsCalls(toys.PointGenerator):
    calls = 0

    def forward(self, noise, condition=None, controls=None):
        self.calls += self.training
        return Sample(super().forward(noise).x * (1 + 0.1 * self.calls))


class ShakyHand(toys.PointGenerator):
    def forward(self, noise, condition=None, controls=None):
        x = super().forward(noise).x
        return Sample(x + 0.1 * torch.randn_like(x))


class CentredOnItsBatch(toys.PointGenerator):
    def forward(self, noise, condition=None, controls=None):
        x = super().forward(noise).x
        return Sample(x - x.mean(0))


class WithoutDefault(toys.Duet):
    def condition(self, value, indices):
        return None if value is None else super().condition(value, indices)

    def networks(self):
        networks = super().networks()
        return replace(networks, generator=AnyCondition(self.options))


class AnyCondition(toys.DuetGenerator):
    def forward(self, noise, condition=None, controls=None):
        if condition is None:
            condition = torch.zeros(len(noise["z"]), dtype=torch.long)
        return super().forward(noise, condition, controls)


class ShiftIsNoBuffer(toys.PointGenerator):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.shift = torch.randn(2)

    def forward(self, noise, condition=None, controls=None):
        return Sample(super().forward(noise).x + self.shift)


class LeavesAFile(toys.Mixture):
    def dataset(self, source):
        Path("left.txt").write_text("here")
        return super().dataset(source)


class RemembersLooks(toys.Duet):
    looks = 0

    def preview(self, *arguments):
        self.looks += 1
        return super().preview(*arguments)

    def terms(self, *arguments):
        return {name: value * (1 + self.looks) for name, value in super().terms(*arguments).items()}


class ConditionByPlace(toys.Duet):
    def condition(self, value, indices):
        return torch.arange(len(indices)) % 3


class OtherWeightsEachTime(toys.Mixture):
    def initialise(self, networks):
        first = next(networks.generator.parameters())
        nn.init.constant_(first, 1 / (1 + next(CALLS)))


class Rounds(toys.Mixture):
    def augment(self, sample):
        return sample.with_x(sample.x.round())


class NumberedSheets(toys.Duet):
    def preview(self, *_):
        return str(next(CALLS)).encode()


class FlatLoss(toys.LanguageGenerator):
    def pretrain_loss(self, real):
        return super().pretrain_loss(real).detach()


class PositiveLogProb(toys.LanguageGenerator):
    def log_prob(self, sample):
        return -super().log_prob(sample)


class StartsAnew(toys.LanguageGenerator):
    def complete(self, sample, length, noise):
        return super().complete(sample, torch.zeros_like(length), noise)


class ScoresAnotherPolicy(toys.LanguageGenerator):
    def log_prob(self, sample):
        return super().log_prob(sample) / 2


class ForgetsTheTime(CurveGenerator):
    def unroll(self, noise, condition, controls, steps):
        drawn = super().unroll(noise, condition, controls, steps)
        return drawn.with_x(drawn.x + torch.arange(len(steps)))


class StartsEachBlockAnew(Curves):
    def networks(self):
        return Networks(ForgetsTheTime(), super().networks().critics)


class LosesAStep(Curves):
    def writer(self, file, format, controls):
        return contextlib.nullcontext(
            lambda part: file.write(self.encode(part.with_x(part.x[..., :-1]), format, None))
        )


class ForgetsWhatItDrew(toys.LanguageStep):
    def forward(self, noise, condition, controls, forced, state):
        step, new = super().forward(noise, condition, controls, forced, state)
        return step, {**new, "seen": state["seen"]}


class DrawsWhereItIsForced(toys.LanguageStep):
    def forward(self, noise, condition, controls, forced, state):
        return super().forward(noise, condition, controls, torch.full_like(forced, -1), state)


def stepping(step, length=3):
    """The tiny language with a loop of its own."""

    class Generator(toys.LanguageGenerator):
        def stepwise(self, condition, controls):
            return replace(super().stepwise(condition, controls), step=step(self), length=length)

    return speaker(Generator)


class TupleInExportFacts(toys.Duet):
    def export_facts(self):
        return {"range": (-1, 1)}


class OtherWords(toys.Language):
    def encode(self, sample, format, controls):
        symbols = sample.x if sample.mask is None else sample.x[sample.mask]
        return "".join("-abc"[symbol] for symbol in symbols).encode()

    def export_facts(self):
        return {"vocabulary": ["-", "a", "b", "d"]}


class WritesNoPng(toys.Mixture):
    def encode(self, sample, format, controls):
        return super().encode(sample, "npy", controls)


class Turned(toys.DuetControls):
    temperature: float = 1.0


class IgnoresItsCondition(toys.DuetGenerator):
    def forward(self, noise, condition=None, controls=None):
        x = super().forward(noise, torch.zeros_like(condition), controls).x
        return Sample(x, condition)


class Deaf(toys.Duet):
    def networks(self):
        return Networks(IgnoresItsCondition(self.options), super().networks().critics)


class ScoresTwice(toys.LanguageGenerator):
    def log_prob(self, sample):
        return 2 * super().log_prob(sample)


class ScoresTheNextStep(toys.LanguageGenerator):
    def log_prob(self, sample):
        return super().log_prob(sample).roll(-1, 1)


class GoesOnAsItLikes(toys.LanguageGenerator):
    def complete(self, sample, length, noise):
        fixed = {part: torch.full_like(value, 0.5) for part, value in noise.items()}
        return super().complete(sample, length, fixed)


class NeverEnds(toys.LanguageGenerator):
    def forward(self, noise, condition=None, controls=None):
        sample = super().forward(noise, condition, controls)
        return Sample(sample.x, mask=torch.ones_like(sample.mask))


class HoleInTheMask(toys.LanguageGenerator):
    def forward(self, noise, condition=None, controls=None):
        sample = super().forward(noise, condition, controls)
        mask = sample.mask.clone()
        mask[:, 0] = False
        return Sample(sample.x, mask=mask)


class MaskOfItsOwn(toys.PointGenerator):
    def forward(self, noise, condition=None, controls=None):
        x = super().forward(noise).x
        return Sample(x, mask=torch.ones(x.shape, dtype=torch.bool))


class WritesIntoItsInput(toys.PointCritic):
    def forward(self, sample):
        with torch.no_grad():
            sample.x.mul_(0.5)
        return super().forward(sample)


class WritesIntoItsNoise(toys.PointGenerator):
    def forward(self, noise, condition=None, controls=None):
        x = super().forward(noise).x
        if not self.training:
            noise["z"].zero_()
        return Sample(x)


class OneNanAmongTheData(toys.Mixture):
    def dataset(self, source):
        x = torch.as_tensor(super().dataset(source)).clone()
        x[77] = torch.nan
        return x


class ConditionsAsList(toys.Duet):
    def conditions(self):
        return ["class0", "class1"]


class AlwaysClassZero(toys.Duet):
    def condition(self, value, indices):
        return torch.zeros(len(indices), dtype=torch.long)


class DefaultIsClassZero(toys.Duet):
    def condition(self, value, indices):
        if value is None:
            return torch.zeros(len(indices), dtype=torch.long)
        return super().condition(value, indices)


class _OneClass(toys._Pairs):
    def __getitem__(self, index):
        return Sample(super().__getitem__(index).x, torch.tensor(0))


class DataOfOneClass(toys.Duet):
    def dataset(self, source):
        return _OneClass(self.options)


class ReferencesOfOneCoordinate(toys.Duet):
    def references(self, source, controls):
        whole = super().references(source, controls).sample
        return toys._Batch(whole.with_x(whole.x[:, :1]))


class CorruptsNothing(toys.Duet):
    def corruptions(self, samples):
        return {"swapped": samples}


class CorruptsInPlace(toys.Duet):
    def corruptions(self, samples):
        samples.x.mul_(-1)
        return {"mirrored": samples.with_x(samples.x.clone())}


class CorruptsAtRandom(toys.Duet):
    def corruptions(self, samples):
        return {"moved": samples.with_x(samples.x + 1 + next(CALLS))}


class CorruptionNamedReal(toys.Duet):
    def corruptions(self, samples):
        return {"real": super().corruptions(samples)["swapped"]}


def networked(features, **more):
    """The duet with one feature network."""

    class Mutant(toys.Duet):
        curves = ()

        def feature_networks(self, weights, training):
            super().feature_networks(weights, training)
            return {"mine": FeatureNetwork(features, "fd-mine", **more)}

    return like(duet, plugin=Mutant)


def halved(sample):
    x = sample.x.clone()
    sample.x.mul_(0.5)
    return x


class TakesAnyWeights(toys.Duet):
    def feature_networks(self, weights, training):
        return super().feature_networks({}, training)


class DistributesOneStepLate(toys.LanguageGenerator):
    def log_prob(self, sample):
        chosen = super().distributions(sample).gather(2, sample.x[..., None])[..., 0]
        return chosen.where(sample.mask, 0.0)

    def distributions(self, sample):
        return super().distributions(sample).roll(1, 1)


class DistributesUnevenly(DistributesOneStepLate):
    def distributions(self, sample):
        return toys.LanguageGenerator.distributions(self, sample) * 0.5


class InfersTheEnds(toys.LanguageGenerator):
    def infer(self, sample, controls=None):
        (posterior,) = super().infer(sample, controls).values()
        return {"symbols": Posterior((posterior.mean * 1.5).clamp(max=0.999))}


class InfersTogether(toys.LanguageGenerator):
    def infer(self, sample, controls=None):
        (posterior,) = super().infer(sample, controls).values()
        return {
            "symbols": Posterior(
                posterior.mean, posterior.mean.std(0).expand_as(posterior.mean) + 0.1
            )
        }


class InfersADeviation(toys.LanguageGenerator):
    def infer(self, sample, controls=None):
        (posterior,) = super().infer(sample, controls).values()
        return {"symbols": Posterior(posterior.mean, torch.full_like(posterior.mean, 0.1))}


class InfersTheSame(FactorGenerator):
    def infer(self, sample, controls=None):
        (posterior,) = super().infer(sample, controls).values()
        return {"z": Posterior(torch.zeros_like(posterior.mean), posterior.deviation)}


class InfersNothingSure(FactorGenerator):
    def infer(self, sample, controls=None):
        (posterior,) = super().infer(sample, controls).values()
        return {"z": Posterior(posterior.mean, posterior.deviation.log())}


def encoded(generator):
    """The factors with another generator."""

    class Mutant(FactorPlugin):
        def networks(self):
            return replace(super().networks(), generator=generator(self.options))

    return like(factors, plugin=Mutant)


def measured(change, curves=()):
    """The duet with other measures: a function of what the toy measures, and of the evidence."""

    class Mutant(toys.Duet):
        def measures(self, evidence):
            return change(super().measures(evidence), evidence)

    Mutant.curves = curves
    return like(duet, plugin=Mutant)


def moved(measures, evidence):
    evidence.samples.x.add_(1)
    return measures


MISSPELT = Preset(recipe={"loss": "hinje"})
RELAXED = {**ring.presets["default"].recipe, "estimator": {"kind": "straight_through"}}
NO_SUCH_TERM = {**duet.presets["default"].recipe, "terms": {"spred": 0.1}}

MUTANTS = {
    "manifest_is_plain_data": (like(ring, media_type="points"), "type/subtype"),
    "import_takes_no_torch": ("toys:ring", "imports torch"),
    "names_resolve": (like(ring, options="toys:NoSuchOptions"), "NoSuchOptions"),
    "presets_are_configurations": (
        replace(ring, presets={**ring.presets, "other": MISSPELT}),
        "Did you mean 'hinge'",
    ),
    "capabilities_suffice": (
        like(ring, preset={"recipe": RELAXED}),
        "recipe.estimator.kind = 'straight_through' needs 'relaxed'",
    ),
    "options_round_trip": (like(ring, options=Loose), "take an unknown key"),
    "controls_round_trip": (like(duet, controls=LooseControls), "take an unknown key"),
    "controls_have_effect": (
        like(duet, controls=Turned),
        "the control 'temperature' changes nothing",
    ),
    "data_are_samples": (like(ring, plugin=OtherDataEachTime), "other items"),
    "facts_round_trip": (like(ring, plugin=TupleInFacts), "not the same after JSON"),
    "networks_follow_from_facts": (
        like(ring, plugin=WideOnceItHasSeenData),
        "rebuilt without the data",
    ),
    "fakes_are_like_reals": (
        points(OneAxisMore, Flattens),
        r"samples \[8, 1, 2\], but the data are",
    ),
    "critics_judge_each_row": (points(critic=OneVerdictForAll), r"logits \[1\] for 8 samples"),
    "training_is_finite_and_moves_all": (points(WithoutSlope), "generator has not changed"),
    "gradients_stay_separate": (points(SpareLayer), "no gradient ever reached module.spare.bias"),
    "resume_equals_uninterrupted": (points(CountsItsCalls), "never stopped"),
    "drawing_changes_nothing": (like(duet, plugin=RemembersLooks), "drew samples in every round"),
    "same_identity_same_sample": (points(ShakyHand), "drawn again"),
    "rows_stand_alone": (points(CentredOnItsBatch), "rows of their batch"),
    "conditions_matter": (like(duet, plugin=Deaf), "different conditions give the same samples"),
    "saved_is_loaded": (points(ShiftIsNoBuffer), "draws other samples"),
    "files_are_what_they_say": (
        like(ring, plugin=WritesNoPng, formats=("png",), media_type="image/png"),
        "a .png file begins",
    ),
    "fresh_process_rebuilds": (like(ring, plugin="toys:ProcessDecides"), "drew other samples"),
    "files_stay_in_the_run": (like(ring, plugin=LeavesAFile), "left.txt"),
    "condition_answers": (like(duet, plugin=ConditionByPlace), "of index 1 depends on the indices"),
    "initialise_is_repeatable": (
        like(ring, plugin=OtherWeightsEachTime),
        "the second time",
    ),
    "terms_are_scalars": (
        like(duet, preset={"recipe": NO_SUCH_TERM}),
        "has weights for spred, but terms returned spread",
    ),
    "augment_keeps_shape": (
        like(ring, plugin=Rounds),
        "gradient through augment is zero",
    ),
    "preview_writes_each_ending": (like(duet, plugin=NumberedSheets), "different .txt previews"),
    "pretrain_loss_learns": (speaker(FlatLoss), "no gradient of pretrain_loss"),
    "log_prob_is_one": (speaker(PositiveLogProb), "at most 0"),
    "first_steps_follow_log_prob": (speaker(ScoresTwice), "score the distribution that is drawn"),
    "distributions_are_those_of_log_prob": (
        speaker(DistributesOneStepLate),
        "other probabilities than log_prob",
    ),
    "complete_keeps_prefixes": (speaker(StartsAnew), "that it must keep"),
    "relaxed_agrees": (speaker(ScoresAnotherPolicy), "score with the same policy"),
    "unroll_is_one_sample": (like(curves, plugin=StartsEachBlockAnew), "drawn 1 at a time differ"),
    "writer_writes_what_encode_writes": (like(curves, plugin=LosesAStep), "different .raw files"),
    "references_are_like_samples": (
        like(duet, plugin=ReferencesOfOneCoordinate),
        r"references have x \[1\] of float32, samples \[2\] of float32",
    ),
    "corruptions_are_faults": (like(duet, plugin=CorruptsNothing), "'swapped' changes nothing"),
    "feature_networks_are_functions": (
        networked(lambda sample: sample.x - sample.x.mean(0)),
        "depend on the other rows of their batch",
    ),
    "measures_are_numbers": (
        measured(lambda measures, _: {**measures, "spread": math.nan}),
        "it gives spread = nan; a finite number or None",
    ),
    "shipped_models_open": (like(ring, models={"a": "fake_shipped:none"}), "none is missing"),
    "shipped_models_draw": (
        replace(points(ShakyHand), models={"a": "fake_shipped:ring"}),
        "its model 'a' drew other samples when it was opened again",
    ),
    "steps_are_one_sample": (stepping(ForgetsWhatItDrew), "draws other samples than forward"),
    "export_facts_are_plain": (like(duet, plugin=TupleInExportFacts), "not the same after JSON"),
    "infer_finds_noise": (speaker(InfersTheEnds), "draws other samples than those"),
}
"""Check -> (a modality that it must catch, what it says)."""


@pytest.fixture(autouse=True, scope="module")
def _shipped(tmp_path_factory):
    """A package `fake_shipped` with a model of `ring` and one of `duet`."""
    folder = tmp_path_factory.mktemp("shipped")
    for toy, name in ((ring, "ring"), (duet, "labelled")):
        model = genkit.train(toy, items=64, out=folder / "run", overwrite=True, threads=1)
        model.save(folder / "fake_shipped" / name)
    (folder / "fake_shipped" / "__init__.py").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield
    sys.modules.pop("fake_shipped", None)


def test_models_that_ship_keep_the_contract():
    names = ["shipped_models_open", "shipped_models_draw"]
    toy = like(duet, models={"first": "fake_shipped:labelled"})
    assert check_modality(toy, only=names, minimum=2).ok
    # A model that is not the first may need a condition.
    picky = like(duet, models={"a": "fake_shipped:labelled"}, plugin=WithoutDefault)
    picky = replace(picky, models={"a": "fake_shipped:free", "b": "fake_shipped:labelled"})
    folder = bundled.model_path(picky, "b")
    free = shutil.copytree(folder, folder.with_name("free"))
    text = (free / "config.json").read_text()
    (free / "config.json").write_text(text.replace('"conditional": true', '"conditional": false'))
    report = check_modality(picky, only=names, minimum=2)
    assert report.ok, str(report)


@pytest.mark.parametrize("name", NAMES)
def test_each_check_catches_its_mutant(name):
    mutant, says = MUTANTS[name]
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # not below /dev
        (result,) = check_modality(mutant, only=[name]).results
    assert result.status == "failed", name
    assert re.search(says, result.reason), result.reason


MORE = [
    (
        "data_are_samples",
        like(ring, plugin=OneNanAmongTheData),
        r"item 77 \(values that are not finite",
    ),
    ("data_are_samples", like(duet, plugin=DataOfOneClass), "3 labels, but the first 500 items"),
    (
        "networks_follow_from_facts",
        like(ring, plugin=OtherGeneratorAlone),
        r"generator\(\) gives another network than networks\(\) \(generator.body.0.bias",
    ),
    ("fakes_are_like_reals", speaker(NeverEnds), "valid steps behind the symbol 0"),
    ("fakes_are_like_reals", speaker(HoleInTheMask), "valid steps come first"),
    ("fakes_are_like_reals", points(MaskOfItsOwn), "have a mask, real ones none"),
    ("fakes_are_like_reals", points(WritesIntoItsNoise), r"wrote into its noise \(z\)"),
    ("critics_judge_each_row", points(critic=WritesIntoItsInput), r"wrote into its input \(x\)"),
    ("first_steps_follow_log_prob", speaker(ScoresTheNextStep), "log_prob gives"),
    ("complete_keeps_prefixes", speaker(GoesOnAsItLikes), "the same samples from other noise"),
    ("steps_are_one_sample", stepping(DrawsWhereItIsForced), "where it is forced to take one"),
    ("steps_are_one_sample", stepping(toys.LanguageStep, length=2), "of other lengths"),
    (
        "export_facts_are_plain",
        like(language, plugin=OtherWords, formats=("txt",), media_type="text/plain"),
        "the vocabulary of export_facts writes",
    ),
    ("condition_answers", like(duet, plugin=AlwaysClassZero), "'class0' and 'class1' alike"),
    ("condition_answers", like(duet, plugin=ConditionsAsList), "conditions gave a list"),
    ("condition_answers", like(duet, plugin=DefaultIsClassZero), "64 indices the same default"),
    ("corruptions_are_faults", like(duet, plugin=CorruptsInPlace), r"wrote into its input \(x\)"),
    ("corruptions_are_faults", like(duet, plugin=CorruptsAtRandom), "differed under one seed"),
    ("corruptions_are_faults", like(duet, plugin=CorruptionNamedReal), "the name of another row"),
    (
        "feature_networks_are_functions",
        networked(lambda sample: sample.x * (1 + next(CALLS))),
        "other features for the same samples",
    ),
    (
        "feature_networks_are_functions",
        networked(lambda sample: sample.x[:, 0]),
        r"gives \[16\] for",
    ),
    (
        "feature_networks_are_functions",
        networked(lambda sample: sample.x.double()),
        "gives float64|gives torch.float64",
    ),
    ("feature_networks_are_functions", networked(lambda sample: sample.x.log()), "not finite"),
    ("feature_networks_are_functions", networked(halved), r"wrote into its input \(x\)"),
    (
        "feature_networks_are_functions",
        networked(lambda sample: sample.x, protocol={"weights": object()}),
        "its protocol is no plain data",
    ),
    (
        "feature_networks_are_functions",
        networked(lambda sample: sample.x, maps=lambda sample: [sample.x.detach()]),
        "no finite gradient comes back from its maps",
    ),
    (
        "feature_networks_are_functions",
        networked(lambda sample: sample.x, maps=lambda sample: [sample.x[:1]]),
        "maps must be tensors with a row for each",
    ),
    ("feature_networks_are_functions", like(duet, plugin=TakesAnyWeights), "'no such network'"),
    ("measures_are_numbers", measured(lambda measures, _: [*measures]), "it returned a list"),
    (
        "measures_are_numbers",
        measured(lambda measures, evidence: measures if evidence.generator else {}),
        "give the same names, and None for what cannot be computed",
    ),
    (
        "measures_are_numbers",
        measured(lambda measures, _: {**measures, "gap": next(CALLS)}),
        "differed when they were asked again",
    ),
    ("distributions_are_those_of_log_prob", speaker(DistributesUnevenly), "1 was expected"),
    ("infer_finds_noise", speaker(InfersTogether), "depends on the other rows of its batch"),
    ("infer_finds_noise", speaker(InfersADeviation), "'symbols', whose distribution is uniform"),
    ("infer_finds_noise", encoded(InfersTheSame), "the same noise for different samples"),
    ("infer_finds_noise", encoded(InfersNothingSure), "that is not finite, or not positive"),
    ("measures_are_numbers", measured(moved), r"wrote into its input \(x\)"),
    (
        "measures_are_numbers",
        measured(lambda measures, _: measures, curves=(("spread", "gaps"),)),
        "curves names gaps",
    ),
    (
        "shipped_models_open",
        like(ring, id="wring", models={"a": "fake_shipped:ring"}),
        "does not describe a model of 'wring'",
    ),
    (
        "shipped_models_open",
        like(ring, options=toys.GridOptions, models={"a": "fake_shipped:ring"}),
        "no such setting",
    ),
    ("shipped_models_open", like(ring, models={"a": "fake_nothing:x"}), "fake_nothing"),
    (
        "shipped_models_draw",
        like(duet, models={"a": "fake_shipped:labelled"}, plugin=WithoutDefault),
        "its first model, 'a', cannot draw without a condition",
    ),
]


@pytest.mark.parametrize(("name", "mutant", "says"), MORE)
def test_each_check_catches_its_other_mutants(name, mutant, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (result,) = check_modality(mutant, only=[name]).results
    assert result.status == "failed", name
    assert re.search(says, result.reason), result.reason


def test_no_mutant_is_without_its_check():
    assert list(MUTANTS) == NAMES


def test_a_preview_without_an_ending_does_not_suffice():
    mutant = like(duet, preview_formats=())
    (result,) = check_modality(mutant, only=["capabilities_suffice"]).results
    assert result.status == "failed"
    assert "the plugin has preview, but the manifest names no ending" in result.reason


# The toys ---------------------------------------------------------------------------------------------------------


EVALUATION = ("references", "corruptions", "feature_networks", "measures")
CAPABILITIES = {
    "ring": set(),
    "language": {
        *("pretrain_loss", "log_prob", "distributions", "complete", "relaxed", "stepwise", "infer"),
    },
    "duet": {"condition", "terms", "preview", "export_facts", *EVALUATION},
    "curves": {"preview", "unroll", "writer"},
    "factors": {"pretrain_loss", "infer", "terms"},
}
"""Toy -> the optional capabilities that its classes have."""


@pytest.mark.parametrize("toy", [ring, language, duet, curves, factors], ids=lambda toy: toy.id)
def test_a_toy_keeps_the_contract(toy):
    report = check_modality(toy)
    assert report.ok, str(report)
    passed = {result.name for result in report.results if result.status == "passed"}
    needs = {check.need for check in CHECKS if check.name in passed}
    assert needs - {"", "options", "controls"} == CAPABILITIES[toy.id]
    assert report.applied >= MINIMUM + len(CAPABILITIES[toy.id])


TRAINED = [
    "capabilities_suffice",
    "training_is_finite_and_moves_all",
    "gradients_stay_separate",
    "resume_equals_uninterrupted",
    "drawing_changes_nothing",
    "saved_is_loaded",
]
"""What can depend on the recipe, where another preset has the same networks."""

OTHERS = [
    (toys.grid, None),
    (toys.step_language, None),
    (factors, "vae-gan"),
    *((language, name) for name in list(language.presets)[1:]),
]


@pytest.mark.parametrize(("toy", "preset"), OTHERS)
def test_the_other_toys_and_presets_keep_it_within_this_process(toy, preset):
    names = [name for name in NAMES if name != "fresh_process_rebuilds"]
    report = check_modality(toy, preset, only=TRAINED if toy is language else names)
    assert report.ok, str(report)


# The report, the class, the command -------------------------------------------------------------------------------


def test_a_report_counts_what_applied_and_says_why_the_rest_did_not():
    few = ["names_resolve", "options_round_trip", "controls_round_trip"]
    report = check_modality(ring, only=few, minimum=2)
    assert report.ok
    assert str(report).endswith("applied 2, failed 0, skipped 1 (no controls)")
    short = check_modality(ring, only=few, minimum=3)
    assert not short.ok
    assert "too few: at least 3" in str(short)
    assert [row["status"] for row in short.to_json()["results"]] == ["passed", "passed", "skipped"]


def test_an_expected_failure_needs_to_fail():
    name = "facts_round_trip"
    told = {"only": [name], "expected_failures": {name: "tuples"}}
    report = check_modality(like(ring, plugin=TupleInFacts), **told)
    assert report.ok
    assert str(report).endswith("expected to fail 1")
    report = check_modality(ring, **told)
    assert not report.ok
    assert "take it out of expected_failures" in report.results[0].reason


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"only": ["name_resolve"]}, "Did you mean 'names_resolve'"),
        ({"expected_failures": {"x": "y"}}, "there is no check 'x'"),
        ({"preset": "defalt"}, "Did you mean 'default'"),
        ({"options": {"widht": 3}}, "Did you mean 'width'"),
    ],
)
def test_the_users_mistakes_are_said_at_once(given, says):
    with pytest.raises(ConfigError, match=says):
        check_modality(ring, **given)


class _Broken(ModalityConformance):
    modality = like(ring, options=Loose)
    expected_failures = {"data_are_samples": "not true", "options_round_trip": "too loose"}


def test_the_class_has_a_test_for_each_check_and_one_that_counts(tmp_path):
    assert {f"test_{name}" for name in NAMES} | {"test_enough_checks_apply"} == {
        name for name in dir(ModalityConformance) if name.startswith("test_")
    }
    _Broken.setup_class()
    broken = _Broken()
    broken.test_names_resolve()
    with pytest.raises(pytest.xfail.Exception, match="too loose"):
        broken.test_options_round_trip()
    with pytest.raises(pytest.skip.Exception, match="no controls"):
        broken.test_controls_round_trip()
    with pytest.raises(AssertionError, match="it passes, but was expected"):
        broken.test_data_are_samples()
    with pytest.raises(AssertionError, match=f"only {MINIMUM - 1} checks apply"):
        broken.test_enough_checks_apply()
    folder = broken.subject().folder
    _Broken.teardown_class()
    assert not folder.exists()


def test_data_that_cannot_be_opened_are_the_users_mistake():
    class Refuses(toys.Mixture):
        @classmethod
        def open(cls, source, options):
            raise DataError(f"{source} is no folder")

    with pytest.raises(DataError, match="is no folder"):
        check_modality(like(ring, plugin=Refuses), data="nowhere")


def test_the_command_tells_and_ends_with_what_it_found(monkeypatch):
    monkeypatch.setattr(conformance, "CHECKS", CHECKS[:6])
    run = CliRunner().invoke
    told = run(app, ["plugins", "check", "toys:ring", "options.width=8", "--json"])
    report = json.loads(told.stdout)
    failed = [row["name"] for row in report["results"] if row["status"] == "failed"]
    assert [row["name"] for row in report["results"]] == NAMES[:6]
    assert (told.exit_code, report["ok"], failed) == (1, False, ["import_takes_no_torch"])
    assert isinstance(run(app, ["plugins", "check", "nobody:at_home"]).exception, ConfigError)
    assert isinstance(run(app, ["plugins", "check", "image", "run.items=3"]).exception, ConfigError)
