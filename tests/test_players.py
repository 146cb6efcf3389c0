"""The estimators against the enumerated exact gradient of the tiny language; the players."""

import copy
import itertools
import math

import pytest
import torch
from torch import nn
from toys import (
    LanguageCritic,
    LanguageGenerator,
    LanguageOptions,
    PointCritic,
    PointGenerator,
    sentences,
    truth,
)

from genkit.adversarial import LOSSES, masked_mean
from genkit.engine.compatibility import sees_other_rows
from genkit.engine.estimators import (
    FakeRequest,
    ImportanceEstimator,
    RelaxedEstimator,
    Score,
    ScoreFunctionEstimator,
    discounted_returns,
)
from genkit.engine.players import CriticPlayer, GeneratorPlayer, GeneratorUpdate
from genkit.errors import ConfigError
from genkit.evaluation.gains import LARGEST_LENGTH_WEIGHT
from genkit.plugin import Critique, Networks, Sample
from genkit.recipe import GumbelSoftmax, Importance, Recipe, ScoreFunction, StraightThrough
from genkit.sampling.noise import draw

OPTIONS = {
    "variable": LanguageOptions(symbols=2, length=2, variable=True, width=16),
    "fixed": LanguageOptions(symbols=2, length=2, variable=False, width=16),
}
LONG = {
    "variable": LanguageOptions(symbols=2, length=3, variable=True, width=16),
    "fixed": LanguageOptions(symbols=2, length=3, variable=False, width=16),
}


class Script(nn.Module):
    """A generator that draws what it is told to, with the log-probabilities of a real one."""

    def __init__(self, generator, sample):
        super().__init__()
        self.generator, self.sample = generator, sample

    def forward(self, noise, condition, controls):
        return self.sample

    def log_prob(self, sample):
        return self.generator.log_prob(sample)


def judge_of(critic):
    return lambda sample, rows=None: [score_of(critic(sample), sample)]


def score_of(critique, sample):
    return Score(1.0, critique, None, sample.mask if critique.per_step else None)


def noises(generator):
    return lambda purpose, rows: {
        part: torch.from_numpy(draw(spec, part, purpose, range(rows)))
        for part, spec in generator.noise.items()
    }


def gradient(loss, generator):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(generator.parameters()))])


def world(options, per_step, seed=0):
    torch.manual_seed(seed)
    generator, critic = LanguageGenerator(options), LanguageCritic(options, per_step).eval()
    for parameter in critic.parameters():  # a critic with opinions
        parameter.data.mul_(3)
    words, mask = sentences(options)
    return generator, critic, Sample(words, mask=mask)


def estimator(**settings):
    return ScoreFunctionEstimator(
        ScoreFunction(kind="score_function", **settings), LOSSES["non_saturating"]
    )


def exact_gradient(generator, critic, every, per_step, discount=1.0, centred=False):
    """The gradient of the expected reward over all sentences, as -E[...] (a loss); steps centred on E of the others."""
    log_prob = generator.log_prob(every)
    chance = log_prob.detach().sum(1).exp()
    valid = every.mask.float()
    logits = critic(every).logits[0].detach()
    reward = -LOSSES["non_saturating"].generator(logits, logits)
    if not per_step:
        return gradient(-(chance * reward * log_prob.sum(1)).sum(), generator)
    own = (reward * valid).sum(1) / valid.sum(1)
    centre = (chance * own).sum() if centred else torch.zeros(())
    returns = discounted_returns((reward - centre) * valid, discount)
    return gradient(-(chance * (returns * log_prob * valid).sum(1)).sum(), generator)


def expected_over_pairs(generator, critic, every, settings):
    """The estimator's exact expectation for batches of two: every pair of sentences, weighed by its chance."""
    chance = generator.log_prob(every).detach().sum(1).exp()
    total = 0
    for first in range(len(every)):
        for second in range(len(every)):
            pair = every[[first, second]]
            loss, _, _ = estimator(**settings)(
                Script(generator, pair), FakeRequest(None, 2, noises(generator)), judge_of(critic)
            )
            total = total + chance[first] * chance[second] * gradient(loss, generator)
    return total


class Told(nn.Module):
    """A critic that gives each sentence its number among all of them, as a logit that it was told."""

    def __init__(self, every, logits):
        super().__init__()
        self.every, self.logits = every, logits

    def forward(self, sample):
        is_same = (sample.x[:, None] == self.every.x) & (sample.mask[:, None] == self.every.mask)
        return Critique((self.logits[is_same.all(2).long().argmax(1)],))


