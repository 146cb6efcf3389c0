"""Batches are a function of (seed, position) alone, whatever the data set is and whatever was taken before."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import Subset, TensorDataset
from toys import Mixture, RingOptions, duet

import genkit
from genkit.engine.data import Batches, open_data
from genkit.errors import DataError
from genkit.plugin import Facts, Modality, Sample, Skipped
from genkit.sampling.batching import as_sample, collate, parts
from genkit.system.seeding import global_seeds, seed_everything

laws = settings(max_examples=50, deadline=None, derandomize=True)
sizes, seeds, positions, counts = (
    st.integers(1, 13),
    st.integers(0, 99),
    st.integers(0, 200),
    st.integers(1, 30),
)


class Items:
    """A map-style data set, and nothing more."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


class Whole(Items):
    """Items that are fetched a batch at a time."""

    def __getitems__(self, indices):
        return self.items[indices]


class Noisy(Items):
    """Items with randomness from every global generator."""

    def __getitem__(self, index):
        draws = [torch.rand(()).item(), np.random.rand(), random.random()]
        return torch.tensor([float(self.items[index]), *draws], dtype=torch.float64)


def numbers(batches, position, count):
    return batches.take(position, count).x.tolist()


# Order -----------------------------------------------------------------------------------------------------------


@laws
@given(sizes, seeds, st.integers(0, 5))
def test_an_epoch_is_a_permutation(size, seed, epoch):
    batches = Batches(torch.arange(size), seed)
    assert sorted(numbers(batches, epoch * size, size)) == list(range(size))


@laws
@given(sizes, seeds, positions, counts)
def test_a_batch_is_its_items_also_across_the_ends_of_epochs(size, seed, position, count):
    batch = numbers(Batches(torch.arange(size), seed), position, count)
    assert batch == [
        numbers(Batches(torch.arange(size), seed), place, 1)[0]
        for place in range(position, position + count)
    ]


@laws
@given(sizes, seeds, st.lists(st.tuples(positions, counts), max_size=4), positions, counts)
def test_the_position_alone_decides_whatever_was_taken_before(size, seed, before, position, count):
    batches = Batches(torch.arange(size), seed)
    for other, many in before:
        batches.take(other, many)
    assert numbers(batches, position, count) == numbers(
        Batches(torch.arange(size), seed), position, count
    )


def test_epochs_and_seeds_have_orders_of_their_own():
    size = 50
    orders = [
        tuple(numbers(Batches(torch.arange(size), seed), epoch * size, size))
        for seed in (0, 1)
        for epoch in (0, 1)
    ]
    assert len(set(orders)) == 4
    assert tuple(range(size)) not in orders


def test_every_place_of_an_order_is_equally_likely():
    places = np.array([numbers(Batches(torch.arange(5), seed), 0, 5) for seed in range(2000)])
    for column in places.T:
        found = np.bincount(column, minlength=5)
        assert (
            (found - 400) ** 2 / 400
        ).sum() < 18.5  # chi-square with 4 degrees of freedom, one in a thousand


def test_the_order_is_what_it_was_in_the_first_release():
    assert numbers(Batches(torch.arange(8), 0), 0, 8) == FIRST_ORDER


@laws
@given(st.integers(2, 40), seeds, st.floats(0.05, 0.95), st.integers(0, 3))
def test_parts_of_the_data_divide_them_whatever_the_epoch(size, seed, share, epoch):
    batches, middle = Batches(torch.arange(size), seed), round(share * size)
    whole = []
    for part, count in (((0.0, share), middle), ((share, 1.0), size - middle)):
        if not count:
            with pytest.raises(DataError, match="none in the part"):
                batches.take(0, 1, part)
            continue
        taken = batches.take(epoch * count, count, part).x.tolist()
        assert set(taken) == set(batches.take(0, count, part).x.tolist())
        whole += taken
    assert sorted(whole) == list(range(size))
    assert numbers(batches, 0, size) == numbers(Batches(torch.arange(size), seed), 0, size)


def test_an_item_that_is_damaged_is_replaced_by_one_of_its_part():
    x = torch.arange(40.0)[:, None]
    part = (0.0, 0.5)
    inside = set(Batches(x, 0).take(0, 20, part).x[:, 0].tolist())
    damaged = x.clone()
    damaged[int(min(inside))] = torch.nan
    batch = Batches(damaged, 0).take(0, 20, part).x[:, 0].tolist()
    assert set(batch) == inside - {min(inside)}


