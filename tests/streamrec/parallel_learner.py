"""One of several learners as a process, `python -m tests.streamrec.parallel_learner OUT KIND:PORT...`; or one alone."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from streamrec import parallel
from streamrec.catalog import Catalog
from streamrec.nn.adagrad import Adagrad
from streamrec.nn.adam import Adam
from streamrec.nn.optimiser import Optimiser

ITEMS, BATCH, STEPS = 40, 12, 5


class Net(nn.Module):
    """A table of items, a dense layer, and one that only some batches use."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.items = nn.Embedding(ITEMS + 1, 4, sparse=True)
        self.layer = nn.Linear(4, 3)
        self.rare = nn.Linear(4, 3)

    def loss(self, items: Tensor, target: Tensor, rare: bool) -> Tensor:
        vectors = self.items(items)
        out = self.layer(vectors) + (self.rare(vectors) if rare else 0.0)
        return ((out - target) ** 2).mean()


def batches() -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(3)
    return [
        (torch.randint(1, ITEMS + 1, (BATCH,), generator=draw), torch.randn(BATCH, 3, generator=draw))
        for _ in range(STEPS)
    ]


def learn(net: Net, catalog: Catalog, kind: str, half: slice, rare: Callable[[int], bool], idle: range) -> None:
    """`STEPS` updates on one half of every batch; in those of `idle` there is nothing to learn from."""
    learners = parallel._learners
    optimisers = {
        "optimiser": lambda: Optimiser(net, catalog, 0.01, 0.1),
        "adam": lambda: Adam(net.named_parameters(), 0.01),
        "adagrad": lambda: Adagrad(net.named_parameters(), 0.1, momentum=0.3),
        "foreign": lambda: torch.optim.SGD(net.layer.parameters(), 0.1),
    }
    optimiser = optimisers[kind]()
    if learners is not None:
        learners.same(learners.weights())
    for at, (items, target) in enumerate(batches()):

        def update(at: int = at, items: Tensor = items, target: Tensor = target) -> None:
            loss = net.loss(items[half], target[half], rare(at))
            if isinstance(optimiser, Optimiser):
                optimiser.descend(loss)
                return
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

        if learners is None:
            update()
            continue
        due, _ = learners.most(0 if at in idle else 1)
        for _ in range(due):
            with learners.round():
                if at not in idle:
                    update()
        learners.agree(0)
    if learners is not None:
        assert learners.most(0, ended=True) == (0, True)


def meet(catalog: Catalog, learners: parallel.Learners) -> str:
    """Items turn up, some here and some there, and the newest checkpoint that both have whole is looked for."""
    mine = learners.rank
    catalog.waiting = {}
    first = catalog.rows(["both", ("zero", "one")[mine], "both"]).tolist()
    assert first == [0, 0, 0]
    learners.most(0)
    assert catalog.rows(["both"]).tolist() == [1]
    if mine:
        catalog.rows(["again"])
        assert catalog.upsert("told", "shoes", available=False) == -1
    learners.most(0)
    assert learners.most(0, ended=True) == (0, True)
    numbers = [2, 3, 4] if mine else [1, 2, 3]
    state = learners.newest(numbers, lambda number: None if mine and number == 3 else {"number": number})
    assert state is not None
    available = catalog.available[: catalog.size].tolist()
    if mine:
        assert catalog.categories == ["", "shoes"]
    else:
        available[-1] = False  # what an instruction says of an item besides its id is known where it was read
    return json.dumps({"ids": catalog.ids, "available": available, **state})


def main(kind: str, out: Path) -> str:
    """Learn together with the others; returns why that was refused, "" if it was not."""
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    catalog = Catalog(ITEMS)
    if kind == "items":
        learners = parallel.start(count, catalog)
        assert learners is not None
        try:
            return meet(catalog, learners)
        finally:
            learners.close()
    names = [f"i{at}" for at in range(ITEMS)]
    catalog.rows(names[::-1] if kind == "other-items" and rank else names)
    learners = parallel.start(count, catalog)
    assert learners is not None
    net = Net(seed=1 + rank if kind == "other-weights" else 1)
    share = BATCH // count
    half = slice(rank * share, (rank + 1) * share)
    idle = range(2, STEPS) if kind == "idle" and rank else range(0)
    optimiser = kind if kind in ("adam", "adagrad", "foreign") else "optimiser"
    try:
        if kind == "gone" and rank:
            return ""
        learn(net, catalog, optimiser, half, lambda at: rank == 0 and at == 1 and kind == "rare", idle)
    except parallel.OutOfStep as error:
        return str(error)
    finally:
        learners.close()
    save_file(net.state_dict(), out / f"{kind}-{rank}.safetensors")
    return ""


if __name__ == "__main__":
    torch.set_num_threads(1)
    said = {}
    for pair in sys.argv[2:]:
        kind, os.environ["MASTER_PORT"] = pair.split(":")
        said[kind] = main(kind, Path(sys.argv[1]))
    print(json.dumps(said))
