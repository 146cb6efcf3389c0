"""The generators and critics: one policy however it is asked, and the engine's estimators on it, exactly."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from torch.nn.functional import log_softmax
from toys import LanguageOptions, sentences

from genkit.adversarial import LOSSES, straight_through
from genkit.engine.estimators import FakeRequest, RelaxedEstimator, Score, ScoreFunctionEstimator
from genkit.plugin import Critique, Facts, Sample
from genkit.recipe import GumbelSoftmax, ScoreFunction, StraightThrough
from genkit.sampling.noise import draw
from genkit_text.critics import make_critic
from genkit_text.drawing import BLOCK, UPPER, middle, pick
from genkit_text.generators import make_generator
from genkit_text.options import Controls, Options

KINDS = {
    "recurrent": {"embedding": 6, "hidden": 8},
    "two layers": {"embedding": 6, "hidden": 8, "layers": 2},
    "tied": {"embedding": 6, "hidden": 8, "tie_word_embeddings": True},
    "decoder": {"generator": "decoder", "hidden": 8, "heads": 2},
}
CRITICS = {
    "recurrent": {"critic": "recurrent"},
    "convolutional": {"critic": "convolutional"},
    "bidirectional": {"critic": "bidirectional"},
    "decoder": {"critic": "decoder", "generator": "decoder", "hidden": 8, "heads": 2},
}
PROMPTS = {
    "no prompt": None,
    "one prompt": torch.tensor([[1, 2]]).expand(40, 2),
    "prompts of two lengths": torch.tensor([[1, -1], [2, 3]]).repeat(20, 1),
}
every_kind = pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
every_end = pytest.mark.parametrize("end", [0, None], ids=["variable", "fixed"])
every_prompt = pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)


def facts(symbols=5, length=6, end=0, prompt_length=0):
    values = {
        "symbols": symbols,
        "length": length,
        "end": end,
        "unknown": None,
        "prompt_length": prompt_length,
    }
    return Facts({**values, "decoder": None})


def network(options, **known):
    """A generator with opinions."""
    torch.manual_seed(0)
    generator = make_generator(Options(**options), facts(**known)).eval()
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.mul_(3)
    return generator


def critic_of(options, **known):
    torch.manual_seed(1)
    return make_critic(
        Options(**options, critic_embedding=6, critic_hidden=8), facts(**known)
    ).eval()


def noises(generator):
    return lambda purpose, rows: {
        part: torch.from_numpy(draw(spec, part, purpose, range(rows)))
        for part, spec in generator.noise.items()
    }


def gradient(loss, generator):
    found = torch.autograd.grad(loss, list(generator.parameters()), allow_unused=True)
    return torch.cat([g.flatten() for g in found if g is not None])


def drawn_with(generator, prompt, rows=40, **more):
    noise = noises(generator)("x", rows)
    with torch.no_grad():
        return generator(noise, prompt, **more), noise


# One policy ------------------------------------------------------------------------------------------------------


def looped(generator, noise, prompt, controls):
    """Lines and masks, one call after the other of the step by which the generator is exported."""
    rows, first = len(noise["symbols"]), None if prompt is None else prompt[:1]
    loop = generator.stepwise(first, controls)
    state = {name: row.repeat(rows, *(1,) * (row.ndim - 1)) for name, row in loop.state.items()}
    steps = []
    for number in range(-loop.prefix.shape[1], loop.length):
        forced = torch.full((rows,), int(loop.prefix[0, number]) if number < 0 else -1)
        now = {"symbols": noise["symbols"][:, max(number, 0)]}
        step, state = loop.step(now, prompt, controls, forced, state)
        steps += [step] if number >= 0 else []
    return torch.stack([step.x for step in steps], 1), torch.stack([step.mask for step in steps], 1)


@every_kind
@every_end
@pytest.mark.parametrize(
    ("width", "prompt"),
    [(0, None), (0, [[1, 2]]), (2, [[1, 2]]), (3, [[1, 2, -1]])],
    ids=["no prompt", "beginning", "question", "short question"],
)
def test_step_by_step_lines_are_those_of_forward(options, end, width, prompt):
    generator = network(options, end=end, prompt_length=width)
    prompt = None if prompt is None else torch.tensor(prompt).repeat(60, 1)
    for controls in (None, Controls(temperature=0.5, top_k=3), Controls(max_new_tokens=2)):
        sample, noise = drawn_with(generator, prompt, 60, controls=controls)
        with torch.no_grad():
            x, mask = looped(generator, noise, prompt, controls)
        count = x.shape[1]
        assert not sample.mask[:, count:].any()
        assert torch.equal(mask, sample.mask[:, :count])
        assert torch.equal(x[mask], sample.x[:, :count][mask])


@every_kind
@every_end
@every_prompt
def test_what_is_drawn_is_what_is_scored(options, end, prompt):
    """Drawing again, from the logits that `log_prob` reads, with the same numbers gives the same line."""
    generator = network(options, end=end, prompt_length=0 if prompt is None else 2)
    sample, noise = drawn_with(generator, prompt)
    with torch.no_grad():
        logits = generator.logits(sample)
        chances = generator.log_prob(sample)
    again = torch.stack([pick(logits[:, step], noise["symbols"][:, step]) for step in range(6)], 1)
    assert torch.equal(again[sample.mask], sample.x[sample.mask])
    if end is not None:
        first = logits[:, 0, end].exp()
        assert (first == 0).all()  # prompts that are answered, or none: a line is never empty
    expected = log_softmax(logits, 2).gather(2, sample.x[..., None])[..., 0]
    torch.testing.assert_close(chances[sample.mask], expected[sample.mask], atol=1e-5, rtol=1e-4)
    assert (chances[~sample.mask] == 0).all()
    assert sample.mask.all() == (end is None)


@every_kind
@every_end
@every_prompt
def test_a_completion_keeps_its_beginning_and_goes_on_as_the_policy_does(options, end, prompt):
    generator = network(options, end=end, prompt_length=0 if prompt is None else 2)
    sample, noise = drawn_with(generator, prompt)
    keep = torch.arange(40) % 7
    with torch.no_grad():
        same = generator.complete(sample, keep, noise)
        other = generator.complete(sample, keep, noises(generator)("other", 40))
    assert torch.equal(same.x, sample.x)
    assert torch.equal(same.mask, sample.mask)
    kept = torch.arange(6) < keep[:, None]
    assert torch.equal(other.x[kept], sample.x[kept])
    assert torch.equal(other.mask[kept], sample.mask[kept])
    assert not torch.equal(other.x, sample.x)


@every_kind
@every_end
@every_prompt
def test_a_relaxed_line_is_the_line_with_its_relaxation(options, end, prompt):
    generator = network(options, end=end, prompt_length=0 if prompt is None else 2)
    sample, noise = drawn_with(generator, prompt)
    relaxed = generator.relaxed(
        noise, prompt, None, lambda logits, symbol: straight_through(logits.softmax(1), symbol)
    )
    assert torch.equal(relaxed.x, sample.x)
    assert torch.equal(relaxed.mask, sample.mask)
    assert torch.equal(relaxed.relaxed.argmax(2), sample.x)
    assert gradient(relaxed.relaxed[:, -1, 1].sum(), generator).abs().max() > 0
    if end is not None:
        padding = relaxed.relaxed[~relaxed.mask]
        assert (padding[:, end] == 1).all()


@every_kind
def test_a_line_ends_once_and_never_at_once(options):
    sample, _ = drawn_with(network(options), None, rows=300)
    lengths = sample.mask.sum(1)
    assert lengths.min() >= 2
    assert lengths.unique().numel() > 2
    for line, length in zip(sample.x.tolist(), lengths.tolist(), strict=True):
        assert 0 not in line[: length - 1]
        assert line[length - 1] == 0 or length == 6
        assert set(line[length:]) <= {0}


@every_kind
def test_all_lines_together_have_probability_one(options):
    words, mask = sentences(LanguageOptions(symbols=2, length=3, variable=True))
    generator = network(options, symbols=3, length=3)
    with torch.no_grad():
        chances = generator.log_prob(Sample(words, mask=mask)).sum(1).exp()
    assert math.isclose(chances.sum().item(), 1.0, rel_tol=1e-5)


@every_kind
@every_prompt
def test_a_line_is_the_same_in_any_batch(options, prompt):
    generator = network(options, prompt_length=0 if prompt is None else 2)
    sample, noise = drawn_with(generator, prompt)
    part = {"symbols": noise["symbols"][7:12]}
    with torch.no_grad():
        few = generator(part, None if prompt is None else prompt[7:12])
    assert torch.equal(few.x, sample.x[7:12])


def test_a_prompt_is_the_beginning_of_a_plain_line_and_counts_in_its_length():
    generator = network(KINDS["recurrent"], end=None)
    whole, _ = drawn_with(generator, None)
    prompt = whole.x[:, :2]
    with torch.no_grad():
        scored = log_softmax(generator.logits(whole), 2)[:, 2:]
        answer = log_softmax(generator.score(generator.follow(prompt, whole.x[:, 2:])), 2)[:, :-1]
    torch.testing.assert_close(answer, scored)
    assert drawn_with(generator, prompt)[0].mask.sum(1).unique().tolist() == [4]


@every_kind
def test_a_line_that_a_prompt_began_may_end_at_once(options):
    generator, prompt = network(options), torch.tensor([[1, 2]]).expand(400, 2)
    sample, noise = drawn_with(generator, prompt, rows=400)
    assert (sample.mask.sum(1) == 1).any()
    with torch.no_grad():
        logits = generator.logits(sample)
        chances = generator.log_prob(sample)
    again = torch.stack([pick(logits[:, step], noise["symbols"][:, step]) for step in range(6)], 1)
    valid = sample.mask & (torch.arange(6) < 4)
    assert torch.equal(again[valid], sample.x[valid])
    expected = log_softmax(logits, 2).gather(2, sample.x[..., None])[..., 0]
    torch.testing.assert_close(chances[valid], expected[valid], atol=1e-5, rtol=1e-4)


@given(
    logits=some.lists(some.floats(-30, 30), min_size=1, max_size=200),
    uniform=some.floats(2**-54, 1 - 2**-53),
    impossible=some.integers(0, 300),
)
def test_a_symbol_is_where_the_distribution_functions_pass(logits, uniform, impossible):
    """That of the blocks by the upper digits of the number, that of a block's symbols by the lower ones."""
    values = torch.tensor([logits])
    if impossible < len(logits) and len(logits) > 1:
        values[0, impossible] = -torch.inf
    symbol = int(pick(values, torch.tensor([uniform], dtype=torch.float64)))
    chances = values[0].double().softmax(0)
    lower, upper = math.modf(uniform * UPPER) if len(logits) > BLOCK else (uniform, 0.0)
    start = symbol // BLOCK * BLOCK
    block = chances[start : start + BLOCK]
    total = block.sum().item()
    assert chances[:start].sum().item() - 1e-5 <= upper / UPPER
    assert upper / UPPER <= chances[:start].sum().item() + total + 1e-5
    assert block[: symbol - start].sum().item() / total - 1e-5 <= lower
    assert lower <= block[: symbol - start + 1].sum().item() / total + 1e-5
    assert chances[symbol] > 0


