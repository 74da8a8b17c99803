"""Every agent found in `agents` answers from its served state as it did before."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from streamrec import checkpoint
from streamrec.served import LEARNING, Receiver, norm, not_finite, served_state
from tests.contracts.identity import Identity
from tests.contracts.test_agents import Make, make, run, same_decision, size, trained  # noqa: F401

HEAVY = {"ring", "dense", "tables"}


def test_a_served_state_acts_as_the_original(make: Make, tmp_path: Path) -> None:  # noqa: F811
    agent, history = trained(make, steps=8), Identity(seed=9).history(80)
    path = checkpoint.save(tmp_path, {"agent": served_state(agent)}, 1)
    receiver = Receiver(make(seed=11))
    other = trained(make, steps=3)  # a version before this one, of which nothing may be left
    receiver.load(served_state(other))
    receiver.load(checkpoint.load(path)["agent"])
    for _ in range(2):
        assert same_decision(agent.act(history), receiver.agent.act(history))


def test_what_only_learning_reads_is_left_out_and_nothing_is_unclean(make: Make) -> None:  # noqa: F811
    agent = trained(make, steps=8)
    state = served_state(agent)
    assert not_finite(state) is None
    assert not LEARNING & names(state)
    if {"replay", "optimiser"} & names(agent.state_dict()):

        class Whole:
            def state_dict(self) -> object:
                return state

        assert size(Whole()) < size(agent)  # type: ignore[arg-type]


def names(tree: object) -> set[str]:
    if not isinstance(tree, dict):
        return set()
    here = {key for key, value in tree.items() if isinstance(value, dict)}
    return here.union(*(names(value) for value in tree.values())) if tree else set()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_one_bad_number_is_found_and_named(bad: float) -> None:
    table = torch.zeros(3, 4)
    state = {"net": {"weight": table, "steps": 3}, "rate": 0.1}
    assert not_finite(state) is None
    table[2, 1] = bad
    assert not_finite(state) == "net/weight"
    assert not_finite({"rate": bad}) == "rate"


def test_the_norm_is_over_all_numbers() -> None:
    assert norm({"a": torch.tensor([3.0]), "b": {"c": torch.tensor([[4.0]]), "n": torch.tensor([9])}}) == (5.0, 2)
