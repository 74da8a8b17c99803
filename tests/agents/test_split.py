"""Split: who belongs to whom, for good, and nobody learns from others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from agents.frozen import Frozen
from agents.panel import Panel
from agents.popular import Popular
from agents.split import Split
from streamrec.records import Decision, History
from tests.histories import catalog, clicked, history


def users(n: int, offset: int = 0) -> History:
    """Users as the session store makes them: keys are 63 bits of a hash."""
    made = history([[]] * n)
    made.key = torch.randint(0, 2**62, (n,), generator=torch.Generator().manual_seed(offset))
    return made


class Constant(Popular):
    """Shows the same items to everybody, and keeps what it saw."""

    def __init__(self, first: int, slate: int = 2) -> None:
        super().__init__(catalog(40), slate)
        self.first = first
        self.saw: list[Any] = []

    def act(self, history: History) -> Decision:
        return Decision.of(history.user, torch.arange(self.slate).expand(len(history), -1) + self.first)

    def observe(self, transition: Any) -> None:
        self.saw.append(transition)

    def update(self) -> dict[str, float]:
        return {"loss": float(self.first)}


def shown_by(split: Split, history: History) -> Tensor:
    return split.act(history).slate[:, 0]


def test_every_user_has_one_member_whoever_asks_beside_them() -> None:
    split = Split({"a": Constant(1), "b": Constant(5), "c": Constant(9)})
    every = users(3_000)
    decision = split.act(every)
    member = torch.tensor([1, 5, 9])
    assert torch.equal(decision.slate[:, 0], member[decision.policy])
    assert torch.equal(decision.user, every.user)
    shares = torch.bincount(decision.policy) / 3_000
    assert (shares - 1 / 3).abs().max() < 5 * (2 / 9 / 3_000) ** 0.5
    order = torch.randperm(3_000, generator=torch.Generator().manual_seed(1))[:100]
    assert torch.equal(split.act(every[order]).policy, decision.policy[order])


def test_membership_is_the_same_in_every_version() -> None:
    """Golden: a change of this hash would hand the users of running experiments to other members."""
    split = Split({"a": Constant(1), "b": Constant(5), "c": Constant(9)})
    keys = torch.tensor([0, 1, 2, 3, 4_611_686_018_427_387_904, 9_223_372_036_854_775_807, 12_345, 678_910])
    assert split.member(keys).tolist() == [0, 0, 2, 2, 0, 2, 2, 1]  # the same arithmetic in Python integers mod 2^64


def test_a_split_inside_a_split_divides_its_users_again() -> None:
    inner = Split({"a": Constant(5), "b": Constant(9)})
    split = Split({"a": Constant(1), "b": inner})
    assert split.names == ["a", "b.a", "b.b"]
    decision = split.act(users(4_000))
    assert torch.equal(decision.slate[:, 0], torch.tensor([1, 5, 9])[decision.policy])
    counts = torch.bincount(decision.policy, minlength=3)
    assert (counts - torch.tensor([2_000, 1_000, 1_000])).abs().max() < 5 * 1_000**0.5


@pytest.mark.parametrize("learn_from", ["own", "all"])
def test_members_learn_from_their_own_users_or_from_all(learn_from: Any) -> None:
    members = {"a": Constant(1), "b": Constant(5)}
    split = Split(dict(members), learn_from)
    every = users(500)
    transition = clicked(every, torch.ones(500, dtype=torch.int64))
    transition.wanted = split.act(every)
    split.observe(transition)
    for at, one in enumerate(members.values()):
        own = every.key[split.member(every.key) == at]
        (saw,) = one.saw
        assert saw.history.key.tolist() == (every.key if learn_from == "all" else own).tolist()
        assert (saw.wanted.policy == 0).all()


def test_nobody_is_bothered_without_rows_and_no_rows_at_all_are_fine() -> None:
    members = {"a": Constant(1), "b": Constant(5)}
    split = Split(dict(members))
    one = users(1)
    split.observe(clicked(one, torch.tensor([3])))
    assert sorted(len(m.saw) for m in members.values()) == [0, 1]
    assert split.act(users(0)).slate.shape == (0, 2)


def test_reports_are_prefixed_with_the_member() -> None:
    split = Split({"a": Constant(1), "b": Split({"c": Constant(5), "d": Constant(9)})})
    assert split.update() == {"a.loss": 1.0, "b.c.loss": 5.0, "b.d.loss": 9.0}


def test_a_frozen_member_keeps_its_plain_name() -> None:
    assert Split({"a": Constant(1), "b": Frozen(Constant(5))}).names == ["a", "b"]


def test_a_panel_as_a_member_keeps_its_shadows() -> None:
    members = {"x": Constant(5), "y": Constant(9)}
    split = Split({"a": Constant(1), "b": Panel(dict(members), lead="y")})
    assert split.names == ["a", "b.x", "b.y"]
    every = users(400)
    decision = split.act(every)
    assert decision.shadow.shape == (400, 3, 2)
    assert set(decision.policy.tolist()) == {0, 2}
    lone = decision.policy == 0
    assert decision.shadow[lone, :, 0].unique(dim=0).tolist() == [[1, 0, 0]]
    assert decision.shadow[~lone, :, 0].unique(dim=0).tolist() == [[0, 5, 9]]
    transition = clicked(every, torch.ones(400, dtype=torch.int64))
    transition.wanted = decision
    split.observe(transition)
    for one in members.values():
        assert one.saw[0].wanted.slate[:, 0].unique().tolist() == [one.first]
        assert one.saw[0].wanted.shadow.shape[1] == 0


def test_refuses_other_members_than_those_saved() -> None:
    saved = Split({"a": Constant(1), "b": Constant(5)}).state_dict()
    with pytest.raises(ValueError, match=r"saved with members \['a', 'b'\], here they are \['b', 'a'\]"):
        Split({"b": Constant(1), "a": Constant(5)}).load_state_dict(saved)
    with pytest.raises(ValueError, match="at least one member"):
        Split({})
    with pytest.raises(ValueError, match='learn_from must be "own" or "all"'):
        Split({"a": Constant(1)}, "both")  # type: ignore[arg-type]