@given(seed=some.integers(0, 1000), count=some.integers(1, 300))
def test_the_middle_of_a_symbol_draws_it(seed, count):
    logits = 2 * torch.randn(1, count, generator=torch.Generator().manual_seed(seed))
    symbols = torch.arange(count)
    assert torch.equal(
        pick(logits.expand(count, -1), middle(logits.expand(count, -1), symbols)), symbols
    )


def test_symbols_have_their_probabilities():
    """Of 150 symbols in three blocks: chi-squared over the counts of 200,000 draws lies within 5 sigma."""
    logits = torch.randn(1, 150, generator=torch.Generator().manual_seed(0))
    uniform = torch.from_numpy(np.random.default_rng(0).random(200_000))
    counts = pick(logits.expand(len(uniform), -1), uniform).bincount(minlength=150)
    expected = len(uniform) * logits[0].double().softmax(0)
    chi = ((counts - expected).square() / expected).sum().item()
    assert abs(chi - 149) < 5 * math.sqrt(2 * 149)


def test_controls_cut_as_hugging_face_does():
    """The likeliest of five; a line of at most so many symbols; sharper with a lower temperature."""
    generator = network(KINDS["recurrent"], end=None)
    plain, noise = drawn_with(generator, None)
    with torch.no_grad():
        greedy = generator(noise, None, Controls(top_k=1))
        assert torch.equal(greedy.x, generator.logits(greedy).argmax(2))
        assert torch.equal(generator(noise, None, Controls()).x, plain.x)
        assert torch.equal(
            generator(noise, None, Controls(top_p=1.0, min_p=0.0, top_k=5)).x, plain.x
        )
        assert torch.equal(generator(noise, None, Controls(min_p=1.0)).x, greedy.x)
        assert torch.equal(generator(noise, None, Controls(top_p=1e-6)).x, greedy.x)
        short = generator(noise, None, Controls(max_new_tokens=3))
        cold = generator(noise, None, Controls(temperature=0.1))
    assert short.mask.sum(1).unique().tolist() == [3]
    assert torch.equal(short.x[:, :3], plain.x[:, :3])
    assert generator.log_prob(cold).sum() > generator.log_prob(plain).sum()


