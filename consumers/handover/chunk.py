"""One record of the state topic: some users of one partition, exact for one offset of the event log.

A chain is a base, which holds every user of the partition, and the links after it, which hold the users touched since
the link before. Each link is cut into chunks of bounded size. A link counts once all of its chunks are there.

A chunk is a safetensors file: the tensors of `streamrec.moving.pack`, and in its metadata the `Head` as JSON.
"""

from __future__ import annotations

import json

import msgspec
from safetensors.torch import load, save
from torch import Tensor

from streamrec.ports import State

_OURS, _EXTRA = "streamrec", "extra."


class Head(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a chunk belongs.

    Attributes:
        log: cluster, topic and group that the state is of.
        partition: of the event topic.
        offset: the next event that the state has not seen.
        ended: the partition said that no more will come.
        chain: id of the chain.
        slot: 0 or 1: chains take turns, so that a compacting broker never overwrites the newest whole one.
        link: 0 = base.
        number, count: this chunk among those of its link.
        users: ids, by row of the tensors.
        items: ids that the tensors speak of, number 1 first.
        gone: ids of users that the chain had and who are not known any more.
        widths: of open decisions, see `SessionStore.part`.
        fresh: what else belongs to the partition begins anew here; otherwise it grows.
    """

    log: str
    partition: int
    offset: int
    ended: bool
    chain: str
    slot: int
    link: int
    number: int
    count: int
    users: list[str] = []
    items: list[str] = []
    gone: list[str] = []
    widths: list[int] | None = None
    fresh: bool = False
    v: int = 1

    @property
    def key(self) -> bytes:
        """Of the record: a compacting broker keeps the newest with the same key."""
        return f"{self.log}/{self.partition}/{self.slot}/{self.link}/{self.number}".encode()


class BadChunk(ValueError):
    """Bytes on the state topic that are no chunk of this version."""


_decoder = msgspec.json.Decoder(Head)


def encode(head: Head, parcel: State | None, extra: dict[str, Tensor] | None = None) -> bytes:
    """A chunk with the users of `parcel`, a `streamrec.moving.pack` (None = nobody), and `extra` vectors by name."""
    tensors = {} if parcel is None else {"available": parcel["available"], **parcel["tables"]}
    tensors |= {_EXTRA + name: values for name, values in (extra or {}).items()}
    return save(tensors, {_OURS: msgspec.json.encode(head).decode()})


def head_of(value: bytes | None) -> Head:
    """The head of a chunk, without its tensors.

    Raises:
        BadChunk: the bytes are something else.
    """
    try:
        if value is None:
            raise ValueError("a record without value")
        length = int.from_bytes(value[:8], "little")
        if not 0 < length <= len(value) - 8:
            raise ValueError(f"a header of {length} bytes in {len(value)}")
        head = _decoder.decode(json.loads(value[8 : 8 + length])["__metadata__"][_OURS])
    except (ValueError, KeyError, TypeError, msgspec.MsgspecError) as error:
        raise BadChunk(f"expected a chunk of state, got {error}") from error
    if head.v != 1:
        raise BadChunk(f"the chunk has version {head.v}, this program reads version 1: update streamrec")
    return head


def contents(head: Head, value: bytes) -> tuple[State | None, dict[str, Tensor]]:
    """What `streamrec.moving.unpack` takes over, None if the chunk holds nobody; and what else it holds."""
    tensors = load(value)
    extra = {name.removeprefix(_EXTRA): tensors.pop(name) for name in list(tensors) if name.startswith(_EXTRA)}
    if not head.users:
        return None, extra
    available = tensors.pop("available")
    about = {"users": head.users, "items": head.items, "widths": head.widths}
    return {**about, "available": available, "tables": tensors}, extra
