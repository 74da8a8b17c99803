"""The news world: every effect does what it says, alone, and nothing when it is off; time is real."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from simulators.core import Core
from simulators.news import News, _unwarped, _warped
from simulators.oracle import scale
from streamrec.ports import State
from streamrec.records import Kind

OFF: dict[str, Any] = {
    "half_life_hours": 0.0,
    "rhythm": 0.0,
    "quality": 0.0,
    "clickbait": 0.0,
    "regret": 0.0,
    "position_bias": 0.0,
    "remember": 0,
    "eta": 0.0,
    "weary": 0.0,
    "drift": 0.0,
    "groups": 0,
}
"""Only tastes, clicks and returns at a constant rate."""


def news(**settings: Any) -> News:
    return News(**{"users": 400, "max_items": 2000, **OFF, **settings})


def everybody(core: Core) -> Tensor:
    return torch.arange(core.users)


def live(core: News, steps: int) -> list[Any]:
    users = everybody(core)
    return [core.step(users, core.sample(users, core.slate)) for _ in range(steps)]


def same(a: State, b: State) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_it_is_a_core_measured_by_the_day() -> None:
    assert isinstance(news(), Core)
    assert news().unit == "day"


# --- clicks ------------------------------------------------------------------------------------------------------


def test_worth_is_a_probability_and_clicks_have_it() -> None:
    core = news(users=4000, base=-1.0)
    users = everybody(core)
    slates = core.sample(users, 5)
    p = core.worth(users, slates)
    clicks = core.step(users, slates).kinds == int(Kind.CLICK)
    z = (clicks.double() - p.double()).sum() / (p * (1 - p)).double().sum().sqrt()
    assert abs(float(z)) < 4
    high = p > p.median()
    assert clicks[high].double().mean() > 2 * clicks[~high].double().mean()


def test_odds_halve_with_the_half_life_and_stay_when_it_is_off() -> None:
    for half_life, factor in ((6.0, 0.25), (0.0, 1.0)):
        core = news(half_life_hours=half_life, life_hours=30.0)
        item = torch.full((core.users, 1), int(core.alive(core.time[:1])[1]))
        core.time[:] = core.born[item[0]] + 1.0
        young = core.worth(everybody(core), item)
        core.time += 12 * 3600.0
        old = core.worth(everybody(core), item)
        torch.testing.assert_close(old / (1 - old), factor * young / (1 - young), rtol=1e-3, atol=0)


def test_bait_gains_log_odds_and_none_when_it_is_off() -> None:
    for clickbait in (0.0, 2.0):
        core = news(clickbait=clickbait, match=0.0)
        p = core.worth(everybody(core))[0].double()
        there = p.isfinite()
        expected = core.base + clickbait * core.bait[1 : len(p) + 1].double()
        torch.testing.assert_close(torch.logit(p[there]), expected[there], rtol=0, atol=1e-4)
        assert (core.bait[1:] == 1.0).any()
        assert (core.bait[1:] == 0.0).any()


def test_position_bias_is_a_power_of_the_slot() -> None:
    def by_slot(bias: float) -> Tensor:
        core = news(users=3000, base=-1.0, position_bias=bias)
        return torch.stack([f.kinds == int(Kind.CLICK) for f in live(core, 8)]).double().mean((0, 1))

    flat = by_slot(0.0)
    assert float(flat.max() - flat.min()) < 0.03
    torch.testing.assert_close(by_slot(1.0), flat.mean() / torch.arange(1, 6), atol=0.02, rtol=0)


def test_what_was_read_is_not_clicked_again_as_long_as_it_is_remembered() -> None:
    core = news(remember=3, base=40.0, requests=1e9)
    users = everybody(core)
    newest = int(core.alive(core.time)[1].min())
    slate = torch.arange(newest - 4, newest + 1).expand(core.users, -1)
    first, again = core.step(users, slate), core.step(users, slate)
    assert (first.kinds == int(Kind.CLICK)).double().mean() > 0.99
    assert (again.kinds[:, 2:] != int(Kind.CLICK)).all()
    assert (again.kinds[:, :2] == int(Kind.CLICK)).double().mean() > 0.99
    assert (core.worth(users, slate)[:, 3:] == 0).any()
    forgetful = news(remember=0, base=40.0)
    for _ in range(2):
        kinds = forgetful.step(users, slate).kinds
    assert (kinds == int(Kind.CLICK)).double().mean() > 0.99


def test_empty_slots_get_no_reaction() -> None:
    core = news(base=9.0)
    slates = core.sample(everybody(core), 5)
    slates[:, 2] = 0
    feedback = core.step(everybody(core), slates)
    assert (feedback.kinds[:, 2] == int(Kind.NONE)).all()
    assert float(feedback.reward.max()) <= 4.0


# --- returning ---------------------------------------------------------------------------------------------------


def gaps(core: News, satisfaction: float) -> Tensor:
    """Hours away of everybody who leaves at once with this satisfaction."""
    core.satisfaction[:] = satisfaction
    none = torch.zeros(core.users, core.slate, dtype=torch.int64)
    return core.step(everybody(core), none).gap / 3600.0


def test_times_away_are_exponential_with_a_hazard_that_satisfaction_moves() -> None:
    settings: dict[str, Any] = {"users": 20_000, "requests": 1.0, "away_hours": 20.0, "care": 0.0}
    constant = gaps(news(**settings), 0.8)
    assert float(constant.mean()) == pytest.approx(20.0, rel=0.03)
    assert float((constant > 20.0).double().mean()) == pytest.approx(math.exp(-1), abs=0.01)
    pleased, annoyed = gaps(news(eta=1.5, **settings), 0.8), gaps(news(eta=1.5, **settings), -0.8)
    assert float(pleased.mean()) == pytest.approx(20.0 * math.exp(-1.2), rel=0.03)
    assert float(annoyed.mean()) == pytest.approx(20.0 * math.exp(1.2), rel=0.03)


def test_boredom_keeps_readers_away_and_does_not_when_it_is_off() -> None:
    def away(weary: float) -> float:
        core = news(users=20_000, requests=1.0, eta=2.0, weary=weary, recover_hours=0.0)
        core.shown[:, 0] = 1e6  # nothing but one topic
        return float(gaps(core, 0.0).mean())

    assert away(0.0) == pytest.approx(24.0, rel=0.03)
    assert away(0.5) == pytest.approx(24.0 * math.e, rel=0.03)


def test_good_reads_please_bait_disappoints_and_nobody_regrets_when_it_is_off() -> None:
    def after(regret: float, wanted: float) -> float:
        core = news(regret=regret, base=9.0, care=1.0)
        slate = torch.argsort((core.bait[1:] - wanted).abs())[:5] + 1
        core.step(everybody(core), slate.expand(core.users, -1))
        return float(core.satisfaction.mean())

    assert after(2.0, 0.0) > 0.95
    assert after(2.0, 1.0) < -0.95
    assert after(0.0, 1.0) > 0.95


def test_boredom_is_least_when_topics_are_mixed_and_fades() -> None:
    core = news(recover_hours=10.0)
    mixed, same_topic = torch.full((1, 8), 50.0), torch.zeros(1, 8)
    same_topic[0, 0] = 400.0
    assert float(core._boredom(mixed)) < 0.13 < 0.95 < float(core._boredom(same_topic))
    live(core, 1)
    before, shown = core.time.clone(), core.shown.clone()
    none = torch.zeros(core.users, core.slate, dtype=torch.int64)
    core.step(everybody(core), none)
    fade = torch.exp(-(core.time - before) / 36_000.0).float().unsqueeze(1)
    torch.testing.assert_close(core.shown, shown * fade, rtol=1e-4, atol=1e-6)


def test_visits_have_their_length_however_good_they_are() -> None:
    for base in (-9.0, 9.0):
        core = news(users=5000, requests=4.0, base=base, eta=2.0)
        ends = torch.stack([f.leave for f in live(core, 5)])
        assert float(ends.double().mean()) == pytest.approx(0.25, abs=0.01)


def test_time_goes_on_by_thinking_and_being_away() -> None:
    core = news(users=5000, think_s=30.0, rhythm=0.6)
    before = core.time.clone()
    (feedback,) = live(core, 1)
    torch.testing.assert_close(core.time, before + feedback.think + feedback.gap, rtol=0, atol=2e-3)
    assert ((feedback.gap > 0) == feedback.leave).all()
    assert float(feedback.think.mean()) == pytest.approx(30.0, rel=0.05)


def test_the_rhythm_of_the_day_shows_in_reading_and_writing() -> None:
    core = news(users=3000, rhythm=0.8, requests=1.0, away_hours=6.0)
    asked = torch.cat([f.gap * 0 + core.time for f in live(core, 12)]) / 3600.0 % 24
    evening, morning = ((asked >= 16) & (asked < 22)).sum(), ((asked >= 4) & (asked < 10)).sum()
    assert evening > 3 * morning
    day = core.born[1:][(core.born[1:] > 0) & (core.born[1:] < 5 * 86_400)] / 3600.0 % 24
    assert ((day >= 7) & (day < 13)).sum() > 3 * ((day >= 19) | (day < 1)).sum()
    flat = news().born[1:].diff()
    torch.testing.assert_close(flat, torch.full_like(flat, 3600.0 / 8), rtol=0, atol=2e-3)


def test_the_warped_clock_has_an_inverse() -> None:
    hours = torch.linspace(-50, 900, 5001, dtype=torch.float64)
    for rhythm in (0.0, 0.5, 0.9):
        back = _unwarped(_warped(hours, rhythm, 19.0), rhythm, 19.0)
        torch.testing.assert_close(back, hours, rtol=0, atol=1e-6)


# --- articles, users, contexts -----------------------------------------------------------------------------------


def test_articles_are_born_and_leave_on_the_clock() -> None:
    core = news(births_per_hour=10.0, life_hours=5.0, max_items=120)
    oldest, newest = core.alive(torch.tensor([0.0, 1.0, 2.0, 200.0], dtype=torch.float64) * 3600.0 + 1.0)
    assert newest.tolist() == [50, 60, 70, 120]
    assert oldest.tolist() == [1, 11, 21, 70]
    core.time[:] = 3601.0
    seen = core.sample(everybody(core), 20).unique()
    assert (int(seen.min()), int(seen.max())) == (11, 60)
    worth = core.worth(everybody(core))
    assert torch.isinf(worth[:, :10]).all()
    assert torch.isfinite(worth[:, 10:]).all()


def test_samples_are_different_there_and_equally_likely() -> None:
    core = news(users=4000, births_per_hour=2.0, life_hours=12.0)
    core.time[:] = 10.0
    drawn = core.sample(everybody(core), 7)
    assert all(len(row.unique()) == 7 for row in drawn[:50])
    counts = torch.bincount(drawn.flatten())[1:]
    expected = 4000 * 7 / 24
    assert (abs(counts - expected) < 0.15 * expected).all()


def test_context_tells_hour_weekday_absence_and_group() -> None:
    core = news(groups=3)
    core.time[:] = (3 * 24 + 6) * 3600.0
    core.since[:] = math.e - 1
    told = core.context(everybody(core))
    assert told.shape == (400, 8)
    week = 2 * math.pi * 3.25 / 7
    expected = torch.tensor([1.0, math.sin(week), 0.0, math.cos(week), 1.0])
    torch.testing.assert_close(told[0, :5], expected, atol=1e-5, rtol=0)
    assert (told[:, 5:].sum(1) == 1).all()
    assert news().context(everybody(core)).shape == (400, 5)


def test_features_tell_topic_provider_and_how_much_bait_there_is() -> None:
    core = news()
    assert (core.features[:, :8].argmax(1) + 1 == core.category).all()
    assert (core.features[:, 8:14].sum(1) == 1).all()
    assert float(torch.corrcoef(torch.stack([core.features[1:, 14], core.bait[1:]]))[0, 1]) > 0.8


def test_tastes_drift_slowly_and_not_at_all_when_off() -> None:
    still, moving = news(), news(drift=0.1, requests=1.0)
    before = [core.taste.clone() for core in (still, moving)]
    start = moving.time.clone()
    live(still, 10)
    live(moving, 10)
    assert torch.equal(still.taste, before[0])
    days = (moving.time - start) / 86_400.0
    angle = torch.acos((moving.taste * before[1]).sum(1).clamp(-1, 1))
    assert float((angle**2 / days).mean().sqrt()) == pytest.approx(0.1, rel=0.15)


# --- looking ahead -----------------------------------------------------------------------------------------------


def make(**settings: Any) -> Any:
    return lambda seed: News(users=100, max_items=2600, seed=seed, **settings)


def test_in_the_shipped_setting_looking_ahead_pays() -> None:
    measured = scale(make(), horizon=10, seeds=(0,))
    assert measured["random"] < measured["myopic"] < measured["oracle"]
    assert measured["lookahead_share"] > 0.3
    assert measured["low"] > 0.15
    assert measured["unit"] == "day"


def test_when_returns_do_not_depend_on_service_looking_ahead_gains_nothing() -> None:
    measured = scale(make(eta=0.0), horizon=10, seeds=(0,))
    assert measured["foresight"] == 0.0
    assert measured["oracle"] == measured["myopic"] > measured["random"]


def test_myopic_slates_are_the_articles_most_likely_clicked_and_foresight_avoids_bait() -> None:
    core = News(users=200, max_items=2600)
    users = everybody(core)
    slates = core.best(users)
    torch.testing.assert_close(core.worth(users, slates), core.worth(users).topk(5, dim=1).values)
    ahead = core.best(users, 1.0)
    assert core.bait[ahead].mean() < 0.5 * core.bait[slates].mean()
    assert all(len(row.unique()) == 5 for row in ahead)


# --- lives -------------------------------------------------------------------------------------------------------


def test_64_worlds_of_one_are_one_world_of_64() -> None:
    big = News(users=64, max_items=1500)
    big.reset(everybody(big), torch.arange(64) + 7)
    ones = [News(users=1, max_items=1500) for _ in range(64)]
    for row, one in enumerate(ones):
        one.reset(torch.tensor([0]), torch.tensor([row + 7]))
    alone = torch.tensor([0])
    for at in range(12):
        slates = big.best(everybody(big), 0.5) if at % 2 else big.sample(everybody(big), 5)
        together = big.step(everybody(big), slates)
        apart = [one.step(alone, slates[row : row + 1]) for row, one in enumerate(ones)]
        assert torch.equal(together.kinds, torch.cat([f.kinds for f in apart]))
        assert torch.equal(big.time, torch.cat([one.time for one in ones]))
    torch.testing.assert_close(big.taste, torch.cat([one.taste for one in ones]))


def test_a_life_does_not_depend_on_who_is_stepped_when() -> None:
    together, split = News(users=50, max_items=1500), News(users=50, max_items=1500)
    users = everybody(together)
    for _ in range(10):
        slates = together.sample(users, 5)
        expected = together.step(users, slates).kinds
        for part in users.flip(0).split(17):
            assert torch.equal(split.step(part, slates[part]).kinds, expected[part])


def test_resumed_is_never_stopped_to_the_bit() -> None:
    straight = News(users=100, max_items=1500)
    live(straight, 8)
    saved = straight.state_dict()
    resumed = News(users=100, max_items=1500)
    resumed.load_state_dict(saved)
    one, other = live(straight, 8), live(resumed, 8)
    assert all(torch.equal(a.kinds, b.kinds) for a, b in zip(one, other, strict=True))
    assert same(straight.state_dict(), resumed.state_dict())
    assert not same(straight.state_dict(), saved)
    with pytest.raises(ValueError, match="users, topics, dim and remember must be what they were"):
        news(users=10).load_state_dict(news(users=11).state_dict())


def test_seeds_make_the_world_and_its_readers() -> None:
    a, b, c = news(seed=1), news(seed=1), news(seed=2)
    assert torch.equal(a.vectors, b.vectors)
    assert torch.equal(a.taste, b.taste)
    assert not torch.equal(a.vectors, c.vectors)
    a.reset(everybody(a), torch.full((400,), 5))
    assert torch.equal(a.taste, a.taste[:1].expand(400, -1))
    a.reset(torch.arange(10))
    assert not torch.equal(a.taste[:10], b.taste[:10])


def test_a_late_answer_moves_the_clock() -> None:
    core = news()
    asked = core.time.clone()
    feedback = core.step(everybody(core), core.sample(everybody(core), 5), asked + 3.5)
    torch.testing.assert_close(core.time, asked + 3.5 + feedback.think + feedback.gap, rtol=0, atol=2e-3)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"users": 0}, "news.users must be at least 1"),
        ({"eta": -1.0}, "news.eta must not be negative"),
        ({"away_hours": 0.0}, "news.away_hours must be above 0"),
        ({"rhythm": 0.95}, "news.rhythm must be between 0 and 0.9"),
        ({"requests": 0.5}, "news.requests must be at least 1"),
        ({"life_hours": 0.5}, "must keep at least news.slate"),
        ({"max_items": 100}, "fit into news.max_items"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        news(**settings)


def test_slates_of_the_wrong_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected slates of shape \(2, 5\), got \(2, 4\)"):
        news().step(torch.tensor([0, 1]), torch.ones(2, 4, dtype=torch.int64))
