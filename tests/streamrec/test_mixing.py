from __future__ import annotations

import numpy as np
import torch

from streamrec.mixing import keys_of


def test_keys_are_the_same_in_every_process() -> None:
    """As `pandas.util.hash_array` of pandas 3.0 says; checkpoints hold such keys."""
    assert keys_of(["", "s1"]).tolist() == [0, 6141951500591087864]


def test_only_the_empty_text_has_the_key_0() -> None:
    names = ["", *(f"s{at}" for at in range(10_000)), ""]
    keys = keys_of(names)
    assert torch.nonzero(keys == 0).flatten().tolist() == [0, len(names) - 1]
    assert len(keys.unique()) == 10_001
    assert bool((keys >= 0).all())
    assert torch.equal(keys, keys_of(np.array(names, dtype=object)))


def test_fewer_bits_are_the_top_ones() -> None:
    long, short = keys_of(["a", "b", ""]), keys_of(["a", "b", ""], bits=52)
    assert torch.equal(short, long >> 11)
