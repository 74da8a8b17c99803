"""One member of a group: what it does with its users when partitions come and go."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import asdict
from typing import Any

from consumers.clients.settings import ClientSettings
from consumers.handover.keeper import Keeper
from consumers.handover.topic import StateTopic
from consumers.outbox import Outbox
from consumers.places import Places
from consumers.remembered import Remembered
from streamrec.catalog import Catalog
from streamrec.ports import State
from streamrec.sessions import SessionStore


class Member:
    """Stands between the places in the log and the users who live there.

    A partition is read only once its users are here; meanwhile the others go on. Its state is published when it is
    taken away and with every checkpoint.

    Args:
        servers: host:port[,host:port].
        state: the topic of states.
        group: whose member this is.
        identity: cluster and topic of the events.
        places: where the events are read; asks this member before it reads a partition that is new here.
        sessions, catalog, remembered: what is handed over.
        outbox: for the states.
        settings: how to connect.

    Raises:
        BrokerUnavailable: nobody answers, or the topic of states does not fit.
    """

    def __init__(
        self,
        servers: str,
        state: str,
        group: str,
        identity: dict[str, str],
        places: Places,
        sessions: SessionStore,
        catalog: Catalog,
        remembered: Remembered,
        outbox: Outbox,
        settings: ClientSettings,
    ) -> None:
        self.places, self.group, self._outbox = places, group, outbox
        self.rebalances = 0
        partitions = len(places.reader.partitions())
        self._topic = StateTopic(servers, state, group, partitions, outbox, settings)
        log = self._log(identity)
        self.keeper = Keeper(self._topic, log, sessions, catalog, remembered.export, remembered.take)
        places.newcomers, places.progress = self.arrive, self.work

    def _log(self, identity: dict[str, str]) -> str:
        return f"{identity['cluster']}/{identity['topic']}/{self.group}"

    def read(self) -> dict[str, Any]:
        """What moved so far, as JSON values."""
        about = {"partitions": len(self.places.offsets), "restoring": len(self.keeper.waiting)}
        return {**about, "rebalances": self.rebalances, **asdict(self.keeper.figures)}

    # --- partitions that come ----------------------------------------------------------------------------------------

    def arrive(self, partitions: list[int]) -> set[int]:
        """These are ours now; returns those that can be read at once."""
        self.rebalances += 1
        reader = self.places.reader
        ready = self.keeper.arrive({p: reader.committed(p) for p in partitions})
        self.keeper.leave_others(reader.assigned())
        return self._begin(ready)

    def work(self) -> set[int]:
        """Restore for a moment; returns the partitions that are read from now on."""
        return self._begin(self.keeper.work()) if self.keeper.busy else set()

    def _begin(self, ready: list[Any]) -> set[int]:
        for one in ready:
            self.places.begin_at(one.partition, one.offset, one.ended)
        self.places.waiting = set(self.keeper.waiting)
        return {one.partition for one in ready}

    # --- partitions that go ------------------------------------------------------------------------------------------

    def revoked(self, partitions: list[int]) -> None:
        """These are taken away: write their state, exact for the last event handed out."""
        half = [p for p in partitions if p in self.keeper.waiting]
        self.keeper.drop(half)
        left = self.places.left(partitions)
        self._write(self.keeper.left({p: place for p, place in left.items() if p not in half}))
        self.places.waiting = set(self.keeper.waiting)

    def lost(self, partitions: list[int]) -> None:
        """Somebody else has these already: whatever is known here of their users is of the past."""
        self.places.left(partitions)
        self.keeper.drop(partitions)
        self.keeper.figures.lost += len(partitions)
        self.places.waiting = set(self.keeper.waiting)

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def publish(self) -> None:
        """Write the state of all partitions as it is now, between two polls.

        Raises:
            BrokerUnavailable: it could not be sent.
        """
        with self.places.lock:
            mine = {p: (offset, self.places.ended.get(p, False)) for p, offset in self.places.offsets.items()}
        self._write(self.keeper.publish(mine))

    def _write(self, bases: list[tuple[int, Future[int]]]) -> None:
        self._outbox.flush()
        self.keeper.settle(bases)

    def position(self, state: State) -> State:
        """`Places.state()` with the partitions whose users are here though they are not read, and who lives where."""
        kept = {str(p): offset for p, (offset, _) in self.keeper.kept.items()}
        ended = {p for p, (_, over) in self.keeper.kept.items() if over}
        offsets = {**kept, **state["offsets"]}
        return {
            "offsets": dict(sorted(offsets.items(), key=lambda place: int(place[0]))),
            "ended": sorted({*state["ended"], *ended}),
            "homes": self.keeper.homes(),
        }

    def seek(self, position: State) -> None:
        """The session store was loaded from the checkpoint with this position."""
        if "homes" not in position:
            return
        ended = set(position["ended"])
        kept = {int(p): (offset, int(p) in ended) for p, offset in position["offsets"].items()}
        self.keeper.settle_in(position["homes"], kept)

    def start_over(self, identity: dict[str, str]) -> None:
        """The log is another one: states of the one before are worth nothing."""
        self.keeper.begin_anew(self._log(identity))

    def close(self) -> None:
        self._topic.close()
