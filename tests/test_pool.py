"""Earlier fakes: what a critic sees of them, and what is kept."""

import pytest
import torch
from toys import Mixture, ring

from genkit import config
from genkit.engine.game import Game
from genkit.engine.pool import Pool
from genkit.errors import ConfigError
from genkit.plugin import Sample
from genkit.system.runtime import Runtime


def fakes(number, rows=4):
    """Rows that tell where they are from: their number, in x and as their condition."""
    x = torch.arange(number * rows, (number + 1) * rows)
    return Sample(x[:, None].float(), x)


def values(sample):
    assert torch.equal(sample.x[:, 0], sample.condition.float())
    return sample.x[:, 0].int().tolist()


def kept(pool):
    return pool.state_dict()["x"][:, 0].int().tolist()


def test_each_fake_is_seen_or_kept_and_half_of_those_seen_are_earlier_ones():
    torch.manual_seed(0)
    pool, seen, rows, batches = Pool(50), [], 8, 500
    for number in range(batches):
        shown = pool.exchange(fakes(number, rows))
        if number < 6:
            assert values(shown) == list(range(number * rows, (number + 1) * rows))
        seen.append([value // rows for value in values(shown)])
    assert len(kept(pool)) == len(set(kept(pool))) == 50
    earlier = [birth < number for number, batch in enumerate(seen) for birth in batch][7 * rows :]
    assert sum(earlier) / len(earlier) == pytest.approx(0.5, abs=0.02)


def test_a_fake_that_leaves_the_pool_is_seen_once_more_and_one_that_enters_is_not_seen_yet():
    torch.manual_seed(1)
    pool, seen = Pool(4), []
    for number in range(200):
        seen += values(pool.exchange(fakes(number)))
    assert seen[:4] == [0, 1, 2, 3]
    counts = {value: seen.count(value) for value in range(800)}
    for value, count in counts.items():
        was_first, is_kept = value < 4, value in kept(pool)
        assert count == 1 + was_first - is_kept


def test_there_is_no_pool_unless_one_is_asked_for():
    batch = fakes(0)
    assert Pool(0).exchange(batch) is batch
    assert not Pool(0).state_dict()


def test_a_batch_may_be_larger_than_the_pool():
    torch.manual_seed(0)
    pool = Pool(3)
    assert values(pool.exchange(fakes(0, 8)))[:3] == [0, 1, 2]
    shown = values(pool.exchange(fakes(1, 8)))
    assert len(shown) == len(set(shown)) == 8
    assert len(kept(pool)) == 3


def test_a_pool_is_restored_whatever_it_held():
    torch.manual_seed(0)
    one, other = Pool(8), Pool(8)
    for number in range(4):
        one.exchange(fakes(number))
    other.exchange(Sample(torch.zeros(2, 5)))
    empty = Pool(8).state_dict()
    other.load_state_dict(one.state_dict())
    for pool in (one, other):
        torch.manual_seed(3)
        pool.exchange(fakes(9))
    assert kept(one) == kept(other)
    other.load_state_dict(empty)
    assert not other.state_dict()


def test_a_pool_that_was_restored_follows_its_fakes_to_their_device():
    one, other = Pool(8), Pool(8)
    one.exchange(fakes(0))
    other.load_state_dict(one.state_dict())
    assert other.exchange(fakes(1).to("meta")).x.device.type == "meta"


def test_what_a_pool_cannot_do_is_said():
    pool = Pool(8)
    pool.exchange(Sample(torch.zeros(2, 5)))
    with pytest.raises(ConfigError, match=r"alike .* these are \[6\], those before \[5\]"):
        pool.exchange(Sample(torch.zeros(2, 6)))
    settings = {"recipe": {"batch_size": 8, "critics": {"critic": {"pool": 50}}}}
    chosen, runtime = config.build(ring, settings=[settings]), Runtime("cpu")
    runtime.processes = 2
    plugin = Mixture(chosen.options)
    with pytest.raises(ConfigError, match=r"recipe.critics.critic.pool = 50 .* there are 2"):
        Game(chosen, plugin, plugin.dataset(None), runtime)
