"""State on its way from member to member, over a real broker."""

from __future__ import annotations

import time

import pytest
import torch

from consumers.broker import BrokerUnavailable
from consumers.handover import keeper as keeping
from consumers.handover.keeper import Restored
from tests.consumers.handover.conftest import NewOwner, Owner

pytestmark = pytest.mark.kafka


def restored(owner: Owner, partitions: dict[int, int | None], seconds: float = 20.0) -> list[Restored]:
    """Take over partitions; how long one call took at most is asserted, because polls wait for it."""
    ready = owner.keeper.arrive(partitions)
    deadline = time.monotonic() + seconds
    while owner.keeper.busy:
        assert time.monotonic() < deadline
        ready += owner.keeper.work(0.01)
    return sorted(ready, key=lambda one: one.partition)


def test_users_move_with_their_partition_and_the_offset(owner: NewOwner) -> None:
    first, second = owner(), owner()
    first.click({"a": 0, "b": 1, "c": 0}, "i1", 1.0)
    first.publish({0: 10, 1: 20})
    first.click({"a": 0}, "i2", 2.0)
    first.extra[0] = {"newer": torch.arange(5)}
    first.publish({0: 11, 1: 20})
    assert restored(second, {0: 11}) == [Restored(0, 11)]
    assert second.windows() == {"a": ["i1", "i2"], "c": ["i1"]}
    assert second.extra[0]["newer"].tolist() == [0, 1, 2, 3, 4]
    assert restored(second, {1: None}) == [Restored(1, 20)]
    assert second.windows() == first.windows()


def test_a_third_member_gets_what_the_second_added(owner: NewOwner) -> None:
    first, second, third = owner(), owner(), owner()
    first.click({"a": 0, "c": 0}, "i1", 1.0)
    first.publish({0: 10})
    restored(second, {0: 10})
    second.click({"c": 0, "d": 0}, "i5", 3.0)
    second.publish({0: 30})
    first.click({"a": 0}, "i9", 2.0)  # it has not noticed that it lost the partition
    first.publish({0: 12})
    assert restored(third, {0: 30}) == [Restored(0, 30)]
    assert third.windows() == second.windows() == {"a": ["i1"], "c": ["i1", "i5"], "d": ["i5"]}


def test_who_is_forgotten_does_not_come_back(owner: NewOwner) -> None:
    first, second = owner(), owner()
    first.click({"a": 0, "b": 0, "c": 0}, "i1", 1.0)
    first.publish({0: 10})
    first.keeper.sessions.erase(["b"])
    first.click({"d": 0}, "i2", 2.0)  # gets her row
    first.publish({0: 11})
    first.keeper.sessions.erase(["c"])
    first.publish({0: 12})
    assert restored(second, {0: None}) == [Restored(0, 12)]
    assert second.windows() == {"a": ["i1"], "d": ["i2"]}


def test_a_link_holds_only_who_was_touched_and_reading_stays_bounded(owner: NewOwner) -> None:
    first, second = owner(), owner()
    everybody = {f"u{at}": 0 for at in range(400)}
    first.click(everybody, "i1", 1.0)
    first.publish({0: 400})
    assert first.keeper.figures.published == 400
    for at in range(60):
        first.click({"u1": 0, f"u{2 + at}": 0}, "i2", 2.0 + at)
        first.publish({0: 401 + at})
    assert first.keeper.figures.published == 400 + 60 * 2
    for at in range(10):
        first.click(everybody, "i3", 100.0 + at)
        first.publish({0: 500 + at})
    assert first.keeper.figures.published <= 520 + 10 * 400
    second.keeper.arrive({0: None})
    read = 0
    while not second.keeper.topic.caught_up(0):
        read += len(second.keeper.topic.poll(0.05))
    assert read <= 8  # the newest base and what came after it, not 70 links


def test_nothing_changed_nothing_written(owner: NewOwner) -> None:
    first = owner()
    first.click({"a": 0}, "i1", 1.0)
    first.publish({0: 10})
    before = first.keeper.figures.published_bytes
    first.publish({0: 10})
    assert first.keeper.figures.published_bytes == before
    first.publish({0: 11})  # a dead letter, say: the place has moved
    assert before < first.keeper.figures.published_bytes < before + 1000


