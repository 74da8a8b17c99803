from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from streamrec.data.clicks import ask_before_clicks
from streamrec.records import POSITIVE, Events, Kind

ROW = st.tuples(
    st.integers(0, 3),  # user
    st.sampled_from([Kind.CLICK, Kind.PURCHASE, Kind.RATING, Kind.SKIP, Kind.LEAVE, Kind.REQUEST, Kind.IMPRESSION]),
    st.integers(0, 5),  # item
    st.sampled_from([0, 0, 0, 77, -5]),  # decision
    st.integers(0, 2),  # session
)


Rows = list[tuple[int, Kind, int, int, int]]


def make(rows: Rows, slots: int) -> Events:
    user, kind, item, decision, session = torch.tensor(rows, dtype=torch.int64).reshape(-1, 5).unbind(1)
    n = len(rows)
    return Events.of(
        user,
        kind,
        torch.arange(n, dtype=torch.float64),  # a time of its own for every event names it
        item=item,
        value=torch.arange(n) + 2.0,
        decision=decision,
        session=session,
        sent=torch.arange(n, dtype=torch.float64) + 1000,
        shown=torch.zeros(n, slots, dtype=torch.int64),
    )


def organic(events: Events) -> Tensor:
    positive = torch.isin(events.kind, torch.tensor([int(kind) for kind in POSITIVE], dtype=torch.int8))
    return positive & (events.decision == 0) & (events.item > 0)


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(ROW, max_size=20), slots=st.integers(0, 3), first=st.integers(1, 1000))
def test_a_question_before_each_organic_positive(rows: Rows, slots: int, first: int) -> None:
    events = make(rows, slots)
    before = [column.clone() for _, column in events.columns()]
    out = ask_before_clicks(events, first)
    hit = organic(events)
    clicks = int(hit.sum())
    assert len(out) == len(events) + clicks
    assert out.shown.shape == (len(out), max(1, slots)) == out.slot_logp.shape

    added = torch.zeros(len(out), dtype=torch.bool)
    added[:-1] = out.time[1:] == out.time[:-1]
    asked, rest = out[added], out[~added]
    torch.testing.assert_close(rest.time, events.time)  # everybody's order is kept
    for name in ("user", "kind", "item", "value", "session", "sent"):
        assert torch.equal(getattr(rest, name), getattr(events, name))
    assert torch.equal(rest.decision[~hit], events.decision[~hit])
    assert torch.equal(rest.slot[~hit], events.slot[~hit])

    click = rest[hit]
    for name in ("user", "time", "session", "sent", "decision"):
        assert torch.equal(getattr(asked, name), getattr(click, name))
    assert torch.equal(click.decision, -torch.arange(first, first + clicks))
    assert (asked.kind == int(Kind.REQUEST)).all()
    assert (asked.item == 0).all()
    assert (asked.value == 1).all()
    assert (asked.slot == -1).all()
    assert (click.slot == 0).all()
    assert torch.equal(asked.shown[:, 0], click.item)
    assert (asked.shown[:, 1:] == 0).all()
    assert (rest.shown == 0).all()
    assert out.slot_logp.isnan().all()
    assert all(torch.equal(a, b) or a.is_floating_point() for a, (_, b) in zip(before, events.columns(), strict=True))


def test_click_is_resolved_one_wave_after_its_question() -> None:
    out = ask_before_clicks(make([(1, Kind.CLICK, 4, 0, 0), (1, Kind.CLICK, 5, 0, 0)], 0))
    waves = [(wave.kind.tolist(), wave.decision.tolist()) for wave in out.waves()]
    ask, click = int(Kind.REQUEST), int(Kind.CLICK)
    assert waves == [([ask], [-1]), ([click], [-1]), ([ask], [-2]), ([click], [-2])]


def test_tickets_start_at_one_or_more() -> None:
    with pytest.raises(ValueError, match="first_ticket must be at least 1, since 0 means no decision; got 0"):
        ask_before_clicks(make([], 1), 0)
