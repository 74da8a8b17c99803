"""Carried states equal encoding again, whatever happens to sessions, rows, weights and processes in between."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor, nn

from streamrec import carried, checkpoint
from streamrec.build import build
from streamrec.carried import Carried
from streamrec.catalog import Catalog
from streamrec.encoders.gru4rec import GRU4Rec
from streamrec.loop import Loop
from streamrec.nn.adagrad import Adagrad
from streamrec.records import Events, History, Kind
from streamrec.sessions import SessionStore
from tests.histories import history
from tests.streamrec.test_loop import assert_same
from tests.worlds import EchoWorld

L, USERS, ITEMS = 6, 5, 12


def make(layers: int = 1, length: int | None = None, users: int = USERS) -> tuple[SessionStore, Carried]:
    sessions = SessionStore(users=users, length=L, skips=1, slate=2)
    encoder = GRU4Rec(Catalog(ITEMS), dim=4, layers=layers, length=length, seed=3)
    return sessions, Carried(encoder, sessions)


def after_anchor(session: list[int], window: int) -> list[int]:
    """What is read of a session, said one click after the other."""
    read: list[int] = []
    for item in session:
        read.append(item)
        if len(read) > window:
            del read[: max(window // 2, 1)]
    return read


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many clicks each call has read while serving."""
    read: list[int] = []

    def noted(encoder: GRU4Rec, history: History, many: Tensor, state: Tensor) -> Tensor:
        read.append(int(many.sum()))
        return real(encoder, history, many, state)

    real = carried.advance
    monkeypatch.setattr(carried, "advance", noted)
    return read


# --- carried = encoded again -------------------------------------------------------------------------------------

moves = st.tuples(st.sampled_from(["click", "click", "click", "gap", "ask", "learn", "rename"]), st.integers(0, 4))


@settings(max_examples=40, deadline=None)
@given(st.lists(moves, max_size=50), st.sampled_from([(1, None), (2, 5), (1, 1), (1, 2)]))
def test_equals_encoding_again_whatever_happens(life: list[tuple[str, int]], kind: tuple[int, int | None]) -> None:
    sessions, encoder = make(*kind)
    rows, draws = sessions.rows([f"u{i}" for i in range(USERS)]), Generator().manual_seed(0)
    clicks: list[list[int]] = [[] for _ in range(USERS)]
    now = 0.0
    for number, (move, user) in enumerate(life):
        now += 1.0
        row = rows[user : user + 1]
        if move == "click":
            item = int(torch.randint(1, ITEMS + 1, (), generator=draws))
            sessions.take(Events.of(row, Kind.CLICK, torch.tensor([now]), item=torch.tensor([item])))
            clicks[user].append(item)
        elif move == "gap":
            now += sessions.gap_s + 1
            clicks = [[] for _ in range(USERS)]
            sessions.take(Events.of(rows, Kind.REQUEST, torch.full((USERS,), now)))
        elif move == "learn":
            with torch.no_grad():
                encoder.items.weight[1 + number % ITEMS] += 0.5
        elif move == "rename":
            sessions.rename(row, [f"new{number}"])
            clicks[user] = []
        asked = rows if move == "ask" else row
        asks = sessions.read(asked, torch.full(asked.shape, now))
        with torch.no_grad():
            served = encoder(asks)
        torch.testing.assert_close(served, encoder(asks).detach())
        window = kind[1] or L
        read = [after_anchor(clicks[at], window) for at in (range(USERS) if move == "ask" else [user])]
        torch.testing.assert_close(served, encoder.encoder(history(read, length=L)).detach())


@torch.no_grad()
def test_sessions_that_fit_the_window_read_what_gru4rec_reads() -> None:
    _, encoder = make(users=8)
    rows = [list(range(1, n + 1)) for n in range(L + 1)]
    torch.testing.assert_close(encoder(history(rows)), encoder.encoder(history(rows)))
    assert encoder(history([[]])).tolist() == [[0.0] * 4]


def test_training_reads_what_serving_reads_and_has_gradients() -> None:
    _, encoder = make()
    long = history([[1, 2, 3, 4, 5, 6]], in_session=[9])
    out = encoder(long)
    out.sum().backward()
    grad = encoder.items.weight.grad
    assert grad is not None
    assert grad.is_sparse
    # 9 clicks, window 6, hops of 3: the anchor is at the 4th.
    assert grad.coalesce().indices()[0].tolist() == [1, 2, 3, 4, 5, 6]
    shorter = history([[1, 2, 3, 4, 5, 6]], in_session=[10])
    torch.testing.assert_close(encoder(shorter), encoder.encoder(history([[3, 4, 5, 6]])))
    torch.testing.assert_close(encoder.states(shorter)[:, -1], encoder(shorter))
    assert not torch.equal(encoder(long, Generator().manual_seed(1)), encoder(shorter, Generator().manual_seed(1)))


