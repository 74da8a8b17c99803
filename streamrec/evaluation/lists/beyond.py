"""Novelty, serendipity and popularity of what is listed: means over the slots of each list.

Each function takes a chunk of n rows and the list lengths, and returns the values [n, len(ks)] and which of them exist
[n, len(ks)]. What was popular is a matter of the moment: counts are those before the row's time.
"""

from __future__ import annotations

import numpy as np

from streamrec.evaluation.lists.chunk import Bools, Chunk, Floats, upto
from streamrec.evaluation.lists.popularity import Popularity


def novelty(chunk: Chunk, ks: tuple[int, ...]) -> tuple[Floats, Bools]:
    """Mean self-information of the first k items, -log2(count / total), in bits (Zhou et al., PNAS 2010).

    Counted in users with the item out of all users it is the mean inverse user frequency. An item nobody had yet counts
    as if one had.
    """
    known = _popularity(chunk)
    share = np.maximum(known.count, 1) / np.maximum(known.total, 1)[:, None]
    return _mean(-np.log2(share), chunk, ks)


def arp(chunk: Chunk, ks: tuple[int, ...]) -> tuple[Floats, Bools]:
    """Average recommendation popularity: mean count of the first k items (Yin et al., VLDB 2012)."""
    return _mean(_popularity(chunk).count.astype(np.float64), chunk, ks)


def arp_share(chunk: Chunk, ks: tuple[int, ...]) -> tuple[Floats, Bools]:
    """`arp` over all interactions so far: a share, which does not grow with the log."""
    known = _popularity(chunk)
    return _mean(known.count / np.maximum(known.total, 1)[:, None], chunk, ks)


def tail_share(chunk: Chunk, ks: tuple[int, ...]) -> tuple[Floats, Bools]:
    """Share of the first k items that are outside the head (Abdollahpouri et al., FLAIRS 2019, "APLT").

    The head is the fewest items with 80 % of the interactions; items nobody had are tail.
    """
    return _mean(_popularity(chunk).tail[chunk.lists].astype(np.float64), chunk, ks)


def serendipity(chunk: Chunk, ks: tuple[int, ...]) -> tuple[Floats, Bools]:
    """Relevant and not what everybody gets: sum over the first k of max(p - p_all, 0) over k, for relevant items.

    p = (N + 1 - rank in the list) / N and p_all = (N + 1 - popularity rank) / N, 0 for an item nobody had; items of the
    same count share a popularity rank, the next count has the next rank. N is the size of the catalogue. The idea is
    that of a primitive model in Murakami et al. (JSAI 2007), here popularity; the formula is RecTools', which divides
    by the items of a short list where here it is by k. A row exists where something was relevant.
    """
    size, width = chunk.items.size, chunk.lists.shape[1]
    rank = _popularity(chunk).rank[chunk.lists]
    everybody = np.where(rank > 0, (size + 1 - rank) / size, 0.0)
    mine = (size - np.arange(width)) / size
    each = np.maximum(mine - everybody, 0.0) * (chunk.gain > 0)
    judged = np.repeat((chunk.truth.many > 0)[:, None], len(ks), axis=1)
    return upto(each, ks) / np.array(ks, dtype=np.float64), judged


def _mean(values: Floats, chunk: Chunk, ks: tuple[int, ...]) -> tuple[Floats, Bools]:
    """Means over the slots among the first k that hold something; none where there are none."""
    shown = chunk.shown
    many = upto(shown, ks)
    sums = upto(np.where(shown, values, 0.0), ks)
    return sums / np.maximum(many, 1), many > 0


def _popularity(chunk: Chunk) -> Popularity:
    assert chunk.popularity is not None  # `check_beside` has asked for it
    return chunk.popularity
