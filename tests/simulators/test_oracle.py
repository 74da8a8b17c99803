"""The scale: random below myopic below oracle, and no oracle where looking ahead gains nothing."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch

from simulators.feed import Feed
from simulators.oracle import MakeCore, fraction, myopic, play, random, scale, tune


def make(**settings: Any) -> MakeCore:
    return lambda seed: Feed(users=150, items=300, new_items_per_hour=0.0, seed=seed, **settings)


def test_in_the_shipped_setting_looking_ahead_pays() -> None:
    measured = scale(make(), horizon=40, seeds=(0, 1))
    assert 3 * measured["random"] < measured["myopic"] < measured["oracle"]
    assert measured["lookahead_share"] > 0.15
    assert 0 < measured["low"] < measured["lookahead_share"] < measured["high"]
    assert measured["foresight"] > 0
    assert "Looking ahead is worth" in measured["verdict"]
    assert json.loads(json.dumps(measured)) == measured


def test_random_clicks_are_rare_and_a_good_policy_gets_several_times_more() -> None:
    rate = float(play(Feed(users=300, items=300), random, 20).mean()) / 5
    assert 0.04 < rate < 0.10


def test_without_boredom_looking_ahead_gains_nothing_and_it_says_so() -> None:
    measured = scale(make(boredom=0.0, leave=0.0), horizon=15, seeds=(0,))
    assert measured["oracle"] == measured["myopic"] > measured["random"]
    assert measured["lookahead_share"] == 0.0
    assert measured["verdict"].startswith("Looking ahead gains nothing")


def test_tuning_is_deterministic_and_takes_the_best() -> None:
    assert tune(make(), 15, [3], (0.0, 0.75)) == tune(make(), 15, [3], (0.0, 0.75)) == 0.75


def test_myopic_slates_are_the_items_most_likely_clicked() -> None:
    core = make()(0)
    users = torch.arange(core.users)
    slates = myopic(core, users)
    worth = core.worth(users)
    torch.testing.assert_close(core.worth(users, slates), worth.topk(5, dim=1).values)


def test_random_slates_have_no_repeats() -> None:
    core = make()(0)
    slates = random(core, torch.arange(core.users))
    assert all(len(row.unique()) == 5 for row in slates)


def test_fraction() -> None:
    assert fraction(1.5, random=1.0, oracle=3.0) == pytest.approx(0.25)
    assert math.isnan(fraction(1.0, random=1.0, oracle=1.0))