# --- what it costs -----------------------------------------------------------------------------------------------


@torch.no_grad()
def test_one_click_per_step_and_two_where_the_session_outgrows_the_window(work: list[int]) -> None:
    sessions, encoder = make(users=1)
    row = sessions.rows(["a"])
    for at in range(1, 121):
        item = torch.tensor([1 + at % ITEMS])
        sessions.take(Events.of(row, Kind.CLICK, torch.tensor([float(at)]), item=item))
        encoder(sessions.read(row, torch.tensor([float(at)])))
        encoder(sessions.read(row, torch.tensor([float(at)])))
    assert work[: 2 * L] == [1, 0] * L, "asking again costs nothing"
    assert sum(work[-60:]) == 60, "30 steps of two clicks: hops of 3 read 4 clicks each, the two steps between 1 each"
    assert max(work) == L - L // 2 + 1


@torch.no_grad()
def test_new_weights_make_states_again_only_for_those_who_ask(work: list[int]) -> None:
    _, encoder = make()
    everybody = history([[1, 2], [3, 4, 5], [6], [7, 8], [9]])
    encoder(everybody)
    encoder(everybody)
    encoder.items.weight[12] += 1.0
    encoder(everybody[torch.tensor([1, 2])])
    encoder(everybody)
    assert work == [9, 0, 4, 5]


def steps() -> dict[str, Callable[[Carried], None]]:
    def gradient(encoder: Carried) -> None:
        for parameter in encoder.parameters():
            parameter.grad = None
        encoder(history([[1, 2, 3]])).square().sum().backward()

    def adagrad(encoder: Carried) -> None:
        gradient(encoder)
        Adagrad(encoder.named_parameters(), 0.5).step()

    def adam(encoder: Carried, foreach: bool = False, fused: bool = False) -> None:
        gradient(encoder)
        layers = [p for n, p in encoder.named_parameters() if "items" not in n]
        torch.optim.Adam(layers, 0.5, foreach=foreach, fused=fused).step()

    def loaded(encoder: Carried) -> None:
        encoder.load_state_dict(Carried(GRU4Rec(Catalog(ITEMS), dim=4, seed=9), SessionStore(users=2)).state_dict())

    def replaced(encoder: Carried) -> None:
        encoder.encoder.layers = nn.ModuleList(GRU4Rec(Catalog(ITEMS), dim=4, seed=9).layers)

    def unseen(encoder: Carried) -> None:
        encoder.items.weight.data.mul_(2.0)
        encoder.forget()

    return {
        "adagrad": adagrad,
        "adam": adam,
        "adam of many tensors": lambda encoder: adam(encoder, foreach=True),
        "fused adam": lambda encoder: adam(encoder, fused=True),
        "loaded": loaded,
        "replaced": replaced,
        "said": unseen,
    }


@pytest.mark.parametrize("how", steps())
def test_no_state_outlives_the_weights_that_made_it(how: str) -> None:
    _, encoder = make()
    rows = history([[1, 2], [3, 4, 5]])
    with torch.no_grad():
        before = encoder(rows)
    steps()[how](encoder)
    with torch.no_grad():
        after = encoder(rows)
    torch.testing.assert_close(after, encoder(rows).detach())
    assert not torch.allclose(before, after)


# --- whose history is it -----------------------------------------------------------------------------------------


@torch.no_grad()
def test_foreign_histories_are_encoded_again() -> None:
    _, encoder = make()
    plain = encoder.encoder
    now = history([[1, 2, 3], [4, 5], [6, 7, 8, 9]])
    encoder(now)
    others = {
        "older": history([[1, 2], [4], [6, 7, 8]]),
        "another user in the row": history([[4, 5, 3], [1, 5, 2], [9]]),
        "as many clicks, another past": history([[2, 2, 3, 1], [5, 5, 1], [7, 6, 8, 9, 1]]),
        "the same clicks in another order": history([[2, 1, 3], [5, 4], [9, 8, 7, 6]]),
    }
    for name, rows in others.items():
        torch.testing.assert_close(encoder(rows), plain(rows), msg=name)
        torch.testing.assert_close(encoder(now), plain(now), msg=name)


@torch.no_grad()
def test_users_the_store_does_not_hold_are_encoded_and_not_kept() -> None:
    _, encoder = make()
    rows = history([[1, 2], [3], [4, 5], [6]])
    rows.user = torch.tensor([-1, USERS, 10**12, 2])
    torch.testing.assert_close(encoder(rows), encoder.encoder(rows))
    assert encoder.cache.version.count_nonzero() == 1


