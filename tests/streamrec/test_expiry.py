"""An item that expired is nowhere any more when another one gets its row."""

from __future__ import annotations

import resource
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from streamrec import checkpoint
from streamrec.catalog import Catalog
from streamrec.data.clicks import ask_before_clicks
from streamrec.expiry import among, blank, check, renew
from streamrec.loop import Loop
from streamrec.nn.adagrad import Adagrad
from streamrec.nn.items import ItemVectors
from streamrec.ports import State
from streamrec.records import Decision, Events, History, Kind, Rows, Transition
from streamrec.sessions import SessionStore
from tests.histories import catalog, clicked, history
from tests.streamrec.test_loop import assert_same

# --- records -----------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(1, 6), max_size=6), min_size=1, max_size=5), st.sets(st.integers(1, 6)))
def test_windows_close_up_as_if_the_click_had_not_happened(rows: list[list[int]], gone: set[int]) -> None:
    session = [len(row) // 2 for row in rows]
    record = history(rows, in_session=session)
    record.times = record.items.double() * 10
    record.skipped, record.skip_times = record.items.clone(), record.times.clone()
    blank(record, torch.tensor(sorted(gone), dtype=torch.int64))
    left = history([[item for item in row if item not in gone] for row in rows])
    assert torch.equal(record.items, left.items)
    assert torch.equal(record.kinds, left.kinds)
    assert torch.equal(record.times, left.items.double() * 10)
    assert torch.equal(record.skipped, left.items)
    assert torch.equal(record.skip_times, left.items.double() * 10)
    newest = [row[len(row) - n :] for row, n in zip(rows, session, strict=True)]
    assert record.in_session.tolist() == [sum(item not in gone for item in row) for row in newest]


def test_clicks_beyond_the_window_still_count_as_in_the_session() -> None:
    record = history([[1, 2, 3, 2, 1, 4]], in_session=[50])
    blank(record, torch.tensor([2]))
    assert record.items.tolist() == [[0, 0, 1, 3, 1, 4]]
    assert record.in_session.tolist() == [48]


def test_windows_that_were_not_kept_stay_away() -> None:
    record = replace(history([[1, 2, 3]]), kinds=torch.zeros(1, 0, dtype=torch.int8), times=torch.zeros(1, 0))
    blank(record, torch.tensor([2]))
    assert record.items.tolist() == [[0, 0, 0, 0, 1, 3]]
    assert (record.kinds.shape, record.times.shape) == ((1, 0), (1, 0))


@dataclass
class Target(Rows):
    """As memories keep clicks: a history, and the item that followed."""

    history: History
    target: Tensor


def test_places_stay_and_are_empty() -> None:
    before = history([[1, 2], [3]])
    before.pages, before.page_kinds = torch.tensor([[[1, 4]], [[4, 2]]]).int(), torch.ones(2, 1, 2, dtype=torch.int8)
    before.offer = torch.tensor([[4, 5], [1, 4]])
    transition = clicked(before, torch.tensor([4, 2]))
    transition.next = history([[1, 2, 4], [3, 2]])
    transition.wanted = replace(transition.shown, shadow=torch.tensor([[[4]], [[1]]]))
    blank(transition, torch.tensor([4]))
    assert transition.shown.slate.tolist() == [[0], [2]]
    assert transition.wanted.shadow.tolist() == [[[0]], [[1]]]
    assert transition.next.items[:, -3:].tolist() == [[0, 1, 2], [0, 3, 2]]
    assert transition.history.pages.tolist() == [[[1, 0]], [[0, 2]]]
    assert transition.history.offer.tolist() == [[0, 5], [1, 0]]
    assert transition.rewards.tolist() == [[1.0], [1.0]]
    click = Target(history([[1, 2], [3]]), torch.tensor([4, 2]))
    blank(click, torch.tensor([2, 4]))
    assert click.target.tolist() == [0, 0]
    assert click.history.items[:, -2:].tolist() == [[0, 1], [0, 3]]


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_among(dtype: torch.dtype) -> None:
    items = torch.tensor([[0, 1, 5], [7, 9, 2]], dtype=dtype)
    assert among(items, torch.tensor([1, 7, 9])).tolist() == [[False, True, False], [True, True, False]]
    assert not among(items, torch.tensor([], dtype=torch.int64)).any()


def test_the_store_forgets_the_item_everywhere() -> None:
    sessions = SessionStore(users=4, length=4, skips=3, slate=2)
    sessions.reserve(pages=1, offer=2)
    user = sessions.rows(["a", "b"])

    def take(kind: Kind, at: float, item: list[int], **more: Tensor) -> Transition | None:
        times = torch.full((2,), at, dtype=torch.float64)
        return sessions.take(Events.of(user, kind, times, item=torch.tensor(item), **more))

    for time, clicks in enumerate([[5, 1], [6, 5], [5, 2]]):
        take(Kind.CLICK, float(time), clicks)
    take(Kind.SKIP, 4.0, [5, 3])
    for at in (5.0, 6.0):
        take(Kind.REQUEST, at, [0, 0], offer=torch.tensor([[5, 6], [1, 2]]))
        before = sessions.read(user, torch.full((2,), at, dtype=torch.float64))
        shown = Decision.of(user, torch.tensor([[5, 6], [1, 5]]))
        shown.id = sessions.number(user)
        sessions.open(shown, shown, before, Events.of(user, Kind.REQUEST, torch.full((2,), at)))
    sessions.recycle(torch.tensor([5]))
    now = sessions.read(user, torch.zeros(2, dtype=torch.float64))
    assert now.items.tolist() == [[0, 0, 0, 6], [0, 0, 1, 2]]
    assert now.times.tolist() == [[0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 2.0]]
    assert now.in_session.tolist() == [1, 2]
    assert now.skipped.tolist() == [[0, 0, 0], [0, 0, 3]]
    assert now.pages.tolist() == [[[0, 6]], [[1, 0]]]
    assert now.offer.tolist() == [[0, 6], [1, 2]]
    # The row has a new item: a click on it answers no slot of the decision that showed the old one.
    closed = sessions.take(
        Events.of(user, Kind.CLICK, torch.full((2,), 7.0), item=torch.tensor([5, 5]), decision=shown.id)
    )
    assert closed is None
    assert sessions.counts["unknown"] == 2
    closed = take(Kind.LEAVE, 8.0, [0, 0])
    assert closed is not None
    assert closed.shown.slate.tolist() == [[0, 6], [1, 0]]
    assert closed.wanted.slate.tolist() == [[0, 6], [1, 0]]
    assert closed.reward.tolist() == [0.0, 0.0]
    assert closed.history.items.tolist() == [[0, 0, 0, 6], [0, 0, 1, 2]]


# --- networks and their optimisers -------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self, of: Catalog) -> None:
        super().__init__()
        self.items = ItemVectors(of, 4, torch.Generator().manual_seed(0))
        self.dense = nn.Linear(4, 4)


def test_tables_and_what_was_summed_up_for_them_are_new() -> None:
    of = catalog(20)
    net = Net(of)
    optimiser = Adagrad(net.named_parameters(), 0.1, momentum=0.5)
    net.dense(net.items(torch.arange(1, 10))).square().sum().backward()
    optimiser.step()
    before, dense = net.items.weight.detach().clone(), optimiser.acc["dense.weight"].clone()
    rows = torch.tensor([2, 5, 40])
    renew(of, rows, net, optimiser, None)
    assert (net.items.weight[rows] != before[rows]).all()
    for table in (optimiser.acc, optimiser.velocity):
        assert (table["items.weight"][rows] == 0).all()
        assert (table["items.weight"][[1, 3]] != 0).all()
    assert torch.equal(optimiser.acc["dense.weight"], dense)
    with pytest.raises(TypeError, match="Catalog has no recycle"):
        renew(of, rows, of)


def test_whoever_cannot_let_go_is_refused_before_the_run() -> None:
    class Stubborn(nn.Module):
        def __init__(self, of: Catalog) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(of.capacity + 1))

    class Agent:
        def recycle(self, rows: Tensor) -> None: ...

    class Panel(Agent):
        def __init__(self) -> None:
            self.agents = {"one": Agent(), "two": object()}

    endless, whole = Catalog(9, ttl_s=1.0), Catalog(9)
    check(whole, Stubborn(whole), object())
    check(endless, Net(endless), Agent(), None)
    with pytest.raises(ValueError, match=r"ttl_s is set, but Stubborn has no recycle\(rows\)"):
        check(endless, nn.ModuleList([Net(endless), Stubborn(endless)]))
    with pytest.raises(ValueError, match="but object has no recycle"):
        check(endless, Panel())
    with pytest.raises(ValueError, match="but Echo has no recycle"):
        Loop(Endless(endless, SessionStore(users=9, slate=1)), SessionStore(), endless, Echo())


