"""The live world: events come from a Kafka topic, decisions go to another, what cannot be read goes to a third."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from consumers import wire
from consumers.answers import Asked, from_past, joined, with_questions
from consumers.broker import BrokerUnavailable, cluster_id, create_topics, topic_id
from consumers.clients.kafka_python import SEND_TIMEOUT_S, connect_consumer, connect_producer
from consumers.clients.library import open_reader
from consumers.clients.settings import ClientSettings
from consumers.columns import to_events
from consumers.handover.member import Member
from consumers.held import UNREADABLE, Batch
from consumers.messages import from_decisions
from consumers.orders import Orders
from consumers.outbox import RETRY_HEADER, SENT_HEADER, Outbox
from consumers.partitions import Partitions
from consumers.places import Places
from consumers.remembered import Remembered
from consumers.said import keep_room
from streamrec.catalog import Catalog
from streamrec.ports import State
from streamrec.records import Decision, Events
from streamrec.sessions import SessionStore

__all__ = ["RETRY_HEADER", "SEND_TIMEOUT_S", "SENT_HEADER", "KafkaWorld", "connect_consumer", "connect_producer"]

log = logging.getLogger(__name__)

LINGER_S = 1.0
"""How long a poll waits for records that the broker is known to have."""


class KafkaWorld:
    """A topic of events as the source, a topic of decisions as the sink; messages as in `consumers.wire`.

    A poll hands out `batch` records as long as the broker has that many, merged over the partitions by timestamp (ties
    by partition number), so that a recorded topic is cut into the same batches whenever it is read. Of a topic that is
    being written, it hands out what there is. The stream is over when the last record of every partition is an `end`
    message.

    Positions are truth and live in the checkpoint: the next offset of each partition, with the cluster and topic they
    belong to. What `commit` tells the broker is a courtesy. At a position of another cluster or topic, or behind the
    end of the log, this world starts over at the beginning with a warning and counts it in `wiped`; where retention has
    deleted records since, it goes on at the first one left and counts in `expired`.

    Records that cannot be used go to the dead-letter topic with reason and origin. After a crash those since the last
    checkpoint go there a second time, as decisions go out a second time.

    A request that carries a slate was answered already: `send` returns what was shown then, by the policy that the
    message names, and publishes nothing for it. Instructions (`erase`, `item`, `retire`) take effect at their place in
    the stream: a poll ends before one, and the next begins with it.

    Args:
        bootstrap_servers: host:port[,host:port].
        catalog: gets the items as they turn up.
        sessions: gets the users.
        slate: K, width of the slates that requests of a recorded stream may carry.
        topic, decisions, dead_letters: names of the topics; missing ones are created with `partitions` partitions that
            keep their records.
        group: consumer group that shares the partitions; None = this process reads them all, without the seconds a
            group needs to form.
        state: topic through which users move with their partitions from member to member, see `consumers.handover`;
            "" = they do not. Only with a group.
        batch: most records per poll. Order between users is not kept within one poll.
        ask: for streams of clicks without requests: every organic click is preceded by a request that it answers, and
            decisions are not published, since nobody waits for them.
        follow: go on waiting at `end` messages.
        policies: names by `Decision.policy`, for the decision messages.
        partitions: of topics that do not exist yet.
        send_timeout_s: how long a decision may take to reach the broker before the run stops.
        linger_s: how long a poll waits for records that the broker is known to have, at least; 0 = it hands out what is
            here.
        gather_s: how long a poll gathers records where the broker has less than a batch: steps with many events cost
            hardly more than those with few; "confluent" has the broker keep few records back meanwhile. 0 = none, for
            whoever waits for answers.
        bury: publish what cannot be used; False = only count it and keep the newest in `letters`.
        remember: ids of events kept per partition, to drop an event whose id came before; see `Remembered`. 0 = none.
        client: how to connect, under the names kafka-python gives its options: `security_protocol`, `sasl_mechanism`,
            `sasl_plain_username`, `ssl_cafile` and so on. A password is better named than given:
            `sasl_plain_password_env = "VARIABLE"` or `sasl_plain_password_file = "path"`. It is never written anywhere.
        context: F, numbers that come with a request, up to 256; room for them is kept in `sessions`. 0 = none.
        candidates: C, the most candidates that come with a request, up to 1000; `sessions` keeps 16 bytes of room for
            each, per user. A request that was answered among more is read as one without any.
        client_library: who reads and sends, "kafka-python" or "confluent" (the extra `fast`), which does both on
            threads of its own without the interpreter.
        until: "end" = read up to `end` messages; "latest" = up to what a partition holds at the first fetch; a number =
            up to this offset in every partition, and no further than "latest". A checkpoint keeps where that was.

    Attributes:
        events_consumed: events handed out, without `end` messages, dead letters and the questions of `ask`.
        on_messages: called with the messages behind the events of a poll, in their order, before they are returned.
        repeated: events dropped because one with the same id came before.
        on_users: called with the user rows [B] of a poll's events and the partition of each [B], before they return.
        on_revoked, on_assigned: called with the partitions that leave or come in a rebalance, from inside `poll`.
        on_lost: the same for partitions that somebody else has already; calls `on_revoked` unless set.
        remembered: ids of events, see there.
        member: what moves with partitions, None without a group.
        places: where the log is read.

    Raises:
        BrokerUnavailable: nobody answers at `bootstrap_servers`; also later, when sending fails for `send_timeout_s`.
    """

    rows_may_wait = True
    """Items may get their rows after they turned up, so that learners can agree on them."""

    def __init__(
        self,
        bootstrap_servers: str,
        catalog: Catalog,
        sessions: SessionStore,
        slate: int,
        topic: str = "streamrec.events",
        decisions: str = "streamrec.decisions",
        dead_letters: str = "streamrec.dead-letters",
        group: str | None = None,
        state: str = "streamrec.state",
        batch: int = 500,
        ask: bool = False,
        follow: bool = False,
        policies: Sequence[str] = (),
        partitions: int = 1,
        send_timeout_s: float = SEND_TIMEOUT_S,
        until: str = "end",
        linger_s: float = LINGER_S,
        gather_s: float = 0.0,
        bury: bool = True,
        remember: int = 1 << 20,
        client: Mapping[str, Any] | None = None,
        client_library: str = "kafka-python",
        context: int = 0,
        candidates: int = 0,
    ) -> None:
        if batch < 1 or slate < 1:
            raise ValueError(f"world.batch and world.slate must be at least 1, got batch={batch} and slate={slate}")
        if until not in ("end", "latest") and not until.isdigit():
            raise ValueError(f'world.until must be "end", "latest" or an offset, got {until!r}')
        keep_room(sessions, context, candidates)
        self.servers, self.catalog, self.sessions, self.slate = bootstrap_servers, catalog, sessions, slate
        self.topic, self.decisions_topic, self.dead_letter_topic = topic, decisions, dead_letters
        self.group, self.batch, self.ask, self.follow = group, batch, ask, follow
        self.policies = tuple(policies)
        self.events_consumed = self.repeated = self.wiped = 0
        self.on_messages: Callable[[Sequence[wire.Event]], None] = lambda messages: None
        self.on_users: Callable[[Tensor, NDArray[np.int64]], None] = lambda rows, partitions: None
        self.on_revoked: Callable[[list[int]], None] = lambda partitions: None
        self.on_assigned: Callable[[list[int]], None] = lambda partitions: None
        self.on_lost: Callable[[list[int]], None] = lambda partitions: self.on_revoked(partitions)
        self.member: Member | None = None
        self.remembered = Remembered(remember)
        self._settings = ClientSettings(client)
        create_topics(bootstrap_servers, dict.fromkeys((topic, decisions, dead_letters), partitions), self._settings)
        self._identity = self._identify()
        self._orders = Orders(catalog, sessions)
        self._asked: Asked | None = None
        self._closed = False
        self._last_lag: int | None = None
        letters = dead_letters if bury else ""
        self._outbox = Outbox(bootstrap_servers, letters, send_timeout_s, self._settings, client_library)
        try:
            self._reader = open_reader(client_library, bootstrap_servers, topic, group, self._settings, gather_s)
        except BaseException:
            self._outbox.close(0)
            raise
        self.places = Places(self._reader, topic, group)
        self._log = Partitions(self._reader, self.places, batch, follow, until, linger_s, gather_s)
        self.places.on_revoked, self.places.on_lost = self._revoked, self._taken
        self.places.on_assigned = lambda partitions: self.on_assigned(partitions)
        if group is not None and state:
            self.member = self._join(state, group)
        self.places.begin()

    # --- source ------------------------------------------------------------------------------------------------

    def poll(self, timeout_s: float = 0.0) -> Events | None:
        """The next events; None once every partition has ended.

        Raises:
            BrokerUnavailable: an earlier decision or dead letter could not be sent.
        """
        self._outbox.check()
        self._log.fill(timeout_s)
        return self.take()

    def fetch(self, wait_s: float) -> None:
        """Bring records for `take`, waiting up to `wait_s` for the first ones.

        With `take` instead of `poll`, waiting and reading can be left to another thread. Meanwhile counters may be read
        and `position` called, nothing else.

        Raises:
            BrokerUnavailable: an earlier decision or dead letter could not be sent.
        """
        self._outbox.check()
        self._log.fetch(0.0 if self._log.holds() else wait_s)

    def take(self) -> Events | None:
        """The next events of what was fetched; None once every partition has ended.

        Raises:
            BrokerUnavailable: a message cannot be buried, or a topic that was made anew cannot be asked for its id.
        """
        if why := self._log.wiped():
            self._identity = self._identify()
            self._start_over(why)
            return Events.empty()
        batch = self._log.take()
        if not len(batch) and self._log.over():
            return None
        return self._events(batch)

    def position(self) -> State:
        """Exactly what was handed out, not what was fetched ahead of it."""
        counts = {"events_consumed": self.events_consumed, "dead_letters": self.dead_letters, "repeated": self.repeated}
        until = {str(p): end for p, end in sorted(self._log.until.items())}
        remembered = self.remembered.state_dict()
        more = {"remembered": remembered} if remembered else {}
        places = self.places.state()
        places = places if self.member is None else self.member.position(places)
        return {**self._identity, **places, "until": until, **counts, **more}

    def seek(self, position: State) -> None:
        self.events_consumed, self._outbox.buried = position["events_consumed"], position["dead_letters"]
        self.repeated = position.get("repeated", 0)
        self.remembered.load_state_dict(position.get("remembered", {}))
        if any(position[key] != value for key, value in self._identity.items()):
            self._start_over("the checkpoint was made with another cluster, or the topic was made anew since")
            return
        self._log.until = {int(p): end for p, end in position.get("until", {}).items()}
        if self.member is not None:
            self.member.seek(position)
        else:
            self.places.seek(position)

    @property
    def lag(self) -> int | None:
        """Records that are in the assigned partitions and were not handed out yet; None as long as nobody knows."""
        return self._last_lag if self._closed else self._log.lag()

    def figures(self) -> dict[str, Any]:
        """Of a member of a group, for the metrics: partitions it has, rebalances, and what moved; else nothing."""
        return {} if self.member is None else self.member.read()

    @property
    def dead_letters(self) -> int:
        """Records sent to the dead-letter topic, or only counted without `bury`."""
        return self._outbox.buried

    @property
    def letters(self) -> deque[wire.DeadLetter]:
        """The newest dead letters."""
        return self._outbox.letters

    @property
    def expired(self) -> int:
        """Records that retention deleted before they were read."""
        return self.places.expired

    # --- sink --------------------------------------------------------------------------------------------------

    def send(self, wanted: Decision, asked: Events) -> Decision:
        """Publish decisions, keyed by user, for the requests nobody has answered; returns what is shown.

        To requests that were answered already that is what their messages say, and with `ask` to all.
        """
        ids, policies = self._asked.take(asked.user) if self._asked is not None else ([], None)
        if self.ask:
            return from_past(wanted, asked, policies)
        answered = (asked.shown > 0).any(1)
        open_ = ~answered
        if bool(open_.any()):
            requests = [ids[at] for at in torch.nonzero(open_).squeeze(1).tolist()] if ids else []
            self._publish(wanted[open_], asked[open_], requests)
        return joined(answered, from_past(wanted, asked, policies), wanted) if bool(answered.any()) else wanted

    def _publish(self, wanted: Decision, asked: Events, requests: Sequence[str]) -> None:
        messages = from_decisions(wanted, asked, self.catalog, self.sessions, self.policies, requests)
        for key, value in messages:
            self._outbox.send(self.decisions_topic, key, value)

    def flush(self) -> None:
        """Return once every decision and dead letter is with the broker, and users whose partition has gone too.

        Raises:
            BrokerUnavailable: one could not be sent.
        """
        if self.member is not None:
            self.places.settle()  # a checkpoint follows: a rebalance that nobody has seen to must be in it
        self._outbox.flush()

    def commit(self, position: State) -> None:
        """Tell the broker how far the group is; without a group there is nobody to tell."""
        if self.group is None or position["topic"] != self._identity["topic"]:
            return
        if self.member is not None:
            self.member.publish()
        with self.places.lock:
            mine = set(self.places.offsets)
        offsets = {int(p): offset for p, offset in position["offsets"].items() if int(p) in mine}
        try:
            if offsets:
                self._reader.commit(offsets)
        except BrokerUnavailable as error:  # a rebalance is under way, or it is gone: the checkpoint is what counts
            log.warning("the broker did not take the group's offsets: %s", error)

    def close(self) -> None:
        if self._closed:
            return
        self._last_lag = self.lag
        self._closed = self.places.closed = True
        self._reader.close()
        if self.member is not None:
            self.member.close()
        self._outbox.close()

    # --- handing out ---------------------------------------------------------------------------------------------

    def _identify(self) -> dict[str, str]:
        where = {"cluster": cluster_id(self.servers, self._settings)}
        return where | {"topic": topic_id(self.servers, self.topic, self._settings)}

    def _start_over(self, why: str) -> None:
        self.wiped += 1
        log.warning("%s: %s; reading it from the beginning", self.topic, why)
        self.places.start_over()
        if self.member is not None:
            self.member.start_over(self._identity)

    def _join(self, state: str, group: str) -> Member:
        parts = (self.places, self.sessions, self.catalog, self.remembered, self._outbox, self._settings)
        return Member(self.servers, state, group, self._identity, *parts)

    def _revoked(self, partitions: list[int]) -> None:
        if self.member is not None:
            self.member.revoked(partitions)
        self.on_revoked(partitions)

    def _taken(self, partitions: list[int]) -> None:
        """Lost: somebody else has them."""
        if self.member is not None:
            self.member.lost(partitions)
        self.on_lost(partitions)

    def _events(self, batch: Batch) -> Events:
        self._asked = None
        readable = self._readable(batch)
        batch, keys = self.remembered.fresh(readable)
        self.repeated += len(readable) - len(batch)
        if not len(batch):
            return Events.empty(self.slate if self.ask else 0)
        self.on_messages(batch.events)
        orders = int((batch.codes > wire.FIRST_ORDER).sum())  # in front
        refused = self._orders.follow(batch.events[:orders])
        rest = batch if not orders else batch.at(np.arange(orders, len(batch)))
        received = to_events(rest.events, rest.sent, self.catalog, self.sessions, self.slate, rest.codes)
        refused += [(at + orders, reason) for at, reason in received.refused]
        for at, reason in refused:
            self._outbox.bury(self._reader.origin(batch.raw[at], batch.offsets[at]), reason)
        if len(keys):
            keys[[at for at, _ in refused]] = 0  # they may come again
            self.remembered.add(keys, batch.partitions)
        homes = rest.partitions[received.kept]
        if self.member is not None:
            self.member.keeper.note(received.events.user, homes.tolist())
        self.on_users(received.events.user, homes)
        first = self.events_consumed + 1
        self.events_consumed += len(received.events)
        ask = self.slate if self.ask else 0
        events, self._asked = with_questions(received.events, received.messages, ask, first, self.policies)
        return events

    def _readable(self, batch: Batch) -> Batch:
        """Without `end` messages, and without what cannot be read, which is buried."""
        good = (batch.codes != UNREADABLE) & (batch.codes != wire.FIRST_ORDER)
        if good.all():
            return batch
        for at in np.flatnonzero(batch.codes == UNREADABLE).tolist():
            self._outbox.bury(self._reader.origin(batch.raw[at], batch.offsets[at]), str(batch.messages[at]))
        return batch.at(np.flatnonzero(good))
