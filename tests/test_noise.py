"""Noise is a pure function of (seed, part, index, position), and it obeys its distribution."""

import hashlib
import itertools
import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genkit.errors import GenkitError
from genkit.plugin import Noise
from genkit.sampling import noise
from genkit.system import streams

laws = settings(max_examples=60, deadline=None, derandomize=True)

SPECS = {
    "normal": Noise((3,)),
    "uniform": Noise((3,), distribution="uniform"),
    "uniform64": Noise((), distribution="uniform", dtype="float64"),
    "image": Noise((2, 3, 5)),
    "steps": Noise((3,), steps=7),
    "step numbers": Noise((), distribution="uniform", steps=5, dtype="float64"),
}
specs = st.sampled_from(sorted(SPECS)).map(SPECS.__getitem__)
indices = st.integers(0, 2**40)


def philox(key, counter):
    """Four 64-bit words of Philox 4x64-10, after Salmon et al. 2011, section 3.3; an oracle without NumPy."""
    word = 2**64 - 1
    k = [key & word, key >> 64]
    c = [(counter >> (64 * place)) & word for place in range(4)]
    for _ in range(10):
        a, b = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
        c = [(b >> 64) ^ c[1] ^ k[0], b & word, (a >> 64) ^ c[3] ^ k[1], a & word]
        k = [(k[0] + 0x9E3779B97F4A7C15) & word, (k[1] + 0xBB67AE8584CAA73B) & word]
    return c


