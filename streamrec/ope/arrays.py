"""Numpy arrays as the leaves a checkpoint can hold, and back."""

from __future__ import annotations

from typing import Any

import numpy as np


def packed(tree: Any) -> Any:
    """`tree` with its numpy arrays as tensors; unsigned 64-bit ones as their signed bits."""
    import torch  # late: 1.5 s that only whoever checkpoints should pay

    if isinstance(tree, np.ndarray):
        bits = tree.view(np.int64) if tree.dtype == np.uint64 else tree
        return torch.from_numpy(np.array(bits, order="C"))  # a copy: the state must not change under its holder
    if isinstance(tree, dict):
        return {key: packed(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [packed(value) for value in tree]
    return tree


def floats(leaf: Any) -> Any:
    """A tensor as a numpy array of the same type, copied."""
    return np.array(leaf.numpy())


def keys(leaf: Any) -> Any:
    """A tensor of signed bits as unsigned 64-bit keys, copied."""
    return np.array(leaf.numpy()).view(np.uint64)
