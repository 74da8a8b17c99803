"""The jury: what it refuses, and what it does with lists of several widths."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from streamrec.catalog import Catalog
from streamrec.ope.codes import Refused
from streamrec.records import Decision, Events, History, Kind
from streamrec.replay.jury import Jury, Member
from streamrec.replay.reward_model import RewardTable
from tests.histories import catalog, clicked, history
from tests.streamrec.replay.test_probabilities import Lister

ITEMS = 4


class Fixed(Lister):
    """Says the probabilities it is given."""

    def __init__(self, *chances: float) -> None:
        self.chances = torch.tensor([chances], dtype=torch.float64)

    def probabilities(self, history: History, items: Tensor, mask: Tensor) -> Tensor:
        return self.chances.expand(len(history), -1) * mask


class Wide(Lister):
    """A list of four."""

    def act(self, history: Any) -> Any:
        return Decision.of(history.user, torch.tensor([[4, 3, 2, 1]]).expand(len(history), -1))


def jury(*agents: Any, of: Catalog | None = None, **settings: Any) -> Jury:
    items = catalog(ITEMS) if of is None else of
    members = [Member(f"m{at}", agent, agent) for at, agent in enumerate(agents)]
    return Jury(members, items, users=8, slots=2, rewards=RewardTable(items.capacity, 2), **settings)


def asked(n: int = 1) -> tuple[History, Events]:
    made = history([[]] * n)
    return made, Events.of(made.user, Kind.REQUEST, made.time)


def past(who: History, slate: list[list[int]], chance: float = 0.25) -> Decision:
    shown = torch.tensor(slate)
    return Decision.of(who.user, shown, torch.full(shown.shape, chance).log())


def judged(made: Jury, slate: list[list[int]]) -> Any:
    who, events = asked(len(slate))
    made.act(who)
    made.cast(past(who, slate), events)
    return made.ballots[who.user]


def test_later_slots_choose_among_what_is_left() -> None:
    """.4 / .3 / .2 / .1: the second slot, after item 1 was shown, may not choose item 1 again."""
    sequential = Fixed(0.4, 0.3, 0.2, 0.1)
    with pytest.raises(Refused, match=r"not_a_distribution.*m0.*0.6"):
        judged(jury(sequential), [[1, 2]])
    assert judged(jury(sequential, marginal=True), [[1, 2]]).target.tolist() == [[[0.4, 0.3]]]


@pytest.mark.parametrize("chances", [(0.5, 0.5, 0.5, 0.5), (1.5, -0.5, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0)])
def test_what_is_no_distribution_is_refused(chances: tuple[float, ...]) -> None:
    with pytest.raises(Refused, match="not_a_distribution"):
        judged(jury(Fixed(*chances)), [[1, 0]])


def test_a_policy_that_only_lists_is_remembered_as_such() -> None:
    made = jury(Lister(), Fixed(0.25, 0.25, 0.25, 0.25))
    ballots = judged(made, [[1, 0], [2, 0]])
    assert list(made.refused) == ["m0"]
    assert ballots.target[:, 0].isnan().all()
    assert ballots.target[:, 1, 0].tolist() == [0.25, 0.25]


def test_requests_older_than_what_the_reward_model_knows_are_refused() -> None:
    made = jury(Fixed(0.25, 0.25, 0.25, 0.25))
    made.rewards.newest = 100.0
    with pytest.raises(Refused, match="future_leak"):
        judged(made, [[1, 0]])  # at time 100
    made.rewards.newest = 99.0
    assert judged(made, [[1, 0]]).known.tolist() == [[True, False]]


def test_lists_of_several_widths_stand_side_by_side() -> None:
    who, _ = asked()
    assert jury(Lister(), Wide()).act(who).shadow.tolist() == [[[3, 1, 0, 0], [4, 3, 2, 1]]]
    assert jury(Lister(), Wide(), places=3).act(who).shadow.tolist() == [[[3, 1, 0], [4, 3, 2]]]


def test_what_was_no_candidate_has_no_chance_and_is_counted() -> None:
    items = catalog(ITEMS)
    items.retire(torch.tensor([4]))
    made = jury(Fixed(0.5, 0.25, 0.25), of=items)
    assert judged(made, [[4, 0]]).target[0, 0, 0] == 0.0
    assert made.counts["cold"] == 1


def test_mass_is_where_a_policy_would_go() -> None:
    made = jury(Fixed(0.7, 0.1, 0.1, 0.1))
    judged(made, [[1, 0], [2, 0]])
    assert made.mass[0, 1:5].tolist() == pytest.approx([1.4, 0.2, 0.2, 0.2])
    assert made.shown[1:5].tolist() == [1.0, 1.0, 0.0, 0.0]


def test_everybody_who_waits_is_named_once() -> None:
    made = jury(Fixed(0.25, 0.25, 0.25, 0.25))
    judged(made, [[1, 0], [2, 0], [3, 0]])
    made.closed(replace(clicked(asked(3)[0], torch.tensor([1, 2, 3])))[1:2])
    assert made.leaving(1).tolist() == [0]
    assert made.leaving(9).tolist() == [2]
    assert made.leaving(9).tolist() == []


@pytest.mark.parametrize("cluster", ["sessions", ""])
def test_settings_that_are_none_are_refused(cluster: str) -> None:
    with pytest.raises(ValueError, match="cluster"):
        jury(Lister(), cluster=cluster)
    with pytest.raises(ValueError, match="different names"):
        jury()


def test_requests_with_candidates_of_their_own_are_counted_as_sampled() -> None:
    made = jury(Wide())
    who, events = asked(3)
    offers = replace(events, offer=torch.tensor([[1, 2], [1, 0], [0, 0]]))
    made.act(who)
    made.cast(past(who, [[1, 2]] * 3), offers)
    assert made.counts["sampled"] == 2