@pytest.mark.parametrize("length", ["variable", "fixed"])
def test_importance_by_the_true_log_ratio_follows_the_divergence_from_the_truth(length):
    """The gradient is that of -sum p log q over all sentences, the one of maximum likelihood on endless data."""
    generator, _, every = world(LONG[length], False)
    shares = truth(LONG[length]).float()
    log_prob = generator.log_prob(every).sum(1)
    exact = gradient(-(shares * log_prob).sum(), generator)
    critic = Told(every, (shares.log() - log_prob).detach())
    estimates = []
    for group in (2, 4000):
        play = ImportanceEstimator(Importance(kind="importance", group=group))
        request = FakeRequest(None, 8000, noises(generator))
        loss, statistics, fake = play(generator, request, judge_of(critic))
        estimates.append(gradient(loss, generator))
        assert 0 < statistics["effective_share"] <= 1
    assert torch.cosine_similarity(estimates[1], exact, dim=0) > 0.98
    assert (estimates[1] - exact).norm() < 0.2 * exact.norm()
    assert (estimates[0] - exact).norm() > (estimates[1] - exact).norm()  # small groups are biased
    assert len(fake) == 8000


@pytest.mark.parametrize("knows_opponent", [False, True])
def test_critics_of_an_earlier_generator_teach_the_truth_if_that_one_is_known(knows_opponent):
    """Against a generator that has learned all that they know they teach it nothing more."""
    opponent, _, every = world(LONG["variable"], False)
    generator = copy.deepcopy(opponent)
    with torch.no_grad():
        for weight in generator.parameters():
            weight += 0.3 * torch.randn_like(weight)
        shares = generator.log_prob(every).sum(1).exp()  # what the generator draws is the truth
        critic = Told(every, shares.log() - opponent.log_prob(every).sum(1))
    play = ImportanceEstimator(Importance(kind="importance", group=4000))
    known = opponent if knows_opponent else None
    request = FakeRequest(None, 8000, noises(generator), opponent=known)
    loss, statistics, _ = play(generator, request, judge_of(critic))
    assert (statistics["effective_share"] > 0.999) == knows_opponent
    assert (gradient(loss, generator).norm() < 1e-3) == knows_opponent


@pytest.mark.parametrize("slope", [0.0, -0.8, 0.5])
def test_importance_chooses_candidates_as_long_as_reals(slope):
    """What critics hold against a length, or for it, is made up for; a true log-ratio is not changed."""
    generator, _, every = world(LONG["variable"], False)
    shares = generator.log_prob(every).sum(1).exp()
    drawn = every[torch.multinomial(shares, 240, replacement=True)]
    critic = Told(every, slope * every.mask.sum(1).float())
    play = ImportanceEstimator(Importance(kind="importance", group=4))
    for _ in range(300):
        request = FakeRequest(None, len(drawn), noises(generator), real=drawn)
        _, statistics, _ = play(Script(generator, drawn), request, judge_of(critic))
        play.follow()
    assert statistics["length_weight"].item() == pytest.approx(-slope, abs=0.01)
    assert statistics["effective_share"] == pytest.approx(1, abs=1e-4)


def test_the_weight_of_lengths_is_bounded_and_rests_where_it_has_no_effect():
    """Candidates that are all too short, of one length, or of no finite score; and critics that gain nothing."""
    generator, _, every = world(LONG["variable"], False)
    steps = every.mask.sum(1)
    longest = every[steps == steps.max()]
    places = [(steps == count).nonzero()[:2, 0] for count in steps.unique()[:2]]
    short = every[torch.stack(places, 1).flatten()]
    logits = torch.zeros(len(every))
    for drawn, scale, scores, expected in (
        (short, 1.0, logits, LARGEST_LENGTH_WEIGHT),
        (longest[:2], 1.0, logits, 0.0),
        (short, 1.0, logits * torch.nan, 0.0),
        (short, 0.0, logits - steps, 0.0),
    ):
        play = ImportanceEstimator(Importance(kind="importance", group=2))
        for _ in range(150):
            request = FakeRequest(None, len(drawn), noises(generator), scale=scale, real=longest)
            play(Script(generator, drawn), request, judge_of(Told(every, scores)))
            play.follow()
        assert play.length_weight.item() == pytest.approx(expected)


def test_importance_mixes_in_the_likelihood_of_reals():
    generator, critic, every = world(LONG["variable"], False)
    drawn = every[:8]
    likelihood = generator.log_prob(every).sum(1)
    losses = {}
    for scale, real in ((0.0, 0.0), (1.0, 0.0), (1.0, 0.25)):
        play = ImportanceEstimator(Importance(kind="importance", group=4, scale=scale, real=real))
        request = FakeRequest(None, 8, noises(generator), real=every[5:])
        losses[scale, real], statistics, _ = play(
            Script(generator, drawn), request, judge_of(critic)
        )
        if not scale:
            assert statistics["effective_share"] == 1
    scores = critic(drawn).logits[0].view(2, 4)
    advantages = (scores.softmax(1) - 1 / 4).flatten() / 2
    torch.testing.assert_close(losses[0.0, 0.0], torch.zeros(()))
    torch.testing.assert_close(losses[1.0, 0.0], -(advantages * likelihood[:8]).sum())
    mixture = 0.75 * losses[1.0, 0.0] - 0.25 * likelihood[5:].mean()
    torch.testing.assert_close(losses[1.0, 0.25], mixture)


