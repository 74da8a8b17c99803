"""The replay memory, against lists kept per user."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from streamrec import checkpoint
from streamrec.memory import PrioritisedReplay, Replay, Sample, StratifiedReplay
from streamrec.records import Decision, History, Transition

GAMMA = 0.5


def history(user: Tensor, key: Tensor, stamp: Tensor) -> History:
    """A history that can be recognised: its time and items are the stamp."""
    n = len(user)
    return History.of(
        user=user,
        key=key,
        time=stamp.double(),
        items=stamp.unsqueeze(1).expand(n, 2).int(),
        kinds=torch.ones(n, 2, dtype=torch.int8),
        times=stamp.double().unsqueeze(1).expand(n, 2),
        skipped=stamp.unsqueeze(1).int(),
        skip_times=stamp.double().unsqueeze(1),
        in_session=stamp,
    )


def transition(user: list[int], key: list[int], stamp: list[int], done: list[bool]) -> Transition:
    """Transition number `stamp` pays stamp in its first slot and 1 in its second."""
    who, keys, when = torch.tensor(user), torch.tensor(key), torch.tensor(stamp)
    shown = Decision.of(who, torch.stack([when, when + 1], dim=1))
    return Transition(
        history=history(who, keys, when),
        shown=shown,
        wanted=shown,
        feedback=torch.ones(len(user), 2, dtype=torch.int8),
        rewards=torch.stack([when.float(), torch.ones(len(user))], dim=1),
        next=history(who, keys, when + 1000),
        time=when.double() + 0.5,
        done=torch.tensor(done),
        sent=torch.zeros(len(user), dtype=torch.float64),
    )


Row = tuple[int, int, bool]  # store row, generation of its user, done


def expected(rows: list[Row], number: int, n_step: int) -> tuple[float, float, int, int]:
    """Later reward, discount, number of the last transition and steps, by walking the stream."""
    later, last, steps = 0.0, number, 1
    while steps < n_step and not rows[last][2]:
        after = [at for at in range(last + 1, len(rows)) if rows[at][0] == rows[number][0]]
        if not after or rows[after[0]][1] != rows[number][1]:
            break
        last = after[0]
        later += GAMMA**steps * (last + 1)
        steps += 1
    return later, 0.0 if rows[last][2] else GAMMA**steps, last, steps


@settings(max_examples=80, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 1), st.booleans()), min_size=1, max_size=40),
    cuts=st.lists(st.integers(1, 7), min_size=40, max_size=40),
    size=st.integers(1, 25),
    n_step=st.integers(1, 5),
)
@example(rows=[(0, 0, False)] * 3, cuts=[3] * 40, size=1, n_step=3)
@example(rows=[(0, 0, False), (1, 0, False)] * 3, cuts=[6] * 40, size=2, n_step=3)
def test_chains_equal_those_of_lists_per_user(rows: list[Row], cuts: list[int], size: int, n_step: int) -> None:
    """Also with users who appear twice in a batch, lose their row to another, and batches larger than the ring."""
    replay = Replay(size, n_step, GAMMA)
    start = 0
    for cut in cuts:
        part = range(start, min(start + cut, len(rows)))
        if part:
            who = [rows[at][0] for at in part]
            key = [10 * rows[at][0] + rows[at][1] for at in part]
            replay.add(transition(who, key, list(part), [rows[at][2] for at in part]))
        start += cut
    numbers = torch.arange(max(len(rows) - size, 0), len(rows))
    got = replay.at(numbers)
    assert len(replay) == len(numbers)
    assert got.first.history.time.tolist() == numbers.tolist()
    want = [expected(rows, number, n_step) for number in numbers.tolist()]
    torch.testing.assert_close(got.later.tolist(), [w[0] for w in want])
    assert got.discount.tolist() == [w[1] for w in want]
    assert got.next.time.tolist() == [w[2] + 1000.0 for w in want]
    assert got.steps.tolist() == [w[3] for w in want]


def filled(replay: Replay, n: int, start: int = 0) -> Replay:
    for at in range(start, start + n):
        replay.add(transition([at % 3, 3 + at % 2], [at % 3, 3 + at % 2], [2 * at, 2 * at + 1], [at % 7 == 0, False]))
    return replay


def test_sampling_is_uniform_over_what_is_kept() -> None:
    replay = filled(Replay(10), 20)
    drawn = replay.sample(20_000, Generator().manual_seed(1)).first.history.time
    counts = torch.bincount(drawn.long(), minlength=40)
    assert (counts[:30] == 0).all()
    assert (counts[30:] - 2000).abs().max() < 5 * (20_000 * 0.1 * 0.9) ** 0.5


def test_what_was_added_is_copied() -> None:
    replay = Replay(10)
    given_away = transition([1], [1], [5], [False])
    replay.add(given_away)
    for _, column in given_away.columns():
        column.zero_()
    assert replay.at(torch.tensor([0])).first.history.time.tolist() == [5.0]


def checkpoint_size(replay: Replay) -> int:
    state = replay.state_dict()
    return sum(x.numel() for x in (*state["ring"].values(), state["successor"], state["newest"], state["number"]))


def test_memory_is_bounded() -> None:
    replay = filled(Replay(16, 3), 50)
    before = checkpoint_size(replay)
    filled(replay, 200, 50)
    assert checkpoint_size(replay) == before


def make(kind: type[Replay], size: int = 16) -> Replay:
    more: dict[str, Any] = {"strata": 3, "label": by_user} if kind is StratifiedReplay else {}
    return kind(size, 3, GAMMA, **more)


KINDS = [Replay, PrioritisedReplay, StratifiedReplay]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [3, 40])
def test_goes_on_from_a_checkpoint_as_if_never_stopped(kind: type[Replay], n: int, tmp_path: Path) -> None:
    replay = filled(make(kind), n)
    replay.prioritise(replay.sample(8, Generator().manual_seed(1)).number, torch.arange(8.0))
    checkpoint.save(tmp_path, {"replay": replay.state_dict()}, 1)
    state, _ = checkpoint.load_newest(tmp_path) or ({}, None)
    again = make(kind)
    again.load_state_dict(state["replay"])
    for one in (replay, again):
        filled(one, 9, n)
    mine, theirs = (one.sample(500, Generator().manual_seed(2)) for one in (replay, again))
    for (name, a), (_, b) in zip(mine.columns(), theirs.columns(), strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a.nan_to_num(), b.nan_to_num()), name


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_is_what_its_numbers_say(kind: type[Replay]) -> None:
    replay = filled(make(kind), 30)
    sample = replay.sample(64, Generator().manual_seed(3))
    again = replay.at(sample.number)
    for (name, a), (_, b) in zip(sample.columns(), again.columns(), strict=True):
        assert name == "weight" or torch.equal(a.nan_to_num(), b.nan_to_num()), name
    assert replay.holds(sample.number).all()
    assert not replay.holds(torch.tensor([-1, 10**9])).any()


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_memory_goes_through_a_checkpoint(kind: type[Replay]) -> None:
    again = make(kind)
    again.load_state_dict(make(kind).state_dict())
    assert len(again) == 0
    with pytest.raises(ValueError, match="empty"):
        again.sample(1, Generator())


def test_keeps_only_the_windows_that_are_read() -> None:
    replay = filled(Replay(16, reads=("items",)), 5)
    sample: Sample = replay.sample(4, Generator().manual_seed(0))
    for one in (sample.first.history, sample.next):
        assert one.items.shape == (4, 2)
        assert one.in_session.shape == (4,)
        assert all(getattr(one, name).shape == (4, 0) for name in ("kinds", "times", "skipped", "skip_times"))


# --- by priority -------------------------------------------------------------------------------------------------


def prioritised(n: int, size: int = 8, **settings: Any) -> PrioritisedReplay:
    """A memory with `n` transitions of one user, stamped 0, 1, 2, ..."""
    replay = PrioritisedReplay(size, **settings)
    for at in range(n):
        replay.add(transition([1], [1], [at], [False]))
    return replay


def shares(sample: Sample, bins: int) -> Tensor:
    return torch.bincount(sample.number, minlength=bins) / len(sample)


def test_draws_are_in_proportion_to_errors_to_the_power_of_alpha() -> None:
    """P(i) = p_i^alpha / sum_k p_k^alpha, equation 1 of the paper."""
    replay = prioritised(4, alpha=0.5, eps=1e-9)
    replay.prioritise(torch.arange(4), torch.tensor([1.0, -4.0, 9.0, 16.0]))
    sample = replay.sample(10_000, Generator().manual_seed(0))
    torch.testing.assert_close(shares(sample, 4), torch.tensor([0.1, 0.2, 0.3, 0.4]), atol=2e-4, rtol=0)


def test_weights_undo_the_preference_as_beta_rises_to_one() -> None:
    """w_i = (N P(i))^-beta, over the largest of the sample; with beta 1 the weighted mean is the uniform one."""
    replay = prioritised(4, alpha=1.0, beta=0.5, anneal=2, eps=1e-9)
    replay.prioritise(torch.arange(4), torch.tensor([1.0, 2.0, 3.0, 4.0]))
    betas, generator = [], Generator().manual_seed(0)
    for _ in range(3):
        betas.append(replay.beta)
        sample = replay.sample(10_000, generator)
        expected = (sample.number + 1.0) ** -betas[-1]
        torch.testing.assert_close(sample.weight, expected)
    assert betas == [0.5, 0.75, 1.0]
    mean = (sample.weight * sample.number).sum() / sample.weight.sum()
    assert float(mean) == pytest.approx(1.5, abs=0.01)


def test_alpha_zero_is_uniform() -> None:
    replay = prioritised(4, alpha=0.0)
    replay.prioritise(torch.arange(4), torch.tensor([1.0, 100.0, 0.0, 3.0]))
    sample = replay.sample(1_000, Generator().manual_seed(0))
    assert sample.weight.tolist() == [1.0] * 1_000
    torch.testing.assert_close(shares(sample, 4), torch.full((4,), 0.25), atol=2e-3, rtol=0)


def test_new_transitions_come_with_the_highest_priority_and_old_ones_are_forgotten() -> None:
    replay = prioritised(8, alpha=1.0, eps=1e-9)
    replay.prioritise(torch.arange(8), torch.tensor([5.0, *[1e-6] * 7]))
    replay.add(transition([1], [1], [8], [False]))  # over number 0
    drawn = replay.sample(100, Generator().manual_seed(0)).number
    assert (drawn == 8).float().mean() > 0.99
    replay.prioritise(torch.tensor([0]), torch.tensor([1e9]))  # gone: changes nothing
    assert (replay.sample(100, Generator().manual_seed(1)).number == 8).float().mean() > 0.99


# --- by stratum --------------------------------------------------------------------------------------------------


def by_user(history: History) -> Tensor:
    return history.user % 3


def mixed(replay: StratifiedReplay, users: list[int]) -> StratifiedReplay:
    for at, user in enumerate(users):
        replay.add(transition([user], [user], [at], [False]))
    return replay


def test_each_stratum_has_its_share_of_every_sample() -> None:
    """Rounded up or down, and in the mean exactly: p_h B = 3.2, 5.6, 7.2 of 16."""
    made = StratifiedReplay(30, strata=3, label=by_user, shares=[0.2, 0.35, 0.45])
    replay = mixed(made, [0] * 50 + [1] * 3 + [2])
    generator = Generator().manual_seed(1)
    seen = torch.stack([torch.bincount(by_user(replay.sample(16, generator).first.history)) for _ in range(2_000)])
    assert seen.min(0).values.tolist() == [3, 5, 7]
    assert seen.max(0).values.tolist() == [4, 6, 8]
    torch.testing.assert_close(seen.float().mean(0), torch.tensor([3.2, 5.6, 7.2]), atol=0.05, rtol=0)


def test_within_a_stratum_draws_are_uniform_over_its_newest() -> None:
    replay = mixed(StratifiedReplay(12, strata=3, label=by_user), [0, 1] * 10)
    drawn = replay.sample(20_000, Generator().manual_seed(1)).first.history.time.long()
    counts = torch.bincount(drawn, minlength=20)
    assert (counts[:12] == 0).all()
    assert (counts[12:] - 2_500).abs().max() < 5 * (20_000 / 8 * 7 / 8) ** 0.5


def test_a_stratum_that_stays_away_is_neither_pushed_out_nor_does_its_share_fall_with_its_traffic() -> None:
    replay = mixed(StratifiedReplay(12, strata=3, label=by_user, shares=[0.5, 0.5, 0.0]), [0] * 4 + [1] * 400)
    assert len(replay) == 8
    drawn = by_user(replay.sample(100, Generator()).first.history)
    assert torch.bincount(drawn).tolist() == [50, 50]


def test_empty_strata_are_left_out_and_the_others_fill_their_place() -> None:
    made = StratifiedReplay(12, strata=3, label=by_user, shares=[0.25, 0.25, 0.5])
    mixed(made, [0, 1, 1, 0])
    assert made.shares.tolist() == [0.5, 0.5, 0.0]
    assert torch.bincount(by_user(made.sample(40, Generator()).first.history)).tolist() == [20, 20]


def test_shares_are_those_of_all_that_ever_came_unless_given() -> None:
    replay = mixed(StratifiedReplay(6, strata=3, label=by_user), [0] * 30 + [1] * 60 + [2] * 10)
    torch.testing.assert_close(replay.shares.tolist(), [0.3, 0.6, 0.1])


def test_the_mean_of_a_stratified_sample_varies_as_sampling_theory_says() -> None:
    """sum of p_h^2 sigma_h^2 / n_h, against (sigma within + sigma between) / n of uniform draws: 4 times less here.

    Two strata with rewards 0 or 2 and 4 or 6, so sigma_h^2 = 1 and the variance between them is 4.
    """
    strata, plain = StratifiedReplay(400, strata=2, label=lambda h: h.user % 2), Replay(400)
    for replay in (strata, plain):
        who = [at % 2 for at in range(400)]
        given_out = transition(who, who, [4 * (at % 2) + at // 2 % 2 * 2 for at in range(400)], [False] * 400)
        replay.add(given_out)
    generator = Generator().manual_seed(5)
    variances = {}
    for name, replay in (("strata", strata), ("plain", plain)):
        means = torch.stack([replay.sample(20, generator).first.rewards[:, 0].mean() for _ in range(4_000)])
        variances[name] = float(means.var())
        assert float(means.mean()) == pytest.approx(3.0, abs=0.05)
    assert variances["strata"] == pytest.approx(2 * 0.5**2 * 1.0 / 10, rel=0.1)
    assert variances["plain"] == pytest.approx((1.0 + 4.0) / 20, rel=0.1)


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.integers(0, 6), min_size=1, max_size=60), cuts=st.lists(st.integers(1, 30), min_size=60))
def test_strata_have_their_newest_and_chains_follow_users(rows: list[int], cuts: list[int]) -> None:
    """Against lists per stratum, with batches larger than a stratum's part of the memory."""
    replay = StratifiedReplay(15, 3, GAMMA, strata=3, label=by_user)
    start = 0
    for cut in cuts:
        part = list(range(start, min(start + cut, len(rows))))
        if part:
            who = [rows[at] for at in part]
            replay.add(transition(who, who, part, [False] * len(part)))
        start += cut
    kept = sorted(at for h in range(3) for at in [at for at, row in enumerate(rows) if row % 3 == h][-5:])
    numbers = replay._number[replay._number >= 0]
    got = replay.at(numbers)
    assert sorted(got.first.history.time.tolist()) == kept
    assert len(replay) == len(kept)
    for stamp, later in zip(got.first.history.time.long().tolist(), got.later.tolist(), strict=True):
        after = [at for at in range(stamp + 1, len(rows)) if rows[at] == rows[stamp]][:2]
        assert later == pytest.approx(sum(GAMMA ** (i + 1) * (at + 1) for i, at in enumerate(after)))