def test_the_length_is_that_of_the_data_set():
    assert len(Batches(torch.zeros(7, 2), 0)) == 7


# Kinds of data sets ----------------------------------------------------------------------------------------------

X = torch.randn(11, 2, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(11)
MASKS = torch.arange(11)[:, None] > torch.arange(3)

PLAIN = {
    "tensor": X,
    "array": X.numpy(),
    "read-only array": np.frombuffer(X.numpy().tobytes(), np.float32).reshape(X.shape),
    "list of tensors": list(X),
    "items that are tensors": Items(X),
    "items that are arrays": Items(X.numpy()),
    "items that are Samples": Items([Sample(row) for row in X]),
    "items that are 1-tuples": TensorDataset(X),
    "fetched whole, as items": Subset(TensorDataset(X), range(11)),
    "fetched whole, as a tensor": Whole(X),
    "fetched whole, as a Sample": Whole(Sample(X)),
}
PAIRS = {
    "items that are pairs": TensorDataset(X, LABELS),
    "items with plain numbers": Items(
        [(row, label) for row, label in zip(X, range(11), strict=True)]
    ),
    "items that are lists": Items(
        [[row.numpy(), label] for row, label in zip(X, LABELS.numpy(), strict=True)]
    ),
    "items that are Samples": Items(
        [Sample(row, label) for row, label in zip(X, LABELS, strict=True)]
    ),
    "fetched whole, as items": Subset(TensorDataset(X, LABELS), range(11)),
    "fetched whole, as a Sample": Whole(Sample(X, LABELS)),
}


@pytest.mark.parametrize("dataset", PLAIN.values(), ids=PLAIN)
def test_every_kind_of_data_set_gives_the_same_batches(dataset):
    reference = X[numbers(Batches(torch.arange(11), 5), 7, 9)]
    batch = Batches(dataset, 5).take(7, 9)
    assert torch.equal(batch.x, reference)
    assert batch.x.dtype == torch.float32
    assert batch.condition is None
    assert batch.mask is None


@pytest.mark.parametrize("dataset", PAIRS.values(), ids=PAIRS)
def test_conditions_stay_with_their_samples(dataset):
    order = numbers(Batches(torch.arange(11), 5), 7, 9)
    batch = Batches(dataset, 5).take(7, 9)
    assert torch.equal(batch.x, X[order])
    assert batch.condition.tolist() == order


def test_masks_and_relaxed_parts_stay_with_their_samples():
    whole = Sample(X, LABELS, MASKS, X * 2)
    order = numbers(Batches(torch.arange(11), 5), 7, 9)
    for dataset in (Items([whole[row] for row in range(11)]), Whole(whole)):
        batch = Batches(dataset, 5).take(7, 9)
        for part in ("x", "condition", "mask", "relaxed"):
            assert torch.equal(getattr(batch, part), getattr(whole, part)[order])


def test_a_batch_is_a_copy():
    x = X.clone()
    Batches(x, 0).take(0, 11).x.zero_()
    assert torch.equal(x, X)


@pytest.mark.parametrize(
    "item", [3, 2.5, True, np.float32(1.5), np.ones(2), torch.ones(2), (1,), (1, 2)], ids=repr
)
def test_what_can_be_a_tensor_is_an_item(item):
    sample = as_sample(item)
    first = item[0] if isinstance(item, tuple) else item
    assert torch.equal(sample.x, torch.as_tensor(first))
    assert (sample.condition is not None) == (isinstance(item, tuple) and len(item) == 2)


def test_a_flipped_array_is_an_item_as_well():
    """NumPy flips by a negative stride, which torch does not know."""
    flipped = X.numpy()[:, :, ::-1]
    assert torch.equal(Batches(flipped, 0).take(0, 11).x, Batches(X.flip(2), 0).take(0, 11).x)
    assert torch.equal(
        Batches(Items(flipped), 0).take(0, 11).x, Batches(X.flip(2), 0).take(0, 11).x
    )


def test_items_that_may_not_be_written_to_raise_no_warning():
    """Rows of a memory map, say; a batch is a copy anyway."""
    frozen = X.numpy().copy()
    frozen.flags.writeable = False
    once = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        assert torch.equal(Batches(Items(frozen), 0).take(0, 11).x, Batches(X, 0).take(0, 11).x)
    finally:
        torch.set_warn_always(once)


@pytest.mark.parametrize(
    "item",
    ["text", b"bytes", None, {"x": 1}, {1, 2}, (), (1, 2, 3), object()],
    ids=lambda item: type(item).__name__,
)
def test_an_item_of_another_type_is_refused_by_its_type(item):
    with pytest.raises(
        DataError, match=f"is a {type(item).__name__}; a Sample, a tensor or an array was expected"
    ):
        Batches(Items([item]), 0).take(0, 1)


@pytest.mark.parametrize(
    "item",
    [
        (object(), 3),
        ("text", 3),
        (np.array(["text"]), 3),
        np.array([None]),
        (torch.ones(2), "cat"),
        (torch.ones(2), None),
    ],
    ids=["picture", "text", "array of text", "array of objects", "label by name", "no label"],
)
def test_a_part_of_an_item_that_is_no_tensor_is_a_data_error(item):
    """The pair (picture, label) of an image folder without a transform, for one."""
    with pytest.raises(DataError):
        as_sample(item)


def test_an_array_of_no_numbers_is_a_data_error():
    with pytest.raises(DataError):
        Batches(np.array(["a", "b"]), 0).take(0, 1)


# What cannot be a batch ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "empty", [[], torch.empty(0, 3), np.empty((0, 3)), Items([]), Whole(X[:0])]
)
def test_an_empty_data_set_is_refused(empty):
    with pytest.raises(DataError, match="empty"):
        Batches(empty, 0)


