"""Samples that are moved against a critic: in training and in an evaluation; what is known of linear critics."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from toys import Mixture, PointCritic, PointGenerator, duet, language, ring

import genkit
from genkit.adversarial import LOSSES, perturbations
from genkit.engine.players import CriticPlayer
from genkit.errors import ConfigError
from genkit.evaluation import robustness
from genkit.plugin import Critique, Networks, Sample
from genkit.recipe import Attack, Critic, Recipe
from genkit.sampling.attacks import attacked

BOUND = 0.25


class Plain:
    """A plugin that adds nothing."""


class Linear(nn.Module):
    """w . x + b, and what it was shown."""

    def __init__(self, weights, offset=0.0):
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(weights))
        self.offset = nn.Parameter(torch.tensor(offset))
        self.shown = []

    def forward(self, sample):
        self.shown.append(sample.x.detach())
        return Critique((sample.x @ self.weights + self.offset,))


def player_of(critic, recipe=None, plugin=None, **joint):
    player = CriticPlayer(
        "critic",
        critic,
        recipe or Recipe(),
        plugin or Plain(),
        frozenset({"augment"} if plugin else ()),
    )
    player.joint_pass = joint.get("joint", False)
    return player


def pair(count=16, width=3, seed=0):
    torch.manual_seed(seed)
    return Sample(torch.randn(count, width)), Sample(torch.randn(count, width))


# The search ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("loss", ["non_saturating", "hinge", "wasserstein", "relativistic"])
def test_a_linear_critic_sees_reals_moved_against_its_weights_and_fakes_along_them(
    loss, steps, joint
):
    """By the whole bound, even where a hinge loss is flat: the offset lies far beyond its margin."""
    critic, (real, fake) = Linear([2.0, -0.5, 0.0], 20.0), pair()
    player = player_of(critic, Recipe(loss=loss), joint=joint)
    player(real, fake, {}, {}, None, attack=Attack(bound=BOUND, steps=steps))
    direction = BOUND * critic.weights.sign()
    seen = critic.shown[-1].split(16) if joint else critic.shown[-2:]
    assert torch.equal(seen[0], real.x - direction)
    assert torch.equal(seen[1], fake.x + direction)
    assert len(critic.shown) == (steps + 1) * (1 if joint else 2)


@pytest.mark.parametrize("step_size", [None, 0.2])
def test_the_search_stays_inside_the_bound_and_raises_the_loss(step_size):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 32), nn.Tanh(), nn.Linear(32, 1))
    points = torch.randn(64, 3)

    def loss(points):
        return network(points[0]).sum()

    def gain(steps, random_start=False):
        (shift,) = perturbations([points], loss, BOUND, steps, step_size, random_start)
        assert shift.abs().max() <= BOUND
        assert not shift.requires_grad
        return (loss([points + shift]) - loss([points])).item()

    corners = points + BOUND * torch.randn(64, 3).sign()
    assert gain(20) >= gain(1) > (loss([corners]) - loss([points])).item()
    assert gain(20, random_start=True) == pytest.approx(gain(20), rel=0.05)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_one_step_from_anywhere_is_cut_to_the_bound():
    starts = perturbations(
        [torch.zeros(4000)], lambda points: points[0].sum(), 1.0, 1, 1.25, random_start=True
    )[0]
    assert starts.max() == 1
    assert starts.min() == pytest.approx(0.25, abs=0.01)
    assert (starts == 1).float().mean().item() == pytest.approx(1.25 / 2, abs=0.03)


def test_padding_stays_as_it_is_whatever_a_critic_reads_there():
    mask = torch.tensor([[True, True, False, False]] * 2)
    sample = Sample(torch.randn(2, 3, 4), mask=mask)
    (moved,) = attacked(
        [sample],
        Attack(bound=BOUND, steps=2, random_start=True),
        lambda batches: batches[0].x.sum(),
    )
    difference = (moved.x - sample.x).abs()
    assert (difference[:, :, :2] > 0).all()
    assert (difference[:, :, 2:] == 0).all()


# In an update of a critic ----------------------------------------------------------------------------------------


class Shaken:
    """Shows the critic everything elsewhere, at random, without a gradient."""

    def augment(self, sample):
        return sample.with_x((sample.x + 1000 * torch.randn(len(sample), 1)).detach())


def test_what_is_moved_is_what_the_critic_sees_of_an_augmented_sample():
    critic, (real, fake) = Linear([2.0, -0.5, 1.0]), pair()
    player = player_of(critic, plugin=Shaken())
    player(real, fake, {}, {}, None, attack=Attack(bound=16.0))
    before, after = critic.shown[0], critic.shown[2]
    assert torch.equal(after, before - 16 * critic.weights.sign())


class Careful(nn.Module):
    """A critic with running statistics, spectral norm and dropout."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.utils.parametrizations.spectral_norm(nn.Linear(3, 8)), nn.BatchNorm1d(8), nn.Dropout(0.2),
            nn.Tanh(), nn.Linear(8, 1),
        )  # fmt: skip

    def forward(self, sample):
        return Critique((self.body(sample.x)[:, 0],))


