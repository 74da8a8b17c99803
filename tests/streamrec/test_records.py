from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from streamrec.records import Decision, Events, Kind, rank_within, stable_order

users = st.lists(st.integers(0, 5), min_size=0, max_size=60)


def events(of: list[int]) -> Events:
    user = torch.tensor(of, dtype=torch.int64)
    return Events.of(user, Kind.CLICK, torch.arange(len(of)))


@given(users)
def test_waves_hold_each_user_once_and_keep_a_users_order(of: list[int]) -> None:
    seen: dict[int, list[float]] = {}
    for wave in events(of).waves():
        assert len(set(wave.user.tolist())) == len(wave)
        for user, time in zip(wave.user.tolist(), wave.time.tolist(), strict=True):
            seen.setdefault(user, []).append(time)
    assert seen == {user: [float(at) for at, u in enumerate(of) if u == user] for user in of}


@given(st.lists(st.sampled_from([-5, 0, 1, 2, (1 << 31) - 1, 1 << 31, 1 << 62])), st.booleans())
def test_stable_order_is_that_of_torch(of: list[int], small: bool) -> None:
    some = [one for one in of if not small or 0 <= one < 1 << 31]
    group = torch.tensor([*some, *range(100), *some], dtype=torch.int64)
    assert torch.equal(stable_order(group), torch.argsort(group, stable=True))


@given(users)
def test_rank_within_counts_earlier_equals(of: list[int]) -> None:
    expected = [of[:at].count(user) for at, user in enumerate(of)]
    assert rank_within(torch.tensor(of, dtype=torch.int64)).tolist() == expected


def test_index_and_cat_reach_nested_records_and_widths() -> None:
    one = Decision.of(torch.tensor([1, 2, 3]), torch.tensor([[1, 2], [3, 4], [5, 6]]))
    again = Decision.cat([one[:1], one[torch.tensor([False, True, True])]])
    for (name, a), (_, b) in zip(one.columns(), again.columns(), strict=True):
        assert torch.equal(a, b), name


def test_a_deterministic_slate_has_log_propensity_zero() -> None:
    one = Decision.of(torch.tensor([1]), torch.tensor([[1, 2]]))
    assert one.logp.tolist() == [0.0]


def test_allocate_and_put_make_a_table() -> None:
    one = Decision.of(torch.tensor([1, 2]), torch.tensor([[1, 2], [3, 4]]))
    table = one.allocate(5)
    table.put(torch.tensor([4, 0]), one)
    assert table.slate.tolist() == [[3, 4], [0, 0], [0, 0], [0, 0], [1, 2]]
