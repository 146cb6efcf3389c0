"""Recipes are data: frozen, complete, checked when they are made, and schedules are functions of items."""

import itertools
import math
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from genkit.recipe import (
    Constraint,
    Critic,
    GumbelSoftmax,
    Pathwise,
    PenaltySettings,
    Player,
    Recipe,
    Schedule,
    ScoreFunction,
    Stage,
    StraightThrough,
    value_at,
)

laws = settings(max_examples=60, deadline=None, derandomize=True)
numbers = st.floats(-1e6, 1e6)
lengths = st.integers(1, 10**9)
shapes = st.sampled_from(["linear", "cosine"])


# Schedules -------------------------------------------------------------------------------------------------------


@laws
@given(numbers, numbers, lengths, shapes)
def test_a_schedule_goes_from_start_to_end_by_way_of_the_middle(start, end, items, shape):
    schedule = Schedule(start=start, end=end, items=2 * items, shape=shape)
    slack = 1e-9 * (abs(start) + abs(end))
    assert schedule(0) == start
    assert schedule(items) == pytest.approx((start + end) / 2, rel=1e-9, abs=slack)
    assert schedule(2 * items) == pytest.approx(end, rel=1e-9, abs=slack)


@laws
@given(numbers, numbers, lengths, shapes, st.integers(0, 10**12))
def test_a_schedule_is_constant_afterwards(start, end, items, shape, later):
    schedule = Schedule(start=start, end=end, items=items, shape=shape)
    assert schedule(items + later) == schedule(items)


