"""What DRN reads of users, news and the moment, in four groups, and the network that makes values of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from streamrec.catalog import Catalog
from streamrec.nn.items import ItemVectors, uniform
from streamrec.ports import State
from streamrec.records import History
from streamrec.sessions import SessionStore

WINDOWS = (3600.0, 6 * 3600.0, 86_400.0, 7 * 86_400.0, 365 * 86_400.0)
"""One hour, six hours, a day, a week and a year, in seconds: the windows of the paper."""

BUCKETS = 6
"""Pieces of a window that move on together."""

CATEGORIES = 64
"""Rows of the table of category vectors; category numbers share them modulo this."""


class ClickCounts:
    """Clicks per item in sliding windows that end at the newest event time seen.

    Each window is a ring of buckets of a sixth of its length. The bucket that is leaving counts with the share of it
    that is still inside, so a count is exact up to how the clicks of that one bucket are spread. Clicks that come late
    go where they belong if their bucket is still there.

    Args:
        catalog: capacity of the table.
        windows: lengths in seconds.
        device: where the table lives.
    """

    def __init__(self, catalog: Catalog, windows: Sequence[float], device: torch.device | str) -> None:
        self.catalog = catalog
        self.table = torch.zeros(catalog.capacity + 1, len(windows), BUCKETS + 1, device=device)
        self.length = torch.tensor(windows, dtype=torch.float64, device=device) / BUCKETS  # [W], of a bucket
        self.now = torch.zeros((), dtype=torch.float64, device=device)

    def add(self, items: Tensor, times: Tensor, now: Tensor) -> None:
        """Count clicks on `items` [n] at `times` [n] once the windows have moved on to `now`, a scalar."""
        self._advance(torch.maximum(self.now, now))
        bucket = (times.unsqueeze(1) / self.length).floor().long()  # [n, W]
        age = self._head() - bucket
        inside = (age >= 0) & (age <= BUCKETS) & (items > 0).unsqueeze(1)
        row, window = torch.nonzero(inside, as_tuple=True)
        place = bucket[row, window] % (BUCKETS + 1)
        ones = torch.ones(len(row), device=self.table.device)
        self.table.index_put_((items[row], window, place), ones, accumulate=True)

    def read(self, items: Tensor) -> Tensor:
        """Counts of `items` [...]: [..., W] float32."""
        head = self._head()
        leaving = (head + 1) % (BUCKETS + 1)  # [W], the oldest bucket of each ring
        left = ((self.now / self.length) - head).float()  # share of it that is outside already
        weight = 1.0 - F.one_hot(leaving, BUCKETS + 1) * left.unsqueeze(1)
        return (self.table[items] * weight).sum(-1)

    def _head(self) -> Tensor:
        return (self.now / self.length).floor().long()

    def _advance(self, now: Tensor) -> None:
        head = self._head()
        passed = (now / self.length).floor().long() - head
        place = torch.arange(BUCKETS + 1, device=now.device)
        stale = (place - head.unsqueeze(1) - 1) % (BUCKETS + 1) < passed.unsqueeze(1)  # [W, buckets]
        if bool(stale.any()):
            self.table[: self.catalog.size] *= ~stale
        self.now = now.clone()

    def state_dict(self) -> State:
        return {"table": self.table[: self.catalog.size].clone(), "now": self.now.clone()}

    def load_state_dict(self, state: State) -> None:
        self.table.zero_()
        self.table[: len(state["table"])] = state["table"].to(self.table.device)
        self.now = state["now"].to(self.table.device, copy=True)


class Values(nn.Module):
    """Q(s, a) = V(user, context) + A(user, context, news, user-news), not centred over actions; two of each.

    The first of the two is for clicks, the second for activeness, the parts of the reward. A of activeness starts at 0:
    what random weights would say of articles outlives, in the noise of returns, any merit they have (ours; the paper
    does not say how weights start).

    The four groups (section 4.2 of the paper; vectors that are learned stand where the paper has one-hot columns of
    thousands of names):

    * news: a vector per item (headline, entity) plus one per category; the catalogue's features (provider, topic, ...);
      log(1 + clicks) of everybody in each window.
    * user: for each window the mean of the same vectors and features over the news clicked in it, log(1 + their
      number); the user's activeness.
    * user-news: for each window how often the item itself, its category and its features occur among the clicks; a
      linear picture of the user group times the item, the crossing of two one-hot groups in low rank.
    * context: hour and weekday, what came with the request; and how fresh the news is. Freshness belongs to an item,
      so A sees it and V does not.

    "Clicked" is what the history holds: with L positives kept per user, a year is the newest L.

    Args:
        catalog: categories, features and birth times; capacity of the table of vectors.
        sessions: knows how wide the context of a request is.
        windows: lengths in seconds.
        dim: width D of item vectors.
        hidden: width of the first layers; the second is half as wide.
        generator: start of the weights.
    """

    def __init__(
        self,
        catalog: Catalog,
        sessions: SessionStore,
        windows: Sequence[float],
        dim: int,
        hidden: int,
        generator: Generator,
    ) -> None:
        super().__init__()
        self.catalog, self.windows = catalog, len(windows)
        self.lengths: Tensor
        self.register_buffer("lengths", torch.tensor(windows, dtype=torch.float64), persistent=False)
        wide = dim + catalog.features.shape[1]
        state = self.windows * (wide + 1) + 1 + 4 + sessions.context_width
        half = max(hidden // 2, 1)
        self.items = ItemVectors(catalog, dim, generator)
        self.categories = nn.Parameter(uniform(CATEGORIES, dim, generator))
        self.cross = nn.Parameter(uniform(wide, self.windows * wide, generator))
        self.value1, self.value_shift1 = _layer(hidden, state, generator)
        self.value2, self.value_shift2 = _layer(half, hidden, generator)
        self.value3, self.value_shift3 = _layer(2, half, generator)
        self.state1, self.shift1 = _layer(hidden, state, generator)
        self.news1 = nn.Parameter(uniform(hidden, wide + self.windows, generator))
        self.both1 = nn.Parameter(uniform(hidden, wide + 3 * self.windows + 2, generator))
        self.advantage2, self.shift2 = _layer(half, hidden, generator)
        self.advantage3, self.shift3 = _layer(2, half, generator)
        with torch.no_grad():
            self.advantage3[1] = 0.0

    def forward(self, history: History, items: Tensor, counts: Tensor, activeness: Tensor) -> tuple[Tensor, Tensor]:
        """V of clicks and of activeness, [B, 1, 2], and A of both, [B, C, 2]: Q is their sum.

        Args:
            history: B users.
            items: [B, C] or [1, C] catalogue rows.
            counts: clicks of everybody on them, [B, C, W] or [1, C, W].
            activeness: [B], of the users.
        """
        inside, clicked = self._clicked(history)
        user = inside @ clicked  # [B, W, D + F]
        state = self._state(history, user, inside, activeness)
        vectors = self.vectors(items)
        news = F.linear(torch.cat([vectors, counts.log1p()], -1), self.news1)
        both = F.linear(self._both(history, items, vectors, inside, user), self.both1)
        hidden = F.relu(news + both + F.linear(state, self.state1, self.shift1).unsqueeze(1))
        hidden = F.relu(F.linear(hidden, self.advantage2, self.shift2))
        return self._value(state).unsqueeze(1), F.linear(hidden, self.advantage3, self.shift3)

    def value(self, history: History, activeness: Tensor) -> Tensor:
        """V of clicks and of activeness, [B, 2]: nothing of any item that might be shown goes into it."""
        inside, clicked = self._clicked(history)
        return self._value(self._state(history, inside @ clicked, inside, activeness))

    def vectors(self, items: Tensor) -> Tensor:
        """[..., D + F] of catalogue rows [...]."""
        category = self.catalog.category.to(items.device)[items]
        group = F.embedding(category % CATEGORIES, self.categories) * (category > 0).unsqueeze(-1)
        features = self.catalog.features.to(items.device)[items]
        return torch.cat([self.items(items) + group, features], -1)

    def _value(self, state: Tensor) -> Tensor:
        hidden = F.relu(F.linear(state, self.value1, self.value_shift1))
        hidden = F.relu(F.linear(hidden, self.value2, self.value_shift2))
        return F.linear(hidden, self.value3, self.value_shift3)

    def _clicked(self, history: History) -> tuple[Tensor, Tensor]:
        """[B, W, L] weights that sum to 1 over the clicks inside each window, and [B, L, D + F] of those clicks."""
        age = history.time.unsqueeze(1) - history.times
        inside = (age.unsqueeze(1) <= self.lengths.view(1, -1, 1)) & (history.items > 0).unsqueeze(1)
        weight = inside.float()
        return weight / weight.sum(2, keepdim=True).clamp_min(1.0), self.vectors(history.items.long())

    def _state(self, history: History, user: Tensor, inside: Tensor, activeness: Tensor) -> Tensor:
        """User and context groups, [B, S]."""
        number = torch.log1p((inside > 0).float().sum(2))
        days = history.time / 86_400.0
        angle = 2 * math.pi * torch.stack([days % 1.0, (days / 7) % 1.0], 1)
        moment = torch.cat([angle.sin(), angle.cos()], 1).float()
        return torch.cat([user.flatten(1), number, activeness.unsqueeze(1), moment, history.context], 1)

    def _both(self, history: History, items: Tensor, vectors: Tensor, inside: Tensor, user: Tensor) -> Tensor:
        """User-news group and freshness, [B, C, D + F + 3 W + 2]."""
        category = self.catalog.category.to(items.device)
        known, mine = history.items.long(), category[items]
        same = (items.unsqueeze(2) == known.unsqueeze(1)).float() @ inside.mT  # [B, C, W]
        kin = ((mine.unsqueeze(2) == category[known].unsqueeze(1)) & (mine > 0).unsqueeze(2)).float() @ inside.mT
        features = self.items.dim
        overlap = vectors[..., features:] @ user[..., features:].mT  # [B, C, W]
        crossed = F.linear(user.flatten(1), self.cross).unsqueeze(1) * vectors
        age = history.time.unsqueeze(1) - self.catalog.born.to(items.device)[items]
        born = ~age.isnan()
        fresh = torch.log1p(age.nan_to_num(0.0).clamp_min(0.0) / 3600.0).float()
        return torch.cat([crossed, same, kin, overlap, fresh.unsqueeze(2), born.float().unsqueeze(2)], 2)


def _layer(out: int, into: int, generator: Generator) -> tuple[nn.Parameter, nn.Parameter]:
    return nn.Parameter(uniform(out, into, generator)), nn.Parameter(torch.zeros(out))
