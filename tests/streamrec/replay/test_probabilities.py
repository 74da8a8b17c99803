"""What agents say about their chances is what they then do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from streamrec.build import build
from streamrec.explore import Probabilistic, Scoring, choose, first_choice, first_draw, plackett_luce
from streamrec.ope.codes import Refused
from streamrec.ports import Agent
from streamrec.replay.explorers import EpsilonGreedy, PlackettLuce
from streamrec.sessions import SessionStore
from tests.histories import catalog, clicked, history

ITEMS = 6
GRU = {"use": "streamrec.encoders.gru4rec.GRU4Rec", "dim": 8}
NEXT = {"use": "streamrec.models.next_item.NextItem", "encoder": GRU}
AGENTS: dict[str, dict[str, Any]] = {
    "random": {"use": "agents.random.Random"},
    "popular": {"use": "agents.popular.Popular", "epsilon": 0.3},
    "itemknn": {"use": "agents.itemknn.ItemKNN", "epsilon": 0.3},
    "vsknn": {"use": "agents.counting.Counting", "epsilon": 0.3,
              "model": {"use": "streamrec.models.vsknn.VSKNN", "sessions": 64, "neighbours": 9, "sample": 9}},
    "supervised": {"use": "agents.supervised.Supervised", "epsilon": 0.3, "model": NEXT},
    "dqn": {"use": "agents.dqn.DQN", "encoder": GRU, "epsilon": 0.3, "epsilon_start": 0.3, "batch": 8, "memory": 64},
}  # fmt: skip


def made(spec: dict[str, Any], of: Any = None) -> Agent:
    items = catalog(ITEMS) if of is None else of
    context = {"catalog": items, "sessions": SessionStore(users=64), "slate": 2, "seed": 1, "device": "cpu"}
    agent: Agent = build(spec, context, "agent")
    agent.observe(clicked(history([[1, 2], [3], [2], [4, 1]]), torch.tensor([3, 2, 3, 2])))
    agent.update()
    return agent


def candidates(n: int) -> tuple[Tensor, Tensor]:
    items = torch.arange(1, ITEMS + 1).expand(n, -1)
    return items, torch.ones(n, ITEMS, dtype=torch.bool)


@pytest.mark.parametrize("name", AGENTS)
def test_probabilities_are_those_of_the_first_slot(name: str) -> None:
    """6,000 decisions for one user; three and a half standard errors of a share are at most .023."""
    agent = made(AGENTS[name])
    assert isinstance(agent, Probabilistic)
    one = history([[1, 2]])
    wanted = agent.probabilities(one, *candidates(1))[0]
    assert wanted.dtype == torch.float64
    torch.testing.assert_close(wanted.sum(), torch.tensor(1.0, dtype=torch.float64))
    many = history([[1, 2]] * 6000)
    found = torch.bincount(agent.act(many).slate[:, 0], minlength=ITEMS + 1)[1:] / 6000
    torch.testing.assert_close(found.double(), wanted, atol=0.023, rtol=0)


@pytest.mark.parametrize("name", AGENTS)
def test_nothing_outside_the_mask_has_a_chance(name: str) -> None:
    agent = made(AGENTS[name])
    items, mask = candidates(3)
    mask = mask.clone()
    mask[0, 2:] = False
    mask[1] = False
    chance = agent.probabilities(history([[1], [2], [3]]), items, mask)  # type: ignore[attr-defined]
    assert (chance[~mask] == 0).all()
    torch.testing.assert_close(chance.sum(1), torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64))


def test_what_was_seen_has_no_chance_where_it_is_excluded() -> None:
    agent = made(AGENTS["popular"] | {"exclude_seen": True})
    chance = agent.probabilities(history([[1, 2]]), *candidates(1))[0]  # type: ignore[attr-defined]
    assert chance[:2].tolist() == [0.0, 0.0]
    assert float(chance.sum()) == pytest.approx(1.0)


def test_dqn_that_draws_its_candidates_says_no() -> None:
    agent = made(AGENTS["dqn"] | {"candidates": {"use": "agents.popular.Popular"}})
    with pytest.raises(Refused, match="policy_not_probabilistic"):
        agent.probabilities(history([[1]]), *candidates(1))  # type: ignore[attr-defined]
    offered = replace(history([[1]]), offer=torch.tensor([[1, 2, 3]]))
    assert float(agent.probabilities(offered, *candidates(1)).sum()) == pytest.approx(1.0)  # type: ignore[attr-defined]


def test_frozen_hands_through() -> None:
    inner = made(AGENTS["popular"])
    frozen = build({"use": "agents.frozen.Frozen"}, {"agent": inner}, "agent")
    one, given = history([[1, 2]]), candidates(1)
    assert torch.equal(frozen.probabilities(one, *given), inner.probabilities(one, *given))  # type: ignore[attr-defined]
    with pytest.raises(Refused, match="policy_not_probabilistic"):
        build({"use": "agents.frozen.Frozen"}, {"agent": Lister()}, "agent").probabilities(one, *given)


@pytest.mark.parametrize("epsilon", [0.0, 0.4, 1.0])
def test_first_choice_is_the_propensity_of_choose(epsilon: float) -> None:
    scores = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    scores[:50, 3] = -torch.inf
    index, slot_logp = choose(scores, 2, epsilon, torch.Generator().manual_seed(1))
    chance = first_choice(scores, epsilon, 2)
    first = chance.gather(1, index[:, :1]).squeeze(1)
    torch.testing.assert_close(first, slot_logp[:, 0].double().exp(), atol=1e-6, rtol=1e-6)
    second = first_choice(scores.scatter(1, index[:, :1], -torch.inf), epsilon, 2)
    torch.testing.assert_close(
        second.gather(1, index[:, 1:]).squeeze(1), slot_logp[:, 1].double().exp(), atol=1e-6, rtol=1e-6
    )


def test_first_draw_is_the_propensity_of_plackett_luce() -> None:
    scores = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    index, slot_logp = plackett_luce(scores, 2, 0.7, torch.Generator().manual_seed(1))
    first = first_draw(scores, 0.7)
    torch.testing.assert_close(
        first.gather(1, index[:, :1]).squeeze(1), slot_logp[:, 0].double().exp(), atol=1e-6, rtol=1e-5
    )
    second = first_draw(scores.scatter(1, index[:, :1], -torch.inf), 0.7)
    torch.testing.assert_close(
        second.gather(1, index[:, 1:]).squeeze(1), slot_logp[:, 1].double().exp(), atol=1e-6, rtol=1e-5
    )
    assert first_draw(torch.full((1, 3), -torch.inf), 1.0).tolist() == [[0.0, 0.0, 0.0]]
    with pytest.raises(ValueError, match="above 0"):
        first_draw(scores, 0.0)


class Lister:
    """A ranker that only gives lists: item 3, then 1."""

    def act(self, history: Any) -> Any:
        from streamrec.records import Decision

        return Decision.of(history.user, torch.tensor([[3, 1]]).expand(len(history), -1))

    def observe(self, transition: Any) -> None: ...

    def update(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def test_a_ranker_becomes_a_policy_by_epsilon_greedy() -> None:
    policy = EpsilonGreedy(Lister(), catalog(ITEMS), 2, epsilon=0.6)
    chance = policy.probabilities(history([[]]), *candidates(1))[0]
    assert chance.tolist() == pytest.approx([0.1, 0.1, 0.5, 0.1, 0.1, 0.1])
    found = policy.act(history([[]] * 4000)).slate
    assert float((found[:, 0] == 3).double().mean()) == pytest.approx(0.5, abs=0.03)
    items, mask = candidates(1)
    without = policy.probabilities(history([[]]), items, mask & (items != 3))[0]
    assert without.tolist() == pytest.approx([0.52, 0.12, 0.0, 0.12, 0.12, 0.12])


def test_a_ranker_becomes_a_policy_by_plackett_luce_over_places() -> None:
    """Scores are 0 for the first place, -1 for the second, -2 for what is not listed."""
    policy = PlackettLuce(Lister(), catalog(ITEMS), 2, temperature=0.5)
    weights = torch.tensor([-1.0, -2.0, 0.0, -2.0, -2.0, -2.0], dtype=torch.float64).div(0.5).exp()
    torch.testing.assert_close(policy.probabilities(history([[]]), *candidates(1))[0], weights / weights.sum())
    found = policy.act(history([[]] * 4000)).slate[:, 0]
    assert float((found == 3).double().mean()) == pytest.approx(float(weights[2] / weights.sum()), abs=0.03)


def test_scores_are_used_where_there_are_any() -> None:
    agent = made(AGENTS["popular"])
    assert isinstance(agent, Scoring)
    policy = PlackettLuce(agent, catalog(ITEMS), 2, temperature=1.0)
    given = candidates(1)
    wanted = torch.softmax(agent.scores(history([[]]), *given), dim=1)
    torch.testing.assert_close(policy.probabilities(history([[]]), *given), wanted)


@pytest.mark.parametrize(("cls", "setting"), [(EpsilonGreedy, {"epsilon": 1.5}), (PlackettLuce, {"temperature": 0.0})])
def test_settings_out_of_range_are_refused(cls: Any, setting: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        cls(Lister(), catalog(ITEMS), 2, **setting)
