"""A policy given as a file: the probability of each item, by slot where it differs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from streamrec.catalog import Catalog
from streamrec.explore import pick
from streamrec.ope.codes import NOT_A_DISTRIBUTION, Refused
from streamrec.ports import State
from streamrec.records import Decision, History, Transition
from streamrec.replay.explorers import candidates


class Table:
    """The same probabilities for everybody, from a file with the columns `item`, `probability` and maybe `slot`.

    `slot` counts from 0 as in the log; a row without one (or a file without the column) is for every slot. The
    probabilities of a slot must sum to 1 over the file. Where not all of its items are candidates, because a request
    brings others or slots above have taken some, the rest is scaled up to sum to 1: a slate is drawn slot after slot
    without replacement. In a log with marginal propensities nothing is taken, and the table is read as it is.

    As a ranker it lists the items by probability in the first slot; equal ones in the order of the file.

    Args:
        path: .csv, .parquet or .jsonl.
        catalog: gets the items of the file.
        slate: K, slots of a list.

    Raises:
        ValueError: a column is missing, or an entry is no probability.
        Refused: `not_a_distribution`, a slot does not sum to 1 within 1e-6.
    """

    def __init__(self, path: Path | str, catalog: Catalog, slate: int) -> None:
        self.path, self.catalog, self.slate = str(path), catalog, slate
        frame = _read(Path(path))
        rows = catalog.rows(frame["item"].astype(str).tolist())
        catalog.see(rows)
        if bool((rows == 0).any()):
            raise ValueError(f"{path} names more items than the catalogue has room for ({catalog.capacity})")
        slots = frame["slot"].to_numpy(np.int64)
        self._table = torch.zeros(int(slots.max(initial=0)) + 1, catalog.capacity + 1, dtype=torch.float64)
        values = torch.tensor(frame["probability"].to_numpy(np.float64))
        for slot in range(len(self._table)):
            mine = torch.from_numpy((slots == slot) | (slots < 0))
            self._table[slot].index_add_(0, rows[mine], values[mine])
        self._check()

    def _check(self) -> None:
        totals = self._table.sum(1)
        off = int((totals - 1.0).abs().argmax())
        if abs(float(totals[off]) - 1.0) > 1e-6:
            raise Refused(NOT_A_DISTRIBUTION, f"{self.path}: slot {off} sums to {float(totals[off]):.6g}")

    def probabilities(self, history: History, items: Tensor, mask: Tensor) -> Tensor:
        """Those of the first slot; see `streamrec.explore.Probabilistic`."""
        return self.at_slot(0, history, items, mask)

    def at_slot(self, slot: int, history: History, items: Tensor, mask: Tensor) -> Tensor:
        """[B, C] float64, the probabilities of slot `slot`; those of the last one in the file where it has fewer."""
        row = self._table[min(slot, len(self._table) - 1)]
        out = row[items].where(mask, 0.0)
        total = out.sum(1, keepdim=True)
        return out / total.where((total > 0) & ~mask.all(1, keepdim=True), 1.0)

    def act(self, history: History) -> Decision:
        items, mask = candidates(history, self.catalog)
        scores = self._table[0][items].where(mask, -torch.inf)
        index = scores.argsort(dim=1, descending=True, stable=True)[:, : self.slate]
        index = torch.nn.functional.pad(index, (0, self.slate - index.shape[1]), value=-1)
        there = torch.cat([mask, mask.new_zeros(len(mask), 1)], dim=1).gather(1, index % (mask.shape[1] + 1))
        return Decision.of(history.user, pick(items, index).masked_fill(~there, 0))

    def observe(self, transition: Transition) -> None:
        """Nothing to learn."""

    def update(self) -> dict[str, float]:
        return {}

    def recycle(self, rows: Tensor) -> None:
        self._table[:, rows] = 0.0

    def state_dict(self) -> State:
        return {}

    def load_state_dict(self, state: State) -> None:
        """The file says everything."""


def _read(path: Path) -> pd.DataFrame:
    if path.suffix not in (".csv", ".parquet", ".jsonl") or not path.is_file():
        raise ValueError(f"expected a file that ends in .csv, .parquet or .jsonl here, got {path}")
    if path.suffix == ".jsonl":
        frame = pd.read_json(path, lines=True)
    else:
        frame = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    for name in ("item", "probability"):
        if name not in frame:
            raise ValueError(f"{path} must have the columns item and probability, it has {', '.join(frame.columns)}")
    value = pd.to_numeric(frame["probability"], errors="coerce")
    if not value.between(0.0, 1.0).all():
        raise ValueError(f"{path}: a probability is not between 0 and 1")
    slot = frame["slot"].fillna(-1) if "slot" in frame else -1
    return frame.assign(probability=value, slot=slot)