@torch.no_grad()
def test_a_user_who_is_there_twice_keeps_one_whole_state() -> None:
    _, encoder = make()
    generator = Generator().manual_seed(0)
    for _ in range(50):
        lists = [torch.randint(1, ITEMS + 1, (n,), generator=generator).tolist() for n in (3, 4, 5, 3, 2, 4)]
        rows = history(lists)
        rows.user = torch.randint(0, 2, (6,), generator=generator)
        torch.testing.assert_close(encoder(rows), encoder.encoder(rows))
        torch.testing.assert_close(encoder(rows), encoder.encoder(rows))


def test_a_whole_users_window_has_no_anchor() -> None:
    with pytest.raises(ValueError, match=r'needs an encoder with scope = "session", got \'user\''):
        Carried(GRU4Rec(Catalog(ITEMS), dim=4, scope="user"), SessionStore(users=2))


# --- copies and checkpoints --------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_copy_has_its_own_states() -> None:
    _, encoder = make()
    rows = history([[1, 2], [3]])
    encoder(rows)
    target = copy.deepcopy(encoder)
    assert target.cache.version.count_nonzero() == 0
    target.items.weight[1:] += 1.0
    torch.testing.assert_close(target(rows), target.encoder(rows))
    torch.testing.assert_close(encoder(rows), encoder.encoder(rows))


@torch.no_grad()
def test_a_resumed_process_goes_on_with_the_very_bits(tmp_path: Path, work: list[int]) -> None:
    _, encoder = make(layers=2)
    for user in range(USERS):  # one by one: the rounding of a batch of one
        encoder(history([[1, 2, 3, 4, 5]] * USERS)[user : user + 1])
    checkpoint.save(tmp_path, {"model": encoder.state_dict()}, 1)
    _, again = make(layers=2)
    found = checkpoint.load_newest(tmp_path)
    assert found is not None
    again.load_state_dict(found[0]["model"])
    del work[:]
    following = history([[1, 2, 3, 4, 5, 6]] * USERS)
    assert torch.equal(again(following), encoder(following))
    assert work == [USERS, USERS]
    with pytest.raises(ValueError, match="a state has 40 bytes here, the checkpoint has 56"):
        make()[1].load_state_dict(encoder.state_dict(), strict=False)


@torch.no_grad()
def test_states_of_a_checkpoint_are_not_good_for_weights_that_came_after() -> None:
    _, encoder = make()
    rows = history([[1, 2], [3, 4, 5]])
    encoder(rows)
    _, again = make()
    again.load_state_dict(encoder.state_dict())
    again.items.weight[1:] += 1.0
    torch.testing.assert_close(again(rows), again.encoder(rows))
    # Nor are those of before, once another checkpoint was loaded.
    state = make()[1].state_dict()
    encoder.load_state_dict(state)
    torch.testing.assert_close(encoder(rows), encoder.encoder(rows))


@torch.no_grad()
def test_only_states_of_the_present_weights_are_saved() -> None:
    _, encoder = make()
    encoder(history([[1, 2], [3]]))
    assert encoder.get_extra_state().shape == (2, 24 + 4 * 4)
    encoder.items.weight[5] += 1.0
    assert encoder.get_extra_state().shape == (0, 24 + 4 * 4)


GRU = {"use": "streamrec.encoders.gru4rec.GRU4Rec", "dim": 8}
CARRIED = {"use": "streamrec.carried.Carried", "encoder": GRU}
AGENTS: dict[str, dict[str, Any]] = {
    "supervised": {
        "use": "agents.supervised.Supervised",
        "model": {"use": "streamrec.models.next_item.NextItem", "encoder": CARRIED, "n_sample": 8},
        "batch": 8,
        "memory": 64,
    },
    "dqn": {"use": "agents.dqn.DQN", "encoder": CARRIED, "batch": 8, "memory": 64, "target_every": 2, "n_step": 2},
}


def loop(agent: str) -> Loop:
    catalog, sessions = Catalog(capacity=64), SessionStore(users=32, length=5, skips=5, slate=4)
    world = EchoWorld(catalog, sessions)
    context = {"catalog": catalog, "sessions": sessions, "slate": 4, "seed": 0, "device": torch.device("cpu")}
    return Loop(world, sessions, catalog, build(AGENTS[agent], context, "agent"), update_every=60)


@pytest.mark.parametrize("agent", AGENTS)
def test_an_agent_killed_and_resumed_equals_never_killed(agent: str, tmp_path: Path) -> None:
    never = loop(agent)
    for _ in range(24):
        never.step()
    for killed_at in (5, 8, 13):
        victim = loop(agent)
        for _ in range(killed_at):
            victim.step()
        checkpoint.save(tmp_path / str(killed_at), victim.state_dict(), killed_at)
        found = checkpoint.load_newest(tmp_path / str(killed_at))
        assert found is not None
        again = loop(agent)
        again.load_state_dict(found[0])
        for _ in range(killed_at, 24):
            again.step()
        assert_same(again.state_dict(), never.state_dict())
    assert never.counts["updates"] > 2
