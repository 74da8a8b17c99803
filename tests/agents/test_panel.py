"""Panel: all answer, one is heard, each is told what it wanted itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from agents.panel import Panel
from agents.popular import Popular
from agents.split import Split
from streamrec.evaluation.ranking import Ranking
from streamrec.records import Decision, History
from tests.histories import catalog, clicked, history


class Constant(Popular):
    """Shows the same items to everybody, with a propensity of its own, and keeps what it saw."""

    def __init__(self, first: int, slate: int = 2) -> None:
        super().__init__(catalog(40), slate)
        self.first = first
        self.saw: list[Any] = []

    def act(self, history: History) -> Decision:
        slate = torch.arange(self.slate).expand(len(history), -1) + self.first
        return Decision.of(history.user, slate, torch.full(slate.shape, -float(self.first)))

    def observe(self, transition: Any) -> None:
        self.saw.append(transition)

    def update(self) -> dict[str, float]:
        return {"loss": float(self.first)}


def test_the_lead_is_heard_and_everybody_is_written_down() -> None:
    panel = Panel({"a": Constant(1), "b": Constant(5), "c": Constant(9)}, lead="b")
    assert panel.names == ["a", "b", "c"]
    decision = panel.act(history([[], [], []]))
    assert decision.slate.tolist() == [[5, 6]] * 3
    assert decision.shadow.tolist() == [[[1, 2], [5, 6], [9, 10]]] * 3
    assert decision.policy.tolist() == [1, 1, 1]
    assert decision.logp.tolist() == [-10.0] * 3
    assert Panel({"a": Constant(1), "b": Constant(5)}).lead == "a"


def test_each_member_sees_everything_with_its_own_wish() -> None:
    members = {"a": Constant(1), "b": Constant(5)}
    panel = Panel(dict(members), lead="b")
    before = history([[], [3]])
    transition = clicked(before, torch.tensor([7, 8]))
    transition.wanted = panel.act(before)
    transition.wanted.id = torch.tensor([71, 72])
    panel.observe(transition)
    for one in members.values():
        (saw,) = one.saw
        assert saw.shown is transition.shown
        assert saw.wanted.slate[:, 0].tolist() == [one.first] * 2
        assert saw.wanted.id.tolist() == [71, 72]
        assert saw.wanted.shadow.shape == (2, 0, 2)
        assert (saw.wanted.policy == 0).all()
    assert members["a"].saw[0].wanted.logp.isnan().all()
    assert members["b"].saw[0].wanted.logp.tolist() == [-10.0, -10.0]
    assert panel.update() == {"a.loss": 1.0, "b.loss": 5.0}


def test_the_ranking_meter_reads_every_member() -> None:
    panel = Panel({"a": Constant(1), "b": Constant(5)})
    before = history([[3], [3]])
    transition = clicked(before, torch.tensor([6, 2]))
    transition.wanted = panel.act(before)
    meter = Ranking(panel.names)
    meter.see(transition)
    assert meter.read()["total"] == {
        "a": {"recall20": 0.5, "mrr20": 0.25, "n": 2},
        "b": {"recall20": 0.5, "mrr20": 0.25, "n": 2},
    }


def test_panels_in_a_panel_are_one_flat_panel() -> None:
    members = {"x": Constant(5), "y": Constant(9)}
    outer = {"a": Constant(1), "p": Panel(dict(members), lead="y"), "s": Split({"m": Constant(13), "n": Constant(13)})}
    for lead, slate, policy in (("p", [9, 10], 2), ("a", [1, 2], 0), ("s", [13, 14], 3)):
        panel = Panel(dict(outer), lead=lead)
        assert panel.names == ["a", "p.x", "p.y", "s"]
        before = history([[], []])
        decision = panel.act(before)
        assert decision.slate[0].tolist() == slate
        assert decision.shadow[0, :, 0].tolist() == [1, 5, 9, 13]
        assert decision.policy.tolist() == [policy] * 2
        transition = clicked(before, torch.tensor([7, 8]))
        transition.wanted = decision
        panel.observe(transition)
        for one in members.values():
            assert one.saw[-1].wanted.slate[:, 0].tolist() == [one.first] * 2


def test_transitions_that_no_panel_answered_pass_unchanged() -> None:
    member = Constant(1)
    panel = Panel({"a": member, "b": Constant(5)})
    transition = clicked(history([[]]), torch.tensor([7]))
    panel.observe(transition)
    assert member.saw[0].wanted is transition.wanted


def test_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="no member is called 'popluar'; did you mean 'popular'"):
        Panel({"popular": Constant(1)}, lead="popluar")
    with pytest.raises(ValueError, match="at least one member"):
        Panel({})
    panel = Panel({"a": Constant(1), "b": Constant(5)})
    with pytest.raises(ValueError, match=r"slates of one width, got \{'a': 2, 'b': 3\}"):
        Panel({"a": Constant(1), "b": Constant(5, slate=3)}).act(history([[]]))
    with pytest.raises(ValueError, match="saved with members"):
        panel.load_state_dict(Panel({"a": Constant(1)}).state_dict())
    transition = clicked(history([[]]), torch.tensor([7]))
    transition.wanted = Panel({"a": Constant(1), "b": Constant(5), "c": Constant(9)}).act(history([[]]))
    with pytest.raises(ValueError, match="the panel has 2 slates, the transition carries 3"):
        panel.observe(transition)
