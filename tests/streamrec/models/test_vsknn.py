"""SessionKNN and VSKNN: the definitions written out with dictionaries, and what a stream asks of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import log, log10, sqrt
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from streamrec import loops
from streamrec.data.sequences import Sequences
from streamrec.evaluation.next_item import evaluate
from streamrec.models import session_knn
from streamrec.models.session_knn import SessionKNN
from streamrec.models.vsknn import DECAYS, VSKNN
from tests.histories import catalog, history

ITEMS = 9
ROWS = st.lists(st.integers(1, ITEMS), min_size=1, max_size=6)
WEIGHTS = {
    "same": lambda age, n: 1.0,
    "linear": lambda age, n: max(0.0, 1 - 0.1 * age),
    "log": lambda age, n: 1 / log10(age + 1.7),
    "div": lambda age, n: (n - age) / n,
    "quadratic": lambda age, n: ((n - age) / n) ** 2,
}
DISCOUNTS = {
    "same": lambda step: 1.0,
    "linear": lambda step: 1 - 0.1 * step,
    "log": lambda step: 1 / log10(step + 1.7),
    "div": lambda step: 1 / step,
    "quadratic": lambda step: 1 / step**2,
}


LOOPS = pytest.param(True, marks=pytest.mark.skipif(not loops.AVAILABLE, reason="numba is not installed"))


@pytest.fixture(scope="module", autouse=True, params=[False, LOOPS], ids=["tensors", "loops"])
def form(request: pytest.FixtureRequest) -> Iterator[None]:
    """Everything holds for both."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loops, "AVAILABLE", request.param)
        yield


