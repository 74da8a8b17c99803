from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from streamrec.evaluation.ranking import Ranking, reciprocal_rank
from tests.transitions import transition


@given(st.permutations(range(1, 9)), st.integers(1, 10))
def test_reciprocal_rank_is_that_of_a_list_index(order: list[int], target: int) -> None:
    expected = 1 / (order.index(target) + 1) if target in order else 0.0
    assert reciprocal_rank(torch.tensor([order]), torch.tensor([target])).tolist() == [expected]


def test_empty_slots_and_empty_lists_are_misses_and_repeats_count_once() -> None:
    ranked = torch.tensor([[0, 0, 5], [5, 5, 0], [1, 2, 3]])
    assert reciprocal_rank(ranked, torch.tensor([5, 5, 0])).tolist() == [1 / 3, 1.0, 0.0]
    assert reciprocal_rank(torch.zeros(2, 0, dtype=torch.int64), torch.tensor([1, 2])).tolist() == [0.0, 0.0]


def test_recall_and_mrr_by_period_and_policy() -> None:
    seen = transition(
        rewards=torch.ones(4),
        shown=torch.tensor([[3], [4], [5], [6]]),
        time=torch.tensor([100.0, 150.0, 205.0, 206.0]),
        in_session=torch.tensor([1, 0, 2, 1]),
    )
    seen.wanted.shadow = torch.tensor([[[3, 9], [9, 3]], [[4, 9], [4, 9]], [[9, 8], [5, 9]], [[6, 1], [2, 1]]])
    meter = Ranking(["one", "two"], k=2, period_s=100.0)
    meter.see(seen)
    first, second = meter.read()["periods"]
    # The second click opens its session: nothing to predict it from, so it is not scored.
    assert first["models"] == {
        "one": {"recall2": 1.0, "mrr2": 1.0, "n": 1},
        "two": {"recall2": 1.0, "mrr2": 0.5, "n": 1},
    }
    assert second["models"]["one"] == {"recall2": 0.5, "mrr2": 0.5, "n": 2}
    assert second["start"] == 200.0
    assert meter.read()["total"]["two"] == {"recall2": 2 / 3, "mrr2": 0.5, "n": 3}


def test_policies_that_share_the_users_are_scored_on_their_own() -> None:
    seen = transition(rewards=torch.ones(3), shown=torch.tensor([[3], [4], [5]]), policy=torch.tensor([0, 1, 1]))
    seen.wanted.slate = torch.tensor([[3, 1], [1, 2], [9, 5]])
    meter = Ranking(["one", "two"], k=2)
    meter.see(seen)
    assert meter.read()["total"]["one"] == {"recall2": 1.0, "mrr2": 1.0, "n": 1}
    assert meter.read()["total"]["two"] == {"recall2": 0.5, "mrr2": 0.25, "n": 2}


def test_a_click_on_ones_own_list_is_not_scored() -> None:
    meter = Ranking(["a"], k=2)
    meter.see(transition(rewards=torch.ones(3), shown=torch.tensor([[3], [4], [5]])))
    assert meter.read() == {"periods": [], "total": {}}


def test_a_lone_agent_is_scored_by_its_slate_and_state_round_trips() -> None:
    seen = transition(rewards=torch.ones(2), shown=torch.tensor([[3], [4]]))
    seen.wanted.slate = torch.tensor([[3, 1], [1, 2]])
    meter, other = Ranking(["a"], k=2), Ranking(["a"], k=2)
    meter.see(seen)
    other.load_state_dict(meter.state_dict())
    assert other.read() == meter.read()
    assert meter.read()["total"]["a"]["recall2"] == 0.5
