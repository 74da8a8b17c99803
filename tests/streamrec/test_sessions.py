from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from streamrec.records import Decision, Events, Kind, Transition
from streamrec.sessions import SessionStore

L, S, K = 4, 3, 3


def store(**changes: object) -> SessionStore:
    options: dict[str, object] = {
        "users": 8,
        "length": L,
        "skips": S,
        "slate": K,
        "reward": {"click": 1.0, "purchase": 5.0},
    }
    return SessionStore(**(options | changes))  # type: ignore[arg-type]


def event(user: Tensor, kind: Kind, time: float, **columns: int | float) -> Events:
    n = len(user)
    return Events.of(user, kind, torch.full((n,), time), **{k: torch.full((n,), v) for k, v in columns.items()})


def show(sessions: SessionStore, user: Tensor, slate: list[int], time: float) -> Decision:
    asked = event(user, Kind.REQUEST, time)
    assert sessions.take(asked) is None
    history = sessions.read(user, asked.time)
    decision = Decision.of(user, torch.tensor([slate] * len(user)))
    decision.id = sessions.number(user)
    sessions.open(decision, decision, history, asked)
    return decision


kinds = st.sampled_from([Kind.CLICK, Kind.SKIP, Kind.PURCHASE, Kind.REQUEST, Kind.LEAVE])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), kinds, st.integers(1, 9)), max_size=60))
def test_windows_equal_a_list_per_user(stream: list[tuple[int, Kind, int]]) -> None:
    sessions = store()
    rows = sessions.rows([f"u{i}" for i in range(4)])
    clicks: dict[int, list[int]] = {i: [] for i in range(4)}
    skips: dict[int, list[int]] = {i: [] for i in range(4)}
    users = torch.tensor([u for u, _, _ in stream], dtype=torch.int64)
    columns = torch.tensor([int(k) for _, k, _ in stream], dtype=torch.int8)
    items = torch.tensor([i for _, _, i in stream], dtype=torch.int64)
    for wave in Events.of(rows[users], columns, torch.arange(len(stream)), item=items).waves():
        sessions.take(wave)
    for user, kind, item in stream:
        if kind in (Kind.CLICK, Kind.PURCHASE):
            clicks[user].append(item)
        elif kind is Kind.SKIP:
            skips[user].append(item)
    history = sessions.read(rows, torch.zeros(4))
    for user in range(4):
        kept = clicks[user][-L:]
        assert history.items[user].tolist() == [0] * (L - len(kept)) + kept
        kept = skips[user][-S:]
        assert history.skipped[user].tolist() == [0] * (S - len(kept)) + kept
        assert int(history.in_session[user]) == len(clicks[user])


def test_a_request_closes_the_decision_before_it_and_silence_is_an_impression() -> None:
    sessions = store()
    user = sessions.rows(["a"])
    first = show(sessions, user, [1, 2, 3], 10.0)
    click = event(user, Kind.CLICK, 12.0, item=2, decision=int(first.id), slot=1, value=1.0)
    assert sessions.take(click) is None
    closed = sessions.take(event(user, Kind.REQUEST, 20.0))
    assert closed is not None
    assert closed.feedback.tolist() == [[Kind.IMPRESSION, Kind.CLICK, Kind.IMPRESSION]]
    assert closed.rewards.tolist() == [[0.0, 1.0, 0.0]]
    assert closed.history.items.tolist() == [[0, 0, 0, 0]]
    assert closed.next.items.tolist() == [[0, 0, 0, 2]]
    assert (closed.elapsed.tolist(), closed.done.tolist()) == ([10.0], [False])


def test_the_slot_is_found_by_its_item_and_all_answered_closes_at_once() -> None:
    sessions = store()
    user = sessions.rows(["a"])
    decision = show(sessions, user, [7, 8, 0], 0.0)
    assert sessions.take(event(user, Kind.SKIP, 1.0, item=8, decision=int(decision.id))) is None
    closed = sessions.take(event(user, Kind.CLICK, 2.0, item=7, decision=int(decision.id)))
    assert closed is not None
    assert closed.feedback.tolist() == [[Kind.CLICK, Kind.SKIP, Kind.NONE]]
    assert closed.next.skipped.tolist() == [[0, 0, 8]]