def test_a_search_changes_nothing_of_the_critic_and_no_gradient_reaches_it():
    """Two forwards count, of reals and of fakes, whether or not there was a search before them."""
    critics = []
    for attack in (None, Attack(bound=BOUND, steps=5)):
        torch.manual_seed(1)
        critic = Careful()
        player_of(critic)(*pair(), {}, {}, None, attack=attack)
        assert all(parameter.grad is None for parameter in critic.parameters())
        critics.append(dict(critic.named_buffers()))
    vectors = [name for name in critics[0] if "parametrizations" in name]
    assert vectors
    for name in [*vectors, "body.1.num_batches_tracked"]:
        assert torch.equal(critics[0][name], critics[1][name])


@pytest.mark.parametrize("penalty", ["r1", "r2", "wgan_gp", "r1_approx", "r2_approx"])
def test_penalties_apply_beside_an_attack(penalty):
    """The slope of w . x is the same everywhere, along any one direction too."""
    real, fake = pair()
    player = player_of(Linear([3.0, 4.0, 0.0]), Recipe(penalties={penalty: {"weight": 1.0}}))
    values = []
    for attack in (None, Attack(bound=BOUND)):
        torch.manual_seed(1)
        values.append(player(real, fake, {penalty: 1.0}, {}, None, attack=attack)[1][penalty])
    torch.testing.assert_close(*values, rtol=1e-3, atol=0)
    assert values[0] > 1


def test_a_gradient_penalty_is_that_at_the_moved_sample():
    class Square(nn.Module):
        def forward(self, sample):
            return Critique((sample.x.square().sum(1) / 2,))

    real, fake = pair()
    recipe = Recipe(penalties={"r1": {"weight": 1.0}})
    player = player_of(Square(), recipe)
    value = player(real, fake, {"r1": 1.0}, {}, None, attack=Attack(bound=BOUND))[1]["r1"]
    moved = real.x - BOUND * real.x.sign()
    torch.testing.assert_close(value, moved.square().sum(1).mean())


def test_what_an_attack_adds_to_the_loss_is_told():
    critic, (real, fake) = Linear([2.0, -0.5, 1.0]), pair()
    statistics = player_of(critic, Recipe(loss="wasserstein"))(
        real, fake, {}, {}, None, attack=Attack(bound=BOUND)
    )[1]
    assert statistics["attack"].item() == pytest.approx(2 * BOUND * 3.5, rel=1e-5)


def test_an_attack_in_every_second_update():
    critic = Critic(attack={"bound": 1, "interval": 2})
    assert [critic.attack_in(update) is None for update in range(4)] == [False, True, False, True]
    assert Critic().attack_in(0) is None


# In a game -------------------------------------------------------------------------------------------------------

PLAIN = {"batch_size": 64, "penalties": {"r1": None, "r2": None}}
AGAINST = {"bound": 0.1, "steps": 2, "random_start": True, "interval": 2}


def test_a_resumed_run_is_attacked_as_one_that_never_stopped(train, checkpoint):
    penalties = {"r1": {"weight": 0.1}, "r2": None, "r2_approx": {"weight": 0.1}}
    recipe = {
        "batch_size": 64, "penalties": penalties, "gradient_accumulation": 2, "critic": {"attack": AGAINST},
    }  # fmt: skip
    _, whole = train(ring, 320, "whole", recipe=recipe)
    for items in (192, 320):
        _, parts = train(ring, items, "parts", recipe=recipe, resume=True)
    tensors = [load_file(checkpoint(out) / "players.safetensors") for out in (whole, parts)]
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
    assert "critic.attack" in (whole / "metrics.jsonl").read_text()


def test_each_critic_has_an_attack_of_its_own(train):
    """Critics with two heads, one of them of patches, under conditions; only one is attacked."""
    recipe = {"critics": {"wide": {"attack": {"bound": 0.2}}}}
    _, out = train(duet, 128, recipe=recipe)
    log = (out / "metrics.jsonl").read_text()
    assert '"wide.attack"' in log
    assert '"narrow.attack"' not in log


