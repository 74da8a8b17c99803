"""Popular: decayed counts, with and without a clock."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from agents.popular import Fade, Popular
from tests.histories import catalog, clicked, history


def click(agent: Popular, items: list[int], time: float = 0.0) -> None:
    before = history([[]] * len(items))
    before.time = torch.full((len(items),), time, dtype=torch.float64)
    agent.observe(clicked(before, torch.tensor(items)))


def test_most_clicked_comes_first_and_unavailable_items_not_at_all() -> None:
    items = catalog(6)
    agent = Popular(items, 3)
    click(agent, [4, 4, 2, 4, 2, 5])
    assert agent.act(history([[], [1]])).slate.tolist() == [[4, 2, 5]] * 2
    items.retire(torch.tensor([2]))
    assert agent.act(history([[]])).slate[0, :2].tolist() == [4, 5]


def test_only_clicks_count() -> None:
    agent = Popular(catalog(6), 1)
    seen = clicked(history([[], []]), torch.tensor([3, 3]))
    seen.feedback.fill_(4)  # skips
    agent.observe(seen)
    assert agent.counts.sum() == 0


def test_old_clicks_fade_with_event_time() -> None:
    agent = Popular(catalog(6), 2, half_life_s=100.0, half_life_clicks=None)
    click(agent, [1, 1, 1], time=1000.0)
    click(agent, [2, 2], time=1050.0)
    assert agent.act(history([[]])).slate.tolist() == [[1, 2]]  # 3 * 2^-.5 > 2
    click(agent, [2], time=1110.0)
    assert agent.act(history([[]])).slate.tolist() == [[2, 1]]


def test_old_clicks_fade_with_clicks_when_time_stands_still() -> None:
    agent = Popular(catalog(6), 2, half_life_clicks=10.0)
    click(agent, [1] * 10)
    click(agent, [2] * 10)
    assert agent.act(history([[]])).slate.tolist() == [[2, 1]]


def test_order_follows_whatever_changes_the_counts() -> None:
    agent = Popular(catalog(6), 2)

    def expected() -> Tensor:
        counts = agent.counts[: agent.catalog.size]
        return torch.argsort(torch.argsort(counts, descending=True, stable=True))

    for change in (
        lambda: click(agent, [3, 3, 5]),
        lambda: click(agent, [5, 5, 5]),
        lambda: agent.recycle(torch.tensor([5])),
        lambda: agent.load_state_dict(agent.state_dict() | {"counts": agent.counts.flip(0)}),
        lambda: agent.catalog.rows(["new"]),
    ):
        change()
        assert (-1 - agent.order()).tolist() == expected().tolist()
        assert agent.order() is agent.order()


def test_seen_items_give_way_to_the_next_popular_ones() -> None:
    agent = Popular(catalog(6), 2, exclude_seen=True)
    click(agent, [1, 1, 1, 1, 2, 2, 2, 3, 3, 4])
    assert agent.act(history([[], [1, 3], [1, 2, 3, 4, 5, 6]])).slate.tolist() == [[1, 2], [2, 4], [0, 0]]


def test_explores_the_whole_catalogue() -> None:
    agent = Popular(catalog(6), 1, epsilon=0.5)
    click(agent, [3])
    decision = agent.act(history([[]] * 3_000))
    counts = torch.bincount(decision.slate[:, 0], minlength=7)
    assert counts[0] == 0
    assert (counts[[1, 2, 4, 5, 6]] > 150).all()
    torch.testing.assert_close(decision.logp.exp().unique(), torch.tensor([0.5 / 6, 0.5 + 0.5 / 6]))


@pytest.mark.parametrize("half_lives", [(50.0, None), (None, 7.0), (50.0, 7.0), (None, None)])
def test_fading_by_growing_equals_fading_every_entry(half_lives: tuple[float | None, float | None]) -> None:
    """Across many rescalings and with late events."""
    fade, table = Fade(*half_lives), 0.0
    generator = torch.Generator().manual_seed(1)
    clock, exponents = 0.0, []
    for step in range(400):
        clock += float(torch.rand((), generator=generator)) * 40
        times = clock - 5 * torch.rand(3, generator=generator, dtype=torch.float64)
        weights, scale = fade.weigh(times)
        table = table * scale + float(weights.sum())
        exponents.append(exponent(times, step, half_lives))
    ages = torch.cat(exponents).max() - torch.cat(exponents)
    assert table / fade.unit == pytest.approx(float(torch.exp2(-ages).sum()), rel=1e-9)
    assert table < 2.0**45


def exponent(times: Tensor, step: int, half_lives: tuple[float | None, float | None]) -> Tensor:
    """Halvings that lie between the start of the stream and each click."""
    seconds, clicks = half_lives
    number = 3 * step + torch.arange(3, dtype=torch.float64)
    return (times / seconds if seconds else torch.zeros_like(times)) + (number / clicks if clicks else 0.0)


def test_a_pause_of_years_keeps_the_order_of_old_counts() -> None:
    agent = Popular(catalog(6), 2, half_life_s=60.0)
    click(agent, [5, 5, 1])
    click(agent, [2], time=1e9)
    assert agent.top(3).tolist() == [2, 5, 1]


def test_refuses_a_half_life_that_is_none() -> None:
    with pytest.raises(ValueError, match="half_life_s must be above 0"):
        Popular(catalog(2), 1, half_life_s=0.0)
