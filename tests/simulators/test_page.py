"""The dynamics of the page: what each effect does alone, that it is off at 0, and that looking ahead pays."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from simulators.core import Core
from simulators.oracle import Greedy, myopic, play, random, scale
from simulators.page import Page
from streamrec.ports import State
from streamrec.records import Kind

OFF: dict[str, Any] = {"attention": 0.0, "companion": 0.0, "saturation": 0.0, "skip": 0.0, "leave": 0.0, "buy": 0.0}
"""Only tastes and clicks."""


def page(**settings: Any) -> Page:
    return Page(**{"users": 400, **OFF, **settings})


def everybody(core: Core) -> Tensor:
    return torch.arange(core.users)


def kinds_of_random(core: Core, steps: int) -> Tensor:
    """[steps, U, K] kinds under random pages."""
    users = everybody(core)
    return torch.stack([core.step(users, core.sample(users, core.slate)).kinds for _ in range(steps)])


def positive(kinds: Tensor) -> Tensor:
    return (kinds == int(Kind.CLICK)) | (kinds == int(Kind.PURCHASE))


def of_category(core: Page, category: int, count: int) -> Tensor:
    """[count] items of a category."""
    return torch.nonzero(core.category[1:] == category).squeeze(1)[:count] + 1


def same(a: State, b: State) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_it_is_a_core() -> None:
    core = page()
    assert isinstance(core, Core)
    assert core.shape == (5, 2)
    assert core.slate == 10
    assert core.features.shape == (121, 16)
    assert core.alive(torch.tensor([0.0, 1e9], dtype=torch.float64))[1].tolist() == [120, 120]


def test_worth_is_the_probability_of_a_click_where_nothing_is_beside_or_overlooked() -> None:
    core = page(users=3000)
    users = everybody(core)
    pages = core.sample(users, 10)
    p = core.worth(users, pages)
    torch.testing.assert_close(p, core.worth(users).gather(1, pages - 1))
    clicks = positive(core.step(users, pages).kinds)
    z = (clicks.double() - p.double()).sum() / (p * (1 - p)).double().sum().sqrt()
    assert abs(float(z)) < 4
    high = p > p.median()
    assert clicks[high].double().mean() > 2 * clicks[~high].double().mean()


# --- looking -----------------------------------------------------------------------------------------------------


def test_places_are_looked_at_as_their_row_and_column_say_and_alike_without_attention() -> None:
    flat = positive(kinds_of_random(page(users=2000, base=0.0), 10)).double().mean((0, 1))
    assert float(flat.max() - flat.min()) < 0.02
    core = page(users=2000, base=0.0, attention=1.0)
    expected = torch.tensor([[0.35, 0.7], [0.5, 1.0], [0.225, 0.45], [0.15, 0.3], [0.3, 0.6]])
    torch.testing.assert_close(core.look.view(5, 2), expected)
    seen = positive(kinds_of_random(core, 10)).double().mean((0, 1))
    torch.testing.assert_close(seen, flat.mean() * expected.flatten().double(), atol=0.02, rtol=0)
    assert not (core.look[1:] <= core.look[:-1]).all(), "attention must not fall along the page"


def test_attention_of_ones_own() -> None:
    core = page(rows=2, columns=3, attention=2.0, row_attention=[1.0, 0.5], column_attention=[0.5, 1.0, 0.1])
    torch.testing.assert_close(core.look, torch.tensor([0.25, 1.0, 0.01, 0.0625, 0.25, 0.0025]))


# --- companions --------------------------------------------------------------------------------------------------


def test_company_by_hand() -> None:
    """3 x 2: [[1, 2], [1, 3], [0, 4]]; 1 completes 2 and 3 completes 4, 0 is an empty place."""
    core = page(rows=3, columns=2, companion=0.5)
    got = core.company(torch.tensor([[1, 2, 1, 3, 0, 4]]))
    #  (0,0): beside 2 (+1) and 1 (-1); (0,1): beside 1 (+1) and 3; (1,0): beside 1 (-1), 3 and nothing;
    #  (1,1): beside 2, 1 and 4 (+1); (2,1): beside 3 (+1) and nothing
    assert got.tolist() == [[0.0, 0.5, -0.5, 0.5, 0.0, 0.5]]


def rate(core: Page, categories: list[int]) -> float:
    """Click rate of a page that holds `categories` place after place, [K]."""
    items = torch.tensor([int(of_category(core, c, 20)[at]) for at, c in enumerate(categories)])
    users = everybody(core)
    return float(positive(core.step(users, items.expand(core.users, -1)).kinds).double().mean())


def test_what_goes_together_helps_and_more_of_the_same_hurts_and_neither_when_off() -> None:
    chess, blocks = [1, 2, 2, 1, 1, 2, 2, 1, 1, 2], [1, 1, 2, 2, 1, 1, 2, 2, 1, 1]  # blocks: a row of one category
    same_as = [1] * 10
    on = [rate(page(users=2000, companion=0.8, base=-2.0), c) for c in (chess, blocks, same_as)]
    assert on[0] > on[1] + 0.05 > on[2] + 0.1
    off = [rate(page(users=2000, base=-2.0), c) for c in (chess, blocks)]
    # The same ten items but for their order: without companions only luck differs.
    assert sorted(chess) != sorted(blocks) or off[0] == pytest.approx(off[1], abs=0.02)


def test_order_matters_only_with_companions_or_attention() -> None:
    """The same items on the same page, turned around."""

    def turned(**settings: Any) -> float:
        core = page(users=4000, base=-1.5, **settings)
        users, other = everybody(core), core.like()
        best = core.best(users)
        shuffled = best[:, torch.tensor([3, 8, 0, 5, 9, 1, 6, 2, 7, 4])]
        return float(core.step(users, best).reward.mean() - other.step(users, shuffled).reward.mean())

    assert abs(turned()) < 0.08
    assert turned(companion=0.75) > 0.5
    assert turned(attention=1.0) > 0.03


# --- saturation --------------------------------------------------------------------------------------------------


def repeated(core: Page, steps: int) -> Tensor:
    """[steps] click rate when everybody gets the same category again and again."""
    users, items = everybody(core), of_category(core, 1, 10)
    kinds = torch.stack([core.step(users, items.expand(core.users, -1)).kinds for _ in range(steps)])
    return positive(kinds).double().mean((1, 2))


def test_a_repeated_category_bores_and_without_saturation_it_does_not() -> None:
    off = repeated(page(users=1500, base=-1.0), 8)
    assert abs(float(off[-3:].mean() - off[:3].mean())) < 0.02
    on = repeated(page(users=1500, base=-1.0, saturation=1.25), 8)
    assert float(on[0]) == pytest.approx(float(off[0]))
    assert float(on[-3:].mean()) < 0.5 * float(on[0])


def test_spill_makes_other_categories_dull_too_and_time_heals() -> None:
    for spill, dull in ((0.0, False), (6.0, True)):
        core = page(saturation=1.0, spill=spill, recover_s=100.0)
        other = of_category(core, 3, 1).expand(core.users, 1)
        fresh = core.worth(everybody(core), other)
        repeated(core, 5)
        assert bool((core.worth(everybody(core), other) < 0.95 * fresh).all()) == dull
    core.step(everybody(core), torch.zeros(core.users, 10, dtype=torch.int64), core.time + 2000.0)
    torch.testing.assert_close(core.worth(everybody(core), other), fresh, rtol=1e-3, atol=1e-4)


# --- reactions ---------------------------------------------------------------------------------------------------


def test_purchases_skips_and_silence_and_their_rewards() -> None:
    assert sorted(kinds_of_random(page(), 5).unique().tolist()) == [int(Kind.IMPRESSION), int(Kind.CLICK)]
    core = Page(users=2000, base=-1.0, leave=1.0, rewards={"click": 1.0, "purchase": 5.0, "skip": -0.5, "leave": -3.0})
    users = everybody(core)
    pages = core.sample(users, 10)
    pages[:, 3] = 0
    affinity = (core.vectors[pages] * core.taste.unsqueeze(1)).sum(2)
    feedback = core.step(users, pages)
    kinds = feedback.kinds
    assert (kinds[:, 3] == int(Kind.NONE)).all()
    means = [float(affinity[kinds == int(k)].mean()) for k in (Kind.PURCHASE, Kind.CLICK, Kind.IMPRESSION, Kind.SKIP)]
    assert means == sorted(means, reverse=True)
    counts = [(kinds == int(k)).sum(1) for k in (Kind.CLICK, Kind.PURCHASE, Kind.SKIP)]
    expected = counts[0] + 5.0 * counts[1] - 0.5 * counts[2] - 3.0 * feedback.leave
    torch.testing.assert_close(feedback.reward, expected)
    assert feedback.leave.any()


def test_poor_pages_make_people_leave_and_time_pass_until_they_are_back() -> None:
    def leaving(base: float, leave: float) -> tuple[int, float]:
        core = page(users=1000, base=base, leave=leave, gap_s=1000.0)
        users = everybody(core)
        left, away = 0, 0.0
        for _ in range(8):
            before = core.time.clone()
            feedback = core.step(users, core.sample(users, 10))
            torch.testing.assert_close(core.time, before + feedback.think + feedback.gap)
            assert ((feedback.gap > 0) == feedback.leave).all()
            left, away = left + int(feedback.leave.sum()), away + float(feedback.gap.sum())
        return left, away / max(1, left)

    poor, away = leaving(-9.0, 0.5)
    assert away == pytest.approx(1000.0, rel=0.1)
    assert poor > 10 * leaving(1.0, 0.5)[0]
    assert leaving(-9.0, 0.0)[0] == 0


# --- who knows everything ----------------------------------------------------------------------------------------


def expected(core: Page, users: Tensor, pages: Tensor) -> Tensor:
    """[n] reward expected of pages, written out once more."""
    affinity = (core.vectors[pages] * core.taste[users].unsqueeze(1)).sum(2)
    category = core.category[pages]
    dull = core._dull(core.shown[users]).gather(1, category - 1)
    p = torch.sigmoid(core.offset[pages] + core.match * affinity + core.company(category) - dull)
    return (core.look * p * (1 + 4 * core.buy * affinity.clamp(min=0))).sum(1)


def test_the_best_page_of_few_items_is_close_to_the_best_of_all_orders() -> None:
    core = Page(users=20, items=6, topics=4, rows=2, columns=2, seed=3)
    users = everybody(core)
    every = torch.tensor(list(itertools.permutations(range(1, 7), 4)))
    values = torch.stack([expected(core, users, one.expand(20, -1)) for one in every], dim=1)
    mine = expected(core, users, core.best(users))
    best, mean = values.max(1).values, values.mean(1)
    assert (mine <= best + 1e-5).all()
    assert float(((mine - mean) / (best - mean)).mean()) > 0.9
    assert float((mine > best - 1e-5).double().mean()) > 0.5


def test_best_pages_hold_different_items_and_do_not_depend_on_who_else_asks() -> None:
    core = Page(users=60)
    kinds_of_random(core, 3)
    for foresight in (0.0, 1.5):
        pages = core.best(everybody(core), foresight)
        assert (pages.sort(1).values.diff(dim=1) > 0).all()
        assert torch.equal(core.best(torch.arange(10, 20), foresight), pages[10:20])


def people(seed: int, **settings: Any) -> Page:
    core = Page(users=128, **settings)
    core.reset(torch.arange(128), torch.arange(128) + (seed + 1) * 1_000_003)
    return core


def test_looking_ahead_pays_and_without_saturation_it_does_not() -> None:
    on = scale(people, horizon=15, seeds=[0])
    assert on["lookahead_share"] >= 0.15
    assert on["low"] > 0.1
    assert on["random"] < on["myopic"] < on["oracle"]

    def never(seed: int) -> Page:
        return people(seed, saturation=0.0)

    scores = [float(play(never(0), policy, 10).mean()) for policy in (random, myopic, Greedy(1.0))]
    assert scores[2] == scores[1] > scores[0]


# --- faces -------------------------------------------------------------------------------------------------------


def test_samples_are_different_there_and_equally_likely() -> None:
    core = page(users=4000, items=23)
    drawn = core.sample(everybody(core), 7)
    assert all(len(row.unique()) == 7 for row in drawn[:50])
    counts = torch.bincount(drawn.flatten(), minlength=24)
    assert counts[0] == 0
    assert (abs(counts[1:] - 4000 * 7 / 23) < 0.12 * 4000 * 7 / 23).all()
    assert sorted(core.sample(torch.tensor([3]), 30)[0].tolist()) == [0] * 7 + list(range(1, 24))


def test_features_tell_of_the_items_with_noise_that_can_be_off() -> None:
    clear, noisy = page(noise=0.0), page(noise=0.5)
    torch.testing.assert_close(clear.features[1:], clear.vectors[1:])
    cosine = (noisy.features[1:] * noisy.vectors[1:]).sum(1)
    assert 0.8 < float(cosine.mean()) < 0.97
    assert not noisy.features[0].any()


def test_64_worlds_of_one_are_one_world_of_64() -> None:
    big = Page(users=64)
    big.reset(everybody(big), torch.arange(64) + 7)
    ones = [Page(users=1) for _ in range(64)]
    for row, one in enumerate(ones):
        one.reset(torch.tensor([0]), torch.tensor([row + 7]))
    alone = torch.tensor([0])
    for _ in range(6):
        pages = big.sample(everybody(big), 10)
        together = big.step(everybody(big), pages)
        apart = [one.step(alone, one.sample(alone, 10)) for one in ones]
        assert torch.equal(together.kinds, torch.cat([f.kinds for f in apart]))
        assert torch.equal(big.time, torch.cat([one.time for one in ones]))


def test_a_life_does_not_depend_on_who_is_stepped_when() -> None:
    together, split = Page(users=50), Page(users=50)
    users = everybody(together)
    for _ in range(8):
        pages = together.sample(users, 10)
        expected_kinds = together.step(users, pages).kinds
        for part in users.flip(0).split(17):
            assert torch.equal(split.step(part, pages[part]).kinds, expected_kinds[part])


def test_resumed_is_never_stopped_to_the_bit() -> None:
    straight, resumed = Page(users=100), Page(users=100)
    kinds_of_random(straight, 8)
    saved = straight.state_dict()
    resumed.load_state_dict(saved)
    assert torch.equal(kinds_of_random(straight, 8), kinds_of_random(resumed, 8))
    assert same(straight.state_dict(), resumed.state_dict())
    assert not same(straight.state_dict(), saved)
    with pytest.raises(ValueError, match="users, topics and dim must be what they were"):
        Page(users=10).load_state_dict(saved)


def test_a_reset_brings_other_people_and_seeds_bring_the_same() -> None:
    core = page(users=20)
    first = core.taste.clone()
    core.shift()
    assert torch.equal(core.taste, first)
    core.reset(torch.arange(10))
    assert torch.equal(core.taste[10:], first[10:])
    assert ((core.taste * first).sum(1)[:10] < 0.999).all()
    core.reset(everybody(core), torch.full((20,), 5))
    assert torch.equal(core.taste, core.taste[:1].expand(20, -1))
    assert not torch.equal(page(seed=1).vectors, page(seed=2).vectors)


def test_a_late_answer_moves_the_clock() -> None:
    core = page()
    asked = core.time.clone()
    feedback = core.step(everybody(core), core.sample(everybody(core), 10), asked + 3.5)
    torch.testing.assert_close(core.time, asked + 3.5 + feedback.think)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"users": 0}, "page.users must be at least 1"),
        ({"buy": 1.5}, "page.buy must be between 0 and 1"),
        ({"companion": -1.0}, "page.companion must not be negative"),
        ({"think_s": 0.0}, "page.think_s must be above 0"),
        ({"items": 9}, "must fill a page of 5 x 2, got 9"),
        ({"row_attention": [1.0, 0.5]}, "page.row_attention must be 5 numbers"),
        ({"column_attention": [1.0, 0.0]}, "page.column_attention must be 2 numbers above 0"),
        ({"rewards": {"clicks": 1.0}}, "got 'clicks'"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Page(**settings)


def test_pages_of_the_wrong_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected slates of shape \(2, 10\), got \(2, 4\)"):
        page().step(torch.tensor([0, 1]), torch.ones(2, 4, dtype=torch.int64))


@pytest.mark.gpu
def test_the_page_on_a_gpu_is_the_same_world() -> None:
    cpu, gpu = Page(users=200), Page(users=200, device="cuda")
    assert torch.equal(cpu.vectors, gpu.vectors.cpu())
    users, agree = everybody(cpu), []
    for _ in range(10):
        pages = cpu.sample(users, 10)
        agree.append((cpu.step(users, pages).kinds == gpu.step(users, pages).kinds.cpu()).double().mean())
    assert float(torch.stack(agree).mean()) > 0.999
