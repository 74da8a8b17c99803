"""Windows of what happened, against the same kept in lists."""

from __future__ import annotations

import torch

from simulators.windows import Windows


def test_windows_keep_the_newest_in_order() -> None:
    generator = torch.Generator().manual_seed(0)
    users, slots, length = 6, 5, 4
    window, kept = Windows(users, length, torch.device("cpu")), [[] for _ in range(users)]
    for step in range(12):
        rows = torch.randperm(users, generator=generator)[:4]
        happened = torch.rand(4, slots, generator=generator) < 0.3
        items = torch.randint(1, 100, (4, slots), generator=generator)
        times = step + torch.rand(4, slots, generator=generator, dtype=torch.float64)
        window.push(rows, happened, items, items % 5, times)
        for at, row in enumerate(rows.tolist()):
            for slot in happened[at].nonzero().squeeze(1).tolist():
                kept[row].append((int(items[at, slot]), int(items[at, slot]) % 5, float(times[at, slot])))
    assert min(map(len, kept)) > length
    for row, entries in enumerate(kept):
        columns = (window.items, window.kinds, window.times)
        assert list(zip(*(column[row].tolist() for column in columns), strict=True)) == entries[-length:]


def test_ages_end_somewhere_and_are_zero_where_nothing_is() -> None:
    window = Windows(2, 3, torch.device("cpu"))
    one = torch.ones(1, 1, dtype=torch.int64)
    window.push(torch.tensor([1]), one > 0, one, one, torch.tensor([[5.0]], dtype=torch.float64))
    now = torch.tensor([8.0, 8.0], dtype=torch.float64)
    assert window.ages(now, 60.0).tolist() == [[0.0, 0.0, 0.0], [0.0, 0.0, 3.0]]
    assert window.ages(now, 2.0).tolist() == [[0.0, 0.0, 0.0], [0.0, 0.0, 2.0]]
    window.clear(torch.tensor([1]))
    assert not window.items.any()
