"""Epochs over batches, for models that bring their own loss."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

import torch
from torch import Generator, Tensor

from streamrec.data.sequences import Sequences
from streamrec.nn.optimiser import Optimiser


class Steps(Protocol):
    """An optimiser in torch's manner, `streamrec.nn.adagrad.Adagrad` among them."""

    def zero_grad(self) -> None: ...

    def step(self) -> object: ...


def descend(optimiser: Steps | Optimiser, loss: Tensor) -> None:
    """One step down the gradient of the scalar `loss`."""
    if isinstance(optimiser, Optimiser):
        optimiser.descend(loss)
        return
    optimiser.zero_grad()
    torch.autograd.backward(loss)
    optimiser.step()


def in_batches(order: Tensor, size: int, generator: Generator | None) -> Iterator[Tensor]:
    """The entries of `order` [M], `size` at a time; shuffled where there is a generator.

    Raises:
        ValueError: `size` below 1.
    """
    if size < 1:
        raise ValueError(f"a batch needs at least 1 row, got {size}")
    if generator is not None:
        shuffled = torch.randperm(len(order), generator=generator, device=generator.device)
        order = order[shuffled.to(order.device)]
    for start in range(0, len(order), size):
        yield order[start : start + size]


def pieces(sequences: Sequences, length: int, generator: Generator) -> Sequences:
    """The same clicks in sequences of at most `length`: cut at random places, `length` clicks from each other.

    Raises:
        ValueError: `length` below 1.
    """
    if length < 1:
        raise ValueError(f"a piece needs at least 1 click, got length={length}")
    lengths = sequences.lengths
    first = 1 + torch.randint(length, (len(lengths),), generator=generator, device=generator.device).to(lengths.device)
    place = torch.arange(len(sequences.items), device=lengths.device)
    place -= torch.repeat_interleave(sequences.starts[:-1], lengths)
    since = place - torch.repeat_interleave(first, lengths)
    begins = (place == 0) | ((since >= 0) & (since % length == 0))
    starts = torch.cat([begins.nonzero().squeeze(1), sequences.starts[-1:]])
    return Sequences(sequences.items, starts)


Batch = TypeVar("Batch")


def run(batches: Iterable[Batch], step: Callable[[Batch], tuple[Tensor, int]]) -> dict[str, float]:
    """Do `step` for each batch and add up.

    Args:
        batches: what to hand to `step`.
        step: trains on a batch; returns its mean loss and over how many clicks.

    Returns:
        `loss`: mean over the clicks; `events`: clicks trained on; `steps` of the optimiser; `seconds` of processor
        time.

    Raises:
        ArithmeticError: the loss became infinite or no number.
    """
    start, events, many = time.process_time(), 0, 0
    total: float | Tensor = 0.0  # stays where the model is: reading it would wait for the device at every step
    for batch in batches:
        loss, clicks = step(batch)
        total, events, many = total + loss.detach() * clicks, events + clicks, many + 1
    loss_of_all = float(total) / max(events, 1)
    if not math.isfinite(loss_of_all):
        raise ArithmeticError(f"the loss became {loss_of_all}: take a smaller learning rate")
    return {"loss": loss_of_all, "events": events, "steps": many, "seconds": time.process_time() - start}