def test_the_score_at_a_temperature_is_that_of_what_is_drawn_at_it():
    generator = network(KINDS["recurrent"], symbols=3, length=1, end=None)
    noise = noises(generator)("many", 20_000)
    with torch.no_grad():
        x = generator(noise, None, Controls(temperature=0.5)).x
        chance = generator.log_prob(Sample(torch.arange(3)[:, None]), temperature=0.5).exp()[:, 0]
    torch.testing.assert_close(
        torch.bincount(x[:, 0], minlength=3) / 20_000, chance, atol=0.01, rtol=0
    )


@pytest.mark.parametrize("controls", [{"temperature": 0.5}, {"top_k": 3}, {"top_p": 0.7}])
def test_lines_are_inferred_as_they_are_drawn_with_controls(controls):
    generator, settings = network(KINDS["recurrent"]), Controls(**controls)
    noise = {"symbols": torch.rand(40, 6, dtype=torch.float64)}
    with torch.no_grad():
        sample = generator(noise, None, settings)
        (posterior,) = generator.infer(sample, settings).values()
        again = generator({"symbols": posterior.mean}, None, settings)
    assert torch.equal(again.x, sample.x)
    assert not torch.equal(sample.x, generator(noise).x)


def test_tied_embeddings_score_symbols_by_their_own_rows():
    generator = network(KINDS["tied"])
    hidden = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    rows = generator.embedding.weight[: generator.symbols]
    with torch.no_grad():
        generator.bias.copy_(torch.arange(5.0))
        scores = (hidden @ generator.out.weight.T + generator.out.bias) @ rows.T + torch.arange(5.0)
    torch.testing.assert_close(generator.score(hidden), scores)
    count = sum(weight.numel() for weight in generator.parameters())
    assert count == 7 * 6 + 4 * 8 * (6 + 8 + 2) + 8 * 6 + 6 + 5  # the embedding once
    with pytest.raises(ValueError, match="of the recurrent generator"):
        Options(**{**KINDS["decoder"], "tie_word_embeddings": True})


