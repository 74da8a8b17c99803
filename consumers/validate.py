"""What is wrong with an event log or a topic of events: every fault counted by reason, the first ones with their place.

What is said of a fault quotes nothing: a user id may stand in any column of a row whose columns are mixed up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from consumers import wire
from consumers.broker import BrokerUnavailable
from consumers.clients.settings import ClientSettings
from consumers.reasons import reason_of
from consumers.scan import NoTopic, scan
from streamrec.data.events import BadLog, checked
from streamrec.data.formats import SUFFIXES, Format
from streamrec.data.rules import Fault


@dataclass
class Found:
    """One reason.

    Attributes:
        column: of the log, or field of the message; "" = the whole row or message.
        expected: what should have been there.
        remedy: what to do about the first of them, "" = nothing to say.
        count: rows or messages.
        examples: the first ones: `row` from 1 with `line` and `file`, or `partition` and `offset`.
    """

    column: str
    expected: str
    remedy: str = ""
    count: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Verdict:
    """What a validation came to.

    Attributes:
        source: the path or the topic.
        checked: rows or messages looked at.
        ends: `end` messages among them.
        faulty: rows or messages with a fault; those of a log may have several and are counted by fault only: None.
        faults: by reason.
        unreadable: why reading stopped before the end, "" = it did not.
    """

    source: str
    checked: int = 0
    ends: int = 0
    faulty: int | None = None
    faults: dict[str, Found] = field(default_factory=dict)
    unreadable: str = ""

    @property
    def code(self) -> int:
        """Exit code: 0 clean, 1 faults, 2 could not be read."""
        return 2 if self.unreadable else int(bool(self.faults))

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "ok": self.code == 0}


def is_topic(source: str) -> bool:
    """`kafka:NAME`, or a name that is no file here and does not look like one."""
    if source.startswith("kafka:"):
        return True
    looks = "/" in source or source.endswith(tuple(SUFFIXES.replace(",", "").replace(" or", "").split()))
    return not looks and not Path(source).expanduser().exists()


def validate_log(path: Path | str, columns: Mapping[str, str] | None = None, examples: int = 3) -> Verdict:
    """Check a file or folder by the rules of `streamrec.data.rules`; never raises for what is wrong with it.

    Args:
        path, columns: as in `streamrec.data.events.read`.
        examples: places told per reason.
    """
    verdict = Verdict(str(path))

    def note(part: Format, fault: Fault, first: int) -> None:
        found = verdict.faults.setdefault(fault.reason, Found(fault.column, fault.expected, fault.remedy))
        found.count += int(fault.bad.sum())
        for at in fault.bad.nonzero()[0][: examples - len(found.examples)].tolist():
            row = first + at
            found.examples.append({"file": part.path.name, "row": row + 1, "line": part.line(row)})

    try:
        for rows in checked(path, columns, note):
            verdict.checked += rows
    except BadLog as error:
        verdict.unreadable = str(error)
    return verdict


def validate_topic(servers: str, topic: str, examples: int = 3, settings: ClientSettings | None = None) -> Verdict:
    """Decode every message from the beginning of a topic to where it ends now; never raises for what is wrong with it.

    A message without fault can still be refused by a run: its catalogue may be full, its slate narrower.
    """
    topic = topic.removeprefix("kafka:")
    verdict = Verdict(f"kafka:{topic}", faulty=0)
    try:
        for records in scan(servers, topic, settings=settings):
            for record in records:
                _note_message(record, verdict, examples)
    except (NoTopic, BrokerUnavailable) as error:
        verdict.unreadable = str(error)
    return verdict


def _note_message(record: Any, verdict: Verdict, examples: int) -> None:
    verdict.checked += 1
    message = wire.decode_event(record.value)
    if not isinstance(message, str):
        verdict.ends += message.kind == wire.END
        return
    verdict.faulty = (verdict.faulty or 0) + 1
    reason = reason_of(message)
    found = verdict.faults.setdefault(reason.name, Found(reason.field, reason.expected))
    found.count += 1
    if len(found.examples) < examples:
        found.examples.append({"partition": record.partition, "offset": record.offset})
