"""Slates with propensities, against enumeration of every slate."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from streamrec import explore
from streamrec.explore import NOTHING, allowed, choose, nth_free, offered, plackett_luce, without_repeats
from streamrec.records import History

SCORES = [0.3, -math.inf, 2.0, -1.0, 0.9]
VALID = (0, 2, 3, 4)
N = 40_000


def many(scores: list[float]) -> Tensor:
    return torch.tensor(scores).expand(N, -1)


def random() -> Generator:
    return Generator().manual_seed(5)


def greedy_probability(slate: tuple[int, ...], epsilon: float) -> list[float]:
    """Probability of each choice given those above, by the definition of the policy."""
    left, out = list(VALID), []
    for item in slate:
        best = max(left, key=lambda i: SCORES[i])
        out.append(epsilon / len(left) + (1 - epsilon) * (item == best))
        left.remove(item)
    return out


def softmax_probability(slate: tuple[int, ...], temperature: float) -> list[float]:
    left, out = list(VALID), []
    for item in slate:
        mass = [math.exp(SCORES[i] / temperature) for i in left]
        out.append(mass[left.index(item)] / sum(mass))
        left.remove(item)
    return out


def check(index: Tensor, slot_logp: Tensor, probability: object, k: int) -> None:
    """Every row says the exact propensity of its choices, and slates come as often as their propensity says."""
    assert callable(probability)
    slates = list(itertools.permutations(VALID, k))
    expected = {slate: probability(slate) for slate in slates}
    assert math.isclose(sum(math.prod(p) for p in expected.values()), 1.0)
    rows = [tuple(row) for row in index.tolist()]
    said = torch.tensor([[math.log(p) for p in expected[row]] for row in rows])
    torch.testing.assert_close(slot_logp, said, atol=1e-5, rtol=1e-5)
    seen = Counter(rows)
    for slate in slates:
        p = math.prod(expected[slate])
        assert abs(seen[slate] / N - p) < 5 * math.sqrt(p * (1 - p) / N) + 1e-9, slate


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("epsilon", [0.1, 0.6, 1.0])
def test_epsilon_greedy_is_what_it_says(k: int, epsilon: float) -> None:
    index, slot_logp = choose(many(SCORES), k, epsilon, random())
    check(index, slot_logp, lambda slate: greedy_probability(slate, epsilon), k)


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_plackett_luce_is_what_it_says(k: int, temperature: float) -> None:
    index, slot_logp = plackett_luce(many(SCORES), k, temperature, random())
    check(index, slot_logp, lambda slate: softmax_probability(slate, temperature), k)


def test_without_exploration_the_best_come_in_order_and_nothing_is_drawn() -> None:
    generator = random()
    index, slot_logp = choose(torch.tensor([SCORES]), 3, 0.0, generator)
    assert index.tolist() == [[2, 4, 0]]
    assert slot_logp.tolist() == [[0.0, 0.0, 0.0]]
    assert torch.equal(generator.get_state(), random().get_state())


@pytest.mark.parametrize("epsilon", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("width", [0, 3, 8])
def test_slots_without_a_candidate_are_certainly_empty(epsilon: float, width: int) -> None:
    scores = torch.full((50, width), -torch.inf)
    scores[:, 1:2] = 1.0
    scores[25:] = -torch.inf
    for index, slot_logp in (
        choose(scores, 4, epsilon, random()),
        plackett_luce(scores, 4, 1.0, random()),
    ):
        found = int(width > 1)
        assert index.shape == slot_logp.shape == (50, 4)
        assert (index[:25, :found] == 1).all()
        assert (index[:25, found:] == -1).all()
        assert (index[25:] == -1).all()
        assert (slot_logp == 0).all()


@pytest.mark.parametrize("epsilon", [0.0, 0.3])
def test_no_rows_are_fine(epsilon: float) -> None:
    index, slot_logp = choose(torch.zeros(0, 5), 3, epsilon, random())
    assert index.shape == slot_logp.shape == (0, 3)


@settings(max_examples=60, deadline=None)
@given(
    scores=st.lists(
        st.lists(st.one_of(st.just(-math.inf), st.floats(-2, 2, width=32)), min_size=6, max_size=6),
        min_size=1,
        max_size=5,
    ),
    k=st.integers(1, 8),
    epsilon=st.sampled_from([0.2, 0.7, 1.0]),
    seed=st.integers(0, 99),
)
def test_few_rows_explore_as_many_do(scores: list[list[float]], k: int, epsilon: float, seed: int) -> None:
    of = torch.tensor(scores)
    few = choose(of, k, epsilon, Generator().manual_seed(seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(explore, "FEW", 0)
        many = choose(of, k, epsilon, Generator().manual_seed(seed))
    assert torch.equal(few[0], many[0])
    assert torch.equal(few[1], many[1])


def test_refuses_what_is_no_probability_and_no_temperature() -> None:
    with pytest.raises(ValueError, match=r"epsilon must be between 0 and 1, got 1\.5"):
        choose(torch.zeros(1, 2), 1, 1.5, random())
    with pytest.raises(ValueError, match="temperature must be above 0"):
        plackett_luce(torch.zeros(1, 2), 1, 0.0, random())


def test_nth_free_passes_over_what_is_taken() -> None:
    taken = [1, 4, 2, NOTHING]
    free = [number for number in range(10) if number not in taken]
    got = nth_free(torch.arange(len(free)), torch.tensor([taken]).expand(len(free), -1))
    assert got.tolist() == free


def test_without_repeats_makes_every_order_equally_likely() -> None:
    taken = torch.tensor([[2, NOTHING]]).expand(N, -1)
    numbers, slot_logp = without_repeats(torch.full((N,), 4), 3, random(), taken)
    orders = list(itertools.permutations((0, 1, 3, 4), 3))
    seen = Counter(tuple(row) for row in numbers.tolist())
    assert set(seen) == set(orders)
    p = 1 / len(orders)
    assert all(abs(seen[order] / N - p) < 5 * math.sqrt(p * (1 - p) / N) for order in orders)
    torch.testing.assert_close(slot_logp[0], -torch.tensor([4.0, 3.0, 2.0]).log())


def test_without_repeats_stops_when_nothing_is_left() -> None:
    numbers, slot_logp = without_repeats(torch.tensor([0, 1, 5]), 3, random())
    assert numbers[0].tolist() == [-1, -1, -1]
    assert numbers[1].tolist() == [0, -1, -1]
    assert len(set(numbers[2].tolist())) == 3
    assert slot_logp[:2].abs().sum() == 0


def test_allowed_leaves_out_what_is_empty_gone_or_seen() -> None:
    available = torch.tensor([False, True, True, False, True])
    items = torch.tensor([[1, 2, 3, 4, 0]])
    assert allowed(items, available).tolist() == [[True, True, False, True, False]]
    seen = torch.tensor([[0, 2], [4, 1]], dtype=torch.int32)
    assert allowed(items, available, seen).tolist() == [
        [True, False, False, True, False],
        [False, True, False, False, False],
    ]


def test_plackett_luce_counts_no_empty_slot_as_a_pick() -> None:
    """Two valid candidates and three slots: by hand, log(sigmoid(1)) for the better first, then certainty twice."""
    scores = torch.tensor([[1.0, 0.0, -torch.inf, -torch.inf]]).expand(64, -1)
    index, slot_logp = plackett_luce(scores, 3, 1.0, Generator().manual_seed(0))
    first = index[:, 0] == 0
    assert first.any()
    assert not first.all()
    expected = torch.where(first, torch.tensor(1.0).sigmoid().log(), torch.tensor(-1.0).sigmoid().log())
    torch.testing.assert_close(slot_logp[:, 0], expected)
    assert (slot_logp[:, 1:] == 0).all()
    assert (index[:, 2] == -1).all()


@settings(max_examples=50)
@given(
    st.lists(st.lists(st.integers(1, 9), max_size=4, unique=True), min_size=1, max_size=6), st.sets(st.integers(1, 9))
)
def test_whoever_brings_no_candidates_may_be_shown_everything(offers: list[list[int]], there: set[int]) -> None:
    available = torch.tensor([row in there for row in range(10)])
    offer = torch.tensor([[*rows, *[0] * (4 - len(rows))] for rows in offers])
    user = torch.arange(len(offers))
    before = offer.clone()
    given = offered(History.of(user=user, items=torch.zeros(len(user), 1), offer=offer), available)
    assert given is not None
    items, mask = given
    for row, rows in enumerate(offers):
        assert sorted(items[row][mask[row]].tolist()) == sorted(there & set(rows) if rows else there)
    assert torch.equal(offer, before)
