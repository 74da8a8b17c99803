"""Heads and distributions of slates: against hand-made numbers and against every slate there is."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch

pytest.importorskip("stable_baselines3")

from agents.sb3_policies import FLOOR, Head, Order, Pool, Slates, Spread
from streamrec.explore import plackett_luce

MASK = torch.tensor([[1.0, 1.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
SCORES = torch.tensor([[0.5, -1.0, 3.0, 2.0], [1.0, 2.0, 3.0, 4.0]])
FEATURES = torch.cat([torch.tensor([[0.3, -0.2], [0.1, 0.9]]), SCORES, MASK], 1)


def test_a_head_adds_a_level_to_scores_and_floors_what_is_not_there() -> None:
    head = Head(2)
    values = head(FEATURES)
    level = head.level(FEATURES)[0]
    torch.testing.assert_close(values[0, [0, 1, 3]], SCORES[0, [0, 1, 3]] + level)
    assert values[0, 2] == FLOOR
    assert values[1].tolist() == [0.0] * 4  # nothing to choose from: nothing to expect
    torch.testing.assert_close(Head(2, masked=False)(FEATURES).diff(dim=1), SCORES.diff(dim=1))
    assert Spread(2)(FEATURES).shape == (2, 4)


def test_order_is_all_that_is_left_of_scores() -> None:
    order = Order(2)(FEATURES)
    there = order[0, [0, 1, 3]]  # of .5, -1, 2: mean .5, standard deviation sqrt(1.5)
    torch.testing.assert_close(there, torch.tensor([0.0, -1.5, 1.5]) / 1.5**0.5, atol=1e-3, rtol=0.0)
    assert order[0, 2] == 0.0
    assert order[1].tolist() == [0.0] * 4
    grown = torch.cat([FEATURES[:, :2], 100 * SCORES + 7, MASK], 1)
    torch.testing.assert_close(Order(2)(grown), order, atol=1e-3, rtol=0.0)


def test_the_order_of_the_candidates_does_not_matter() -> None:
    pool, head = Pool(2, 3), Head(2)
    order = torch.tensor([2, 0, 3, 1])
    moved = torch.cat([FEATURES[:1, :2], SCORES[:1, order], MASK[:1, order]], 1)
    torch.testing.assert_close(head(moved), head(FEATURES[:1])[:, order])
    actions = torch.tensor([[1.0, -1.0, -1.0, 1.0]])
    one, other = pool(torch.cat([FEATURES[:1], actions], 1)), pool(torch.cat([moved, actions[:, order]], 1))
    torch.testing.assert_close(one, other)


def test_a_slate_shown_is_worth_the_sum_of_its_scores() -> None:
    pool = Pool(2, 2)
    value = pool(torch.cat([FEATURES[:1], torch.tensor([[1.0, -1.0, -1.0, 1.0]])], 1))
    torch.testing.assert_close(value, pool.level(FEATURES[:1]) + 0.5 + 2.0)


def test_probabilities_of_all_slates_add_up_to_one() -> None:
    slates = torch.tensor(list(permutations(range(4), 3)))
    logits = torch.tensor([0.5, -1.0, 3.0, 2.0]).expand(len(slates), -1)
    logp = Slates(3, 2).proba_distribution(logits).log_prob(slates.float())
    torch.testing.assert_close(logp.exp().sum(), torch.tensor(1.0))
    # By hand: e^3 / (e^.5 + e^-1 + e^3 + e^2) * e^2 / (e^.5 + e^-1 + e^2) * e^.5 / (e^.5 + e^-1)
    chosen = slates.tolist().index([2, 3, 0])
    assert float(logp[chosen].exp()) == pytest.approx(0.6811 * 0.7856 * 0.8176, abs=1e-4)


def test_log_probabilities_are_those_with_which_slates_are_drawn() -> None:
    logits = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)) * 2
    logits[:20, :4] = -torch.inf
    index, slot_logp = plackett_luce(logits, 3, 1.0, torch.Generator().manual_seed(1))
    assert (index[:20, 2] == -1).all()
    logp = Slates(3, 2).proba_distribution(logits.clamp(min=FLOOR)).log_prob(index)
    torch.testing.assert_close(logp, slot_logp.sum(1), rtol=1e-4, atol=1e-5)


def test_mode_and_samples_are_slates() -> None:
    distribution = Slates(3, 2).proba_distribution(torch.tensor([[0.0, 5.0, FLOOR, 2.0], [FLOOR, 1.0, FLOOR, FLOOR]]))
    assert distribution.mode().tolist() == [[1, 3, 0], [1, -1, -1]]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = torch.stack([distribution.sample() for _ in range(500)])
    assert (drawn[:, 1] == torch.tensor([1, -1, -1])).all()
    assert not (drawn[:, 0] == 2).any()
    share = (drawn[:, 0, 0] == 1).float().mean()  # e^5 / (1 + e^5 + e^2) = .946
    assert float(share) == pytest.approx(0.946, abs=0.03)


def test_entropy_is_that_of_the_first_slot() -> None:
    logits = torch.tensor([[0.0, 0.0, FLOOR], [7.0, FLOOR, FLOOR]])
    entropy = Slates(2, 1).proba_distribution(logits).entropy()
    torch.testing.assert_close(entropy, torch.tensor([2.0, 1.0]).log())
