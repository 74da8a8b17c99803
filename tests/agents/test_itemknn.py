"""ItemKNN: exact counts while no list is full, heavy neighbours kept when one is, and lists that are worth showing."""

from __future__ import annotations

from collections import defaultdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.itemknn import ItemKNN
from agents.rules import SequentialRules
from streamrec.records import Decision, Kind, Transition
from tests.histories import catalog, clicked, history

Session = tuple[list[int], list[int]]  # clicks before, clicked slots of one slate

SESSIONS = st.lists(
    st.tuples(st.lists(st.integers(1, 5), max_size=6), st.lists(st.integers(1, 5), max_size=3, unique=True)),
    min_size=1,
    max_size=30,
)


def transition(sessions: list[Session]) -> Transition:
    """One slate of three per session; what is listed was clicked, the rest of the slate was shown in vain."""
    before = history([earlier for earlier, _ in sessions])
    slate = torch.zeros(len(sessions), 3, dtype=torch.int64)
    feedback = torch.full((len(sessions), 3), int(Kind.IMPRESSION), dtype=torch.int8)
    for at, (_, targets) in enumerate(sessions):
        slate[at, : len(targets)] = torch.tensor(targets, dtype=torch.int64)
        feedback[at, : len(targets)] = int(Kind.CLICK)
        slate[at, len(targets) :] = torch.arange(3 - len(targets)) + 7
    made = clicked(before, torch.ones(len(sessions), dtype=torch.int64))
    shown = Decision.of(before.user, slate)
    made.shown, made.wanted, made.feedback = shown, shown, feedback
    made.rewards = (feedback == int(Kind.CLICK)).float()
    return made


def pairs(sessions: list[Session], window: int, directed: bool) -> dict[tuple[int, int], float]:
    """Co-counts by the definition: each clicked item with every click at most `window` before it."""
    table: dict[tuple[int, int], float] = defaultdict(float)
    for earlier, targets in sessions:
        clicks = [*earlier, *targets]
        for later in range(len(earlier), len(clicks)):
            for first in range(max(0, later - window), later):
                i, j = clicks[first], clicks[later]
                if directed:
                    table[i, j] += 1 / (later - first)
                elif i != j:
                    table[i, j] += 1 / (later - first)
                    table[j, i] += 1 / (later - first)
    return table


def listed(agent: ItemKNN) -> dict[tuple[int, int], float]:
    row, place = torch.nonzero(agent.ids, as_tuple=True)
    found = zip(row.tolist(), agent.ids[row, place].tolist(), agent.weights[row, place].tolist(), strict=True)
    return {(i, j): weight for i, j, weight in found}


@settings(max_examples=80, deadline=None)
@given(batches=st.lists(SESSIONS, min_size=1, max_size=4), window=st.integers(1, 5), directed=st.booleans())
def test_counts_are_exact_while_no_list_is_full(batches: list[list[Session]], window: int, directed: bool) -> None:
    agent = (SequentialRules if directed else ItemKNN)(catalog(9), 3, neighbours=9, window=window)
    for sessions in batches:
        agent.observe(transition(sessions))
    expected = pairs([s for sessions in batches for s in sessions], window, directed)
    got = listed(agent)
    assert got.keys() == expected.keys()
    torch.testing.assert_close(got, dict(expected), rtol=1e-5, atol=1e-6)
    assert torch.equal(agent.filled, (agent.ids > 0).sum(1))
    clicks = torch.bincount(torch.tensor([j for b in batches for _, t in b for j in t], dtype=torch.int64), minlength=9)
    assert agent.counts[: len(clicks)].tolist() == clicks.tolist()


def test_one_call_or_many_learn_the_same() -> None:
    sessions: list[Session] = [([1, 2, 3], [4]), ([1, 2], [3]), ([2], [4, 3]), ([1, 2, 3], [4])]
    once, often = ItemKNN(catalog(9), 3), ItemKNN(catalog(9), 3)
    once.observe(transition(sessions))
    for session in sessions:
        often.observe(transition([session]))
    torch.testing.assert_close(listed(once), listed(often))


def test_heavy_neighbours_outlive_a_flood_of_single_ones() -> None:
    """Space-Saving: a neighbour with more than total / M of an item's weight is always listed."""
    agent = SequentialRules(catalog(60), 3, neighbours=8)
    generator = torch.Generator().manual_seed(1)
    for step in range(120):
        rare = torch.randint(10, 60, (6,), generator=generator).tolist()
        sessions: list[Session] = [([1], [j]) for j in rare]
        if step % 2:
            sessions += [([1], [2]), ([1], [3])]
        agent.observe(transition(sessions))
    assert agent.filled[1] == 8
    assert set(agent.ids[1].tolist()) >= {2, 3}
    assert len(set(agent.ids[1].tolist())) == 8, "a neighbour may be listed once only"
    assert agent.act(history([[1]])).slate[0, :2].sort().values.tolist() == [2, 3]


def test_more_newcomers_than_places_in_one_call_keep_the_heaviest() -> None:
    agent = SequentialRules(catalog(60), 2, neighbours=4)
    agent.observe(transition([([1], [j]) for j in range(10, 50)] + [([1], [30]), ([1], [30]), ([1], [20])]))
    assert set(agent.ids[1].tolist()) >= {20, 30}
    assert agent.act(history([[1]])).slate.tolist() == [[30, 20]]