def test_importance_learns_from_reals_alone_where_the_critics_gain_nothing():
    generator, critic, every = world(LONG["variable"], False)
    play = ImportanceEstimator(Importance(kind="importance", group=4, real=0.25))
    request = FakeRequest(None, 8, noises(generator), scale=0.0, real=every[5:])
    loss, statistics, _ = play(generator, request, judge_of(critic))
    torch.testing.assert_close(loss, -0.25 * generator.log_prob(every[5:]).sum(1).mean())
    assert statistics["effective_share"] == 1


def test_importance_weighs_candidates_without_dropout_and_learns_them_with_it():
    """As it learns reals; without a baseline, since a model's own samples teach a network with dropout something."""
    generator, critic, every = world(LONG["variable"], False)
    generator.dropout = nn.Dropout(0.5).train()
    plain, modes = generator.log_prob, []

    def log_prob(sample):
        modes.append(generator.dropout.training)
        return plain(sample) * (2 if generator.dropout.training else 1)

    generator.log_prob = log_prob
    drawn = every[:8]
    script = Script(generator, drawn)
    script.dropout = generator.dropout
    for real in (0.0, 0.5):
        play = ImportanceEstimator(Importance(kind="importance", group=4, real=real))
        request = FakeRequest(None, 8, noises(generator), real=every)
        loss, _, _ = play(script.train(), request, judge_of(critic))
        weights = critic(drawn).logits[0].view(2, 4).softmax(1).flatten() / 2
        own, reals = ((plain(one) * 2).sum(1) for one in (drawn, every))
        torch.testing.assert_close(loss, -(1 - real) * (weights * own).sum() - real * reals.mean())
        assert not generator.dropout.training
    assert modes == [False, True, False, True, True]


def test_the_likelihood_of_the_opponent_has_no_dropout():
    generator, _, every = world(LONG["variable"], False)
    generator.body.append(nn.Dropout(0.5))
    stages = [{"kind": "critics", "items": 64}, {"kind": "generator"}]
    estimator = {"kind": "importance", "group": 4}
    recipe = Recipe.model_validate({"estimator": estimator, "stages": stages})
    player = GeneratorPlayer(generator, recipe, Nobody(), frozenset()).train()
    assert generator.training
    assert not any(module.training for module in player.opponent.modules())
    same = [player.opponent.log_prob(every) for _ in range(2)]
    assert torch.equal(*same)


@pytest.mark.parametrize("length", ["variable", "fixed"])
@pytest.mark.parametrize(
    ("credit", "baseline", "discount"),
    [
        ("terminal", "none", 1.0),
        ("terminal", "leave_one_out", 1.0),
        ("terminal", "moving_average", 1.0),
        ("per_step", "none", 1.0),
        ("per_step", "none", 0.7),
        ("per_step", "leave_one_out", 1.0),
        ("per_step", "leave_one_out", 0.7),
    ],
)
def test_expectation_of_the_estimator_is_the_enumerated_gradient(
    length, credit, baseline, discount
):
    per_step = credit == "per_step"
    generator, critic, every = world(OPTIONS[length], per_step)
    assert math.isclose(generator.log_prob(every).sum(1).exp().sum().item(), 1.0, rel_tol=1e-5)
    exact = exact_gradient(generator, critic, every, per_step, discount, centred=baseline != "none")
    settings = {"credit": credit, "baseline": baseline, "discount": discount}
    found = expected_over_pairs(generator, critic, every, settings)
    torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-5)
    assert exact.norm() > 1e-3


