"""The broker of the folder above, and keepers of state on topics of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch

from consumers.broker import EmbeddedBroker
from consumers.clients.settings import ClientSettings
from consumers.handover.keeper import Keeper
from consumers.handover.topic import StateTopic
from consumers.outbox import Outbox
from streamrec.catalog import Catalog
from streamrec.records import Events, Kind
from streamrec.sessions import SessionStore
from tests.consumers.conftest import broker, open_world, topic

__all__ = ["broker", "open_world", "topic"]


@dataclass
class Owner:
    """A member without its consumer: a keeper, and users who click."""

    keeper: Keeper
    outbox: Outbox
    extra: dict[int, dict[str, torch.Tensor]]

    def click(self, users: dict[str, int], item: str, time: float) -> None:
        """Every user, who lives in the partition given, clicks `item`."""
        rows = self.keeper.sessions.rows(list(users))
        self.keeper.note(rows, list(users.values()))
        items = self.keeper.catalog.rows([item] * len(users))
        self.keeper.sessions.take(Events.of(rows, Kind.CLICK, torch.full((len(rows),), time), item=items))

    def publish(self, places: dict[int, int]) -> None:
        bases = self.keeper.publish({p: (offset, False) for p, offset in places.items()})
        self.outbox.flush()
        self.keeper.settle(bases)

    def windows(self) -> dict[str, list[str]]:
        """What each user clicked."""
        sessions = self.keeper.sessions
        ids = sorted(name for name in sessions.users.ids if name)
        rows = sessions.rows(ids)
        items = sessions.read(rows, torch.zeros(len(rows))).items.tolist()
        named = self.keeper.catalog.ids
        return {name: [named[row] for row in window if row] for name, window in zip(ids, items, strict=True)}


NewOwner = Callable[..., Owner]


@pytest.fixture
def owner(broker: EmbeddedBroker, topic: str) -> Iterator[NewOwner]:
    made: list[Owner] = []

    def make(partitions: int = 2, users: int = 1000, **settings: float) -> Owner:
        nothing = ClientSettings(None)
        outbox = Outbox(broker.address, "", 30.0, nothing)
        states = StateTopic(broker.address, f"{topic}-state", f"{topic}-group", partitions, outbox, nothing)
        extra: dict[int, dict[str, torch.Tensor]] = {}
        sessions = SessionStore(users=users, length=5, skips=3, slate=3)
        keeper = Keeper(
            states, "log", sessions, Catalog(100), lambda p: extra.get(p, {}), extra.__setitem__, **settings
        )  # fmt: skip
        made.append(Owner(keeper, outbox, extra))
        return made[-1]

    yield make
    for one in made:
        one.keeper.topic.close()
        one.outbox.close()
