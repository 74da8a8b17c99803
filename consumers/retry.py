"""Dead letters that can be read by now, sent to their topic again: each at most once, whatever dies in between.

What was sent is remembered in a topic of its own, `<dead letters>.retried`. Before some letters are sent their ids go
there together with a place in the topic of events not behind its end; when the broker has them, their ids go there
again as sent. A process that died in between leaves ids that may have been sent: the next one looks for them in the
topic of events from that place on, where each carries its id in a header. Broker transactions would not do: readers
of the topic would have to be told to leave out what was aborted, and not every broker can.

One retry at a time: two that run side by side do not see each other's letters.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, Self

import msgspec
from kafka import KafkaProducer
from kafka.errors import KafkaError

from consumers import wire
from consumers.broker import BrokerUnavailable, create_topics
from consumers.clients.settings import ClientSettings
from consumers.dead_letters import TOPIC, Letter, letters, wanted
from consumers.kafka import RETRY_HEADER, SEND_TIMEOUT_S, connect_producer
from consumers.reasons import reason_of
from consumers.scan import bounds, require, scan, topics

BATCH = 500
"""Letters announced, sent and ticked off at a time."""


@dataclass
class Outcome:
    """What became of the letters.

    Attributes:
        sent: sent again; with `dry_run`, what would be.
        still_bad: today's decoder refuses them, by reason.
        skipped: why -> letters: `already_sent`, by an earlier retry; `came_back`, they are what became of one;
            `written_twice`, the same letter once more; `cut`, only their first 64 KiB are there; `end`, they would end
            the stream; `uncertain`, sent by a retry that died, or not, and the records that could tell were deleted;
            `no_topic`, where they came from is gone; `not_a_dead_letter`.
    """

    dry_run: bool
    sent: int = 0
    still_bad: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)

    def as_json(self) -> dict[str, Any]:
        return {
            "dry_run": self.dry_run,
            "sent": self.sent,
            "still_bad": dict(self.still_bad),
            "skipped": dict(self.skipped),
        }


def retry(
    servers: str,
    topic: str = TOPIC,
    reason: str | None = None,
    dry_run: bool = False,
    again: bool = False,
    settings: ClientSettings | None = None,
) -> Outcome:
    """Send letters again that today's decoder can read, to the topic and partition they came from.

    Value, key and timestamp are those of the original; its headers were not kept. A catalogue that was full when the
    letter was written may be full still: then it comes back to the dead letters.

    Args:
        servers: host:port[,host:port].
        topic: of the dead letters.
        reason: only those with this reason (`dead_letters.wanted`).
        dry_run: send and write nothing.
        again: also those that came back from a retry, and the uncertain ones.
        settings: how to connect.

    Raises:
        NoTopic: there are no dead letters.
        BrokerUnavailable: nobody answers, or no longer. Retry again then: nothing is sent twice.
    """
    require(servers, topic, settings)
    known = topics(servers, settings)
    outcome = Outcome(dry_run)
    with _Ledger(servers, f"{topic}.retried", known, dry_run, settings) as ledger:
        sorter = _Sorter(outcome, ledger, known, reason, again)
        good = (letter for letter in letters(servers, topic, settings=settings) if sorter.may_go(letter))
        while part := list(islice(good, BATCH)):
            if not dry_run:
                ledger.send(part)
            outcome.sent += len(part)
    return outcome


class _Sorter:
    """Decides which letters go, and counts the others."""

    def __init__(self, outcome: Outcome, ledger: _Ledger, topics: set[str], reason: str | None, again: bool) -> None:
        self.outcome, self.ledger, self.topics, self.reason, self.again = outcome, ledger, topics, reason, again
        self._seen: set[str] = set()

    def may_go(self, letter: Letter) -> bool:
        if not wanted(letter, self.reason):
            return False
        if why := self._skip(letter):
            self.outcome.skipped[why] += 1
            return False
        message = wire.decode_event(letter.value)
        if isinstance(message, str):
            self.outcome.still_bad[reason_of(message).name] += 1
            return False
        if message.kind == wire.END:
            self.outcome.skipped["end"] += 1
            return False
        return True

    def _skip(self, letter: Letter) -> str:
        if letter.reason.code == "not_a_dead_letter":
            return letter.reason.code
        if letter.id in self._seen:
            return "written_twice"
        self._seen.add(letter.id)
        if letter.id in self.ledger.sent:
            return "already_sent"
        if letter.again and not self.again:
            return "came_back"
        if letter.id in self.ledger.uncertain and not self.again:
            return "uncertain"
        if not letter.whole:
            return "cut"
        return "" if letter.topic in self.topics else "no_topic"


class _Batch(msgspec.Struct):
    """One record of the ledger. The second of a batch has the same key, and replaces the first where it is compacted.

    Attributes:
        letters: ids.
        topic: where they go.
        ends: partition -> an offset that none of them is before.
    """

    state: Literal["sending", "sent"]
    letters: list[str]
    topic: str
    ends: dict[int, int]
    v: Literal[1] = 1


class _Ledger:
    """What was sent again, and the sending of more.

    Attributes:
        sent: ids of letters that were.
        uncertain: ids of letters of which nobody can tell any more.
    """

    def __init__(
        self, servers: str, topic: str, known: set[str], dry_run: bool, settings: ClientSettings | None
    ) -> None:
        self.servers, self.topic, self.settings = servers, topic, settings
        self.sent: set[str] = set()
        self.uncertain: set[str] = set()
        self._producer: KafkaProducer | None = None
        unfinished = self._read() if topic in known else {}
        if not dry_run:
            create_topics(servers, {topic: 1}, settings)
            self._producer = connect_producer(servers, settings=settings)
        try:
            self._settle(unfinished, known)
        except BaseException:
            self.close()
            raise

    def send(self, part: Iterable[Letter]) -> None:
        """Send letters to where they came from and remember that.

        Raises:
            BrokerUnavailable: some did not arrive, or not for sure.
        """
        groups: dict[str, list[Letter]] = {}
        for letter in part:
            groups.setdefault(letter.topic, []).append(letter)
        for topic, group in groups.items():
            _, ends = bounds(self.servers, topic, self.settings)
            key, ids = uuid.uuid4().hex, [letter.id for letter in group]
            self._write(key, _Batch("sending", ids, topic, ends))
            self._deliver(self._records(topic, group, set(ends)))
            self._write(key, _Batch("sent", ids, topic, ends))
            self.sent.update(ids)

    def close(self) -> None:
        if self._producer is not None:
            self._producer.close(timeout=5.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _read(self) -> dict[str, _Batch]:
        """Batches announced and not ticked off, by key."""
        unfinished: dict[str, _Batch] = {}
        decoder = msgspec.json.Decoder(_Batch)
        for records in scan(self.servers, self.topic, settings=self.settings):
            for record in records:
                key = (record.key or b"").decode()
                batch = unfinished[key] = decoder.decode(record.value)
                if batch.state == "sent":
                    self.sent.update(batch.letters)
                    del unfinished[key]
        return unfinished

    def _settle(self, unfinished: Mapping[str, _Batch], known: set[str]) -> None:
        """Find out what became of the letters of batches that were not ticked off."""
        for key, batch in unfinished.items():
            found, lost = self._look_for(batch) if batch.topic in known else (set(), False)
            self.sent |= found
            if lost and found != set(batch.letters):
                self.uncertain |= set(batch.letters) - found
            elif self._producer is not None:
                self._write(key, _Batch("sent", sorted(found), batch.topic, batch.ends))

    def _look_for(self, batch: _Batch) -> tuple[set[str], bool]:
        """Those of its letters that are in the topic of events; whether some may have been there and are deleted."""
        ids = set(batch.letters)
        begins, _ = bounds(self.servers, batch.topic, self.settings)
        found = {
            value.decode("ascii", "replace")
            for records in scan(self.servers, batch.topic, batch.ends, settings=self.settings)
            for record in records
            for name, value in record.headers or ()
            if name == RETRY_HEADER and value
        }
        return found & ids, any(begins.get(partition, 0) > end for partition, end in batch.ends.items())

    def _records(self, topic: str, group: list[Letter], partitions: set[int]) -> Iterator[dict[str, Any]]:
        for letter in group:
            # The partition it came from, where the user's other events are, whoever chose it; by key if that is gone.
            partition = letter.origin_partition if letter.origin_partition in partitions else None
            yield {
                "topic": topic,
                "key": letter.key,
                "value": letter.value,
                "partition": partition,
                "headers": [(RETRY_HEADER, letter.id.encode())],
                "timestamp_ms": round(1000 * letter.sent),
            }

    def _write(self, key: str, batch: _Batch) -> None:
        value = msgspec.json.encode(batch)
        self._deliver([{"topic": self.topic, "key": key.encode(), "value": value, "partition": 0}])

    def _deliver(self, records: Iterable[dict[str, Any]]) -> None:
        """Return once all of them are with the broker."""
        assert self._producer is not None
        try:
            futures = [self._producer.send(**record) for record in records]
            self._producer.flush(timeout=SEND_TIMEOUT_S)
            for future in futures:
                future.get(timeout=SEND_TIMEOUT_S)
        except KafkaError as error:
            raise BrokerUnavailable(
                f"{self.servers} stopped taking records ({error}): is the broker up? "
                "Retry again then; what has arrived is not sent twice"
            ) from error