def test_it_waits_for_the_member_before_but_not_for_ever(owner: NewOwner, caplog: pytest.LogCaptureFixture) -> None:
    first, second, third = owner(), owner(patience_s=30.0), owner(patience_s=0.3)
    first.click({"a": 0}, "i1", 1.0)
    first.publish({0: 10})
    assert second.keeper.arrive({0: 25}) == []
    for _ in range(20):
        assert second.keeper.work(0.01) == []
    first.click({"a": 0}, "i2", 2.0)
    first.publish({0: 25})
    assert restored(second, {}) == [Restored(0, 25)]
    assert restored(third, {0: 99}) == [Restored(0, 25)]
    assert "the group has read up to 99, the newest state is of 25" in caplog.text


def test_where_nobody_wrote_anything_it_begins_at_the_beginning(owner: NewOwner) -> None:
    assert restored(owner(patience_s=0.1), {0: None, 1: 5}) == [Restored(0, None), Restored(1, None)]


def test_a_move_that_is_broken_off_leaves_nothing(owner: NewOwner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "CHUNK_BYTES", 2000)
    monkeypatch.setattr(keeping, "SLICE_S", 0.0001)
    first, second = owner(), owner()
    first.click({f"u{at}": 0 for at in range(200)}, "i1", 1.0)
    first.publish({0: 10})
    second.click({"mine": 1}, "i4", 1.0)
    second.keeper.arrive({0: 10})
    while len(second.windows()) < 20:
        assert second.keeper.work(0.01) == []
    second.keeper.drop([0])
    assert second.windows() == {"mine": ["i4"]}
    assert not second.keeper.busy
    assert restored(second, {0: 10}) == [Restored(0, 10)]
    assert len(second.windows()) == 201


def test_restoring_goes_in_slices(owner: NewOwner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "SLICE_S", 0.005)
    first, second = owner(users=20_000), owner(users=20_000)
    first.click({f"u{at}": 0 for at in range(15_000)}, "i1", 1.0)
    first.publish({0: 10})
    second.keeper.arrive({0: 10})
    longest, calls = 0.0, 0
    while second.keeper.busy:
        start = time.process_time()
        second.keeper.work(0.01)
        longest, calls = max(longest, time.process_time() - start), calls + 1
    assert calls > 3
    assert longest < 0.3
    assert len(second.windows()) == 15_000


def test_partitions_that_come_back_are_still_here(owner: NewOwner) -> None:
    first = owner()
    first.click({"a": 0, "b": 1}, "i1", 1.0)
    first.keeper.left({0: (10, False), 1: (7, True)})
    assert first.keeper.arrive({1: 7}) == [Restored(1, 7, True)]
    first.keeper.leave_others({1})
    assert first.windows() == {"b": ["i1"]}
    assert first.keeper.kept == {}


def test_a_member_that_comes_back_late_takes_the_newer_state(owner: NewOwner) -> None:
    first, second = owner(), owner()
    first.click({"a": 0}, "i1", 1.0)
    first.keeper.settle(first.keeper.left({0: (10, False)}))
    restored(second, {0: 10})
    second.click({"a": 0}, "i2", 2.0)
    second.publish({0: 11})
    assert restored(first, {0: 11}) == [Restored(0, 11)]
    assert first.windows() == {"a": ["i1", "i2"]}


def test_a_checkpoint_made_in_the_middle_of_a_move_counts_only_what_was_whole(owner: NewOwner) -> None:
    first, second = owner(), owner()
    first.click({"a": 0, "b": 1}, "i1", 1.0)
    homes = first.keeper.homes()
    second.keeper.sessions.load_state_dict(first.keeper.sessions.state_dict())
    second.keeper.catalog.load_state_dict(first.keeper.catalog.state_dict())
    second.keeper.settle_in(homes, {1: (7, False)})
    assert second.windows() == {"b": ["i1"]}
    assert second.keeper.arrive({1: 7}) == [Restored(1, 7)]


def test_a_topic_that_does_not_fit_is_refused(owner: NewOwner) -> None:
    owner(partitions=2)
    with pytest.raises(BrokerUnavailable, match="has 2 partitions and the events have 3"):
        owner(partitions=3)