def test_discrete_samples_are_not_attacked(train):
    with pytest.raises(ConfigError, match=r"needs continuous ones, and these are torch\.int64"):
        train(language, 64, recipe={"critic": {"attack": {"bound": 0.1}}})


class Deaf(nn.Module):
    """Scores without looking."""

    def __init__(self):
        super().__init__()
        self.level = nn.Parameter(torch.zeros(()))

    def forward(self, sample):
        return Critique((self.level.expand(len(sample)),))


class Unheard(Mixture):
    """Points, and a critic that passes no gradient back."""

    def networks(self):
        return Networks(PointGenerator(8, 2), {"critic": Deaf()})


def test_a_critic_without_a_gradient_is_not_attacked(train):
    deaf = replace(ring, plugin=Unheard)
    with pytest.raises(ConfigError, match="none comes back to the samples"):
        train(deaf, 64, recipe={**PLAIN, "critic": {"attack": {"bound": 0.1}}})


def tsipras(count, weak, generator):
    """Reals and fakes [N, 1 + weak] of Tsipras et al. 2019 (arXiv:1805.12152, section 2.1): a strong number that is
    right in 90 % of all cases, and many weak ones around 0.3, right together and each easily moved beyond 0."""

    def side(sign):
        right = torch.rand(count, 1, generator=generator) < 0.9
        strong = torch.where(right, float(sign), float(-sign))
        return Sample(
            torch.cat([strong, sign * 0.3 + torch.randn(count, weak, generator=generator)], 1)
        )

    return side(1), side(-1)


@pytest.mark.parametrize(("steps", "random_start"), [(1, False), (3, True)])
def test_an_attacked_critic_leaves_what_perturbations_can_turn(steps, random_start):
    """Trained as usual a critic trusts 100 weak numbers, and a perturbation twice their mean turns nearly all of its
    verdicts, below chance; trained with attacks it trusts the strong one, and holds at what that alone can know."""
    generator = torch.Generator().manual_seed(0)
    attack = Attack(bound=0.6, steps=steps, random_start=random_start)
    shares = {}
    for name, training in {"plain": None, "attacked": attack}.items():
        critic = Linear([0.0] * 101)
        player, optimizer = player_of(critic), torch.optim.Adam(critic.parameters(), 0.02)
        for _ in range(150):
            loss, _ = player(*tsipras(64, 100, generator), {}, {}, None, attack=training)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        real, fake = tsipras(1000, 100, generator)
        with torch.no_grad():
            push = attack.bound * critic.weights.sign()
            scores = [
                [(real.x - size * push) @ critic.weights, (fake.x + size * push) @ critic.weights]
                for size in (0, 1)
            ]
        shares[name] = [
            ((one > 0).float().mean() + (two < 0).float().mean()).item() / 2 for one, two in scores
        ]
    assert shares["plain"][0] > 0.98
    assert shares["plain"][1] < 0.1
    assert shares["attacked"][0] == pytest.approx(0.9, abs=0.03)
    assert shares["attacked"][1] > 0.85


# In an evaluation ------------------------------------------------------------------------------------------------


def figures(critic, real, fake, seed=0):
    return robustness.figures(
        lambda sample: critic(sample).logits[0], real, fake, np.random.default_rng(seed)
    )


def test_the_scores_of_a_linear_critic_shift_by_the_bound_times_the_norm_of_its_weights():
    critic, (real, fake) = Linear([2.0, -0.5, 0.25]), pair(200)
    critic.requires_grad_(False)
    found = figures(critic, real, fake)
    span = (real.x.max() - real.x.min()).item()
    spread = torch.cat([real.x, fake.x]).matmul(critic.weights).std(correction=0).item()
    for bound in robustness.BOUNDS:
        expected = span * bound / 255 * 2.75 / spread
        assert found[f"attacked_shift-{bound}"].value == pytest.approx(expected, rel=1e-4)
    assert figures(critic, real, fake) == found


def test_pairs_are_those_of_two_normal_distributions_with_and_without_an_attack():
    """Scores N(1, 1) and N(0, 1), that an attack brings together by twice the shift."""
    torch.manual_seed(0)
    critic = Linear([1.0])
    real, fake = Sample(1 + torch.randn(2000, 1)), Sample(torch.randn(2000, 1))
    found = figures(critic.requires_grad_(False), real, fake)
    span = (real.x.max() - real.x.min()).item()
    for bound in (0, *robustness.BOUNDS):
        share = found[f"attacked_pairs-{bound}"]
        truth = 0.5 + math.erf((1 - 2 * span * bound / 255) / 2) / 2
        assert share.low < truth < share.high
        assert share.high - share.low < 0.05