@pytest.mark.parametrize("discount", [1.0, 0.7])
def test_at_fixed_length_centred_steps_match_the_plain_objective_too(discount):
    generator, critic, every = world(OPTIONS["fixed"], per_step=True)
    plain = exact_gradient(generator, critic, every, True, discount)
    found = expected_over_pairs(
        generator, critic, every, {"credit": "per_step", "discount": discount}
    )
    torch.testing.assert_close(found, plain, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("length", ["variable", "fixed"])
@pytest.mark.parametrize(
    ("credit", "more"),
    [
        ("terminal", {}),
        ("terminal", {"baseline": "none"}),
        ("monte_carlo", {"rollouts": 2}),
        ("monte_carlo", {"rollouts": 1, "stride": 2}),
        ("monte_carlo", {"rollouts": 2, "baseline": "none"}),
    ],
)
def test_real_sampling_approaches_the_enumerated_gradient(length, credit, more):
    generator, critic, every = world(LONG[length], per_step=False)
    exact = exact_gradient(generator, critic, every, False)
    chosen = estimator(credit=credit, **more)
    rows = 4_000 if credit == "monte_carlo" else 20_000
    loss, _, _ = chosen(generator, FakeRequest(None, rows, noises(generator)), judge_of(critic))
    found = gradient(loss, generator)
    assert torch.cosine_similarity(found, exact, dim=0) > 0.99
    assert (found - exact).norm() < 0.2 * exact.norm()


def test_rollouts_have_less_variance_than_terminal_rewards():
    generator, critic, every = world(LONG["variable"], per_step=False)
    exact = exact_gradient(generator, critic, every, False)

    def error(credit):
        chosen, total = estimator(credit=credit, rollouts=8), 0.0
        for batch in range(20):

            def noise(purpose, rows, batch=batch):
                return noises(generator)(f"{batch} {purpose}", rows)

            loss, _, _ = chosen(generator, FakeRequest(None, 32, noise), judge_of(critic))
            total += (gradient(loss, generator) - exact).square().sum().item()
        return total

    assert error("monte_carlo") < error("terminal")


@pytest.mark.parametrize("credit", ["terminal", "per_step", "monte_carlo"])
@pytest.mark.parametrize(
    ("baseline", "group"), [("leave_one_out", 1), ("leave_one_out", 4), ("moving_average", 4)]
)
def test_a_constant_reward_says_nothing_even_where_the_length_varies(credit, baseline, group):
    generator, _, _every = world(LONG["variable"], per_step=False)
    per_step = credit == "per_step"

    def judge(sample, rows=None):
        shape = sample.x.shape if per_step else sample.x.shape[:1]
        return [score_of(Critique((torch.full(shape, 1.7),), per_step=per_step), sample)]

    chosen = estimator(credit=credit, baseline=baseline, group=group, reward="logit", rollouts=2)
    for _ in range(3):  # the moving average takes a step to know the constant
        loss, _, fake = chosen(generator, FakeRequest(None, 64, noises(generator)), judge)
        assert gradient(loss, generator).abs().max() < 1e-6
    assert fake.mask.sum(1).float().std() > 0  # lengths did vary


def test_permuting_the_batch_permutes_the_advantages():
    _generator, critic, every = world(LONG["variable"], per_step=True)
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(1))
    for credit in ("terminal", "per_step"):
        chosen = estimator(credit=credit)

        def advantages(sample, chosen=chosen, credit=credit):
            if credit == "terminal":
                rewards = chosen.sample_rewards(sample, judge_of(critic)(sample))[:, None]
                return rewards - chosen.baseline(
                    rewards, torch.ones_like(rewards, dtype=torch.bool)
                )
            rewards = chosen.step_rewards(sample, judge_of(critic)(sample))
            return rewards - chosen.baseline(rewards, sample.mask)

        torch.testing.assert_close(advantages(every)[order], advantages(every[order]))