def test_items_of_several_shapes_are_refused_with_the_shapes():
    items = [torch.zeros(2), torch.zeros(3), torch.zeros(3)]
    with pytest.raises(
        DataError,
        match=r"2 of 3 items that were tried cannot be used: item 1 \(shape \(3,\); others have \(2,\)\)",
    ):
        Batches(items, 0).tried(9)
    with pytest.raises(DataError, match="for mask"):
        collate(
            [Sample(torch.zeros(2), mask=torch.ones(length, dtype=torch.bool)) for length in (2, 3)]
        )


@pytest.mark.parametrize("part", ["condition", "mask", "relaxed"])
def test_a_part_that_only_some_items_have_is_refused(part):
    items = [
        Sample(torch.zeros(2), **{part: torch.ones(2)}),
        Sample(torch.zeros(2)),
        Sample(torch.zeros(2)),
    ]
    with pytest.raises(DataError, match=f"only 1 of 3 items have a {part}"):
        Batches(items, 0).take(0, 3)


# Randomness ------------------------------------------------------------------------------------------------------


@laws
@given(seeds, positions, counts)
def test_a_random_item_depends_on_seed_and_position_not_on_the_batch(seed, position, count):
    noisy = Noisy(range(7))
    batch = Batches(noisy, seed).take(position, count).x
    alone = [
        Batches(noisy, seed).take(place, 1).x[0] for place in range(position, position + count)
    ]
    assert torch.equal(batch, torch.stack(alone))


def test_random_items_differ_from_place_to_place_and_seed_to_seed():
    draws = torch.cat([Batches(Noisy([0]), seed).take(0, 40).x[:, 1:] for seed in (0, 1)])
    for column in draws.T:
        assert len(column.unique()) == 80  # one item, 40 epochs, 2 seeds


def states():
    return torch.get_rng_state(), np.random.get_state(), random.getstate()


def same(a, b):
    numpy = all(np.array_equal(mine, other) for mine, other in zip(a[1], b[1], strict=True))
    return torch.equal(a[0], b[0]) and numpy and a[2] == b[2]


@pytest.mark.parametrize(
    "dataset", [Noisy(range(5)), Whole(X), X, Subset(Noisy(range(5)), range(5))]
)
def test_taking_leaves_the_global_generators_as_they_were(dataset):
    batches = Batches(dataset, 0)
    (
        torch.rand(1),
        np.random.randn(1),
        random.gauss(0, 1),
    )  # also half-used pairs of normals are part of a state
    before = states()
    batches.take(3, 4)
    assert same(before, states())


def test_the_global_generators_do_not_decide_what_is_taken():
    batches = Batches(Noisy(range(5)), 0)
    first = batches.take(3, 4).x
    torch.rand(3), np.random.rand(3), random.random()
    assert torch.equal(batches.take(3, 4).x, first)


