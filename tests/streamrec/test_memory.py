"""The replay memory, against lists kept per user."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from streamrec import checkpoint
from streamrec.memory import Replay, Sample
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
    return sum(x.numel() for x in (*state["ring"].values(), state["successor"], state["newest"]))


def test_memory_is_bounded() -> None:
    replay = filled(Replay(16, 3), 50)
    before = checkpoint_size(replay)
    filled(replay, 200, 50)
    assert checkpoint_size(replay) == before


@pytest.mark.parametrize("n", [3, 40])
def test_goes_on_from_a_checkpoint_as_if_never_stopped(n: int, tmp_path: Path) -> None:
    replay = filled(Replay(16, 3, GAMMA), n)
    checkpoint.save(tmp_path, {"replay": replay.state_dict()}, 1)
    state, _ = checkpoint.load_newest(tmp_path) or ({}, None)
    again = Replay(16, 3, GAMMA)
    again.load_state_dict(state["replay"])
    for one in (replay, again):
        filled(one, 9, n)
    mine, theirs = (one.sample(500, Generator().manual_seed(2)) for one in (replay, again))
    for (name, a), (_, b) in zip(mine.columns(), theirs.columns(), strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a.nan_to_num(), b.nan_to_num()), name


def test_an_empty_memory_goes_through_a_checkpoint() -> None:
    again = Replay(4)
    again.load_state_dict(Replay(4).state_dict())
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
    assert [f.name for f in fields(sample)] == ["first", "later", "discount", "next", "steps"]
    assert len(sample[torch.tensor([0, 2])]) == 2