@pytest.mark.parametrize("credit", ["terminal", "per_step", "monte_carlo"])
def test_what_the_critic_prefers_becomes_more_likely(credit):
    options = LONG["fixed"]
    generator, _, every = world(options, per_step=False)

    def judge(sample, rows=None):
        likes = (sample.x == 0).float()
        per_step = credit == "per_step"
        return [
            score_of(Critique((likes if per_step else likes.mean(1),), per_step=per_step), sample)
        ]

    def share():
        chance = generator.log_prob(every).detach().sum(1).exp()
        return (chance * (every.x == 0).float().mean(1)).sum().item()

    before, optimizer = share(), torch.optim.SGD(generator.parameters(), 0.5)
    for step in range(20):

        def noise(purpose, rows, step=step):
            return noises(generator)(f"{step} {purpose}", rows)

        loss, _, _ = estimator(credit=credit, reward="logit", rollouts=2)(
            generator, FakeRequest(None, 64, noise), judge
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert share() > before + 0.05


def test_moving_average_remembers_and_is_part_of_the_state():
    chosen = estimator(credit="terminal", baseline="moving_average", baseline_decay=0.5)
    rewards = torch.tensor([[1.0], [3.0]])
    counted = torch.ones_like(rewards, dtype=torch.bool)
    torch.testing.assert_close(
        chosen.baseline(rewards, counted), torch.tensor([[3.0], [1.0]])
    )  # leave-one-out first
    assert (
        chosen.baseline(rewards * 2, counted).unique().item() == 2.0
    )  # the mean of before, not of now
    assert chosen.state_dict()["average"].item() == 3.0


def test_discounted_returns_are_the_written_out_sums():
    rewards = torch.tensor([[1.0, 2.0, 4.0]])
    torch.testing.assert_close(
        discounted_returns(rewards, 0.5), torch.tensor([[1 + 1 + 1.0, 2 + 2.0, 4.0]])
    )


def test_masked_mean_divides_by_the_valid_steps_of_the_whole_batch():
    values = torch.tensor([[1.0, 5.0], [3.0, 7.0]])
    mask = torch.tensor([[True, False], [True, True]])
    assert masked_mean(values, mask).item() == pytest.approx(11 / 3)
    parts = [masked_mean(values[[row]], mask[[row]], mask.sum() / 2) for row in range(2)]
    assert (sum(parts) / 2).item() == pytest.approx(11 / 3)


def test_per_step_credit_needs_a_critic_of_steps():
    generator, critic, _ = world(LONG["fixed"], per_step=False)
    with pytest.raises(ConfigError, match="per_step"):
        estimator(credit="per_step")(
            generator, FakeRequest(None, 4, noises(generator)), judge_of(critic)
        )


def test_one_row_has_nobody_to_leave_out():
    generator, critic, _ = world(LONG["fixed"], per_step=False)
    with pytest.raises(ConfigError, match="at least 2"):
        estimator()(generator, FakeRequest(None, 1, noises(generator)), judge_of(critic))


# Groups ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("credit", ["terminal", "per_step"])
def test_groups_keep_the_enumerated_gradient(credit):
    """All batches of two groups of two, weighed by their chance."""
    generator, critic, every = world(OPTIONS["fixed"], per_step=credit == "per_step")
    exact = exact_gradient(generator, critic, every, credit == "per_step", centred=True)
    chance = generator.log_prob(every).detach().sum(1).exp()
    chosen, total = estimator(credit=credit, group=2), 0
    for rows in itertools.product(range(len(every)), repeat=4):
        told = Script(generator, every[list(rows)])
        loss, _, _ = chosen(told, FakeRequest(None, 4, noises(generator)), judge_of(critic))
        total = total + chance[list(rows)].prod() * gradient(loss, generator)
    torch.testing.assert_close(total, exact, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("credit", ["terminal", "per_step", "monte_carlo"])
def test_a_batch_of_groups_says_what_its_groups_say_alone(credit):
    generator, critic, every = world(LONG["variable"], per_step=credit == "per_step")

    def said(sample, **settings):
        told = Script(generator, sample)
        told.complete = lambda sample, length, noise: (
            sample
        )  # completions by noise would differ from row to row
        chosen = estimator(credit=credit, rollouts=1, **settings)
        request = FakeRequest(None, len(sample), noises(generator))
        return gradient(chosen(told, request, judge_of(critic))[0], generator)

    batch = every[[0, 5, 9, 2, 11, 3]]
    alone = torch.stack([said(batch[[row, row + 1, row + 2]]) for row in (0, 3)])
    torch.testing.assert_close(said(batch, group=3), alone.mean(0), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(said(batch), alone.mean(0), rtol=1e-2)


def test_the_baseline_of_a_group_knows_its_other_rows_alone():
    rewards = torch.tensor([[1.0], [2.0], [6.0], [10.0], [20.0], [60.0]], requires_grad=True)
    baseline = estimator(group=3).baseline(rewards, torch.ones(6, 1, dtype=torch.bool))
    assert baseline[:, 0].tolist() == [4.0, 3.5, 1.5, 40.0, 35.0, 15.0]
    slopes = torch.stack(
        [torch.autograd.grad(one, rewards, retain_graph=True)[0][:, 0] for one in baseline[:, 0]]
    )
    same_group = torch.block_diag(torch.ones(3, 3), torch.ones(3, 3)).bool()
    torch.testing.assert_close(slopes, 0.5 * (same_group & ~torch.eye(6, dtype=torch.bool)))


def test_permuting_groups_or_rows_within_them_permutes_the_advantages():
    rewards = torch.arange(12.0).square().view(6, 2)
    mask = torch.tensor([[True, True], [True, False]] * 3)
    advantages = rewards - estimator(group=3).baseline(rewards, mask)
    for order in ([3, 4, 5, 0, 1, 2], [2, 0, 1, 3, 5, 4]):
        changed = rewards[order] - estimator(group=3).baseline(rewards[order], mask[order])
        torch.testing.assert_close(changed, advantages[order])


class Conditional(nn.Module):
    """A generator whose samples carry their conditions."""

    def __init__(self, generator):
        super().__init__()
        self.generator, self.noise = generator, generator.noise

    def forward(self, noise, condition, controls):
        sample = self.generator(noise)
        return Sample(sample.x, condition, sample.mask)

    def complete(self, sample, length, noise):
        done = self.generator.complete(sample, length, noise)
        return Sample(done.x, sample.condition, done.mask)

    def log_prob(self, sample):
        return self.generator.log_prob(sample)


class Conditions(nn.Module):
    """A critic that sees nothing but conditions, and remembers which."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, sample):
        self.seen.append(sample.condition.clone())
        return Critique((sample.condition.float(),))


def test_a_group_shares_the_condition_and_the_real_sample_of_its_first_row():
    generator, _, _ = world(LONG["fixed"], False)
    recipe = Recipe(
        batch_size=6, loss="relativistic", estimator={"kind": "score_function", "group": 3}
    )
    critic, told = Conditions(), []

    class Telling(Nobody):
        def terms(self, player, networks, real, fake, critiques):
            told.extend([real.condition, fake.condition])
            return {}

    real = Sample(
        torch.zeros(6, 3, dtype=torch.long), torch.arange(6), torch.ones(6, 3, dtype=torch.bool)
    )
    player = GeneratorPlayer(Conditional(generator), recipe, Telling(), frozenset({"terms"}))
    player(
        GeneratorUpdate("game", real, noises(generator), Networks(generator, {"critic": critic}))
    )
    assert [seen.tolist() for seen in [*critic.seen, *told]] == [[0, 0, 0, 3, 3, 3]] * 4


class Nobody:
    """A plugin without capabilities."""


def test_in_its_update_every_generator_parameter_gets_a_gradient_and_no_critic_one_does():
    for recipe, generator, critic in [
        (Recipe(), PointGenerator(8, 2), nn.Module()),
        (Recipe(estimator={"kind": "score_function"}), *world(LONG["variable"], False)[:2]),
        (Recipe(estimator={"kind": "straight_through"}), *world(LONG["variable"], False)[:2]),
        (Recipe(estimator={"kind": "gumbel_softmax"}), *world(LONG["variable"], True)[:2]),
    ]:
        if isinstance(generator, PointGenerator):
            from toys import PointCritic

            critic = PointCritic(8)
        critic.requires_grad_(False)
        player = GeneratorPlayer(generator, recipe, Nobody(), frozenset())
        real = Sample(torch.zeros(8, 2))
        loss, _ = player(
            GeneratorUpdate(
                "game", real, noises(generator), Networks(generator, {"critic": critic})
            )
        )
        loss.backward()
        assert all(parameter.grad is not None for parameter in generator.parameters())
        assert all(parameter.grad is None for parameter in critic.parameters())


def masked_pair(per_step=True):
    options = LONG["variable"]
    words, mask = sentences(options)
    return options, Sample(words, mask=mask)


class Steps(nn.Module):
    """A critic of steps whose logits at padding are whatever it is told."""

    def __init__(self, at_padding):
        super().__init__()
        self.at_padding = at_padding

    def forward(self, sample):
        logits = torch.where(sample.mask, sample.x.float(), self.at_padding)
        return Critique((logits,), per_step=True)


@pytest.mark.parametrize("loss", ["non_saturating", "relativistic"])
@pytest.mark.parametrize("kind", ["pathwise", "score_function"])
def test_what_stands_at_padding_never_matters(loss, kind):
    options, every = masked_pair()
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(0))
    estimator = {"kind": kind} if kind == "pathwise" else {"kind": kind, "credit": "per_step"}
    losses = []
    for at_padding in (0.0, 50.0, torch.inf):
        generator = world(options, False)[0]
        drawn = every.with_x(every.x.float()) if kind == "pathwise" else every
        player = GeneratorPlayer(
            Script(generator, drawn), Recipe(loss=loss, estimator=estimator), Nobody(), frozenset()
        )
        critics = {"critic": Steps(at_padding)}
        with torch.no_grad():
            value, _ = player(
                GeneratorUpdate(
                    "game", every[order], noises(generator), Networks(generator, critics)
                )
            )
        losses.append(value.item())
    assert losses[0] == pytest.approx(losses[1]) == pytest.approx(losses[2])
    assert math.isfinite(losses[0])


def test_completions_are_paired_with_the_reals_of_their_own_row():
    """A critic that sees conditions; real and completion of one row share theirs, or the reward would differ."""
    generator, _, _ = world(LONG["fixed"], False)
    recipe = Recipe(
        loss="relativistic",
        estimator={"kind": "score_function", "credit": "monte_carlo", "rollouts": 3},
    )
    critic = Conditions()
    real = Sample(
        torch.zeros(4, 3, dtype=torch.long), torch.arange(4), torch.ones(4, 3, dtype=torch.bool)
    )
    player = GeneratorPlayer(Conditional(generator), recipe, Nobody(), frozenset())
    player(
        GeneratorUpdate("game", real, noises(generator), Networks(generator, {"critic": critic}))
    )
    seen = critic.seen
    assert len(seen) == 4  # fakes, their reals, completions, their reals
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[2], seen[3])
    assert len(seen[2]) == 2 * 4 * 3


def test_discrete_samples_need_another_way_than_through_them():
    generator, critic, _ = world(LONG["fixed"], per_step=False)
    player = GeneratorPlayer(generator, Recipe(), Nobody(), frozenset())
    real = Sample(torch.zeros(8, 3, dtype=torch.long))
    with pytest.raises(ConfigError, match="score_function"):
        player(
            GeneratorUpdate(
                "game", real, noises(generator), Networks(generator, {"critic": critic})
            )
        )


def test_dropout_rests_while_a_policy_draws_and_scores():
    generator, critic, _ = world(LONG["fixed"], per_step=False)
    generator.body = nn.Sequential(nn.Dropout(0.5), generator.body)
    torch.manual_seed(0)
    generator.train()
    one = estimator()(generator, FakeRequest(None, 64, noises(generator)), judge_of(critic))[0]
    two = estimator()(generator, FakeRequest(None, 64, noises(generator)), judge_of(critic))[0]
    assert one.item() == two.item()


@pytest.mark.parametrize("kind", ["r1", "r2"])
def test_a_penalty_does_not_see_padding(kind):
    class Prefix(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, sample):
            return Critique((self.weight * sample.x.square(),), per_step=True)

    mask = torch.tensor([[True, True, False]])
    values = []
    for padding in (0.0, 100.0):
        sample = Sample(torch.tensor([[1.0, 2.0, padding]]), mask=mask)
        player = CriticPlayer(
            "critic", Prefix(), Recipe(penalties={kind: {"weight": 1}}), Nobody(), frozenset()
        )
        _, statistics = player(sample, sample, {kind: 1.0}, {}, None)
        values.append(statistics[kind].item())
    assert values == [20.0, 20.0]


# Relaxed samples -------------------------------------------------------------------------------------------------

RELAXED = {
    "straight-through": StraightThrough(kind="straight_through"),
    "Gumbel-softmax": GumbelSoftmax(kind="gumbel_softmax"),
    "Gumbel-softmax, hard": GumbelSoftmax(kind="gumbel_softmax", hard=True),
}
relaxations = pytest.mark.parametrize("settings", RELAXED.values(), ids=RELAXED)
ONE = LanguageOptions(symbols=3, length=1, variable=False, width=16)


def relaxed_sample(settings, options, rows=500, temperature=0.8):
    generator = world(options, False)[0]
    chosen = RelaxedEstimator(settings, LOSSES["wasserstein"])
    noise = noises(generator)("x", rows)
    request = FakeRequest(None, rows, lambda *_: noise, temperature=temperature)
    return generator, chosen.draw(generator, request), generator(noise)


def scores_of_one_step(values, power):
    """A critic of a sample's only step: (values of its symbols) ** power, linear in the one-hot if power is 1."""
    return lambda sample, rows=None: [
        score_of(Critique(((sample.relaxed[:, 0] @ values) ** power,)), sample)
    ]


def exact_one_step(generator, values, power):
    every = Sample(torch.arange(3)[:, None])
    return gradient(-(generator.log_prob(every).exp()[:, 0] * values**power).sum(), generator)


@relaxations
@pytest.mark.parametrize("length", ["variable", "fixed"])
def test_a_relaxed_sample_is_the_sample_with_its_relaxation(settings, length):
    _, sample, plain = relaxed_sample(settings, LONG[length])
    assert torch.equal(sample.x, plain.x)
    assert torch.equal(sample.mask, plain.mask)
    assert torch.equal(sample.relaxed.argmax(2), sample.x)
    torch.testing.assert_close(sample.relaxed.sum(2), torch.ones(plain.x.shape))


@relaxations
def test_masked_steps_give_no_gradient(settings):
    generator, sample, _ = relaxed_sample(settings, LONG["variable"])
    assert not sample.mask.all()
    padding = sample.relaxed[~sample.mask]
    assert (padding == torch.tensor([1.0, 0.0, 0.0])).all()
    assert gradient((padding * torch.randn(padding.shape)).sum(), generator).abs().max() == 0


@relaxations
@pytest.mark.parametrize("length", ["variable", "fixed"])
def test_a_constant_critic_says_nothing_of_relaxed_samples(settings, length):
    generator, sample, _ = relaxed_sample(settings, LONG[length])
    assert (
        gradient(sample.relaxed.sum(), generator).abs().max() < 1e-4
    )  # 1 at each step, in float32


def test_straight_through_is_exact_where_the_critic_is_linear_and_biased_where_it_is_not():
    """Its expectation at one step, by enumeration of the symbols."""
    torch.manual_seed(0)
    generator, values = LanguageGenerator(ONE), torch.tensor([2.0, -1.0, 0.5])
    chance = generator.log_prob(Sample(torch.arange(3)[:, None])).detach().exp()[:, 0]
    chosen = RelaxedEstimator(RELAXED["straight-through"], LOSSES["wasserstein"])

    class Told(Script):
        def relaxed(self, noise, condition, controls, relax):
            logits = self.generator.logits(torch.zeros(1, 1, 3), 0)
            return Sample(self.sample.x, relaxed=relax(logits, self.sample.x[:, 0])[:, None])

    def expected(power):
        total, judge = 0, scores_of_one_step(values, power)
        for symbol in range(3):
            told = Told(generator, Sample(torch.tensor([[symbol]])))
            total = total + chance[symbol] * gradient(
                chosen(told, FakeRequest(None, 1, noises(generator)), judge)[0], generator
            )
        return total

    torch.testing.assert_close(
        expected(1), exact_one_step(generator, values, 1), rtol=1e-4, atol=1e-6
    )
    exact = exact_one_step(generator, values, 2)
    assert (expected(2) - exact).norm() > 0.1 * exact.norm()


def test_gumbel_softmax_approaches_the_exact_gradient_as_the_temperature_falls():
    torch.manual_seed(0)
    generator, values = LanguageGenerator(ONE), torch.tensor([2.0, -1.0, 0.5])
    chosen = RelaxedEstimator(RELAXED["Gumbel-softmax"], LOSSES["wasserstein"])
    exact = exact_one_step(generator, values, 2)

    def uniform(purpose, rows):
        return {"symbols": torch.rand(rows, 1, dtype=torch.float64)}

    def bias(temperature):
        judge = scores_of_one_step(values, 2)
        loss, _, _ = chosen(
            generator, FakeRequest(None, 200_000, uniform, temperature=temperature), judge
        )
        return ((gradient(loss, generator) - exact).norm() / exact.norm()).item()

    biases = [
        bias(temperature) for temperature in (1.0, 0.3, 0.1)
    ]  # 0.54, 0.21 and 0.07; their error is below 0.01
    assert biases[0] > 0.4 > 0.3 > biases[1] > 0.15 > 0.1 > biases[2]


# One pass or several ---------------------------------------------------------------------------------------------


class Crowd(nn.Module):
    """Tells how much its batch varies: rows see each other, without a layer that is known for it."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(3, 1)

    def forward(self, sample):
        spread = sample.x.std(0).mean().expand(len(sample), 1)
        return Critique((self.body(torch.cat([sample.x, spread], 1))[:, 0],))


def test_whether_rows_see_each_other_is_asked_of_the_critic():
    sample = Sample(torch.randn(8, 2))
    assert sees_other_rows(Crowd(), sample)
    assert not sees_other_rows(PointCritic(16), sample)
    assert not sees_other_rows(nn.Sequential(PointCritic(16)), sample)
    words, mask = sentences(OPTIONS["variable"])
    assert not sees_other_rows(
        LanguageCritic(OPTIONS["variable"], per_step=True), Sample(words, mask=mask)
    )


@pytest.mark.parametrize("penalties", [{}, {"r1": 1.0}, {"wgan_gp": 1.0, "r2": 0.5}])
def test_one_pass_gives_the_loss_of_several(penalties):
    recipe = Recipe(loss="relativistic", penalties={name: {"weight": 1} for name in penalties})
    torch.manual_seed(0)
    critic, found = PointCritic(16), []
    real, fake = Sample(torch.randn(8, 2)), Sample(torch.randn(8, 2))
    for together in (False, True):
        player = CriticPlayer("critic", critic, recipe, Nobody(), frozenset())
        player.joint_pass = together
        torch.manual_seed(1)
        loss, statistics = player(real, fake, penalties, {}, None)
        found.append(
            [loss, *torch.autograd.grad(loss, list(critic.parameters())), *statistics.values()]
        )
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("approximate", "exact"), [("r1_approx", "r1"), ("r2_approx", "r2")])
def test_approximate_penalties_are_the_exact_ones_in_the_mean(approximate, exact):
    recipe = Recipe(penalties={approximate: {"weight": 1}, exact: {"weight": 1}})
    torch.manual_seed(0)
    player = CriticPlayer("critic", PointCritic(16).double(), recipe, Nobody(), frozenset())
    real, fake = (Sample(torch.randn(256, 2, dtype=torch.float64)) for _ in range(2))
    expected = player(real, fake, {exact: 1.0}, {}, None)[1][exact]
    player.joint_pass = True
    draws = torch.stack(
        [player(real, fake, {approximate: 1.0}, {}, None)[1][approximate] for _ in range(400)]
    )
    error = draws.std() / len(draws) ** 0.5
    assert (draws.mean() - expected).abs() < 4 * error + 0.01 * expected
    assert error < 0.02 * expected


class Shaken:
    """Shows the critic everything far away, at random."""

    def augment(self, sample):
        return sample.with_x(sample.x + 1000 * torch.randn(len(sample), 1))


def test_finite_differences_are_taken_behind_the_augmentation():
    critic = PointCritic(16)
    recipe = Recipe(penalties={"r1_approx": {"weight": 1}})
    torch.manual_seed(0)
    player = CriticPlayer("critic", critic, recipe, Shaken(), frozenset({"augment"}))
    for together in (False, True):
        player.joint_pass = together
        _, statistics = player(
            Sample(torch.randn(64, 2)), Sample(torch.randn(64, 2)), {"r1_approx": 1.0}, {}, None
        )
        assert (
            0 < statistics["r1_approx"] < 10
        )  # a shake seen twice would weigh about (1000 / step)^2