@pytest.mark.parametrize("kind", ["recurrent", "decoder"])
def test_dropout_acts_in_pretraining_alone(kind):
    generator = network({**KINDS[kind], "dropout": 0.5}).train()
    sample, noise = drawn_with(generator, None)
    assert torch.equal(generator.log_prob(sample), generator.log_prob(sample))
    assert torch.equal(generator(noise).x, sample.x)
    assert generator.pretrain_loss(sample).item() != generator.pretrain_loss(sample).item()
    assert torch.equal(generator.log_prob(sample), generator.log_prob(sample))
    generator.eval()
    assert generator.pretrain_loss(sample).item() == generator.pretrain_loss(sample).item()


# Critics ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", CRITICS.values(), ids=CRITICS)
@every_prompt
def test_a_critic_sees_the_relaxed_line_as_it_sees_the_line(options, prompt):
    generator = network(KINDS["recurrent"], prompt_length=0 if prompt is None else 2)
    critic = critic_of(options, prompt_length=0 if prompt is None else 2)
    noise = noises(generator)("x", 40)
    sample = generator.relaxed(
        noise, prompt, None, lambda logits, symbol: straight_through(logits.softmax(1), symbol)
    )
    plain = Sample(sample.x, sample.condition, sample.mask)
    torch.testing.assert_close(
        critic(sample).logits[0], critic(plain).logits[0], atol=1e-5, rtol=1e-4
    )
    assert gradient(critic(sample).logits[0].sum(), generator).abs().max() > 0


