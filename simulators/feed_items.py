"""The items of a feed: directions near the centres of topics, and a quality that everybody agrees on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from simulators.draws import GOLDEN, uniforms
from streamrec.mixing import mix


@dataclass
class Items:
    """Items 0..N; number 0 is "no item"."""

    centres: Tensor  # [T, D], unit vectors
    topic: Tensor  # [N + 1] int64
    vectors: Tensor  # [N + 1, D], unit vectors
    quality: Tensor  # [N + 1], mean 0 and standard deviation 1


def draw_items(count: int, topics: int, dim: int, topic_key: Tensor, item_key: Tensor) -> Items:
    """`count` items of `topics` topics in `dim` dimensions, as the two keys [1] decide.

    On the device of the keys: a world draws on the CPU, so that it is the same on every device, to the bit.
    """
    centres = sphere(uniforms(topic_key, topics * dim).view(topics, dim))
    one = mix(item_key + torch.arange(count + 1) * GOLDEN)
    draws = uniforms(one, dim + 5)
    topic = (draws[:, 0] * topics).long()
    vectors = normalize(centres[topic] + 0.5 * sphere(draws[:, 5:]))
    quality = (draws[:, 1:5].sum(1) - 2) * math.sqrt(3)  # four uniform draws are as good as normal
    return Items(centres, topic, vectors, quality)


def sphere(draws: Tensor) -> Tensor:
    """Directions from draws in (0, 1): [n, D] -> [n, D]."""
    return normalize(draws - 0.5)
