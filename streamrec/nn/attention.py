"""Self-attention over rows of different lengths: clicks lie packed and are padded only to attend."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from streamrec.nn import windows
from streamrec.nn.dropout import mask
from streamrec.nn.windows import Scope
from streamrec.records import History

WEIGHTS_AT_ONCE = {"cpu": 2**19, "cuda": 2**26}
"""Attention weights of one head held at a time: what a cache holds, or enough to keep a GPU busy."""


@dataclass
class Group:
    """Rows of about the same length that attend together: padded to the longest of them."""

    rows: int
    longest: int
    place: Tensor  # [T of the group] int64, places of its clicks in the flattened [rows * longest]
    many: Tensor  # [rows] int64, clicks of each


@dataclass
class Packed:
    """Where the T clicks of B windows stand: row after row, the longest row first, oldest click first."""

    token: Tensor  # [T] int64, place of each click in the flattened [B * L] windows
    age: Tensor  # [T] int64, clicks that came after it in its row
    newest: Tensor  # [B] int64, which of the T clicks is each row's newest, T where there is none
    groups: list[Group]


def pack(history: History, scope: Scope, length: int | None) -> Packed:
    """Lay out the part of the windows that `scope` and `length` choose."""
    many = windows.lengths(history, scope, length)
    order = torch.argsort(many, descending=True, stable=True)
    ordered = many[order]
    step = torch.arange(int(ordered[0]) if len(ordered) else 0, device=many.device)
    live = step < ordered.unsqueeze(1)  # [B, M]
    age = ordered.unsqueeze(1) - 1 - step
    token = ((order + 1) * history.items.shape[1] - 1).unsqueeze(1) - age
    last = torch.where(ordered > 0, ordered.cumsum(0) - 1, ordered.sum())
    newest = torch.empty_like(last).index_copy_(0, order, last)
    return Packed(token[live], age[live], newest, _groups(ordered, live))


def _groups(ordered: Tensor, live: Tensor) -> list[Group]:
    lengths = ordered.tolist()
    limit = WEIGHTS_AT_ONCE.get(ordered.device.type, 2**26)
    groups, start, used = [], 0, len(lengths) - lengths.count(0)
    while start < used:
        longest = lengths[start]
        end = min(start + max(1, limit // longest**2), used)
        place = live[start:end, :longest].flatten().nonzero().squeeze(1)
        groups.append(Group(end - start, longest, place, ordered[start:end]))
        start = end
    return groups


def attend(x: Tensor, packed: Packed, heads: int, causal: bool, p: float, generator: Generator | None) -> Tensor:
    """Scaled dot-product attention (Vaswani et al. 2017) of each click to the clicks of its row, [T, D].

    Args:
        x: [T, 3 D], queries, keys and values of the clicks.
        heads: attention heads.
        causal: a click sees the clicks before it and itself only.
        p: chance that an attention weight is dropped.
        generator: where dropout draws from; None = no dropout.
    """
    parts = torch.split(x, [len(group.place) for group in packed.groups])
    mixed = [
        _attend(part, group, heads, causal, p, generator) for part, group in zip(parts, packed.groups, strict=True)
    ]
    return torch.cat(mixed) if mixed else x[:, : x.shape[1] // 3]


def _attend(x: Tensor, group: Group, heads: int, causal: bool, p: float, generator: Generator | None) -> Tensor:
    rows, longest, dim = group.rows, group.longest, x.shape[1] // 3
    padded = x.new_zeros(rows * longest, 3 * dim).index_copy(0, group.place, x)
    query, key, value = padded.view(rows, longest, 3, heads, dim // heads).permute(2, 0, 3, 1, 4)
    # Rows begin at the left: what a causal row must not see of its padding lies in its future anyway.
    step = torch.arange(longest, device=x.device)
    seen = step <= step.unsqueeze(1) if causal else (step < group.many.unsqueeze(1))[:, None, None, :]
    if generator is None or p == 0.0:
        mixed = F.scaled_dot_product_attention(query, key, value, None if causal else seen, is_causal=causal)
    else:
        # Torch's fused attention drops by torch's own generator, which no checkpoint holds.
        hidden = torch.where(seen, 0.0, -torch.inf).to(x.dtype)
        weights = torch.softmax((query * (dim // heads) ** -0.5) @ key.transpose(2, 3) + hidden, 3)
        mixed = (weights * mask(weights.shape, p, generator, weights.device)) @ value
    return mixed.transpose(1, 2).reshape(rows * longest, dim).index_select(0, group.place)
