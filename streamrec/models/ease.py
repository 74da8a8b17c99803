"""EASE: a linear autoencoder over items, solved in closed form from co-occurrences that are counted click by click."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from streamrec.catalog import Catalog
from streamrec.nn import windows
from streamrec.nn.windows import Scope
from streamrec.records import History

LARGEST = 10_000
"""Items above which EASE is refused unless told otherwise: 0.8 GB, and 2.4 GB more while it is solved."""


class EASE(nn.Module):
    """Embarrassingly shallow autoencoder (Steck, WWW 2019), counted and solved again as the stream goes on.

    X has a row of zeros and ones for each session (or user) and G = X'X counts in how many of them two items are
    together. With P = (G + regularisation * I)^-1 the weights are B_ij = -P_ij / P_jj, B_jj = 0 (equation 8), and a
    session with the items x scores x B. A click adds its item to its session, which changes G exactly; B is solved
    again when the clicks counted have grown by the share `refresh` since the last time, so n clicks cost about
    log(n) / refresh solutions. Between them B is that of the last one.

    Departures from the paper: rows are sessions unless `scope` is "user"; a session is what the window of the history
    holds of it, so an item that has left the window makes no more pairs, and counts anew if it is clicked again. G and
    B are float32, exact for counts up to 2^24; the solution is computed in float64.

    Memory is 8 bytes per item squared, and 24 more while it is solved. Time to solve grows with the cube of the items.

    Args:
        catalog: capacity of the item table, at most `largest`, and which rows are in use.
        regularisation: lambda, in sessions; the paper's best are 200 to 1000 for 20,000 to 570,000 users.
        scope: what a row of X is: "session" or "user", all that the window holds.
        last: newest clicks of a session that are paired and scored, None = all that the history holds.
        refresh: share by which the clicks counted grow until B is solved again; 0 = with every call of `observe`.
        largest: capacity above which a catalogue is refused.
        device: where G and B live.

    Raises:
        ValueError: if a setting is out of its range, or the catalogue is too large.
    """

    reads: tuple[str, ...] = ("items", "in_session")
    """Columns of `History` that are used."""

    gram: Tensor
    weights: Tensor
    clicks: Tensor

    def __init__(
        self,
        catalog: Catalog,
        regularisation: float = 200.0,
        scope: Scope = "session",
        last: int | None = None,
        refresh: float = 0.1,
        largest: int = LARGEST,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        if regularisation <= 0.0:
            raise ValueError(f"regularisation must be above 0, got {regularisation}")
        if refresh < 0.0:
            raise ValueError(f"refresh must be at least 0, got {refresh}")
        if catalog.capacity > largest:
            raise ValueError(
                f"EASE solves a dense system of at most {largest} items, catalog.capacity is {catalog.capacity}: "
                "lower the capacity, raise largest, or use a neighbourhood model"
            )
        windows.check(scope, last)
        self.catalog, self.regularisation, self.scope, self.last = catalog, regularisation, scope, last
        self.refresh = refresh
        self.register_buffer("gram", torch.zeros(0, 0))  # [S, S] G over the catalogue rows 0..S - 1
        self.register_buffer("weights", torch.zeros(0, 0))  # [W, W] B, W <= S
        self.register_buffer("clicks", torch.zeros(2, dtype=torch.int64))  # counted in all, and at the last solution
        self.to(device)

    # --- scoring -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def score(self, history: History, items: Tensor | None = None) -> Tensor:
        """Scores of every catalogue row in use, [B, catalog.size], or of `items` [B, C] alone, [B, C].

        0 for items that came after the last solution, and for sessions without a click.
        """
        session = self._session(history)
        width = len(self.weights)
        session = session * (session < width)
        out = self.weights.new_zeros(len(history), self.catalog.size)
        if width and session.numel():
            out[:, :width] = nn.functional.embedding_bag(session, self.weights, mode="sum")
        return out if items is None else out.gather(1, items)

    def _session(self, history: History) -> Tensor:
        """[B, L] int64 items of the rows of X, each once, at its newest click; 0 elsewhere."""
        many = windows.lengths(history, self.scope, self.last)
        width = int(many.max()) if len(many) else 0
        items = history.items[:, history.items.shape[1] - width :].long()
        age = torch.arange(width, 0, -1, device=items.device)
        items = items * (age <= many.unsqueeze(1))
        order = items.argsort(dim=1, stable=True)
        ordered = items.gather(1, order)
        again = torch.zeros_like(ordered, dtype=torch.bool)
        again[:, :-1] = ordered[:, 1:] == ordered[:, :-1]  # of equal ones the last is the newest
        return torch.zeros_like(items).scatter(1, order, ordered.masked_fill(again, 0))

    # --- counting ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def observe(self, history: History, target: Tensor) -> None:
        """Take in the clicks `target` [B] int64 that came after `history`: each click once, oldest first."""
        self._make_room(self.catalog.size)
        session = self._session(history)
        fresh = (target > 0) & (session != target.unsqueeze(1)).all(1)
        session, target = session[fresh], target[fresh]
        row, at = session.nonzero(as_tuple=True)
        first, second = session[row, at], target[row]
        size = len(self.gram)
        cells = torch.cat([first * size + second, second * size + first, target * (size + 1)])
        self.gram.view(-1).index_add_(0, cells, torch.ones_like(cells, dtype=self.gram.dtype))
        self.clicks[0] += len(target)
        counted, before = self.clicks.tolist()
        if counted > before and counted >= (1.0 + self.refresh) * before:
            self._solve()

    def _make_room(self, size: int) -> None:
        """Grow G to at least `size` rows."""
        if size <= len(self.gram):
            return
        rows = min(max(size, len(self.gram) * 5 // 4), self.catalog.capacity + 1)
        gram = self.gram.new_zeros(rows, rows)
        gram[: len(self.gram), : len(self.gram)] = self.gram
        self.gram = gram

    def _solve(self) -> None:
        """B of the counts so far. Row 0 and items never counted have none."""
        used = self.gram.diagonal().nonzero().squeeze(1)
        system = self.gram[used][:, used].double()
        system.diagonal().add_(self.regularisation)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(system))
        weights = (inverse / -inverse.diagonal()).float()
        weights.fill_diagonal_(0.0)
        size = int(used.max()) + 1
        self.weights = self.gram.new_zeros(size, size)
        self.weights[used.unsqueeze(1), used] = weights
        self.clicks[1] = self.clicks[0]

    # --- state -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def recycle(self, rows: Tensor) -> None:
        """Items that are gone leave the counts and the weights; see `streamrec.expiry`."""
        for table in (self.gram, self.weights):
            theirs = rows[rows < len(table)].to(table.device)
            table[theirs] = 0.0
            table[:, theirs] = 0.0

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        """Tables have grown with the catalogue: take over their sizes."""
        for name in ("gram", "weights"):
            saved = state_dict[prefix + name]
            setattr(self, name, torch.empty_like(saved, device=self.clicks.device))
        super()._load_from_state_dict(state_dict, prefix, *rest)
