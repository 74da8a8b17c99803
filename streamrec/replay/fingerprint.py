"""A fingerprint of the rows a report was made from: equal for the same rows in any order, different for any others."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from streamrec.catalog import Catalog
from streamrec.mixing import mix
from streamrec.ports import State

_SEEDS = (0x51ED270B9F652295, 0x2545F4914F6CDD1D)


class Fingerprint:
    """128 bits: two sums, modulo 2^64, of two hashes of every row.

    A sum does not depend on the order, parts of a log can be added, and a row that comes twice counts twice. Hashes are
    of the ids in the log, not of catalogue rows, so two runs of different policies agree. It tells logs apart by chance
    alone fails once in 2^128; it is no protection against somebody who wants it to fail.

    Args:
        catalog: whose ids stand behind the rows.
    """

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.rows = 0
        self._sums = [0, 0]
        self._ids = torch.zeros(catalog.capacity + 1, dtype=torch.int64)
        self._known = 1

    def add(self, user: Tensor, time: Tensor, place: Tensor, item: Tensor, *numbers: Tensor) -> None:
        """Take in rows, [n] each: hash of the user, time, slot, catalogue row of the item, and numbers."""
        columns = [user, _bits(time), place, self._stable(item), *(_bits(number) for number in numbers)]
        for at, seed in enumerate(_SEEDS):
            total = torch.full_like(user, seed)
            for column in columns:
                total = mix(total * 0x5851F42D4C957F2D + column)
            self._sums[at] = (self._sums[at] + int(total.sum())) % (1 << 64)
        self.rows += len(user)

    def _stable(self, item: Tensor) -> Tensor:
        """Hashes of the ids of items."""
        for row in range(self._known, self.catalog.size):
            digest = hashlib.blake2b(self.catalog.ids[row].encode(), digest_size=8).digest()
            self._ids[row] = int.from_bytes(digest, "little", signed=True)
        self._known = self.catalog.size
        return self._ids[item]

    def read(self) -> str:
        """32 hexadecimal digits."""
        return "".join(f"{part:016x}" for part in self._sums)

    def state_dict(self) -> State:
        return {"rows": self.rows, "sums": [str(part) for part in self._sums]}

    def load_state_dict(self, state: State) -> None:
        self.rows, self._sums = state["rows"], [int(part) for part in state["sums"]]
        self._known = 1


def _bits(number: Tensor) -> Tensor:
    """The bits of numbers as integers; every NaN, and both zeros, as one."""
    number = number.double()
    number = torch.where(number.isnan(), torch.tensor(torch.nan, dtype=torch.float64), number + 0.0)
    return number.view(torch.int64)