def test_purchase_after_click_adds_up_and_names_the_slot() -> None:
    sessions = store()
    user = sessions.rows(["a"])
    decision = int(show(sessions, user, [1, 2, 3], 0.0).id)
    sessions.take(event(user, Kind.CLICK, 1.0, item=1, decision=decision, slot=0))
    sessions.take(event(user, Kind.PURCHASE, 2.0, item=1, decision=decision, slot=0, value=2.0))
    closed = sessions.take(event(user, Kind.LEAVE, 3.0))
    assert closed is not None
    assert closed.rewards.tolist() == [[11.0, 0.0, 0.0]]
    assert closed.feedback[0, 0] == Kind.PURCHASE
    assert closed.done.tolist() == [True]


def test_late_duplicate_and_unknown_feedback_are_counted_and_earn_nothing() -> None:
    sessions = store()
    user = sessions.rows(["a"])
    decision = int(show(sessions, user, [1, 2, 3], 0.0).id)
    click = event(user, Kind.CLICK, 1.0, item=1, decision=decision, slot=0)
    sessions.take(click)
    sessions.take(click)
    sessions.take(event(user, Kind.CLICK, 2.0, item=5, decision=12345, slot=0))
    closed = sessions.take(event(user, Kind.REQUEST, 3.0))
    assert closed is not None
    assert closed.reward.tolist() == [1.0]
    sessions.take(event(user, Kind.CLICK, 4.0, item=2, decision=decision, slot=1))
    assert sessions.counts == {"late": 1, "duplicate": 1, "unknown": 1, "out_of_order": 0, "evicted_open": 0}
    # The click twice delivered happened once; the late and the unknown one did happen.
    assert sessions.read(user, torch.tensor([5.0])).items.tolist() == [[0, 1, 5, 2]]


def test_patience_is_event_time_and_ends_the_visit() -> None:
    sessions = store(patience_s=60.0)
    user, other = sessions.rows(["a"]), sessions.rows(["b"])
    show(sessions, user, [1, 2, 3], 100.0)
    sessions.take(event(other, Kind.CLICK, 150.0, item=1))
    assert sessions.expire() is None
    sessions.take(event(other, Kind.CLICK, 190.0, item=1))
    closed = sessions.expire()
    assert isinstance(closed, Transition)
    assert (closed.time.tolist(), closed.done.tolist(), closed.reward.tolist()) == ([160.0], [True], [0.0])


def test_a_pause_or_a_new_session_id_starts_a_session() -> None:
    sessions = store(gap_s=60.0)
    user = sessions.rows(["a"])
    sessions.take(event(user, Kind.CLICK, 0.0, item=1))
    sessions.take(event(user, Kind.CLICK, 59.0, item=2))
    assert sessions.read(user, torch.zeros(1)).in_session.tolist() == [2]
    sessions.take(event(user, Kind.REQUEST, 200.0))
    assert sessions.read(user, torch.zeros(1)).in_session.tolist() == [0]
    sessions.take(event(user, Kind.CLICK, 210.0, item=3, session=77))
    sessions.take(event(user, Kind.CLICK, 999.0, item=4, session=77))
    assert sessions.read(user, torch.zeros(1)).in_session.tolist() == [2]


def test_a_logs_ticket_finds_its_decision() -> None:
    sessions = store()
    user = sessions.rows(["a"])
    asked = event(user, Kind.REQUEST, 0.0, decision=-5)
    sessions.take(asked)
    decision = Decision.of(user, torch.tensor([[9]]))
    decision.id = sessions.number(user)
    sessions.open(decision, decision, sessions.read(user, asked.time), asked)
    closed = sessions.take(event(user, Kind.CLICK, 0.0, item=9, decision=-5, slot=0))
    assert closed is not None
    assert closed.reward.tolist() == [1.0]
    assert sessions.counts["unknown"] == 0