def flat(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    starts = torch.tensor([0, *[len(row) for row in rows]]).cumsum(0)
    return torch.tensor([item for row in rows for item in row], dtype=torch.int64), starts


def newest_common(running: list[int], other: set[int]) -> int:
    return next(age for age, item in enumerate(reversed(running)) if item in other)


def neighbours(past: list[list[int]], running: list[int], similarity: Any, k: int, sample: int) -> list[Any]:
    """(similarity, session) of the k most similar of the newest `sample`, of equals the newest."""
    sharing = [set(row) for row in reversed(past) if set(row) & set(running)][:sample]
    rated = [(similarity(running, other), other) for other in sharing]
    order = sorted(range(len(rated)), key=lambda at: -round(rated[at][0], 6))  # stable: newest first
    return [rated[at] for at in order[:k]]


def by_hand(past: list[list[int]], running: list[int], similarity: Any, k: int, sample: int, gain: Any) -> list[float]:
    scores = [0.0] * (ITEMS + 1)
    for value, other in neighbours(past, running, similarity, k, sample):
        for item in other:
            scores[item] += value * gain(running, other, item)
    return scores


@settings(max_examples=80, deadline=None)
@given(
    st.lists(ROWS, min_size=1, max_size=20),
    st.lists(ROWS, min_size=1, max_size=3),
    st.sampled_from(DECAYS),
    st.sampled_from(DECAYS),
    st.integers(1, 6),
    st.integers(0, 8),
    st.sampled_from([0.0, 2.0]),
)
def test_vsknn_is_the_sum_over_the_nearest_sessions(
    past: list[list[int]], running: list[list[int]], weighting: Any, discount: Any, k: int, more: int, idf: float
) -> None:
    model = VSKNN(catalog(ITEMS), k, k + more, weighting, discount, idf, sessions=50)
    model.append(*flat(past))

    def similarity(row: list[int], other: set[int]) -> float:
        weights = {item: WEIGHTS[weighting](len(row) - 1 - at, len(row)) for at, item in enumerate(row)}
        return sum(w for item, w in weights.items() if item in other) / sum(weights.values())

    def gain(row: list[int], other: set[int], item: int) -> float:
        rarity = log(len(past) / sum(item in each for each in past))
        return DISCOUNTS[discount](newest_common(row, other) + 1) * (1 + idf * rarity)

    expected = [by_hand(past, row, similarity, k, k + more, gain) for row in running]
    torch.testing.assert_close(model.score(history(running)), torch.tensor(expected), rtol=1e-4, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(ROWS, min_size=1, max_size=20),
    st.lists(ROWS, min_size=1, max_size=3),
    st.sampled_from(["cosine", "jaccard"]),
    st.integers(1, 6),
    st.integers(0, 8),
)
def test_session_knn_is_the_sum_of_similarities(
    past: list[list[int]], running: list[list[int]], kind: Any, k: int, more: int
) -> None:
    model = SessionKNN(catalog(ITEMS), k, k + more, kind, sessions=50)
    model.append(*flat(past))

    def similarity(row: list[int], other: set[int]) -> float:
        mine = set(row)
        size = sqrt(len(mine) * len(other)) if kind == "cosine" else len(mine | other)
        return len(mine & other) / size

    expected = [by_hand(past, row, similarity, k, k + more, lambda *_: 1.0) for row in running]
    torch.testing.assert_close(model.score(history(running)), torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_work_is_cut_into_portions_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    past = torch.randint(1, ITEMS + 1, (400,), generator=generator)
    asked = history(torch.randint(1, ITEMS + 1, (40, 4), generator=generator).tolist() + [[]] * 5)
    model = VSKNN(catalog(ITEMS), 7, 20)
    model.append(past, torch.arange(0, 401, 4))
    whole = model.score(asked)
    for size in (1, 30, 500):
        monkeypatch.setattr(session_knn, "AT_ONCE", size)
        assert torch.equal(model.score(asked), whole)
    assert (whole[40:] == 0).all()


@pytest.mark.skipif(not loops.AVAILABLE, reason="numba is not installed")
@pytest.mark.parametrize("make", [SessionKNN, VSKNN])
def test_loops_say_what_tensors_say(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With more candidates than are sampled, more of these than neighbours, equal ones, and running sessions known."""
    generator = torch.Generator().manual_seed(4)
    items, users = 60, torch.arange(80)
    past = torch.randint(1, items + 1, (1600, 5), generator=generator)
    now = torch.randint(1, items + 1, (80, 4), generator=generator)
    model = make(catalog(items), 50, 150, sessions=1200)
    model.append(past.flatten(), torch.arange(0, 8001, 5))
    for step in range(4):
        model.observe(replace(history(now[:, :step].tolist()), user=users, key=users), now[:, step])
    asked = replace(history(now.tolist()), user=users, key=users)
    row, target = torch.arange(80).repeat_interleave(3), torch.randint(1, items + 1, (240,), generator=generator)
    target[:30] = now[:30, 0]

    monkeypatch.setattr(loops, "AVAILABLE", False)
    expected = model.score(asked)
    monkeypatch.setattr(loops, "AVAILABLE", True)
    found = model.score(asked)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    ranks = (found[row, 1:] >= found[row, target].unsqueeze(1)).sum(1)
    assert torch.equal(model.ranks(asked, row, target), ranks.float())
    assert (ranks == items).any(), "a target nobody votes for is behind everything"
    assert (ranks < 10).any()


@pytest.mark.skipif(not loops.AVAILABLE, reason="numba is not installed")
def test_an_evaluation_in_loops_finds_what_one_with_all_scores_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(5)
    rows = torch.randint(1, 40, (300, 5), generator=generator)
    model = VSKNN(catalog(40), 20, 60, idf=1.0)
    model.append(rows[:200].flatten(), torch.arange(0, 1001, 5))
    monkeypatch.setattr(loops, "AVAILABLE", False)
    expected = evaluate(model, Sequences.of(rows[200:].tolist()), ks=(1, 10))
    monkeypatch.setattr(loops, "AVAILABLE", True)
    monkeypatch.setattr(model, "score", None)  # is not asked
    assert evaluate(model, Sequences.of(rows[200:].tolist()), ks=(1, 10)) == pytest.approx(expected)


@pytest.mark.skipif(not loops.AVAILABLE, reason="numba is not installed")
def test_ranks_of_what_is_not_there_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "AVAILABLE", True)
    model = VSKNN(catalog(ITEMS), 5, 5)
    one = torch.tensor([1])
    with pytest.raises(IndexError, match="expected rows of a history of 1, got 1"):
        model.ranks(history([[1]]), one, one)
    with pytest.raises(IndexError, match="expected catalogue rows below 10, got up to 10"):
        model.ranks(history([[1]]), one * 0, torch.tensor([10]))


def test_only_the_running_session_and_its_last_clicks_are_read() -> None:
    model = VSKNN(catalog(ITEMS), 5, 5, last=2)
    model.append(*flat([[1, 2], [3, 4], [5, 6]]))
    scores = model.score(history([[1, 3, 5]]))
    assert (scores[0] > 0).nonzero().squeeze(1).tolist() == [3, 4, 5, 6]
    scores = model.score(history([[1, 3, 5]], in_session=[1]))
    assert (scores[0] > 0).nonzero().squeeze(1).tolist() == [5, 6]


def later(row: list[int], user: int, item: int) -> tuple[Any, Tensor]:
    before = history([row])
    return replace(before, user=torch.tensor([user]), key=torch.tensor([user + 70])), torch.tensor([item])


def test_clicks_count_at_once_for_everybody_else() -> None:
    model = VSKNN(catalog(ITEMS), 5, 5)
    model.observe(*later([], 0, 1))
    assert (model.score(history([[1]])) == 0).all(), "one click says nothing yet"
    model.observe(*later([1], 0, 2))
    model.observe(*later([1, 2], 0, 3))
    asked = later([1, 2, 3], 1, 9)[0]
    assert (model.score(asked)[0] > 0).nonzero().squeeze(1).tolist() == [1, 2, 3]
    mine = later([1, 2, 3], 0, 9)[0]
    assert (model.score(mine) == 0).all(), "a session is no neighbour of itself"
    assert model.index.begun == 1


def test_the_next_visit_is_another_session() -> None:
    model = VSKNN(catalog(ITEMS), 5, 5)
    model.observe(*later([1], 0, 2))
    model.observe(*later([], 0, 3))
    model.observe(*later([3], 0, 4))
    assert model.index.begun == 2
    assert (model.score(later([1], 0, 9)[0])[0] > 0).nonzero().squeeze(1).tolist() == [1, 2], "her earlier visit counts"


def test_a_row_of_the_store_given_to_another_user_is_another_session() -> None:
    model = VSKNN(catalog(ITEMS), 5, 5)
    model.observe(*later([1], 0, 2))
    before, target = later([1, 2], 0, 3)
    model.observe(replace(before, key=before.key + 1), target)
    assert model.index.begun == 2


def test_several_clicks_of_one_user_in_one_call_are_one_session() -> None:
    model = VSKNN(catalog(ITEMS), 5, 5)
    before, _ = later([1], 3, 2)
    model.observe(before[torch.tensor([0, 0])], torch.tensor([2, 4]))
    assert model.index.begun == 1
    assert model.index.support[:6].tolist() == [0, 1, 1, 0, 1, 0]


def test_observing_is_appending(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions played click by click, some at the same time, leave what whole sessions leave."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.randint(1, ITEMS + 1, (30, 5), generator=generator)
    whole, stream = VSKNN(catalog(ITEMS), 6, 12), VSKNN(catalog(ITEMS), 6, 12)
    monkeypatch.setattr(stream.index, "slack", 7)
    whole.append(rows.flatten(), torch.arange(0, 151, 5))
    for group in rows.split(6):
        users = torch.arange(6)
        for step in range(5):
            before = replace(history(group[:, :step].tolist()), user=users, key=users)
            stream.observe(before, group[:, step])
    asked = history(torch.randint(1, ITEMS + 1, (20, 3), generator=generator).tolist())
    asked.key += 100  # nobody's own session
    torch.testing.assert_close(stream.score(asked), whole.score(asked))


def test_a_restored_model_goes_on_as_if_never_stopped() -> None:
    one, other = VSKNN(catalog(ITEMS), 4, 9, sessions=20), VSKNN(catalog(ITEMS), 4, 9, sessions=20)
    generator = torch.Generator().manual_seed(2)
    play = [torch.randint(1, ITEMS + 1, (30, 4), generator=generator) for _ in range(6)]
    users = torch.arange(30)

    def go(model: VSKNN, parts: list[Tensor]) -> Tensor:
        for rows in parts:
            for step in range(4):
                before = replace(history(rows[:, :step].tolist()), user=users, key=users)
                model.observe(before, rows[:, step])
        return model.score(history(play[0].tolist()))

    go(one, play[:3])
    other.load_state_dict({name: value.clone() for name, value in one.state_dict().items()})
    assert torch.equal(go(one, play[3:]), go(other, play[3:]))
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])


def test_settings_out_of_range_are_refused() -> None:
    for wrong in (
        {"neighbours": 0},
        {"neighbours": 9, "sample": 8},
        {"last": 0},
        {"idf": -1.0},
        {"weighting": "cubic"},
    ):
        with pytest.raises(ValueError, match="must be"):
            VSKNN(catalog(3), **{"neighbours": 5, "sample": 8} | wrong)
    with pytest.raises(ValueError, match="similarity must be"):
        SessionKNN(catalog(3), similarity="dice")
