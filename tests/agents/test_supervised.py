"""Supervised: what it shows, what it learns, what it costs, and that a killed run goes on as if never killed."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from agents.supervised import Supervised
from streamrec import checkpoint
from streamrec.catalog import Catalog
from streamrec.encoders.gru4rec import GRU4Rec
from streamrec.encoders.sasrec import SASRec
from streamrec.models.blend import Blend
from streamrec.models.next_item import NextItem
from streamrec.models.vsknn import VSKNN
from streamrec.nn import products
from streamrec.ports import Agent
from streamrec.records import History, Kind
from streamrec.schedules.replay import Replay
from streamrec.schedules.reservoir import Reservoir
from tests.histories import catalog, clicked, history, window


def agent(of: Catalog, slate: int = 3, loss: str = "cross-entropy", encoder: Any = None, **settings: Any) -> Supervised:
    encoder = encoder or GRU4Rec(of, dim=16)
    model = NextItem(encoder, of, loss=loss, n_sample=settings.pop("n_sample", 2048))  # type: ignore[arg-type]
    return Supervised(model, of, slate, **{"batch": 64, "memory": 2_000} | settings)


# --- acting ------------------------------------------------------------------------------------------------------


def test_is_an_agent() -> None:
    assert isinstance(agent(catalog(10)), Agent)


def test_shows_the_best_available_items_in_order() -> None:
    items = catalog(10)
    made = agent(items)
    with torch.no_grad():
        made.model.bias[:11, 0] = torch.arange(11.0)  # type: ignore[attr-defined]
    items.retire(torch.tensor([9]))
    items.rows(["known, but not seen yet"])
    decision = made.act(history([[1], []]))
    assert decision.slate.tolist() == [[10, 8, 7], [10, 8, 7]]
    assert decision.slot_logp.tolist() == [[0.0] * 3] * 2


@pytest.mark.parametrize("epsilon", [0.0, 0.5])
def test_fewer_items_than_slots_leave_empty_slots(epsilon: float) -> None:
    made = agent(catalog(2), slate=5, epsilon=epsilon)
    decision = made.act(history([[1], [2]]))
    assert decision.slate[:, :2].sort(1).values.tolist() == [[1, 2], [1, 2]]
    assert (decision.slate[:, 2:] == 0).all()
    assert (decision.slot_logp[:, 2:] == 0).all()
    nothing = agent(Catalog(5), slate=2).act(history([[], []]))
    assert nothing.slate.tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_exclude_seen_and_no_repeats(epsilon: float) -> None:
    rows = [[1, 2, 3], [], [4, 5, 6, 7, 8, 9]]
    slate = agent(catalog(10), slate=4, epsilon=epsilon, exclude_seen=True).act(history(rows)).slate
    for row, shown in zip(rows, slate.tolist(), strict=True):
        assert len(set(shown)) == 4
        assert not set(shown) & set(row)
        assert 0 not in shown


def test_exploration_reports_its_propensities() -> None:
    made = agent(catalog(10), slate=2, epsilon=0.2)
    decision = made.act(window(torch.ones(20_000, 4, dtype=torch.int32)))
    best = agent(catalog(10), slate=2).act(history([[1, 1, 1, 1]])).slate[0, 0]
    greedy = decision.slate[:, 0] == best
    assert greedy.float().mean().item() == pytest.approx(0.8 + 0.2 / 10, abs=0.01)
    assert decision.slot_logp[greedy, 0].exp().mean().item() == pytest.approx(0.82, abs=1e-5)
    assert decision.slot_logp[~greedy, 0].exp().mean().item() == pytest.approx(0.02, abs=1e-5)


def test_wide_catalogues_are_ranked_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    made = agent(catalog(50))
    many = window(torch.randint(1, 51, (40, 6), generator=Generator().manual_seed(0)))
    whole = made.act(many).slate
    monkeypatch.setattr("agents.supervised.SCORES_AT_ONCE", 51 * 7)
    assert torch.equal(made.act(many).slate, whole)


def test_nobody_asks() -> None:
    assert agent(catalog(10)).act(history([])).slate.shape == (0, 3)


# --- remembering -------------------------------------------------------------------------------------------------


def test_every_clicked_slot_is_an_example_and_nothing_else() -> None:
    made = agent(catalog(10))
    seen = clicked(history([[1], [2, 3]]), torch.tensor([4, 5]))
    seen.shown.slate = torch.tensor([[4, 6, 7, 0], [5, 8, 9, 1]])
    kinds = [[Kind.SKIP, Kind.CLICK, Kind.PURCHASE, Kind.NONE], [Kind.IMPRESSION, Kind.RATING, Kind.SKIP, Kind.NONE]]
    seen.feedback = torch.tensor(kinds, dtype=torch.int8)
    made.observe(seen)
    remembered = made.schedule.draw()
    assert remembered is not None
    assert remembered.target.tolist() == [6, 7, 8]
    assert remembered.history.items[:, -2:].tolist() == [[0, 1], [0, 1], [2, 3]]


def test_nothing_clicked_means_nothing_to_do() -> None:
    made = agent(catalog(10))
    assert made.update() == {}
    seen = clicked(history([[1]]), torch.tensor([2]))
    seen.feedback[:] = int(Kind.IMPRESSION)
    made.observe(seen)
    assert made.update() == {}


def test_windows_the_model_does_not_read_are_not_kept() -> None:
    made = agent(catalog(10))
    made.observe(clicked(history([[1, 2]]), torch.tensor([3])))
    some = made.schedule.draw()
    assert some is not None
    assert some.history.items.tolist() == [[0, 0, 0, 0, 1, 2]]
    assert some.history.skipped.shape == some.history.times.shape == (1, 0)
    encoder = GRU4Rec(catalog(10), dim=4)
    encoder.reads = ("mood",)
    with pytest.raises(ValueError, match="mood"):
        agent(catalog(10), encoder=encoder)


def test_another_schedule_brings_its_own_settings() -> None:
    items = catalog(10)
    model = NextItem(GRU4Rec(items, dim=4), items)
    made = Supervised(model, items, 3, schedule=Reservoir(memory=5, batch=4))
    made.observe(clicked(history([[1]] * 9), torch.arange(1, 10)))
    some = made.schedule.draw()
    assert some is not None
    assert some.target.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    with pytest.raises(ValueError, match="memory must be left out"):
        Supervised(model, items, 3, schedule=Reservoir(), memory=5)


# --- learning ----------------------------------------------------------------------------------------------------


def checkerboard(users: int, seed: int) -> tuple[History, Tensor]:
    """Even users click the even ones of 20 items in any order, odd users the odd ones; the tenth is withheld."""
    draws = Generator().manual_seed(seed)
    order = torch.rand(users, 10, generator=draws).argsort(1)
    own = 2 * order + 1 + torch.arange(users).unsqueeze(1) % 2
    return window(own[:, :9]), own[:, 9]


@pytest.mark.parametrize("loss", ["cross-entropy", "bpr-max"])
@pytest.mark.parametrize("kind", [GRU4Rec, SASRec])
def test_checkerboard_ranks_the_withheld_item_first(kind: type[GRU4Rec] | type[SASRec], loss: str) -> None:
    items = catalog(20)
    encoder = kind(items, dim=16)
    made = agent(items, slate=1, loss=loss, encoder=encoder, exclude_seen=True, batch=128)
    before, target = checkerboard(1_000, seed=0)
    made.observe(clicked(before, target))
    for _ in range(60):
        made.update()
    unseen, withheld = checkerboard(200, seed=1)
    shown = made.act(unseen).slate[:, 0]
    assert (shown == withheld).float().mean() > 0.97


def chain(sure: bool) -> tuple[History, Tensor]:
    """Item i is followed by i + 1 of 30, or by anything."""
    draws = Generator().manual_seed(0)
    newest = torch.randint(1, 31, (2_000,), generator=draws)
    anything = torch.randint(1, 31, (2_000,), generator=draws)
    older = torch.randint(1, 31, (2_000, 3), generator=draws)
    return window(torch.cat([older, newest.unsqueeze(1)], 1)), newest % 30 + 1 if sure else anything


@pytest.mark.parametrize("n_sample", [8, 2048])
def test_learns_a_chain_and_finds_nothing_in_noise(n_sample: int) -> None:
    right = []
    for sure in (True, False):
        made = agent(catalog(30), slate=1, n_sample=n_sample, batch=128)
        before, target = chain(sure)
        made.observe(clicked(before[:1_500], target[:1_500]))
        for _ in range(100):
            made.update()
        right.append((made.act(before[1_500:]).slate[:, 0] == target[1_500:]).float().mean().item())
    assert right[0] > 0.95
    assert right[1] < 0.1  # chance is 1 in 30


def test_clicks_on_an_item_that_just_turned_up_are_learned() -> None:
    items = catalog(30)
    made = agent(items, slate=2, batch=128)
    before, target = chain(sure=True)
    made.observe(clicked(before, target))
    for _ in range(60):
        made.update()
    new = items.rows(["new"])
    items.see(new)
    made.observe(clicked(history([[4], [9, 4], [8, 4]] * 10, length=4), new.expand(30)))
    for _ in range(40):
        made.update()
    # In memory 4 is followed by the new item 30 times and by 5 about twice as often.
    assert sorted(made.act(history([[7, 4]])).slate[0].tolist()) == [5, int(new)]


# --- going on after a kill ---------------------------------------------------------------------------------------


def waves(count: int) -> list[tuple[History, Tensor]]:
    draws = Generator().manual_seed(3)
    made = []
    for _ in range(count):
        items = torch.randint(0, 41, (16, 6), generator=draws)
        made.append((window(items.sort(1).values), torch.randint(1, 41, (16,), generator=draws)))
    return made


def restless(of: Catalog) -> Supervised:
    """Every source of randomness and state in use: dropouts, sampled negatives, momentum, exploration, full ring."""
    encoder = GRU4Rec(of, dim=8, dropout_embed=0.2, dropout_hidden=0.2)
    return agent(of, loss="bpr-max", encoder=encoder, n_sample=16, momentum=0.2, epsilon=0.3, batch=32, memory=64)


def play(made: Supervised, stream: list[tuple[History, Tensor]]) -> list[list[list[int]]]:
    slates = []
    for before, target in stream:
        slates.append(made.act(before).slate.tolist())
        made.observe(clicked(before, target))
        made.update()
    return slates


def flat(state: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(state, dict):
        return {path: state}
    return {name: leaf for key, value in state.items() for name, leaf in flat(value, f"{path}/{key}").items()}


@pytest.mark.parametrize("killed_at", [0, 1, 3, 7])
def test_killed_and_resumed_equals_never_killed(killed_at: int, tmp_path: Path) -> None:
    items, stream = catalog(40), waves(9)
    torch.manual_seed(1)
    never = restless(items)
    expected = play(never, stream)
    torch.manual_seed(2)
    killed = restless(items)
    first = play(killed, stream[:killed_at])
    checkpoint.save(tmp_path, {"agent": killed.state_dict()}, 1)
    play(killed, stream)  # what it does after the checkpoint must not matter
    loaded = checkpoint.load_newest(tmp_path)
    assert loaded is not None
    resumed = restless(items)
    resumed.load_state_dict(loaded[0]["agent"])
    assert first + play(resumed, stream[killed_at:]) == expected
    one, other = flat(never.state_dict()), flat(resumed.state_dict())
    assert one.keys() == other.keys()
    for name, leaf in one.items():
        assert torch.equal(leaf, other[name]) if isinstance(leaf, Tensor) else leaf == other[name], name


def test_state_of_other_settings_is_refused() -> None:
    items = catalog(40)
    state = restless(items).state_dict()
    with pytest.raises(ValueError, match="memory=64"):
        Replay(memory=65, batch=32).load_state_dict(state["schedule"])
    with pytest.raises(ValueError, match="momentum"):
        agent(items, encoder=GRU4Rec(items, dim=8), memory=64).optimiser.load_state_dict(state["optimiser"])


# --- cost --------------------------------------------------------------------------------------------------------


def python_calls(made: Supervised, users: int) -> int:
    before = window(torch.randint(1, 41, (users, 6), generator=Generator().manual_seed(0)))
    seen = clicked(before, torch.ones(users, dtype=torch.int64))
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    gc.disable()  # a collection would run callbacks of hypothesis, which are functions too
    sys.setprofile(count)
    try:
        made.act(before)
        made.observe(seen)
        made.update()
    finally:
        sys.setprofile(None)
        gc.enable()
    return calls


def test_python_calls_do_not_grow_with_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "WORTH", sys.maxsize)  # one library multiplies
    counts = []
    for users in (64, 1024):
        made = agent(catalog(40), batch=users, epsilon=0.1)
        python_calls(made, users)  # the first call allocates
        counts.append(python_calls(made, users))
    assert counts[0] == counts[1]


@pytest.mark.parametrize(
    "setting", [{"batch": 0}, {"batch": 100, "memory": 10}, {"epsilon": 1.5}, {"replay_ratio": -1.0}]
)
def test_settings_out_of_range_are_named(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        agent(catalog(10), **setting)


# --- models that count as well -------------------------------------------------------------------------------------


def test_the_neighbours_of_a_blend_learn_a_click_when_it_is_seen() -> None:
    items = catalog(10)
    blend = Blend(NextItem(GRU4Rec(items, dim=4), items), VSKNN(items, neighbours=5, sample=5), weight=1.0)
    made = Supervised(blend, items, 1, batch=4, memory=64)
    made.observe(clicked(history([[1], [1, 2]]), torch.tensor([2, 3])))
    assert made.act(history([[], [2]])).slate[1].tolist() != [0]
    near = blend.neighbours.score(history([[], [], [1]]))  # the third user is nobody who clicked above
    assert near[2, 2] > 0.0
    assert near[2, 7] == 0.0