def test_random_items_that_are_fetched_whole_are_seeded_by_the_position():
    class NoisyWhole(Noisy):
        def __getitems__(self, indices):
            return [self[index] for index in indices]

    batches = Batches(NoisyWhole(range(5)), 0)
    first = batches.take(3, 4).x
    torch.rand(3), np.random.rand(3), random.random()
    assert torch.equal(batches.take(3, 4).x, first)
    assert len(batches.take(5, 4).x[:, 1].unique()) == 4


def test_an_item_that_fails_leaves_the_global_generators_as_they_were():
    class Failing(Items):
        def __getitem__(self, index):
            random.random(), np.random.rand(), torch.rand(1)
            raise KeyError(index)

    before = states()
    with pytest.raises(DataError, match=r"8 items in a row .* item 0 \(damaged: KeyError\(0\)\)"):
        Batches(Failing([1]), 0).take(0, 1)
    assert same(before, states())


def test_seeds_lend_the_global_generators_and_give_them_back():
    def draw():
        return torch.rand(()).item(), np.random.rand(), random.random()

    before = states()
    with global_seeds("purpose", 1):
        first = draw()
        with global_seeds("purpose", 2):
            inner = draw()
        after_inner = draw()
    assert same(before, states())
    with global_seeds("purpose", 1):
        assert (draw(), draw()) == (first, after_inner)
        seed_everything("purpose", 2)
        assert draw() == inner
    assert all(a != b for a, b in zip(first, inner, strict=True))


class Worded(Items):
    """Items whose randomness comes from words; it must neither be asked for items nor find generators seeded."""

    def random_batch(self, indices, words):
        assert words.dtype == np.uint64
        self.state = torch.get_rng_state()
        return Sample(
            torch.tensor(
                [
                    [self.items[index], *divmod(int(word), 2**32)]
                    for index, word in zip(indices, words, strict=True)
                ]
            )
        )

    def __getitems__(self, indices):
        raise AssertionError("batch goes first")


@laws
@given(seeds, positions, counts)
def test_words_depend_on_seed_and_position_not_on_the_batch(seed, position, count):
    worded = Worded(range(7))
    batch = Batches(worded, seed).take(position, count).x
    alone = [
        Batches(worded, seed).take(place, 1).x[0] for place in range(position, position + count)
    ]
    assert torch.equal(batch, torch.stack(alone))
    assert batch[:, 0].tolist() == numbers(Batches(torch.arange(7), seed), position, count)


def test_words_differ_from_place_to_place_and_seed_to_seed_and_no_generator_is_touched():
    worded = Worded([0])
    before = torch.get_rng_state()
    assert (
        len(
            torch.cat([Batches(worded, seed).take(0, 40).x[:, 1:] for seed in (0, 1)]).unique(dim=0)
        )
        == 80
    )
    assert torch.equal(worded.state, before)
    assert Batches(worded, 0).take(0, 1).x[0, 1:].tolist() == FIRST_WORD


# Data at the start of a run ----------------------------------------------------------------------------------------


ASKED = []


class Holed(Mixture):
    """A ring of which some points cannot be used."""

    @classmethod
    def open(cls, source, options):
        ASKED.append(source)
        return [source]

    @classmethod
    def inspect(cls, source, options):
        return Facts({"opened": [list(pair) for pair in source]})

    def dataset(self, source):
        good, bad = source[0]
        data = Items(super().dataset(source)[:good])
        data.skipped = [Skipped(f"point {number}", "it is too far\x1b[2J") for number in range(bad)]
        return data


holed = Modality(id="holed", title="A ring with holes", plugin=Holed, options=RingOptions)


def test_what_cannot_be_used_is_named_and_left_out():
    def note(good, bad, **run):
        return open_data(genkit.config.build(holed, data=(good, bad), settings=[{"run": run}]))[2]

    assert note(5, 0) == []
    assert note(5, 0, strict=True) == []
    far = "it is too far?[2J"
    assert note(3, 1) == [
        f"1 of 4 items of <tuple> cannot be used and are left out: point 0 ({far})"
    ]
    assert note(1996, 4)[0].endswith(f"point 2 ({far}); and 1 more")
    with pytest.raises(
        DataError, match=r"1 of 4 items of <tuple> cannot be used: point 0.*leave strict out"
    ):
        note(3, 1, strict=True)
    with pytest.raises(DataError, match="none of the 2 items of <tuple> can be used: point 0"):
        note(0, 2)
    with pytest.raises(DataError, match="<tuple> is empty"):
        note(0, 0)