def test_newcomers_to_a_full_list_take_different_places() -> None:
    agent = SequentialRules(catalog(60), 4, neighbours=4)
    agent.observe(transition([([1], [j]) for j in (10, 11, 12, 13, 13, 13)]))
    agent.observe(transition([([1], [j]) for j in (20, 20, 21, 22)]))
    assert set(agent.ids[1].tolist()) == {13, 20, 21, 22}
    weights = dict(zip(agent.ids[1].tolist(), agent.weights[1].tolist(), strict=True))
    assert weights == {13: 3.0, 20: 3.0, 21: 2.0, 22: 2.0}, "each inherits the count it drives out"


def test_score_is_the_recency_weighted_sum_of_similarities() -> None:
    """Against the formula of the docstring, computed densely."""
    agent = ItemKNN(catalog(9), 9, window=3, last=3, shrink=2.0)
    generator = torch.Generator().manual_seed(3)
    drawn = torch.randint(1, 10, (200, 4), generator=generator).tolist()
    sessions: list[Session] = [(row[:3], row[3:]) for row in drawn]
    agent.observe(transition(sessions))
    c, n = torch.zeros(10, 10), agent.counts[:10]
    for (i, j), weight in pairs(sessions, 3, False).items():
        c[i, j] = weight
    similar = c / ((n.unsqueeze(1) * n).sqrt() + 2.0)
    score = similar[5] + similar[2] / 2 + similar[7] / 3
    assert agent.act(history([[1, 7, 2, 5]])).slate[0].tolist() == score[1:].argsort(descending=True).add(1).tolist()


def test_short_lists_are_filled_with_popular_items_and_ties_told_apart_by_them() -> None:
    agent = SequentialRules(catalog(9), 5)
    agent.observe(transition([([1], [4]), ([1], [6]), ([], [8]), ([], [8]), ([], [6])]))
    assert agent.act(history([[1]])).slate[0, :3].tolist() == [6, 4, 8]
    empty = agent.act(history([[]])).slate[0]
    assert set(empty[:2].tolist()) == {6, 8}
    assert len(set(empty.tolist())) == 5


def test_only_the_running_session_counts() -> None:
    agent = SequentialRules(catalog(9), 1)
    agent.observe(transition([([1], [4]), ([2], [5]), ([2], [5]), ([], [5])]))
    before = history([[1, 2], [2, 1]], in_session=[0, 1])
    assert agent.act(before).slate.tolist() == [[5], [4]]
    agent.observe(clicked(before, torch.tensor([9, 8])))
    assert (1, 9) not in listed(agent)
    assert (2, 8) not in listed(agent)
    assert (1, 8) in listed(agent)


@pytest.mark.parametrize("cls", [ItemKNN, SequentialRules])
@pytest.mark.parametrize("exclude_seen", [False, True])
def test_exploring_a_little_shows_the_same_as_not_exploring(cls: type[ItemKNN], exclude_seen: bool) -> None:
    """The two ways to make candidates, narrow and whole, rank alike."""
    items = catalog(40)
    items.retire(torch.tensor([3, 7]))
    agents = [cls(items, 6, exclude_seen=exclude_seen, epsilon=e) for e in (0.0, 1e-9)]
    generator = torch.Generator().manual_seed(2)
    drawn = torch.randint(1, 41, (150, 4), generator=generator).tolist()
    for agent in agents:
        agent.observe(transition([(row[:3], row[3:]) for row in drawn]))
    narrow, whole = (agent.act(history([row[:3] for row in drawn])).slate for agent in agents)
    ranked = agents[0].popular.counts[whole] > 0  # never-clicked fillers have no order
    assert torch.equal(narrow * ranked, whole * ranked)
    assert not torch.isin(narrow, torch.tensor([0, 3, 7])).any()
    if exclude_seen:
        assert not (narrow.unsqueeze(2) == torch.tensor([row[:3] for row in drawn]).unsqueeze(1)).any()


def test_old_pairs_fade_with_clicks() -> None:
    agent = SequentialRules(catalog(9), 2, half_life_clicks=5.0)
    for target, times in ((4, 12), (6, 12)):
        for _ in range(times):
            agent.observe(transition([([1], [target])]))
    assert agent.act(history([[1]])).slate.tolist() == [[6, 4]]
    steady = SequentialRules(catalog(9), 2)
    for target, times in ((4, 13), (6, 12)):
        for _ in range(times):
            steady.observe(transition([([1], [target])]))
    assert steady.act(history([[1]])).slate.tolist() == [[4, 6]]


def test_refuses_settings_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="neighbours must be at least 1"):
        ItemKNN(catalog(2), 1, neighbours=0)
    with pytest.raises(ValueError, match="power and shrink"):
        ItemKNN(catalog(2), 1, shrink=-1.0)
    with pytest.raises(ValueError, match="saved with neighbours=4, here it is 5"):
        ItemKNN(catalog(2), 1, neighbours=5).load_state_dict(ItemKNN(catalog(2), 1, neighbours=4).state_dict())