@laws
@given(numbers, numbers, lengths, shapes, st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_a_schedule_never_turns_back_and_never_leaves_its_ends(start, end, items, shape, shares):
    schedule = Schedule(start=start, end=end, items=items, shape=shape)
    values = [schedule(int(share * items)) for share in sorted(shares)]
    slack = 1e-9 * (abs(start) + abs(end)) + 1e-300
    for before, after in itertools.pairwise(values):
        assert (after - before) * (1 if end >= start else -1) >= -slack
    assert all(min(start, end) - slack <= value <= max(start, end) + slack for value in values)


@pytest.mark.parametrize(
    ("share", "cosine"),
    [(0.25, (1 - math.sqrt(0.5)) / 2), (1 / 3, 0.25), (0.5, 0.5), (0.75, (1 + math.sqrt(0.5)) / 2)],
)
def test_the_cosine_is_flat_at_both_ends(share, cosine):
    assert Schedule(start=0, end=1, items=1200, shape="cosine")(int(share * 1200)) == pytest.approx(
        cosine, abs=1e-12
    )
    assert Schedule(start=0, end=1, items=1200)(int(share * 1200)) == pytest.approx(
        share, abs=1e-12
    )


@given(items=st.integers(1, 1000), after=st.integers(0, 1000), now=st.integers(0, 3000))
def test_a_schedule_that_waits_is_the_same_one_later(items, after, now):
    plain, waiting = (
        Schedule(start=3, end=1, items=items),
        Schedule(start=3, end=1, items=items, delay=after),
    )
    assert waiting(now) == (plain(now - after) if now >= after else 3)


@given(
    total=st.integers(10, 10_000),
    share=st.floats(0.1, 0.5),
    delay=st.floats(0, 0.5),
    done=st.floats(0, 1),
)
def test_a_schedule_in_shares_is_that_in_items_for_a_run_of_any_length(total, share, delay, done):
    of_run = Schedule(start=3, end=1, share=share, delay=delay, shape="cosine")
    of_items = (
        of_run(0, done),
        3 + (1 - 3) * (1 - math.cos(math.pi * min(max((done - delay) / share, 0), 1))) / 2,
    )
    assert of_items[0] == pytest.approx(of_items[1])
    assert of_run(total, done) == of_run(0, done)  # the items do not matter


@pytest.mark.parametrize(
    "settings",
    [{}, {"items": 5, "share": 0.5}, {"share": 0.8, "delay": 0.3}, {"share": 0}, {"share": 1.5}],
)
def test_a_schedule_has_one_unit_and_ends_within_the_run(settings):
    with pytest.raises(ValidationError):
        Schedule(start=1, end=0, **settings)


def test_a_number_is_the_schedule_that_never_changes():
    assert value_at(0.3, 0) == value_at(0.3, 10**9) == 0.3
    assert value_at(Schedule(start=1, end=0, items=10), 5) == 0.5


# Checks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cls",
    [
        Recipe,
        Player,
        Critic,
        Stage,
        Constraint,
        PenaltySettings,
        Pathwise,
        ScoreFunction,
        StraightThrough,
        GumbelSoftmax,
        Schedule,
    ],
)
def test_settings_are_frozen_and_refuse_unknown_keys(cls):
    whole = {
        Constraint: {"kind": "weight_clip"},
        PenaltySettings: {"weight": 1},
        ScoreFunction: {"kind": "score_function"},
        StraightThrough: {"kind": "straight_through"},
        GumbelSoftmax: {"kind": "gumbel_softmax"},
        Schedule: {"start": 0, "end": 1, "items": 1},
    }.get(cls, {})
    made = cls(**whole)
    name = next(iter(cls.model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(made, name, getattr(made, name))
    with pytest.raises(ValidationError, match="Extra inputs"):
        cls(**whole, no_such_key=1)


@laws
@given(st.integers(1, 64), st.integers(1, 64))
def test_a_batch_is_cut_into_equal_parts_or_refused(batch_size, gradient_accumulation):
    if batch_size % gradient_accumulation:
        with pytest.raises(ValidationError, match=f"batch_size {batch_size} cannot be cut"):
            Recipe(batch_size=batch_size, gradient_accumulation=gradient_accumulation)
    else:
        assert (
            Recipe(batch_size=batch_size, gradient_accumulation=gradient_accumulation).batch_size
            == batch_size
        )


@laws
@given(st.integers(1, 64), st.integers(1, 4), st.integers(1, 8))
def test_a_part_of_a_batch_has_whole_groups_or_is_refused(batch_size, gradient_accumulation, group):
    recipe = {
        "batch_size": batch_size * gradient_accumulation,
        "gradient_accumulation": gradient_accumulation,
    }
    recipe |= {"estimator": {"kind": "score_function", "group": group}}
    if batch_size % group:
        with pytest.raises(
            ValidationError, match=rf"cannot be cut into groups of estimator.group = {group}"
        ):
            Recipe.model_validate(recipe)
    else:
        assert Recipe.model_validate(recipe).group == group


@laws
@given(st.lists(st.one_of(st.none(), st.integers(1, 100)), max_size=4))
def test_only_the_last_stage_may_be_without_end(lengths):
    stages = tuple(Stage(items=items) for items in lengths)
    if lengths and None not in lengths[:-1] and lengths[-1] is None:
        assert Recipe(stages=stages).stages == stages
    else:
        with pytest.raises(
            ValidationError, match=r"every stage but the last needs items|leave its items out"
        ):
            Recipe(stages=stages)


@pytest.mark.parametrize(
    "recipe",
    [
        {"batch_size": 0},
        {"gradient_accumulation": 0},
        {"ema_halflife_items": -1},
        {"ema_rampup": 0},
        {"estimator": {"kind": "score_function", "discount": 1.1}},
        {"estimator": {"kind": "score_function", "baseline_decay": 1.0}},
        {"estimator": {"kind": "score_function", "rollouts": 0}},
        {"estimator": {"kind": "score_function", "group": 0}},
        {"estimator": {"kind": "pathwise", "group": 2}},
        {"estimator": {"kind": "magic"}},
        {"estimator": {"kind": "straight_through", "temperature": 1.0}},
        {"estimator": {"kind": "gumbel_softmax", "temperature": 0.0}},
        {
            "estimator": {
                "kind": "gumbel_softmax",
                "temperature": {"start": 1, "end": 0, "items": 9},
            }
        },
        {"stages": [{"items": 0}]},
        {"generator": {"steps": 0}},
        {"generator": {"interval": 0}},
        {"generator": {"gradient_clip": 0}},
        {"generator": {"optimizer": "lion"}},
        {"generator": {"constraint": {"kind": "weight_clip", "bound": 0}}},
        {"generator": {"learning_rate": {"start": 1, "end": 0, "items": 0}}},
        {"generator": {"weight": 1.0}},  # only a critic has a weight
        {"penalties": {"r1": {}}},
    ],
)
def test_what_cannot_be_played_is_refused(recipe):
    with pytest.raises(ValidationError):
        Recipe.model_validate(recipe)


@pytest.mark.parametrize(
    "player",
    [
        {"learning_rate": -1e-4},
        {"learning_rate": float("nan")},
        {"learning_rate": {"start": 1e-4, "end": -1e-4, "items": 10}},
        {"betas": (0.5, 1.0)},
        {"betas": (-0.1, 0.9)},
        {"epsilon": -1e-8},
        {"weight_decay": -0.1},
        {"optimizer": "sgd", "momentum": -0.5},
        {"optimizer": "rmsprop", "alpha": -0.5},
    ],
    ids=str,
)
def test_numbers_that_no_optimiser_takes_are_refused_at_the_door(player):
    """torch's optimisers raise for them with no word of the setting, and for a schedule only when it gets there."""
    with pytest.raises(ValidationError):
        Recipe.model_validate({"generator": player})


# Meaning ---------------------------------------------------------------------------------------------------------


def test_a_critic_has_its_own_settings_or_those_of_every_critic():
    recipe = Recipe(critic=Critic(weight=2.0), critics={"wide": Critic(weight=3.0)})
    assert recipe.critic_named("wide").weight == 3.0
    assert recipe.critic_named("any other").weight == 2.0


def test_the_estimator_is_told_by_its_kind():
    assert Recipe().estimator == Pathwise()
    assert isinstance(
        Recipe.model_validate({"estimator": {"kind": "score_function"}}).estimator, ScoreFunction
    )
    with pytest.raises(ValidationError):
        Recipe.model_validate({"estimator": {"kind": "pathwise", "rollouts": 3}})


rates = st.one_of(
    st.floats(1e-6, 1),
    st.builds(Schedule, start=st.floats(1e-6, 1), end=st.floats(0, 1), items=lengths, shape=shapes),
)
temperatures = st.floats(1e-3, 9) | st.builds(
    Schedule, start=st.floats(0.1, 9), end=st.floats(0.1, 9), items=lengths, shape=shapes
)
constraints = st.builds(
    Constraint,
    kind=st.sampled_from(["weight_clip", "singular_values"]),
    bound=st.floats(1e-3, 10),
    interval=st.integers(1, 9),
)
players = st.builds(
    Player, learning_rate=rates, constraint=st.none() | constraints, steps=st.integers(1, 9)
)
critics = st.builds(Critic, learning_rate=rates, weight=st.floats(0, 2))
recipes = st.builds(
    Recipe,
    batch_size=st.sampled_from([12, 24]),
    gradient_accumulation=st.sampled_from([1, 2, 3]),
    penalties=st.dictionaries(
        st.sampled_from(["r1", "r2", "mine:own"]), st.builds(PenaltySettings, weight=rates)
    ),
    terms=st.dictionaries(st.text("abc", min_size=1, max_size=3), rates, max_size=2),
    estimator=st.one_of(
        st.just(Pathwise()),
        st.builds(ScoreFunction, kind=st.just("score_function"), discount=st.floats(0, 1)),
        st.just(StraightThrough(kind="straight_through")),
        st.builds(
            GumbelSoftmax,
            kind=st.just("gumbel_softmax"),
            temperature=temperatures,
            hard=st.booleans(),
        ),
    ),
    generator=players,
    critics=st.dictionaries(st.text("xyz", min_size=1, max_size=3), critics, max_size=2),
    stages=st.lists(
        st.builds(Stage, items=st.integers(1, 99), generator=st.none() | players),
        min_size=1,
        max_size=3,
    ).map(lambda stages: (*stages, Stage())),
    ema_rampup=st.none() | st.floats(0.01, 1),
)


@laws
@given(recipes)
def test_a_recipe_survives_being_written_as_plain_data(recipe):
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_recipes_cost_no_torch():
    code = "import sys, genkit.recipe; assert 'pydantic' in sys.modules; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_null_takes_a_penalty_away():
    assert Recipe(penalties={"r1": {"weight": 1}, "r2": None}).penalties == {
        "r1": PenaltySettings(weight=1)
    }