BAD = {3: "raises", 5: "nan", 8: "shape", 11: "inf", 12: "text"}


class Odd(Items):
    """Twenty items of which five cannot be used."""

    def __getitem__(self, index):
        kind = BAD.get(index)
        if kind == "raises":
            raise OSError(5, "Input/output error")
        if kind == "text":
            return "no tensor"
        value = {"nan": np.nan, "inf": np.inf}.get(kind, float(index))
        return torch.full((3 if kind == "shape" else 2,), value)


class OddBatches(Odd):
    """The same, read ahead of time."""

    def random_batch(self, indices, words):
        return collate([Sample(self[index]) for index in indices])


@pytest.mark.parametrize("kind", [Odd, OddBatches])
def test_items_that_cannot_be_used_are_replaced_always_by_the_same(kind, monkeypatch):
    def stream(batches, size):
        return torch.cat([batches.take(start, size).x for start in range(0, 120, size)])

    data = kind(range(20))
    if kind is OddBatches:
        for index in (8, 12):  # no batch of it could be made
            monkeypatch.delitem(BAD, index)
    whole, tried = Batches(data, 3), Batches(data, 3)
    assert tried.tried(9).keys() == BAD.keys()
    values = stream(whole, 24)
    assert whole.unusable.keys() == BAD.keys()
    assert torch.isfinite(values).all()
    assert not set(values[:, 0].tolist()) & BAD.keys()
    for size in (1, 8):
        assert torch.equal(stream(Batches(data, 3), size), values)
    assert torch.equal(stream(tried, 24), values)
    plain = torch.tensor(numbers(Batches(torch.arange(20), 3), 0, 120))
    kept = [index for index, value in enumerate(plain.tolist()) if value not in BAD]
    assert torch.equal(values[kept, 0], plain[kept].float())  # the others stay where they are


class Given(Mixture):
    """Points that the user brings."""

    @classmethod
    def open(cls, source, options):
        return source

    @classmethod
    def inspect(cls, source, options):
        return Facts()

    def dataset(self, source):
        return source


given_points = Modality(id="given", title="Points", plugin=Given, options=RingOptions)


def test_a_run_names_the_items_that_it_cannot_use(tmp_path):
    x = torch.randn(40, 2)
    x[7] = torch.nan
    config = genkit.config.build(given_points, data=x)
    assert open_data(config)[2] == [
        "1 of 40 items of <Tensor> cannot be used and are left out: item 7 (values that are not finite)"
    ]
    notes = []
    genkit.train(
        given_points,
        data=x,
        out=tmp_path,
        items=1280,
        threads=1,
        progress=lambda p: notes.append(p.note),
    )
    said = "of the data, 1 items could not be read so far and were replaced: item 7 (values that are not finite)"
    assert notes.count(said) == 1
    report = genkit.check_data(given_points, x)
    assert (report.items, report.skipped) == (39, (("item 7", "values that are not finite"),))


def test_a_check_tells_what_a_run_would_find_and_opens_once():
    ASKED.clear()
    report = genkit.check_data(holed, (5, 2))
    assert ASKED == [(5, 2)]
    assert (report.items, report.shape, report.facts) == (5, (2,), {"opened": [[5, 2]]})
    assert [one.name for one in report.skipped] == ["point 0", "point 1"]
    assert report.to_json()["skipped"][1]["name"] == "point 1"
    assert genkit.check_data(holed, (0, 2)).shape is None
    assert genkit.check_data(duet).items == 500


# Parts -----------------------------------------------------------------------------------------------------------


@laws
@given(st.integers(1, 6), st.integers(1, 5))
def test_parts_are_the_batch_in_order(count, rows):
    x = torch.arange(count * rows)
    pieces = list(parts(Sample(x, x + 1), count))
    assert [len(piece) for piece in pieces] == [rows] * count
    assert torch.equal(torch.cat([piece.x for piece in pieces]), x)
    assert torch.equal(torch.cat([piece.condition for piece in pieces]), x + 1)


FIRST_WORD = [177575718, 4077615254]
FIRST_ORDER = [2, 4, 6, 1, 5, 0, 7, 3]
