"""How long sessions are, known before they begin: for reading results by, never for a policy."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamrec.ope.keys import mix


class Lengths:
    """Positive reactions per session of a log, counted by the audit before anything is judged.

    A table by hash, in bounded memory. Sessions that share a place are told the sum of both: with a million sessions
    and the default size one in nine.

    Args:
        bits: the table has 2^bits places of 4 bytes.
    """

    def __init__(self, bits: int = 23) -> None:
        self._counts: NDArray[np.int32] = np.zeros(1 << bits, dtype=np.int32)
        self._mask = np.uint64((1 << bits) - 1)

    def add(self, sessions: Tensor) -> None:
        """Count one reaction for each of `sessions` [n] int64, the keys of `Events.session`; 0 = none, not counted."""
        place, many = np.unique(self._places(sessions[sessions != 0]), return_counts=True)
        self._counts[place] += many.astype(np.int32)

    def of(self, sessions: Tensor) -> Tensor:
        """[B] int64 length of each session [B] int64; 0 = not known."""
        found = torch.from_numpy(self._counts[self._places(sessions)].astype(np.int64))
        return torch.where(sessions != 0, found, 0)

    def _places(self, sessions: Tensor) -> NDArray[np.intp]:
        keys: NDArray[np.uint64] = mix(sessions.numpy().view(np.uint64))
        places: NDArray[np.intp] = (keys & self._mask).astype(np.intp)
        return places