def test_prioritised_and_stratified_refuse_settings_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="alpha >= 0"):
        PrioritisedReplay(5, alpha=-1.0)
    with pytest.raises(ValueError, match="strata must be at least 1 and at most size"):
        StratifiedReplay(3, strata=4)
    with pytest.raises(ValueError, match="shares must be 2 numbers"):
        StratifiedReplay(4, strata=2, shares=[1.0])
    with pytest.raises(ValueError, match="saved with 3 strata, here it has 2"):
        StratifiedReplay(12, strata=2).load_state_dict(StratifiedReplay(12, strata=3).state_dict())
    only = mixed(StratifiedReplay(4, strata=2, label=lambda h: h.user % 2, shares=[0.0, 1.0]), [0])
    with pytest.raises(ValueError, match="only strata with share 0"):
        only.sample(1, Generator())


def test_refuses_settings_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="size >= 1"):
        Replay(0)
    with pytest.raises(ValueError, match="gamma must be between 0 and 1"):
        Replay(5, gamma=1.5)
    with pytest.raises(ValueError, match="History has no"):
        Replay(5, reads=("itmes",))
    replay = filled(Replay(5), 1)
    narrow = transition([1], [1], [1], [False])
    narrow.rewards = narrow.rewards[:, :1]  # would be spread over both slots
    with pytest.raises(ValueError, match=r"holds rewards of width \[2\], a transition with \[1\]"):
        replay.add(narrow)
    with pytest.raises(ValueError, match="saved with size=8, here it is 5"):
        Replay(5).load_state_dict(Replay(8).state_dict())


def test_a_sample_is_a_record() -> None:
    sample = filled(Replay(16), 5).sample(6, Generator().manual_seed(0))
    assert len(sample) == 6
    assert [f.name for f in fields(sample)] == ["first", "later", "discount", "next", "steps", "number", "weight"]
    assert len(sample[torch.tensor([0, 2])]) == 2
