"""The dynamics of the feed: every effect does what it says, alone, and nothing when it is off."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from simulators.core import Core
from simulators.feed import Feed
from simulators.oracle import scale
from streamrec.ports import State
from streamrec.records import Kind

OFF: dict[str, Any] = {
    "position_bias": 0.0,
    "skip": 0.0,
    "boredom": 0.0,
    "leave": 0.0,
    "drift": 0.0,
    "new_items_per_hour": 0.0,
}
"""Only tastes and clicks."""

ALL: dict[str, Any] = {
    "users": 64,
    "items": 200,
    "shift_at": 200.0,
    "haste": 0.5,
    "repulsion": 1.0,
    "purchase": 0.5,
    "tide": 0.4,
    "jumps": 0.2,
    "day_s": 600.0,
    "groups": 3,
    "group_spread": 1.0,
    "mix": 0.5,
}
"""Everything there is."""

DEERS: dict[str, Any] = {
    **OFF,
    "users": 256,
    "items": 100,
    "topics": 8,
    "slate": 1,
    "base": -3.0,
    "leave": 0.02,
    "drift": 0.05,
    "skip": 0.8,
    "haste": 1.0,
    "repulsion": 2.0,
}
"""Skips outnumber clicks by far and repel (setting of `streamrec/specs/arena/deers.toml`)."""


def feed(**settings: Any) -> Feed:
    return Feed(**{"users": 500, "items": 200, "topics": 8, **OFF, **settings})


def everybody(core: Core) -> Tensor:
    return torch.arange(core.users)


def kinds_of_random(core: Core, steps: int) -> Tensor:
    """[steps, U, K] kinds under random slates."""
    users = everybody(core)
    return torch.stack([core.step(users, core.sample(users, core.slate)).kinds for _ in range(steps)])


def same(a: State, b: State) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(a[key], b[key]) if isinstance(a[key], Tensor) else a[key] == b[key] for key in a
    )


def test_it_is_a_core() -> None:
    assert isinstance(feed(), Core)


def test_worth_is_a_probability_and_clicks_have_it() -> None:
    core = feed(users=4000, match=3.0, base=-1.0)
    users = everybody(core)
    slates = core.sample(users, 5)
    p = core.worth(users, slates)
    assert 0 <= float(p.min()) <= float(p.max()) <= 1
    clicks = core.step(users, slates).kinds == int(Kind.CLICK)
    assert sorted(clicks.unique().tolist()) == [False, True]
    z = (clicks.double() - p.double()).sum() / (p * (1 - p)).double().sum().sqrt()
    assert abs(float(z)) < 4
    high = p > p.median()
    assert clicks[high].double().mean() > 2 * clicks[~high].double().mean()


def test_empty_slots_get_no_reaction() -> None:
    core = feed(base=5.0)
    slates = core.sample(everybody(core), 5)
    slates[:, 2] = 0
    kinds = core.step(everybody(core), slates).kinds
    assert (kinds[:, 2] == int(Kind.NONE)).all()
    assert (kinds[:, [0, 1, 3, 4]] != int(Kind.NONE)).all()


def test_without_position_bias_all_slots_are_clicked_equally_and_with_it_they_are_not() -> None:
    settings: dict[str, Any] = {"users": 2000, "base": -1.0}
    clicks = (kinds_of_random(feed(**settings), 20) == int(Kind.CLICK)).double().mean((0, 1))
    assert float(clicks.max() - clicks.min()) < 0.015
    biased = (kinds_of_random(feed(**settings, position_bias=1.0), 20) == int(Kind.CLICK)).double().mean((0, 1))
    expected = clicks.mean() / torch.arange(1, 6)
    torch.testing.assert_close(biased, expected, atol=0.015, rtol=0)


def test_skips_are_off_at_zero_and_tell_about_taste_otherwise() -> None:
    assert not (kinds_of_random(feed(), 5) == int(Kind.SKIP)).any()
    core = feed(users=3000, skip=0.5)
    users = everybody(core)
    slates = core.sample(users, 5)
    affinity = (core.vectors[slates] * core.taste.unsqueeze(1)).sum(2)
    kinds = core.step(users, slates).kinds
    assert affinity[kinds == int(Kind.SKIP)].mean() < affinity[kinds == int(Kind.IMPRESSION)].mean() - 0.05
    assert affinity[kinds == int(Kind.CLICK)].mean() > affinity[kinds == int(Kind.IMPRESSION)].mean() + 0.2


def repeated(core: Feed, steps: int) -> Tensor:
    """[steps] click rate when everybody gets the same topic again and again."""
    items = torch.nonzero(core.topic[1:] == 0).squeeze(1)[:5] + 1
    users = everybody(core)
    kinds = torch.stack([core.step(users, items.expand(core.users, -1)).kinds for _ in range(steps)])
    return (kinds == int(Kind.CLICK)).double().mean((1, 2))


def test_a_repeated_topic_bores_and_without_boredom_it_does_not() -> None:
    off = repeated(feed(users=3000, base=-1.0, boredom=0.0), 12)
    assert abs(float(off[-3:].mean() - off[:3].mean())) < 0.02
    on = repeated(feed(users=3000, base=-1.0, boredom=1.5), 12)
    assert float(on[0]) == pytest.approx(float(off[0]))
    assert float(on[-3:].mean()) < 0.5 * float(on[0])


def test_boredom_recovers_with_time() -> None:
    core = feed(boredom=1.5, recover_s=100.0)
    fresh = core.worth(everybody(core), torch.ones(core.users, 1, dtype=torch.int64))
    repeated(core, 6)
    item = (torch.nonzero(core.topic[1:] == 0)[:1] + 1).expand(core.users, 1)
    fresh = core.like(users=core.users).worth(everybody(core), item)
    bored = core.worth(everybody(core), item)
    assert (bored < 0.6 * fresh).all()
    none = torch.zeros(core.users, core.slate, dtype=torch.int64)
    core.step(everybody(core), none, core.time + 2000.0)
    rested = core.worth(everybody(core), item)
    torch.testing.assert_close(rested, fresh, rtol=1e-3, atol=1e-4)


def test_monotony_makes_everything_dull() -> None:
    core = feed(boredom=1.0, monotony=4.0)
    other = torch.nonzero(core.topic[1:] == 1)[:1] + 1
    before = core.worth(everybody(core), other.expand(core.users, 1))
    repeated(core, 5)
    assert (core.worth(everybody(core), other.expand(core.users, 1)) < before).all()


def odds(p: Tensor) -> Tensor:
    return torch.logit(p.double())


def test_a_skip_repels_what_is_like_it_and_is_forgiven() -> None:
    core = feed(users=200, slate=1, skip=1.0, haste=1.0, base=-6.0, repulsion=1.5, forgive_s=50.0)
    everything = torch.arange(1, 201).expand(200, -1)
    fresh = odds(core.worth(everybody(core), everything))
    item = core.sample(everybody(core), 1)
    asked = core.time.clone()
    kinds = core.step(everybody(core), item).kinds[:, 0]
    skipped = kinds == int(Kind.SKIP)
    assert skipped.sum() > 150
    cosine = core.vectors[item[:, 0]] @ core.vectors[1:].T
    expected = 1.5 * torch.exp(-(core.time - asked) / 50.0).unsqueeze(1) * cosine.clamp(min=0.0)
    lost = fresh - odds(core.worth(everybody(core), everything))
    torch.testing.assert_close(lost[skipped], expected[skipped], atol=1e-3, rtol=0)
    assert (lost[~skipped].abs() < 1e-3).all()
    torch.testing.assert_close(core.worth(everybody(core)), core.worth(everybody(core), everything))
    core.time += 5000.0
    torch.testing.assert_close(odds(core.worth(everybody(core), everything)), fresh, atol=1e-3, rtol=0)


def test_the_newest_skips_repel_however_many_there_were() -> None:
    core = feed(users=50, skip=1.0, haste=1.0, base=-20.0, repulsion=1.0, forgive_s=1e9)
    slates = [core.sample(everybody(core), 5) for _ in range(5)]
    for slate in slates:
        assert (core.step(everybody(core), slate).kinds == int(Kind.SKIP)).all()
    kept = core.skipped[:, :-1].sort(1).values
    assert torch.equal(kept, torch.cat(slates[-2:], dim=1).sort(1).values)


def test_without_repulsion_skips_change_nothing() -> None:
    core = feed(skip=1.0, haste=1.0, base=-6.0)
    before = core.worth(everybody(core))
    kinds_of_random(core, 5)
    assert torch.equal(core.worth(everybody(core)), before)
    assert core.skipped.shape == (500, 0)


def test_hasty_people_skip_what_they_like() -> None:
    core = feed(users=3000, skip=0.5, haste=1.0, base=-6.0)
    slates = core.sample(everybody(core), 5)
    affinity = (core.vectors[slates] * core.taste.unsqueeze(1)).sum(2)
    kinds = core.step(everybody(core), slates).kinds
    skipped, silent = kinds == int(Kind.SKIP), kinds == int(Kind.IMPRESSION)
    assert float(skipped.double().mean()) == pytest.approx(0.5, abs=0.02)
    assert abs(float(affinity[skipped].mean() - affinity[silent].mean())) < 0.02


def test_clicks_are_orders_in_proportion_to_the_match_and_never_when_off() -> None:
    assert not (kinds_of_random(feed(base=2.0), 3) == int(Kind.PURCHASE)).any()
    rewards = {"click": 1.0, "purchase": 5.0}
    core = feed(users=4000, base=0.0, purchase=0.6, leave=1.0, rewards=rewards)
    slates = core.sample(everybody(core), 5)
    expected = 0.6 * (1 + (core.vectors[slates] * core.taste.unsqueeze(1)).sum(2)) / 2
    worth = core.worth(everybody(core), slates)
    feedback = core.step(everybody(core), slates)
    ordered, clicked = feedback.kinds == int(Kind.PURCHASE), feedback.kinds == int(Kind.CLICK)
    taken = ordered | clicked
    spread = (expected * (1 - expected))[taken].sum().sqrt()
    assert abs(float((ordered.float() - expected)[taken].sum() / spread)) < 4
    torch.testing.assert_close(feedback.reward, (clicked + 5 * ordered).sum(1).float())
    assert float(feedback.reward.mean()) == pytest.approx(float(worth.sum(1).mean()), rel=0.05)
    assert not feedback.leave[taken.any(1)].any(), "an order is a reason to stay"


def test_the_tide_multiplies_all_probabilities_and_is_off_at_zero() -> None:
    still, moving = feed(base=-1.0), feed(base=-1.0, tide=0.4, day_s=1000.0)
    for at in (0.0, 250.0, 750.0):
        for core in (still, moving):
            core.time[:] = at
        factor = {0.0: 1.0, 250.0: 1.4, 750.0: 0.6}[at]
        expected = (factor * still.worth(everybody(still))).clamp(max=1.0)
        torch.testing.assert_close(moving.worth(everybody(moving)), expected)
    moving.time[:] = 750.0
    slates = moving.sample(everybody(moving), 5)
    p = moving.worth(everybody(moving), slates)
    clicks = (moving.step(everybody(moving), slates).kinds == int(Kind.CLICK)).double()
    assert abs(float((clicks - p).sum() / (p * (1 - p)).sum().sqrt())) < 4


def test_the_tide_jumps_four_times_a_day_for_everybody() -> None:
    core, still = feed(base=-6.0, jumps=0.5, day_s=1000.0), feed(base=-6.0)
    factors = []
    for at in torch.arange(0.0, 2000.0, 50.0):
        core.time[:] = at
        factor = core.worth(everybody(core)) / still.worth(everybody(still))
        assert float(factor.max() - factor.min()) < 1e-4
        factors.append(float(factor.mean()))
    parts = torch.tensor(factors).view(8, 5)
    torch.testing.assert_close(parts, parts[:, :1].expand(-1, 5))
    assert len(parts[:, 0].unique()) == 8
    assert 0.5 <= float(parts.min()) < 0.9
    assert 1.1 < float(parts.max()) <= 1.5


def test_groups_are_known_equally_large_and_differ_in_how_much_they_click() -> None:
    assert feed().context(torch.arange(7)).shape == (7, 0)
    core, one = feed(users=3000, groups=3, group_spread=2.0), feed(users=3000)
    context = core.context(everybody(core))
    assert context.shape == (3000, 3)
    assert torch.equal(context.sum(1), torch.ones(3000))
    torch.testing.assert_close(context.mean(0), torch.full((3,), 1 / 3), atol=0.03, rtol=0)
    gap = odds(core.worth(everybody(core))) - odds(one.worth(everybody(one)))
    torch.testing.assert_close(gap.mean(1).float(), context @ torch.tensor([-1.0, 0.0, 1.0]), atol=1e-3, rtol=0)
    assert torch.equal(core.taste, one.taste), "groups change nothing else"


def test_the_mix_of_groups_comes_and_goes_with_the_day() -> None:
    def shares(mix: float) -> Tensor:
        """[2] share of group 0 in the requests of the first and the second half of the day."""
        core = feed(users=600, groups=2, mix=mix, day_s=400.0, think_s=2.0)
        asked: list[Tensor] = []
        while float(core.time.min()) < 400.0:
            due = torch.nonzero(core.time < 400.0).squeeze(1)
            asked.append(torch.stack([core.time[due], core.group[due].double()]))
            core.step(due, core.sample(due, 5))
        time, group = torch.cat(asked, dim=1)
        return torch.stack([(group[half] == 0).double().mean() for half in (time < 200.0, time >= 200.0)])

    off, on = shares(0.0), shares(0.5)
    assert abs(float(off[0] - off[1])) < 0.02
    # Over half a day the rates 1 +- 0.5 sin are 1 +- 0.5 * 2 / pi on average.
    assert float(on[0] - on[1]) == pytest.approx(2 * 0.5 / torch.pi, abs=0.04)


def test_looking_ahead_pays_where_skips_repel_and_not_where_they_do_not() -> None:
    on = scale(lambda seed: Feed(**DEERS, seed=seed), horizon=80, seeds=(0,))
    assert on["low"] >= 0.15
    assert 0.05 < on["random"] < 0.1
    off = scale(lambda seed: Feed(**{**DEERS, "repulsion": 0.0, "users": 64}, seed=seed), horizon=20, seeds=(0,))
    assert off["lookahead_share"] == 0.0


def test_nobody_leaves_when_leaving_is_off() -> None:
    core = feed(base=-9.0)
    users = everybody(core)
    feedback = [core.step(users, core.sample(users, 5)) for _ in range(10)]
    assert not any(f.leave.any() or f.gap.any() for f in feedback)


def test_poor_slates_make_people_leave_and_time_pass_until_they_are_back() -> None:
    def leaving(base: float) -> tuple[float, float]:
        core = feed(users=2000, base=base, leave=0.5, gap_s=1000.0)
        users = everybody(core)
        left, away = 0, 0.0
        for _ in range(10):
            before = core.time.clone()
            feedback = core.step(users, core.sample(users, 5))
            torch.testing.assert_close(core.time, before + feedback.think + feedback.gap)
            assert ((feedback.gap > 0) == feedback.leave).all()
            left, away = left + int(feedback.leave.sum()), away + float(feedback.gap.sum())
        return left / 20_000, away / max(1, left)

    poor, away = leaving(-9.0)
    good, _ = leaving(3.0)
    assert poor > 10 * good
    assert away == pytest.approx(1000.0, rel=0.1)


def test_think_time_has_its_mean() -> None:
    core = feed(users=20_000, think_s=7.0)
    think = core.step(everybody(core), core.sample(everybody(core), 5)).think
    assert float(think.mean()) == pytest.approx(7.0, rel=0.03)
    assert float(think.min()) >= 0.1


def cosines(core: Feed, before: Tensor) -> Tensor:
    return (core.taste * before).sum(1)


def test_tastes_drift_slowly_and_not_at_all_when_off() -> None:
    still, moving = feed(), feed(drift=0.1, think_s=36.0)
    before = [core.taste.clone() for core in (still, moving)]
    for core in (still, moving):
        kinds_of_random(core, 100)
    assert torch.equal(still.taste, before[0])
    # An hour: the angle of a random walk on a sphere of many dimensions is about `drift`.
    angles = torch.acos(cosines(moving, before[1]).clamp(-1, 1))
    assert float((angles**2).mean().sqrt()) == pytest.approx(0.1, rel=0.1)
    torch.testing.assert_close(moving.taste.norm(dim=1), torch.ones(500))


def test_tastes_shift_once_at_the_given_time_for_the_given_share() -> None:
    core = feed(users=2000, shift_at=100.0, shift_fraction=0.3)
    before = core.taste.clone()
    kinds_of_random(core, 60)
    assert (core.time > 100).all()
    moved = cosines(core, before) < 0.999
    assert float(moved.double().mean()) == pytest.approx(0.3, abs=0.04)
    assert float(cosines(core, before)[moved].mean()) < 0.6
    after = core.taste.clone()
    kinds_of_random(core, 20)
    assert torch.equal(core.taste, after)


def test_a_shift_comes_when_the_clock_of_the_user_has_come_that_far() -> None:
    core = feed(shift_at=50.0, shift_fraction=1.0)
    before = core.taste.clone()
    kinds_of_random(core, 4)
    late = core.time >= 50.0
    assert late.any()
    assert not late.all()
    assert torch.equal(core.taste[~late], before[~late])
    assert (cosines(core, before)[late] < 0.9999).all()


def test_shift_now() -> None:
    core = feed(users=2000, shift_fraction=0.5)
    before = core.taste.clone()
    core.shift()
    first = core.taste.clone()
    assert float((cosines(core, before) < 0.999).double().mean()) == pytest.approx(0.5, abs=0.05)
    core.shift()
    assert not torch.equal(core.taste, first)


def test_items_arrive_on_the_clock_and_go_after_their_life() -> None:
    core = feed(items=100, new_items_per_hour=60.0, life_hours=2.0, max_items=300, slate=5)
    hours = torch.tensor([0.0, 0.5, 1.0, 2.0, 100.0], dtype=torch.float64)
    oldest, newest = core.alive(hours * 3600)
    assert newest.tolist() == [100, 130, 160, 220, 300]
    assert oldest.tolist() == [1, 11, 41, 101, 300]
    core.time[:] = 3600.0
    seen = core.sample(everybody(core), 50).unique()
    assert (int(seen.min()), int(seen.max())) == (41, 160)
    worth = core.worth(everybody(core))
    assert worth.shape == (500, 160)
    assert torch.isinf(worth[:, :40]).all()
    assert torch.isfinite(worth[:, 40:]).all()


def test_nothing_arrives_when_arrivals_are_off() -> None:
    core = feed()
    assert core.capacity == 200
    assert core.alive(torch.tensor([1e9], dtype=torch.float64))[1].tolist() == [200]


def test_samples_are_different_there_and_equally_likely() -> None:
    core = feed(users=4000, items=23)
    drawn = core.sample(everybody(core), 7)
    assert all(len(row.unique()) == 7 for row in drawn[:50])
    counts = torch.bincount(drawn.flatten(), minlength=24)
    assert counts[0] == 0
    expected = 4000 * 7 / 23
    assert (abs(counts[1:] - expected) < 0.12 * expected).all()
    assert sorted(core.sample(torch.tensor([3]), 30)[0].tolist()) == [0] * 7 + list(range(1, 24))


def test_some_items_are_popular() -> None:
    core = feed(users=2000)
    worth = core.worth(everybody(core)).mean(0)
    best = worth.topk(5).values.mean()
    assert 1.5 * worth.mean() < best < core.worth(everybody(core)).topk(5, dim=1).values.mean() / 1.5


def test_ten_clicks_tell_what_somebody_likes() -> None:
    core = Feed(users=500, items=500, **{**OFF, "skip": 0.5})
    users, clicked = everybody(core), torch.zeros(500, core.dim)
    count = torch.zeros(500)
    for _ in range(80):
        slates = core.sample(users, 5)
        hit = (core.step(users, slates).kinds == int(Kind.CLICK)) & (count < 10).unsqueeze(1)
        clicked += (core.vectors[slates] * hit.unsqueeze(2)).sum(1)
        count += hit.sum(1)
    known = torch.nonzero(count >= 10).squeeze(1)
    assert len(known) > 300
    guess = (clicked[known] @ core.vectors[1:].T).topk(5, dim=1).indices + 1
    informed, blind = core.worth(known, guess).mean(), core.worth(known, core.sample(known, 5)).mean()
    best = core.worth(known).topk(5, dim=1).values.mean()
    assert informed > 3 * blind
    assert informed > 0.5 * best


def test_rewards_are_weights_per_kind() -> None:
    core = Feed(users=2000, leave=1.0, rewards={"click": 2.0, "skip": -0.5, "leave": -3.0})
    feedback = core.step(everybody(core), core.sample(everybody(core), 5))
    clicks = (feedback.kinds == int(Kind.CLICK)).sum(1)
    skips = (feedback.kinds == int(Kind.SKIP)).sum(1)
    torch.testing.assert_close(feedback.reward, 2.0 * clicks - 0.5 * skips - 3.0 * feedback.leave)
    assert feedback.leave.any()


def test_64_feeds_of_one_are_one_feed_of_64() -> None:
    big = Feed(**ALL)
    big.reset(everybody(big), torch.arange(64) + 7)
    ones = [Feed(**{**ALL, "users": 1}) for _ in range(64)]
    for row, one in enumerate(ones):
        one.reset(torch.tensor([0]), torch.tensor([row + 7]))
    alone = torch.tensor([0])
    for _ in range(25):
        slates = big.sample(everybody(big), 5)
        together = big.step(everybody(big), slates)
        apart = [one.step(alone, one.sample(alone, 5)) for one in ones]
        assert torch.equal(together.kinds, torch.cat([f.kinds for f in apart]))
        assert torch.equal(together.gap, torch.cat([f.gap for f in apart]))
        assert torch.equal(big.time, torch.cat([one.time for one in ones]))
    torch.testing.assert_close(big.taste, torch.cat([one.taste for one in ones]))


def test_a_life_does_not_depend_on_who_is_stepped_when() -> None:
    together, split = Feed(**ALL), Feed(**ALL)
    users = everybody(together)
    for _ in range(10):
        slates = together.sample(users, 5)
        expected = together.step(users, slates).kinds
        for part in users.flip(0).split(17):
            assert torch.equal(split.step(part, slates[part]).kinds, expected[part])


def test_resumed_is_never_stopped_to_the_bit() -> None:
    settings: dict[str, Any] = {**ALL, "users": 100, "shift_at": 300.0}
    straight = Feed(**settings)
    kinds_of_random(straight, 15)
    straight.shift()
    saved = straight.state_dict()
    resumed = Feed(**settings)
    resumed.load_state_dict(saved)
    assert torch.equal(kinds_of_random(straight, 30), kinds_of_random(resumed, 30))
    assert same(straight.state_dict(), resumed.state_dict())
    straight.shift()
    resumed.shift()
    assert same(straight.state_dict(), resumed.state_dict())
    assert not same(straight.state_dict(), saved)


def test_a_state_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="users, topics and dim must be what they were"):
        feed(users=10).load_state_dict(feed(users=11).state_dict())
    with pytest.raises(ValueError, match="repulsion on or off"):
        feed(users=10).load_state_dict(feed(users=10, repulsion=1.0).state_dict())


def test_a_reset_brings_other_people_and_seeds_bring_the_same() -> None:
    core = feed(users=20)
    first = core.taste.clone()
    core.reset(torch.arange(10))
    assert torch.equal(core.taste[10:], first[10:])
    assert (cosines(core, first)[:10] < 0.99).all()
    core.reset(everybody(core), torch.full((20,), 5))
    assert torch.equal(core.taste, core.taste[:1].expand(20, -1))


def test_seeds_make_the_world_and_its_people() -> None:
    a, b, c = feed(seed=1), feed(seed=1), feed(seed=2)
    assert torch.equal(a.vectors, b.vectors)
    assert torch.equal(a.taste, b.taste)
    assert not torch.equal(a.vectors, c.vectors)


def test_a_late_answer_moves_the_clock() -> None:
    core = feed()
    asked = core.time.clone()
    feedback = core.step(everybody(core), core.sample(everybody(core), 5), asked + 3.5)
    torch.testing.assert_close(core.time, asked + 3.5 + feedback.think)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"users": 0}, "feed.users must be at least 1"),
        ({"skip": 1.5}, "feed.skip must be between 0 and 1"),
        ({"boredom": -1.0}, "feed.boredom must not be negative"),
        ({"think_s": 0.0}, "feed.think_s must be above 0"),
        ({"items": 3}, "feed.items must be at least feed.slate"),
        ({"max_items": 7, "items": 9}, "feed.max_items must be at least feed.items"),
        ({"life_hours": 1.0, "new_items_per_hour": 2.0}, "must keep at least feed.slate"),
        ({"rewards": {"clicks": 1.0}}, "got 'clicks'"),
        ({"repulsion": -1.0}, "feed.repulsion must not be negative"),
        ({"forgive_s": 0.0}, "feed.forgive_s must be above 0"),
        ({"purchase": 1.1}, "feed.purchase must be between 0 and 1"),
        ({"groups": 0}, "feed.groups must be at least 1"),
        ({"mix": 1.0}, "feed.mix must be at least 0 and below 1"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Feed(**settings)


def test_slates_of_the_wrong_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected slates of shape \(2, 5\), got \(2, 4\)"):
        feed().step(torch.tensor([0, 1]), torch.ones(2, 4, dtype=torch.int64))


@pytest.mark.gpu
def test_the_feed_on_a_gpu_is_the_same_world() -> None:
    cpu, gpu = Feed(**{**ALL, "users": 200}), Feed(**{**ALL, "users": 200}, device="cuda")
    assert torch.equal(cpu.vectors, gpu.vectors.cpu())
    users, agree = everybody(cpu), []
    for _ in range(20):
        slates = cpu.sample(users, 5)
        agree.append((cpu.step(users, slates).kinds == gpu.step(users, slates).kinds.cpu()).double().mean())
    assert float(torch.stack(agree).mean()) > 0.999