# --- a stream without end ----------------------------------------------------------------------------------------


class Echo:
    """Shows the last click."""

    def act(self, history: History) -> Decision:
        return Decision.of(history.user, history.items[:, -1:].long())

    def observe(self, transition: Transition) -> None: ...

    def update(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> State:
        return {}

    def load_state_dict(self, state: State) -> None: ...


class Learner(Echo):
    """Pulls the vectors of clicks that follow each other together; remembers the newest ones."""

    def __init__(self, of: Catalog, memory: int = 256) -> None:
        self.catalog, self.net, self.memory = of, ItemVectors(of, 8, torch.Generator().manual_seed(0)), memory
        self.optimiser = Adagrad(self.net.named_parameters(), 0.1)
        self.ring: Target | None = None
        self.added = 0

    def observe(self, transition: Transition) -> None:
        seen = Target(transition.history, transition.shown.slate[:, 0])
        if self.ring is None:
            self.ring = seen.allocate(self.memory)
        seen = seen[slice(-self.memory, None)]
        self.ring.put((self.added + torch.arange(len(seen))) % self.memory, seen)
        self.added += len(seen)

    def update(self) -> dict[str, float]:
        assert self.ring is not None
        self.optimiser.zero_grad()
        loss = (self.net(self.ring.history.items[:, -1]) - self.net(self.ring.target)).square().sum()
        torch.autograd.backward(loss)
        self.optimiser.step()
        return {"loss": float(loss.detach())}

    def recycle(self, rows: Tensor) -> None:
        renew(self.catalog, rows, self.net, self.optimiser, self.ring)

    def state_dict(self) -> State:
        ring = {} if self.ring is None else {name: column.clone() for name, column in self.ring.columns()}
        weight = self.net.weight.detach().clone()
        return {"net": weight, "optimiser": self.optimiser.state_dict(), "ring": ring, "added": self.added}

    def load_state_dict(self, state: State) -> None:
        with torch.no_grad():
            self.net.weight.copy_(state["net"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.added = state["added"]
        columns = {name.removeprefix("history."): column.clone() for name, column in state["ring"].items()}
        if columns:
            self.ring = Target(target=columns.pop("target"), history=History(**columns))


class Endless:
    """Users who click items of the last hour; every minute brings new ones. All is a function of the poll's number."""

    def __init__(self, of: Catalog, sessions: SessionStore, users: int = 9, new: int = 3, alive: int = 180) -> None:
        self.catalog, self.sessions, self.number = of, sessions, 0
        self.users, self.new, self.alive = users, new, alive
        self.turned_away = 0

    def poll(self, timeout_s: float = 0.0) -> Events | None:
        draws = torch.Generator().manual_seed(self.number)
        newest = self.new * (self.number + 1)
        items = (newest - torch.randint(1, self.alive + 1, (self.users,), generator=draws)).clamp(min=0)
        items[: self.new] = torch.arange(newest - self.new, newest)
        rows = self.catalog.rows([f"i{item}" for item in items.tolist()])
        self.turned_away += int((rows == 0).sum())
        time = torch.full((self.users,), 60.0 * self.number, dtype=torch.float64)
        users = self.sessions.rows([f"u{user}" for user in range(self.users)])
        self.number += 1
        return ask_before_clicks(Events.of(users, Kind.CLICK, time, item=rows), self.number * self.users)

    def send(self, wanted: Decision, asked: Events) -> Decision:
        shown = Decision.of(wanted.user, asked.shown)
        shown.id = wanted.id
        return shown

    def position(self) -> State:
        return {"number": self.number}

    def seek(self, position: State) -> None:
        self.number = position["number"]

    def flush(self) -> None: ...

    def commit(self, position: State) -> None: ...

    def close(self) -> None: ...


def endless(capacity: int = 400, ttl_s: float | None = 3600.0, **world: int) -> tuple[Loop, Learner, Endless]:
    of, sessions = Catalog(capacity, ttl_s=ttl_s), SessionStore(users=world.get("users", 9), length=4, skips=1, slate=1)
    people, agent = Endless(of, sessions, **world), Learner(of)
    return Loop(people, sessions, of, agent, update_every=people.users), agent, people


def test_every_row_that_is_remembered_stands_for_an_item_of_the_last_hours() -> None:
    loop, agent, people = short_lived()
    for _ in range(150):
        loop.step()
    assert people.turned_away == 0
    ids = loop.catalog.ids
    assert loop.catalog.size <= 201
    alive = {row for row, item in enumerate(ids) if item}
    # Mentioned up to 20 minutes after it came, and gone 23 minutes after that at the latest.
    assert min(int(ids[row][1:]) for row in alive) > 3 * (150 - 20 - 23 - 1)
    assert agent.ring is not None
    tables = [agent.ring.history.items, agent.ring.target, loop.sessions._items, *_slates(loop)]
    for table in tables:
        assert set(table.flatten().tolist()) <= alive | {0}
    empty = torch.tensor([row for row in range(1, loop.catalog.size) if row not in alive])
    assert len(empty) > 5
    assert (agent.optimiser.acc["weight"][empty] == 0).all()
    assert not loop.catalog.available[empty].any()


def _slates(loop: Loop) -> list[Tensor]:
    opened = loop.sessions._open
    assert opened is not None
    return [opened.shown.slate, opened.wanted.slate, opened.history.items]


def short_lived() -> tuple[Loop, Learner, Endless]:
    return endless(capacity=200, ttl_s=1200.0, alive=60)


def test_killed_and_resumed_equals_never_killed_while_items_expire(tmp_path: Path) -> None:
    never, _, _ = short_lived()
    for _ in range(90):
        never.step()
    for killed_at in (31, 66):
        victim, _, _ = short_lived()
        for _ in range(killed_at):
            victim.step()
        checkpoint.save(tmp_path / str(killed_at), victim.state_dict(), killed_at)
        found = checkpoint.load_newest(tmp_path / str(killed_at))
        assert found is not None
        again, _, _ = short_lived()
        again.load_state_dict(found[0])
        for _ in range(killed_at, 90):
            again.step()
        assert_same(again.state_dict(), never.state_dict())
    assert len(never.catalog) < never.catalog.size - 1 < 270, "rows were emptied, and rows were used again"


def test_three_hundred_thousand_new_items_leave_memory_flat() -> None:
    loop, agent, people = endless(capacity=18_000, users=3000, new=3000, alive=3000, ttl_s=120.0)
    peaks, sizes = [], []
    for _ in range(4):
        for _ in range(25):
            loop.step()
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        sizes.append(_bytes(loop.state_dict()))
    assert people.number * people.new == 300_000
    assert people.turned_away == 0
    assert peaks[-1] - peaks[0] < 8, f"MiB at the peak, by 75 thousand items: {peaks}"
    assert max(sizes) < 1.05 * sizes[0]
    assert len(loop.catalog._row) <= 18_001
    assert agent.net.weight.shape == (18_001, 8)


def _bytes(tree: object) -> int:
    if isinstance(tree, dict):
        return sum(_bytes(value) for value in tree.values())
    if isinstance(tree, torch.Tensor):
        return tree.nbytes
    return sum(map(_bytes, tree)) if isinstance(tree, list) else 8