def oracle(seed, part, stream, place):
    """The word at one place of a stream, in [0, 1): NumPy counts up before its first block."""
    name = f"str:noise\x1f{type(seed).__name__}:{seed}\x1fstr:{part}"
    key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=16).digest(), "little")
    return philox(key, (stream << 128) + place // 4 + 1)[place % 4]


def kolmogorov(values, cdf):
    """sqrt(N) times the largest distance between the empirical and the true distribution function."""
    ordered, n = np.sort(values.ravel()), values.size
    expected = np.array([cdf(value) for value in ordered])
    steps = np.arange(n + 1) / n
    return math.sqrt(n) * max((steps[1:] - expected).max(), (expected - steps[:-1]).max())


# The quantile ----------------------------------------------------------------------------------------------------


@laws
@given(
    st.one_of(
        st.floats(2.0**-54, 1 - 2.0**-53), st.floats(1e-300, 1e-3), st.floats(0.999, 1 - 2.0**-53)
    )
)
def test_the_normal_quantile_is_that_of_the_standard_library(p):
    assert noise.normal_quantile(np.array([p]))[0] == pytest.approx(
        statistics.NormalDist().inv_cdf(p), rel=1e-14
    )


@laws
@given(st.floats(1e-300, 0.5))
def test_the_normal_quantile_inverts_the_distribution_function(p):
    x = noise.normal_quantile(np.array([p]))[0]
    assert x <= 0
    # An error of d in x is a relative error of about |x| d in the tail's probability.
    assert 0.5 * math.erfc(-x / math.sqrt(2)) == pytest.approx(p, rel=2e-15 * (1 + x * x) + 1e-15)


def test_the_normal_quantile_is_odd_and_increases():
    p = np.arange(1, 2**12) / 2**12  # exact, as is 1 - p
    x = noise.normal_quantile(p)
    assert np.array_equal(x, -x[::-1])
    assert (np.diff(x) > 0).all()
    assert x[len(x) // 2] == 0


def test_the_normal_quantile_keeps_any_shape_and_its_argument():
    p = np.random.Generator(np.random.Philox(0)).random((3, 4, 5))
    before = p.copy()
    x = noise.normal_quantile(p)
    assert x.shape == p.shape
    assert np.array_equal(p, before)
    assert np.array_equal(x.ravel(), noise.normal_quantile(p.ravel()))
    assert noise.normal_quantile(np.empty((0, 3))).shape == (0, 3)


# The open interval -----------------------------------------------------------------------------------------------

EXTREME = np.array(
    [0, 1, 2**11 - 1, 2**11, 2**63, 2**64 - 2**11 - 1, 2**64 - 2**11, 2**64 - 1], np.uint64
)


def test_uniforms_are_never_zero_or_one():
    values = noise.uniforms(EXTREME)
    assert (values > 0).all()
    assert (values < 1).all()
    assert (np.diff(values) >= 0).all()
    assert values[0] == 2.0**-54


@laws
@given(st.integers(0, 2**64 - 1))
def test_a_uniform_lies_in_the_cell_of_its_word(word):
    value = noise.uniforms(np.array([word], np.uint64))[0]
    assert word // 2**11 * 2.0**-53 <= value <= (word // 2**11 + 1) * 2.0**-53


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_extreme_words_stay_in_the_open_interval_in_every_precision(monkeypatch, dtype):
    monkeypatch.setattr(noise, "stream_words", lambda key, stream, start, count: EXTREME[:count])
    uniform = noise.draw(Noise((8,), distribution="uniform", dtype=dtype), "u", 0, range(1))
    normal = noise.draw(Noise((8,), distribution="normal", dtype=dtype), "z", 0, range(1))
    assert uniform.dtype == normal.dtype == dtype
    assert (uniform > 0).all()
    assert (uniform < 1).all()
    assert np.isfinite(normal).all()
    assert normal[0, 0] < -8
    assert normal[0, -1] > 8


# Identity --------------------------------------------------------------------------------------------------------


@laws
@given(specs, st.integers(0, 10**6), st.integers(0, 10**9), st.integers(1, 20), st.data())
def test_a_row_is_the_same_alone_and_in_any_range(spec, seed, start, count, data):
    batch = noise.draw(spec, "z", seed, range(start, start + count))
    row = data.draw(st.integers(0, count - 1))
    for alone in (range(start + row, start + row + 1), [start + row]):
        assert np.array_equal(noise.draw(spec, "z", seed, alone)[0], batch[row])


@laws
@given(specs, st.lists(indices, max_size=8))
def test_a_row_is_the_same_in_any_order(spec, chosen):
    batch = noise.draw(spec, "z", 3, chosen)
    assert batch.shape == (len(chosen), *(() if spec.steps is None else (spec.steps,)), *spec.shape)
    assert batch.dtype == spec.dtype
    for row, index in zip(batch, chosen, strict=True):
        assert np.array_equal(row, noise.draw(spec, "z", 3, [index])[0])


@laws
@given(specs, st.integers(0, 100), st.integers(2, 9), st.integers(1, 9))
def test_a_range_with_any_stride_is_the_list_of_its_indices(spec, start, stride, count):
    every = range(start, start + stride * count, stride)
    assert np.array_equal(noise.draw(spec, "z", 0, every), noise.draw(spec, "z", 0, list(every)))
    assert np.array_equal(
        noise.draw(spec, "z", 0, every[::-1]), noise.draw(spec, "z", 0, every)[::-1]
    )


@laws
@given(
    st.sampled_from([(), (1,), (3,), (2, 5)]),
    st.integers(0, 50),
    st.integers(1, 9),
    st.sampled_from([0, 7, 2**30]),
)
def test_steps_from_any_start_are_those_of_the_whole(shape, start, count, index):
    whole = noise.draw(Noise(shape, steps=60), "z", 0, [index])
    window = noise.draw(Noise(shape, steps=count), "z", 0, [index], start=start)
    assert np.array_equal(window, whole[:, start : start + count])


def test_an_endless_clip_has_noise_at_any_step():
    far = 10**15 + 3
    ahead = noise.draw(Noise((3,), steps=4), "z", 0, [5], start=far)
    assert np.array_equal(
        ahead[:, 1:], noise.draw(Noise((3,), steps=3), "z", 0, [5], start=far + 1)
    )
    assert not np.array_equal(ahead, noise.draw(Noise((3,), steps=4), "z", 0, [5]))


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_seed_is_a_number_whatever_integer_type_it_has(spec):
    assert np.array_equal(
        noise.draw(spec, "z", np.int64(3), [2, 5]), noise.draw(spec, "z", 3, [2, 5])
    )


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_an_index_is_a_number_whatever_integer_type_it_has(spec):
    assert np.array_equal(
        noise.draw(spec, "z", 3, list(np.array([2, 5]))), noise.draw(spec, "z", 3, [2, 5])
    )


def test_an_unknown_law_is_refused_not_taken_for_another():
    with pytest.raises((ValueError, GenkitError), match="gaussian"):
        noise.draw(Noise((2,), distribution="gaussian"), "z", 0, [0])


# Independence ----------------------------------------------------------------------------------------------------


def correlation(a, b):
    return abs(np.corrcoef(a.ravel(), b.ravel())[0, 1])


@pytest.mark.parametrize("spec", [Noise((50,)), Noise((10,), steps=5)], ids=["static", "steps"])
def test_parts_seeds_and_neighbours_are_independent_streams(spec):
    rows = range(200)
    base = noise.draw(spec, "content", 0, rows)
    others = {
        "part": noise.draw(spec, "motion", 0, rows),
        "seed": noise.draw(spec, "content", 1, rows),
        "named seed": noise.draw(spec, "content", "0", rows),
        "next rows": noise.draw(spec, "content", 0, range(1, 201)),
        "later rows": noise.draw(spec, "content", 0, range(200, 400)),
    }
    for name, other in others.items():
        assert not (base == other).any(), name
        assert correlation(base, other) < 4 / math.sqrt(base.size), name
    assert len(np.unique(base)) > 0.999 * base.size  # float32 has ties by chance


def test_static_and_stepped_parts_of_one_name_do_not_share_words():
    static = noise.draw(Noise((64,), distribution="uniform", dtype="float64"), "z", 0, range(4))
    stepped = noise.draw(
        Noise((), distribution="uniform", steps=64, dtype="float64"), "z", 0, range(4)
    )
    assert not set(static.ravel()) & set(stepped.ravel())


def test_axes_of_one_sample_are_uncorrelated():
    batch = noise.draw(Noise((6,)), "z", 0, range(20_000)).astype(np.float64)
    covariance = batch.T @ batch / len(batch)
    assert np.abs(covariance - np.eye(6)).max() < 0.05


# Laws ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [None, 10])
def test_normal_noise_is_normal(steps):
    shape = (20,) if steps is None else (2,)
    values = noise.draw(Noise(shape, dtype="float64", steps=steps), "z", 0, range(1000))
    assert abs(values.mean()) < 4 / math.sqrt(values.size)
    assert abs(values.var() - 1) < 4 * math.sqrt(2 / values.size)
    assert abs((values**4).mean() - 3) < 4 * math.sqrt(96 / values.size)
    assert (
        kolmogorov(values, statistics.NormalDist().cdf) < 1.95
    )  # exceeded by chance once in a thousand


@pytest.mark.parametrize("steps", [None, 10])
def test_uniform_noise_is_uniform(steps):
    shape = (20,) if steps is None else (2,)
    values = noise.draw(
        Noise(shape, distribution="uniform", dtype="float64", steps=steps), "u", 0, range(1000)
    )
    assert abs(values.mean() - 0.5) < 4 / math.sqrt(12 * values.size)
    assert abs(values.var() - 1 / 12) < 4 / math.sqrt(180 * values.size)
    assert kolmogorov(values, float) < 1.95


def test_single_precision_is_the_double_rounded():
    for distribution in ("normal", "uniform"):
        single = noise.draw(Noise((9,), distribution=distribution), "z", 1, range(50))
        double = noise.draw(
            Noise((9,), distribution=distribution, dtype="float64"), "z", 1, range(50)
        )
        assert np.array_equal(single, double.astype("float32"))


# Streams that must never change ----------------------------------------------------------------------------------


@settings(laws, max_examples=25)
@given(
    st.one_of(st.integers(0, 2**70), st.text(st.characters(codec="utf-8"), max_size=5)),
    st.sampled_from(["z", "tail"]),
    st.integers(0, 2**30),
    st.integers(1, 9),
)
def test_static_words_are_philox_at_the_rows_own_places(seed, part, index, count):
    drawn = noise.draw(
        Noise((count,), distribution="uniform", dtype="float64"), part, seed, [index]
    )[0]
    words = [oracle(seed, part, 0, index * count + place) for place in range(count)]
    assert np.array_equal(drawn, noise.uniforms(np.array(words, np.uint64)))


@settings(laws, max_examples=25)
@given(st.integers(0, 2**70), st.integers(0, 2**40), st.integers(0, 2**40), st.integers(1, 5))
def test_stepped_words_are_philox_in_the_rows_own_stream(seed, index, start, width):
    drawn = noise.draw(
        Noise((width,), distribution="uniform", steps=2, dtype="float64"), "z", seed, [index], start
    )[0]
    words = [oracle(seed, "z", index + 1, start * width + place) for place in range(2 * width)]
    assert np.array_equal(drawn.ravel(), noise.uniforms(np.array(words, np.uint64)))


def test_the_first_words_are_what_they_were_in_the_first_release():
    uniform = Noise((4,), distribution="uniform", dtype="float64")
    steps = Noise((), distribution="uniform", steps=4, dtype="float64")
    words = {
        "static": noise.draw(uniform, "z", 0, [0])[0],
        "static, 7th": noise.draw(uniform, "z", 0, [7])[0],
        "steps": noise.draw(steps, "z", 0, [0])[0],
        "another seed and part": noise.draw(uniform, "motion", 123, [0])[0],
    }
    assert {
        name: [int(value * 2**53) for value in values] for name, values in words.items()
    } == FIRST_WORDS
    normal = noise.draw(Noise((4,)), "z", 0, [0])[0]
    assert normal.tolist() == FIRST_NORMALS


def test_keys_are_what_they_were_and_tell_words_from_numbers():
    assert streams.stream_key("noise", 0, "z") == FIRST_KEY
    assert streams.stream_key("a", 1) == streams.stream_key("a", 1)
    keys = [("a",), ("a", 1), ("a", "1"), ("a1",), (1, "a"), ("a", 1, ""), ("a", 1, 0)]
    assert len({streams.stream_key(*words) for words in keys}) == len(keys)
    assert streams.torch_seed("a", 1) == streams.stream_key("a", 1) >> 65
    assert all(0 <= streams.torch_seed(number) < 2**63 for number in range(1000))
    assert len({streams.torch_seed(number) for number in range(1000)}) == 1000


# Interpolation between two identities ------------------------------------------------------------------------------


@laws
@given(specs, indices, indices, st.floats(0, 1))
def test_noise_between_is_of_the_same_kind_and_ends_are_the_ends_themselves(
    spec, start, end, share
):
    a, b = noise.draw(spec, "z", 1, [start, end])
    way = noise.interpolate_noise(a, b, share, spec.distribution)
    assert (way.shape, way.dtype) == (a.shape, a.dtype)
    assert np.isfinite(way).all()
    if spec.distribution == "uniform":
        assert ((way > 0) & (way < 1)).all()
    assert np.array_equal(noise.interpolate_noise(a, b, 0.0, spec.distribution), a)
    assert np.array_equal(noise.interpolate_noise(a, b, 1.0, spec.distribution), b)
    back = noise.interpolate_noise(b, a, 1 - share, spec.distribution)
    np.testing.assert_allclose(way, back, rtol=1e-4, atol=1e-5)


def test_normal_noise_turns_evenly_and_keeps_its_length():
    a, b = noise.draw(Noise((4, 16), dtype="float64"), "z", 0, [3, 8])
    b *= np.linalg.norm(a) / np.linalg.norm(b)
    path = [noise.interpolate_noise(a, b, step / 6, "normal") for step in range(7)]
    np.testing.assert_allclose([np.linalg.norm(step) for step in path], np.linalg.norm(a))
    cosines = [(one * other).sum() / (a * a).sum() for one, other in itertools.pairwise(path)]
    np.testing.assert_allclose(cosines, cosines[0])
    angle = math.acos((a * b).sum() / (a * a).sum())  # the formula of White 2016
    slerp = (math.sin(angle / 3) * a + math.sin(2 * angle / 3) * b) / math.sin(angle)
    np.testing.assert_allclose(path[4], slerp)


@pytest.mark.parametrize("factor", [1, 1 + 1e-9, 3, -1, -3])
def test_parallel_and_opposite_noise_is_joined_by_a_straight_line(factor):
    (a,) = noise.draw(Noise((8,)), "z", 0, [3])
    b = (a * factor).astype(a.dtype)
    np.testing.assert_allclose(
        noise.interpolate_noise(a, b, 0.25, "normal"), 0.75 * a + 0.25 * b, rtol=1e-5, atol=1e-6
    )


def test_uniform_noise_goes_the_way_of_its_normal_quantiles():
    a, b = noise.draw(Noise((5,), distribution="uniform", dtype="float64"), "z", 0, [3, 8])
    normal = statistics.NormalDist()
    quantiles = [np.array([normal.inv_cdf(value) for value in side]) for side in (a, b)]
    expected = [normal.cdf(value) for value in noise.interpolate_noise(*quantiles, 0.3, "normal")]
    np.testing.assert_allclose(noise.interpolate_noise(a, b, 0.3, "uniform"), expected)


FIRST_WORDS = {
    "static": [3393881982877018, 7976333279813064, 7885132081334044, 1199978584763724],
    "static, 7th": [7764334693363732, 8610067383333294, 300379342902522, 804744279445397],
    "steps": [1790698964462332, 1177102041440097, 3006921195655712, 158972334733547],
    "another seed and part": [
        2604683074413597,
        4039816769941041,
        5265227327526744,
        849080542553819,
    ],
}
FIRST_NORMALS = [-0.3139050006866455, 1.2032017707824707, 1.1524189710617065, -1.1112778186798096]
FIRST_KEY = 325538248323967557614563886899694145920
