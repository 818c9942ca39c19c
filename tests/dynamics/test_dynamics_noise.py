"""Randomness as a function of (seed, purpose, counters)."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learndyn.noise import generator, isolated, key, seed_forward

PARTS = st.tuples(
    st.integers(0, 2**40), st.sampled_from(["order", "augment", "probe"]), st.lists(st.integers(0, 10**6), max_size=3)
)


@given(PARTS, PARTS)
def test_keys_are_equal_where_their_arguments_are(one, other):
    keys = [key(seed, purpose, *counters) for seed, purpose, counters in (one, other)]
    assert (keys[0] == keys[1]) == (one == other)
    assert all(0 <= k < 2**128 for k in keys)


def test_neighbouring_generators_are_independent():
    draws = np.stack([generator(seed, "order", step).standard_normal(200) for seed in range(10) for step in range(10)])
    correlations = np.corrcoef(draws)[np.triu_indices(100, 1)]
    # Of 4,950 independent pairs with deviation 1/√200 = 0.071, the largest is expected at 3.8 deviations.
    assert abs(correlations).max() < 5 / 200**0.5
    assert correlations.std() == pytest.approx(200**-0.5, rel=0.05)
    assert np.array_equal(generator(3, "order", 4).standard_normal(5), generator(3, "order", 4).standard_normal(5))


def test_numbers_of_today_are_those_of_tomorrow():
    """Stored runs would no longer replay if these changed."""
    assert key(0, "order", 3) == 213170798544676382160269557753755258786
    assert generator(0, "order", 3).permutation(6).tolist() == [4, 3, 0, 2, 1, 5]


def test_the_forward_seed_depends_on_step_and_seed_alone():
    draws = {}
    for seed, step in ((0, 0), (0, 1), (1, 0)):
        for _ in range(2):
            with isolated():
                torch.rand(3)
                seed_forward(seed, step)
                draws.setdefault((seed, step), []).append(torch.rand(5))
    assert all(torch.equal(*pair) for pair in draws.values())
    first = [pair[0] for pair in draws.values()]
    assert not torch.equal(first[0], first[1]) and not torch.equal(first[0], first[2])


def test_isolation_gives_the_state_back_whatever_happens():
    before = torch.random.get_rng_state()
    with pytest.raises(KeyError), isolated():
        seed_forward(1, 2)
        assert not torch.equal(torch.random.get_rng_state(), before)
        raise KeyError
    assert torch.equal(torch.random.get_rng_state(), before)
