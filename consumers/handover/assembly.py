"""Chunks of one partition's state, put together as they are read."""

from __future__ import annotations

from dataclasses import dataclass, field

from consumers.handover.chunk import Head


@dataclass
class Whole:
    """A state that is complete: its chunks in the order in which they are taken over."""

    head: Head  # of its newest link
    chunks: list[tuple[Head, bytes]]


@dataclass
class _Chain:
    links: dict[int, dict[int, tuple[Head, bytes]]] = field(default_factory=dict)


class Assembly:
    """Finds the newest whole state among chunks that may be torn, repeated, or written by several members at once.

    The newest is the one for the highest offset, not the one written last: a member that lost its partition without
    knowing may write after its successor, and what it writes is right for its own, lower offset.
    """

    def __init__(self, log: str, partition: int) -> None:
        self.log, self.partition = log, partition
        self._chains: dict[str, _Chain] = {}

    def add(self, head: Head, value: bytes) -> None:
        """Take in a chunk in the order of the topic; those of another log or partition are passed over."""
        if head.log == self.log and head.partition == self.partition:
            parts = self._chains.setdefault(head.chain, _Chain()).links.setdefault(head.link, {})
            parts[head.number] = (head, value)
            if head.link == 0 and len(parts) == head.count:
                self._forget_before(head)

    def _forget_before(self, base: Head) -> None:
        """Memory holds what may still be the newest, not everything since the topic began."""
        for name, chain in list(self._chains.items()):
            whole = _whole(chain)
            if name != base.chain and whole is not None and whole.head.offset <= base.offset:
                del self._chains[name]

    def newest(self) -> Whole | None:
        """The whole state for the highest offset; None if there is none."""
        wholes = [whole for chain in self._chains.values() if (whole := _whole(chain)) is not None]
        return max(wholes, key=lambda whole: whole.head.offset, default=None)


def _whole(chain: _Chain) -> Whole | None:
    """As many links from the base on as are complete."""
    chunks: list[tuple[Head, bytes]] = []
    last: Head | None = None
    for link in range(len(chain.links)):
        parts = chain.links.get(link)
        if parts is None or len(parts) < next(iter(parts.values()))[0].count:
            break
        chunks += [parts[number] for number in sorted(parts)]
        last = chunks[-1][0]
    return None if last is None else Whole(last, chunks)
