"""Instructions in the stream: forget a user, know an item, retire one."""

from __future__ import annotations

from collections.abc import Sequence

from consumers.wire import Event
from streamrec.catalog import Catalog
from streamrec.sessions import SessionStore


class Orders:
    """Carries out instructions at their place in the stream; their reader has taken in all that came before.

    Args:
        catalog: of items.
        sessions: of users.
    """

    def __init__(self, catalog: Catalog, sessions: SessionStore) -> None:
        self.catalog, self.sessions = catalog, sessions

    def follow(self, events: Sequence[Event]) -> list[tuple[int, str]]:
        """Carry out `events`, in order. Returns those that cannot be, by index, with the reason.

        Users and items that nobody knows are no fault: there is nothing to forget or to retire.
        """
        refused: list[tuple[int, str]] = []
        for at, event in enumerate(events):
            if event.kind == "erase":
                self.sessions.erase([event.user])
            elif event.kind == "retire":
                self.catalog.withdraw(self.catalog.find([event.item]))
            elif not self.catalog.upsert(event.item, event.category, event.available):
                full = f"the catalogue is full at catalog.capacity = {self.catalog.capacity}"
                refused.append((at, f"{full} and item {event.item!r} is new - at `$.item`"))
        return refused
