"""Collapsed, memorising and saturated games are told from healthy ones."""

import pytest
import torch
from toys import ring

import genkit
from genkit.engine.diagnosis import Reference, remedies, saturated
from genkit.plugin import Sample
from genkit.recipe import Recipe

RECIPE = Recipe()


def cloud(count, size=48, seed=0):
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


REALS = Reference(Sample(cloud(500)))
CASES = {
    "fresh draws of the same distribution": (cloud(64, seed=1), None),
    "one point": (cloud(1, seed=1).expand(64, -1) + 1e-4 * cloud(64, seed=2), "mode collapse"),
    "three points": (cloud(3, seed=1).repeat(22, 1) + 1e-3 * cloud(66, seed=2), "mode collapse"),
    "training items": (cloud(64), "memorises"),
    "training items, slightly changed": (cloud(64) + 0.1 * cloud(64, seed=3), "memorises"),
    "half training items": (torch.cat([cloud(32), cloud(32, seed=4)]), "memorises"),
    "narrower than the data": (0.7 * cloud(64, seed=5), None),
}


@pytest.mark.parametrize("case", CASES)
def test_samples_are_judged_in_plain_words(case):
    points, expected = CASES[case]
    numbers, said = REALS.findings(Sample(points), RECIPE)
    assert set(numbers) == {"spread", "near_duplicates", "copies"}
    assert [expected in one for one in said] == ([True] if expected else [])


def test_distances_are_the_same_whatever_the_shape():
    shaped = Reference(Sample(cloud(500).view(500, 3, 4, 4))).findings(
        Sample(cloud(64, seed=1).view(64, 3, 4, 4)), RECIPE
    )
    assert shaped == REALS.findings(Sample(cloud(64, seed=1)), RECIPE)


def test_discrete_samples_are_compared_by_the_steps_that_differ():
    generator = torch.Generator().manual_seed(0)
    reals = torch.randint(50, (400, 20), generator=generator)
    reference = Reference(Sample(reals))
    assert (
        reference.findings(Sample(torch.randint(50, (64, 20), generator=generator)), RECIPE)[1]
        == []
    )
    assert "memorises" in reference.findings(Sample(reals[:64]), RECIPE)[1][0]
    assert "mode collapse" in reference.findings(Sample(reals[:1].expand(64, -1)), RECIPE)[1][0]


def test_a_small_language_that_has_few_sentences_is_not_memorised():
    generator = torch.Generator().manual_seed(0)
    reals = torch.randint(2, (1000, 4), generator=generator)
    assert Reference(Sample(reals)).findings(Sample(reals[:64]), RECIPE)[1] == []


def test_too_few_to_judge_says_nothing():
    assert Reference(Sample(cloud(5))).findings(Sample(cloud(64)), RECIPE) == ({}, [])


def test_a_critic_that_has_won_is_named_when_it_has_for_a_while():
    won, even = {"critic.separation": 1.0}, {"critic.separation": 0.7}
    assert "is saturated" in saturated([won] * 3, RECIPE)[0]
    assert (
        saturated([won], RECIPE)
        == saturated([even] * 5, RECIPE)
        == saturated([], RECIPE)
        == saturated([won, even, won], RECIPE)
        == []
    )
    assert "no gradient" in saturated([{"generator.gradient_norm": 0.0}], RECIPE)[0]


def test_advice_is_what_the_recipe_does_not_do_already():
    assert remedies(RECIPE) == (
        "a penalty (recipe.penalties.r1.weight=0.05), recipe.loss=relativistic, or lower learning rates"
    )
    strict = Recipe(loss="relativistic", penalties={"r1": {"weight": 0.1}})
    assert remedies(strict) == "lower learning rates"
    assert remedies(strict, of_critic=True) == (
        "a lower recipe.critic.learning_rate, or augmentation"
    )


def test_a_run_says_what_is_wrong_with_it_and_logs_the_numbers(train):
    """A generator that never learns stays collapsed, and every look says so."""
    notes = []
    still = {"generator": {"learning_rate": 0.0}, "critic": {"learning_rate": 0.0}}
    _, out = train(
        ring, 20_480, recipe=still, progress=lambda progress: notes.append(progress.note)
    )
    assert any(note and "mode collapse" in note for note in notes)
    assert '"samples.spread"' in (out / "metrics.jsonl").read_text()
    healthy = []
    genkit.train(
        ring,
        out=out.parent / "other",
        items=20_480,
        threads=1,
        progress=lambda p: healthy.append(p.note),
    )
    assert not any(note and "memorises" in note for note in healthy)