def test_the_longest_idle_users_make_room_and_leave_nothing_behind() -> None:
    sessions = store(users=3)
    a, b, c = (sessions.rows([name]) for name in "abc")
    for row in (a, b, c):
        sessions.take(event(row, Kind.CLICK, 1.0, item=1))
    sessions.rows(["a"])
    show(sessions, b, [1, 2, 3], 2.0)
    d = sessions.rows(["d"])
    assert d.tolist() == b.tolist()
    assert sessions.read(d, torch.zeros(1)).items.tolist() == [[0, 0, 0, 0]]
    assert sessions.counts["evicted_open"] == 1
    assert sessions.user_ids(torch.cat([a, d, c])) == ["a", "d", "c"]
    with pytest.raises(ValueError, match=r"names 4 new users but sessions.users = 3 .* raise sessions.users"):
        sessions.rows(["e", "f", "g", "h"])


def test_memory_stays_bounded_under_endless_new_users() -> None:
    sessions = store(users=50)
    for start in range(0, 1000, 25):
        rows = sessions.rows([f"u{i}" for i in range(start, start + 25)])
        sessions.take(event(rows, Kind.CLICK, float(start), item=1))
    assert len(sessions.users.ids) == 50
    assert len(sessions.users._row) <= 50


def test_decision_ids_do_not_depend_on_the_batch() -> None:
    one, two = store(), store()
    rows = one.rows(["a", "b", "c"])
    together = one.number(rows)
    two_rows = two.rows(["c", "b", "a"])
    alone = torch.cat([two.number(two_rows[i : i + 1]) for i in (2, 1, 0)])
    assert together.tolist() == alone.tolist()
    assert len({*together.tolist(), *one.number(rows).tolist()}) == 6
    assert all(0 < number < 2**53 for number in together.tolist())


def test_reward_names_a_kind() -> None:
    with pytest.raises(ValueError, match="no kind 'clik'"):
        store(reward={"clik": 1.0})


def test_another_width_is_refused_with_the_setting() -> None:
    sessions = store()
    sessions.rows(["a"])
    with pytest.raises(ValueError, match=r"sessions.length, sessions.skips and slate"):
        store(length=L + 1).load_state_dict(sessions.state_dict())


def test_a_reaction_behind_others_counts_as_long_as_the_grace_lasts() -> None:
    for grace, counted in ((0.0, 0.0), (50.0, 1.0)):
        sessions = SessionStore(users=5, slate=2, patience_s=100.0, grace_s=grace)
        user, other = sessions.rows(["u", "v"]).split(1)
        decision = int(show(sessions, user, [1, 2], 0.0).id[0])
        closed = [sessions.take(event(other, Kind.CLICK, 140.0, item=9)), sessions.expire()]
        closed.append(sessions.take(event(user, Kind.CLICK, 30.0, item=1, decision=decision, slot=0)))
        closed += [sessions.take(event(other, Kind.CLICK, 300.0, item=9)), sessions.expire()]
        (only,) = [part for part in closed if part is not None]
        assert float(only.reward) == counted
        assert only.time.tolist() == [100.0]
        assert sessions.counts["late"] == 1 - counted


def test_older_events_are_counted_and_stay_where_they_came() -> None:
    sessions = SessionStore(users=5)
    user = sessions.rows(["u"])
    for time, item in ((10.0, 1), (5.0, 2), (10.0, 3)):
        sessions.take(event(user, Kind.CLICK, time, item=item))
    assert sessions.counts["out_of_order"] == 1
    history = sessions.read(user, torch.tensor([11.0], dtype=torch.float64))
    assert history.items[0, -3:].tolist() == [1, 2, 3]
    assert history.times[0, -3:].tolist() == [10.0, 5.0, 10.0]
    assert sessions.heard(user).tolist() == [10.0]


def test_erased_users_leave_nothing_and_others_get_their_rows() -> None:
    sessions = SessionStore(users=2, slate=2)
    user = sessions.rows(["u", "v"])
    show(sessions, user[:1], [1, 2], 0.0)
    sessions.take(event(user[:1], Kind.CLICK, 1.0, item=4))
    assert sessions.erase(["u", "nobody", "u"]).tolist() == [0]
    assert sessions.find("u") is None
    for name, table in sessions._tables().items():
        assert not table[0].any(), name
    assert sessions.counts["evicted_open"] == 0
    assert sessions.rows(["w", "v"]).tolist() == [0, 1]
    again = SessionStore(users=2, slate=2)
    again.load_state_dict(sessions.state_dict())
    assert again.find("w") == 0
