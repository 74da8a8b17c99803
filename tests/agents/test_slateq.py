"""SlateQ: slates are the best there are, and values are those of the closed form, that of nothing included."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor

from agents.popular import Popular
from agents.slateq import SlateQ
from agents.slateq_slates import Search, best_by_iterating, best_by_trying, slate_gain, slate_scores
from streamrec.catalog import Catalog
from streamrec.records import Decision, History, Kind, Transition
from streamrec.sessions import SessionStore

# --- slates --------------------------------------------------------------------------------------------------------

ODDS = torch.tensor([[2.0, 1.0, 1.0]])  # a, b1, b2 against nothing: 1
GAIN = torch.tensor([[0.8, 1.0, 1.0]])


def slate(odds: Tensor, gain: Tensor, k: int, optimiser: Search, mask: Tensor | None = None) -> Tensor:
    mask = torch.ones_like(odds, dtype=torch.bool) if mask is None else mask
    return slate_scores(odds, gain, mask, k, optimiser).topk(k, dim=1).indices


def value(odds: Tensor, gain: Tensor, chosen: Tensor) -> Tensor:
    return slate_gain(odds.gather(1, chosen), gain.gather(1, chosen))


def test_the_papers_counter_example() -> None:
    """Ie et al. 2019, section 5: the best slate of two is {b1, b2}, worth 2/3; the heuristics take a, 2.6/4."""
    assert slate(ODDS, GAIN, 2, "exact")[0].sort().values.tolist() == [1, 2]
    assert float(value(ODDS, GAIN, slate(ODDS, GAIN, 2, "exact"))) == pytest.approx(2 / 3)
    heuristics: tuple[Search, ...] = ("topk", "greedy")
    for optimiser in heuristics:
        chosen = slate(ODDS, GAIN, 2, optimiser)
        assert chosen[0, 0] == 0
        assert float(value(ODDS, GAIN, chosen)) == pytest.approx(2.6 / 4)


def instances(n: int = 200, candidates: int = 8) -> tuple[Tensor, Tensor]:
    """Odds and gains; many gains are below 0, so that filling a slot can cost."""
    generator = torch.Generator().manual_seed(2)
    odds = torch.randn(n, candidates, generator=generator).mul(1.5).exp()
    return odds, torch.randn(n, candidates, generator=generator) + torch.linspace(-2, 2, n).unsqueeze(1)


@pytest.mark.parametrize("k", [1, 3, 8])
def test_exact_is_the_best_of_all_slates_however_it_is_found(k: int) -> None:
    odds, gain = instances()
    mask = torch.ones_like(odds, dtype=torch.bool)
    every = torch.stack([value(odds, gain, torch.tensor(s).expand(200, -1)) for s in combinations(range(8), k)])
    best = every.amax(0)
    torch.testing.assert_close(best_by_trying(odds, gain, mask, k), best)
    torch.testing.assert_close(best_by_iterating(odds, gain, mask, k), best)
    torch.testing.assert_close(value(odds, gain, slate(odds, gain, k, "exact")), best)


def test_exact_is_at_least_greedy_is_mostly_at_least_topk() -> None:
    odds, gain = instances(2000)
    exact, greedy, topk = (value(odds, gain, slate(odds, gain, 3, name)) for name in ("exact", "greedy", "topk"))
    assert (exact >= greedy - 1e-5).all()
    assert (exact >= topk - 1e-5).all()
    assert (exact > greedy + 1e-4).any()
    assert greedy.mean() > topk.mean()


def test_many_candidates_are_not_enumerated() -> None:
    odds, gain = instances(50, 100)
    chosen = slate(odds, gain, 10, "exact")
    best = value(odds, gain, chosen)
    torch.testing.assert_close(best, best_by_iterating(odds, gain, torch.ones_like(odds, dtype=torch.bool), 10))
    for other in (slate(odds, gain, 10, "greedy"), slate(odds, gain, 10, "topk"), chosen.roll(1, 0)):
        assert (best >= value(odds, gain, other) - 1e-5).all()


@pytest.mark.parametrize("optimiser", ["topk", "greedy", "exact"])
@pytest.mark.parametrize("candidates", [8, 100])
def test_what_may_not_be_shown_is_never_in_a_slate(optimiser: Search, candidates: int) -> None:
    odds, gain = instances(100, candidates)
    mask = torch.rand(odds.shape, generator=torch.Generator().manual_seed(3)) < 0.7
    mask[0] = False
    mask[1] = False
    mask[1, 5] = True
    scores = slate_scores(odds, gain, mask, 4, optimiser)
    assert torch.equal(torch.isinf(scores), ~mask)
    # The forbidden might as well not be there.
    row = 7
    alone = slate(odds[row : row + 1, mask[row]], gain[row : row + 1, mask[row]], 3, optimiser)
    there = mask[row].nonzero().squeeze(1)
    assert torch.equal(slate(odds, gain, 3, optimiser, mask)[row], there[alone[0]])


def test_a_slate_is_worth_what_its_items_are_worth_each_as_likely_as_it_is_chosen() -> None:
    """Q(s, A) = sum over A and nothing of P(i | s, A) Q(s, i), the decomposition of the paper."""
    odds, _ = instances(50, 3)
    q = torch.randn(50, 4, generator=torch.Generator().manual_seed(4))  # three items and nothing
    p = torch.cat([odds, torch.ones(50, 1)], dim=1)
    p = p / p.sum(1, keepdim=True)
    torch.testing.assert_close(q[:, 3] + slate_gain(odds, q[:, :3] - q[:, 3:]), (p * q).sum(1))


# --- a world with a closed form ------------------------------------------------------------------------------------

BAIT, GOOD = 1, 2
CHANCE = {BAIT: 0.8, GOOD: 0.2}
GAMMA = 0.9
"""One state, slates of one. A click pays 1. After the bait is taken, the visit is over; else it goes on."""


def world(n: int = 4000) -> tuple[Catalog, SessionStore, Transition]:
    """What a logger saw who showed either in turns, with clicks as frequent as they are likely."""
    catalog, sessions = Catalog(2), SessionStore(users=n, slate=1)
    catalog.reserve(2)
    sessions.reserve(context=1, offer=2)
    rows = catalog.rows(["bait", "good"])
    catalog.describe(rows, features=torch.eye(2))
    catalog.see(rows)
    user = torch.arange(n)
    offer = rows.expand(n, -1)
    history = History.of(
        user=user, key=user, items=torch.zeros(n, 0, dtype=torch.int32), context=torch.ones(n, 1), offer=offer
    )
    shown = (user % 2 + 1).unsqueeze(1)
    tenth = (user // 2 % 10).unsqueeze(1) / 10
    clicked = tenth < torch.where(shown == BAIT, CHANCE[BAIT], CHANCE[GOOD])
    decision = Decision.of(user, shown)
    transition = Transition(
        history=history,
        shown=decision,
        wanted=decision,
        feedback=torch.where(clicked, int(Kind.CLICK), int(Kind.IMPRESSION)).to(torch.int8),
        rewards=clicked.float(),
        next=history,
        time=torch.ones(n, dtype=torch.float64),
        done=(clicked & (shown == BAIT)).squeeze(1),
        sent=torch.zeros(n, dtype=torch.float64),
    )
    return catalog, sessions, transition


def agent(catalog: Catalog, sessions: SessionStore, **settings: Any) -> SlateQ:
    small = {
        "gamma": GAMMA,
        "batch": 256,
        "memory": 4096,
        "hidden": 8,
        "rank": 4,
        "value_scale": 1.0,
        "epsilon": 0.0,
        "target_every": 5,
    }
    return SlateQ(
        catalog,
        sessions,
        slate=1,
        **{**small, "epsilon_start": 0.0, "learning_rate": 0.01, "choice_rate": 0.01, **settings},
    )


def values_of(made: SlateQ, history: History) -> list[float]:
    """Q of bait, good and nothing."""
    with torch.no_grad():
        _, gain, nothing = made._judge(made.online, history[:1], torch.tensor([[BAIT, GOOD]]))
    return [*(gain + nothing.unsqueeze(1))[0].tolist(), float(nothing)]


def learned(steps: int = 400, **settings: Any) -> tuple[SlateQ, Transition, list[float]]:
    """The agent after learning, with Q of bait, good and nothing."""
    catalog, sessions, transition = world()
    made = agent(catalog, sessions, **settings)
    made.observe(transition)
    for _ in range(steps):
        made.update()
    return made, transition, values_of(made, transition.history)


def test_values_are_those_of_the_closed_form_and_nothing_is_worth_waiting() -> None:
    """Showing what is good for ever: V = .2 (1 + .9 V) + .8 * .9 V = 2. Q = 1 + .9 V = 2.8, nothing 1.8, bait 1."""
    made, transition, values = learned()
    assert values == pytest.approx([1.0, 2.8, 1.8], rel=0.06)
    assert (made.act(transition.history).slate == GOOD).all()


def test_as_published_nothing_is_worth_nothing_and_bait_is_taken() -> None:
    """Then V = max(.8 * 1, .2 (1 + .9 V)) = .8 and Q of the good is 1 + .9 * .8 = 1.72."""
    made, transition, values = learned(null_value=False)
    assert values == pytest.approx([1.0, 1.72, 0.0], rel=0.06)
    assert (made.act(transition.history).slate == BAIT).all()


def test_without_foresight_all_clicks_are_alike() -> None:
    made, transition, values = learned(250, gamma=0.0)
    assert values == pytest.approx([1.0, 1.0, 0.0], abs=0.05)
    assert (made.act(transition.history).slate == BAIT).all()


def test_the_choice_model_is_that_of_the_users() -> None:
    made, transition, _ = learned(250)
    with torch.no_grad():
        odds, _, _ = made._judge(made.online, transition.history[:1], torch.tensor([[BAIT, GOOD]]))
    p = (odds / (1 + odds))[0]
    assert p.tolist() == pytest.approx([0.8, 0.2], abs=0.05)


def twice() -> tuple[SlateQ, Transition]:
    """A SARSA agent that saw every user of the logger twice, the second time with the other slate."""
    catalog, sessions, transition = world()
    made = agent(catalog, sessions, target="sarsa", memory=8000)
    made.observe(transition)
    assert not made.replay.following(torch.arange(4000))[1].any()
    again = transition[torch.arange(4000) ^ 1]
    again.history.user, again.history.key = transition.history.user, transition.history.key
    made.observe(again)
    return made, again


def test_sarsa_knows_which_slate_was_shown_next() -> None:
    made, again = twice()
    slates, known = made.replay.following(torch.arange(8000))
    assert torch.equal(known, torch.arange(8000) < 4000)
    assert torch.equal(slates[:4000], again.shown.slate)


def test_sarsa_learns_the_values_of_who_shows_the_two_in_turns() -> None:
    """Of the first pass only: after the good comes the bait, V = .8 + .2 * .9 W, and after the bait the good,
    W = .2 + .9 V. So V = .836 / .838 and W = 1.098; nothing is worth .9 times the mean of the two.
    """
    made, again = twice()
    for _ in range(400):
        made.update()
    v = (0.8 + 0.2 * 0.9 * 0.2) / (1 - 0.2 * 0.81)
    w = 0.2 + 0.9 * v
    bait, good, nothing = values_of(made, again.history)
    assert bait == pytest.approx(1.0, rel=0.06)
    assert good == pytest.approx(1 + GAMMA * v, rel=0.08)
    assert GAMMA * min(v, w) * 0.92 < nothing < GAMMA * max(v, w) * 1.08


def test_every_click_of_a_slate_is_a_sample_and_what_is_not_clicked_pays_into_it() -> None:
    catalog, sessions, _ = world()
    made = SlateQ(catalog, sessions, slate=2, batch=1, memory=4, gamma=0.0, value_scale=1.0)
    _, _, one = world(n=1)
    two = replace(
        one,
        shown=Decision.of(one.history.user, torch.tensor([[1, 2]])),
        wanted=Decision.of(one.history.user, torch.tensor([[1, 2]])),
        feedback=torch.tensor([[int(Kind.CLICK), int(Kind.SKIP)]], dtype=torch.int8),
        rewards=torch.tensor([[1.0, -0.25]]),
    )
    for weights in made.online.parameters():
        torch.nn.init.zeros_(weights)
    made.observe(two)
    assert made.update()["loss"] == pytest.approx(0.75**2)


# --- with others ---------------------------------------------------------------------------------------------------


def test_slates_are_drawn_with_their_propensities() -> None:
    catalog, sessions, transition = world()
    made = agent(catalog, sessions, epsilon=0.3, epsilon_start=0.3)
    decision = made.act(transition.history)
    favourite = int(decision.slate.mode(0).values)
    share = float((decision.slate == favourite).double().mean())
    assert share == pytest.approx(0.85, abs=0.02)
    expected = torch.where(decision.slate == favourite, 0.85, 0.15).log()
    torch.testing.assert_close(decision.slot_logp, expected)


def test_without_candidates_of_its_own_it_takes_what_another_agent_proposes_or_everything() -> None:
    catalog, sessions, transition = world()
    asked = replace(transition.history, offer=transition.history.offer[:, :0])
    for candidates in (None, Popular(catalog, slate=1)):
        made = agent(catalog, sessions, candidates=candidates, extra=1)
        assert (made.act(asked).slate > 0).all()


def test_a_known_choice_needs_a_world_that_tells_interests() -> None:
    catalog, sessions, _ = world()
    with pytest.raises(ValueError, match="requests bring 1 numbers and items 2"):
        agent(catalog, sessions, choice="mnl")


@pytest.mark.parametrize(("choice", "odds"), [("mnl", [torch.e**-0.5, torch.e**-2.0]), ("proportional", [0.75, 0.0])])
def test_known_choices(choice: str, odds: list[float]) -> None:
    catalog, sessions = Catalog(2), SessionStore(users=4, slate=1)
    catalog.reserve(2)
    sessions.reserve(context=2, offer=2)
    catalog.describe(catalog.rows(["a", "b"]), features=torch.eye(2))
    made = agent(catalog, sessions, choice=choice)
    user = torch.zeros(1, dtype=torch.int64)
    history = History.of(user=user, items=user.new_zeros(1, 0), context=torch.tensor([[0.5, -1.0]]))
    assert made._judge(made.online, history, torch.tensor([[1, 2]]))[0][0].tolist() == pytest.approx(odds, abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"optimiser": "lp"}, "optimiser must be one of topk, greedy, exact"),
        ({"target": "mc"}, "target must be one of qlearning, sarsa"),
        ({"choice": "probit"}, "choice must be one of learned, mnl, proportional"),
        ({"gamma": 1.5}, "gamma must be between 0 and 1"),
        ({"rank": 0}, "rank must be at least 1"),
        ({"extra": -1}, "extra and epsilon_decay must be at least 0"),
        ({"value_scale": 0.0}, "value_scale must be above 0"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], said: str) -> None:
    catalog, sessions, _ = world(n=1)
    with pytest.raises(ValueError, match=said):
        agent(catalog, sessions, **settings)