@pytest.mark.parametrize("options", CRITICS.values(), ids=CRITICS)
@every_prompt
def test_a_critic_never_sees_padding_nor_other_rows(options, prompt):
    generator = network(KINDS["recurrent"], prompt_length=0 if prompt is None else 2)
    critic = critic_of(options, prompt_length=0 if prompt is None else 2)
    sample, _ = drawn_with(generator, prompt)
    with torch.no_grad():
        critique = critic(sample)
        scrambled = critic(sample.with_x(sample.x.where(sample.mask, 3)))
        alone = critic(sample[5:6])
    valid = sample.mask if critique.per_step else slice(None)
    torch.testing.assert_close(
        critique.logits[0][valid], scrambled.logits[0][valid], atol=1e-5, rtol=1e-4
    )
    known = sample.mask[5:6] if critique.per_step else slice(None)
    torch.testing.assert_close(
        critique.logits[0][5:6][known], alone.logits[0][known], atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize(
    "options", [CRITICS["recurrent"], CRITICS["decoder"]], ids=["recurrent", "decoder"]
)
def test_a_score_of_a_step_knows_no_later_one(options):
    critic, sample = critic_of(options, end=None), Sample(torch.randint(0, 5, (8, 6)))
    other = sample.with_x(torch.cat([sample.x[:, :3], (sample.x[:, 3:] + 1) % 5], 1))
    with torch.no_grad():
        one, two = critic(sample).logits[0], critic(other).logits[0]
    torch.testing.assert_close(one[:, :3], two[:, :3])
    assert not torch.allclose(one[:, 3:], two[:, 3:])


def test_a_bidirectional_critic_sees_every_symbol_and_its_place():
    critic, lines = critic_of(CRITICS["bidirectional"], end=None), torch.randint(0, 5, (8, 6))
    with torch.no_grad():
        score = critic(Sample(lines)).logits[0]
        for place in range(6):
            other = lines.clone()
            other[:, place] = (other[:, place] + 1) % 5
            assert not torch.isclose(critic(Sample(other)).logits[0], score).any()
        assert not torch.isclose(critic(Sample(lines.flip(1))).logits[0], score).any()


# The estimators on these networks --------------------------------------------------------------------------------

LANGUAGE = LanguageOptions(symbols=2, length=3, variable=True)
EVERY = Sample(sentences(LANGUAGE)[0], mask=sentences(LANGUAGE)[1])
KNOWN = {"symbols": 3, "length": 3}


def judge_of(critic):
    def judge(sample, rows=None):
        critique = critic(sample)
        return [Score(1.0, critique, None, sample.mask if critique.per_step else None)]

    return judge


def estimator(**settings):
    return ScoreFunctionEstimator(
        ScoreFunction(kind="score_function", **settings), LOSSES["non_saturating"]
    )


def exact(generator, critic):
    """The gradient of minus the expected reward, over all sentences."""
    log_prob = generator.log_prob(EVERY).sum(1)
    logits = critic(EVERY).logits[0].detach()
    reward = -LOSSES["non_saturating"].generator(logits, logits)
    if critic(EVERY).per_step:
        # Centred on the expected reward of a step before steps are summed, as the estimator does.
        chance, valid = log_prob.detach().exp(), EVERY.mask
        centre = (chance * (reward * valid).sum(1)).sum() / (chance * valid.sum(1)).sum()
        reward = ((reward - centre) * valid).sum(1)
    return gradient(-(log_prob.exp() * reward).sum(), generator)


@pytest.mark.parametrize("kind", ["recurrent", "decoder"])
@pytest.mark.parametrize(
    ("critic", "settings"),
    [
        ("convolutional", {"credit": "terminal"}),
        ("convolutional", {"credit": "monte_carlo", "rollouts": 2}),
        ("recurrent", {"credit": "per_step"}),
        ("recurrent", {"credit": "per_step", "baseline": "moving_average"}),
    ],
)
def test_estimates_approach_the_enumerated_gradient(kind, critic, settings):
    generator, judge = network(KINDS[kind], **KNOWN), critic_of(CRITICS[critic], **KNOWN)
    with torch.no_grad():
        for parameter in judge.parameters():
            parameter.mul_(3)
    truth = exact(generator, judge)
    rows = 3_000 if "rollouts" in settings else 12_000
    loss, _, _ = estimator(**settings)(
        generator, FakeRequest(None, rows, noises(generator)), judge_of(judge)
    )
    found = gradient(loss, generator)
    assert torch.cosine_similarity(found, truth, dim=0) > 0.98
    assert (found - truth).norm() < 0.2 * truth.norm()


WAYS = {
    **{
        credit: estimator(credit=credit, reward="logit", rollouts=2)
        for credit in ("terminal", "per_step", "monte_carlo")
    },
    "straight-through": RelaxedEstimator(
        StraightThrough(kind="straight_through"), LOSSES["wasserstein"]
    ),
    "Gumbel-softmax": RelaxedEstimator(GumbelSoftmax(kind="gumbel_softmax"), LOSSES["wasserstein"]),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_a_critic_prefers_becomes_more_likely(way):
    generator = network(KINDS["recurrent"], symbols=3, length=3, end=None)
    every = Sample(sentences(LanguageOptions(symbols=3, length=3, variable=False))[0])

    def judge(sample, rows=None):
        likes = (sample.x == 0).float() if sample.relaxed is None else sample.relaxed[..., 0]
        critique = Critique(
            (likes if way == "per_step" else likes.mean(1),), per_step=way == "per_step"
        )
        return [Score(1.0, critique, None, sample.mask if critique.per_step else None)]

    def share():
        chance = generator.log_prob(every).detach().sum(1).exp()
        return (chance * (every.x == 0).float().mean(1)).sum().item()

    before, optimizer = share(), torch.optim.SGD(generator.parameters(), 0.5)
    for step in range(20):

        def noise(purpose, rows, step=step):
            return noises(generator)(f"{step} {purpose}", rows)

        loss, _, _ = WAYS[way](generator, FakeRequest(None, 64, noise), judge)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert share() > before + 0.05


@pytest.mark.parametrize("kind", ["recurrent", "decoder"])
@pytest.mark.parametrize("critic", CRITICS)
def test_permuting_the_batch_permutes_the_rewards(kind, critic):
    judge, order = critic_of(CRITICS[critic], **KNOWN), torch.randperm(len(EVERY))
    scores_steps = critic in ("recurrent", "decoder")
    chosen = estimator(credit="per_step" if scores_steps else "terminal")
    rewards = chosen.step_rewards if scores_steps else chosen.sample_rewards
    one = rewards(EVERY, judge_of(judge)(EVERY))[order]
    two = rewards(EVERY[order], judge_of(judge)(EVERY[order]))
    valid = EVERY.mask[order] if scores_steps else slice(None)
    torch.testing.assert_close(one[valid], two[valid])