def test_conditions_are_told_apart_as_two_normal_distributions_are_with_and_without_an_attack():
    """A class is the sign of the mean of N(+-1, 1), and a critic's score that sign times the item."""
    torch.manual_seed(0)
    classes = torch.randint(0, 2, (2000,))
    signs = 2.0 * classes - 1

    def score(sample):
        return (2.0 * sample.condition - 1) * sample.x[:, 0]

    real = Sample((signs + torch.randn(2000))[:, None], classes)
    found = robustness.figures(score, real, real, np.random.default_rng(0))
    span = (real.x.max() - real.x.min()).item()
    for bound in (0, *robustness.BOUNDS):
        share = found[f"attacked_conditions-{bound}"]
        truth = 0.5 + math.erf((1 - span * bound / 255) / math.sqrt(2)) / 2
        assert share.low < truth < share.high
        assert share.high - share.low < 0.05


def test_the_other_condition_is_that_of_the_next_item_which_has_another_one():
    items = Sample(torch.zeros(5, 1), torch.tensor([0, 0, 2, 0, 1]))
    choices = robustness.with_other_conditions(items)
    assert choices.condition.tolist() == [[0, 2], [0, 2], [2, 0], [0, 1], [1, 0]]
    rows = Sample(torch.zeros(3, 1), torch.tensor([[0, 0], [0, 1], [0, 0]]))
    assert robustness.with_other_conditions(rows).condition[:, 1].tolist() == [
        [0, 1],
        [0, 0],
        [0, 1],
    ]
    for condition in (None, torch.zeros(5)):
        assert robustness.with_other_conditions(Sample(torch.zeros(5, 1), condition)) is None


def test_a_critic_that_says_nothing_is_not_moved_by_what_has_no_spread():
    class Constant(nn.Module):
        def forward(self, sample):
            return Critique((0.0 * sample.x.sum(1),))

    found = figures(Constant(), *pair(20))
    assert found["attacked_shift-8"].value is None
    assert found["attacked_pairs-8"].value == 0.5


def test_verdicts_without_a_doubt_have_an_interval():
    share = robustness.pairs(np.ones(30), np.zeros(30), np.random.default_rng(0))
    assert share[:3] == (1.0, 0.9, 1.0)


def first(x, facts):
    return x[:, :1].float()


def test_an_evaluation_tells_how_far_critics_are_moved_where_it_is_asked_to(tmp_path):
    model = genkit.train(duet, out=tmp_path / "run", items=64, threads=1)
    bare = genkit.load(model.save(tmp_path / "bare", critics=False), modality=duet)
    names = {f"attacked_pairs-{bound}" for bound in (0, 2, 4, 8)}
    evaluation, other = (
        genkit.evaluate({"run": model, "bare": bare}, "x", 40, attack=attack, features=first)
        for attack in (True, False)
    )
    row = evaluation.row("run")
    assert names <= row.figures.keys()
    assert "40 of each, 10 steps" in row.figures["attacked_shift-8"].protocol
    assert 0 < row.figures["attacked_shift-2"].value < row.figures["attacked_shift-8"].value
    assert not names & (evaluation.row("bare").figures.keys() | other.row("run").figures.keys())
    assert any("has no critics that could be attacked" in note for note in evaluation.notes)
    assert not any("attack" in note for note in other.notes)
    values = [one.row("run").figures["gain"].value for one in (evaluation, other)]
    assert values[0] == values[1]


def test_discrete_samples_are_a_note(tmp_path):
    model = genkit.train(language, out=tmp_path / "run", items=256, threads=1)
    evaluation = genkit.evaluate(model, "x", 40, attack=True, features=first)
    assert "attacked_pairs-2" not in evaluation.row("run").figures
    assert any("only continuous samples can be perturbed" in note for note in evaluation.notes)


def test_every_loss_can_be_attacked():
    for name in LOSSES:
        real, fake = pair()
        torch.manual_seed(0)
        statistics = player_of(PointCritic(8), Recipe(loss=name))(
            Sample(real.x[:, :2]), Sample(fake.x[:, :2]), {}, {}, None, attack=Attack(bound=BOUND)
        )[1]
        assert statistics["attack"] > 0
