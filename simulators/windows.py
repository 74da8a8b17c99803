"""What a face remembers of its users: the newest things they did, as rows of tensors."""

from __future__ import annotations

import torch
from torch import Tensor


class Windows:
    """The newest items of one sort per user, with kind and time; newest on the right, 0 = empty.

    Args:
        users: N.
        length: L, items remembered.
        device: where the tables live.
    """

    def __init__(self, users: int, length: int, device: torch.device) -> None:
        self.length = length
        self.items = torch.zeros(users, length, dtype=torch.int32, device=device)
        self.kinds = torch.zeros(users, length, dtype=torch.int8, device=device)
        self.times = torch.zeros(users, length, dtype=torch.float64, device=device)  # seconds since the start

    def push(self, users: Tensor, happened: Tensor, items: Tensor, kinds: Tensor, times: Tensor) -> None:
        """Append what `happened` [n, K] of `items`, `kinds`, `times` [n, K] to the rows `users` [n], in slot order."""
        some = happened.any(1).nonzero().squeeze(1)
        if len(some) == 0:
            return
        rows, new = users[some], happened[some]
        slots = new.shape[1]
        # Old entries and new ones side by side, those that did not happen in a column beyond the end.
        target = torch.where(new, self.length - 1 + new.cumsum(1), self.length + slots)
        shift = torch.arange(self.length, device=rows.device) + new.sum(1, keepdim=True)
        for table, values in ((self.items, items), (self.kinds, kinds), (self.times, times)):
            wide = torch.cat([table[rows], table.new_empty(len(rows), slots + 1)], 1)
            wide.scatter_(1, target, values[some].to(table.dtype))
            table[rows] = wide.gather(1, shift)

    def ages(self, now: Tensor, oldest: float) -> Tensor:
        """[N, L] float32, seconds from each entry to `now` [N], at most `oldest`; 0 where empty."""
        ages = (now.unsqueeze(1) - self.times).clamp_(0.0, oldest).float()
        return ages.masked_fill_(self.items == 0, 0.0)

    def clear(self, users: Tensor) -> None:
        """Forget everything about the rows `users` [n]."""
        for table in (self.items, self.kinds, self.times):
            table[users] = 0
