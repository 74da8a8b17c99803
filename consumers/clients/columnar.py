"""Batches of records as columns, for kafka-python, which otherwise makes an object of every record.

The client fetches, checks and keeps its positions as ever; only what it does with a fetched batch is replaced: where
records begin is one loop over their lengths, everything else is arithmetic over all of them at once. What that saves
pays for all that follows: `streamrec bench kafka` has events in session state as fast as the client alone hands out its
records.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Header = tuple[str, bytes | None]


@dataclass
class Columns:
    """The records of one batch, in order."""

    partition: int
    data: bytes  # of all records, uncompressed
    offsets: list[int]
    stamps: list[int]  # milliseconds since the epoch
    values: list[bytes | None]
    keys: tuple[Ints, Ints]  # first byte and length of each key, -1 = none
    after: Ints  # [n] where the headers of each record begin

    def place(self, offset: int) -> int:
        """Of the record at `offset`, among those of the batch."""
        return bisect_left(self.offsets, offset)

    def key(self, at: int) -> bytes | None:
        begin, size = (int(column[at]) for column in self.keys)
        return None if size < 0 else self.data[begin : begin + size]

    def headers(self, at: int) -> list[Header]:
        """Of one record, as far as they are what the format says: a record that is refused has to be shown."""
        found: list[Header] = []
        try:
            count, place = _varint(self.data, int(self.after[at]))
            for _ in range(count):
                name, place = _bytes(self.data, place)
                value, place = _bytes(self.data, place)
                found.append(((name or b"").decode(errors="replace"), value))
        except (IndexError, CorruptRecordError):
            pass
        return found

    def since(self, offset: int) -> Columns:
        """Without the records before `offset`: brokers send whole batches."""
        if not self.offsets or self.offsets[0] >= offset:
            return self
        first = self.place(offset)
        keys = (self.keys[0][first:], self.keys[1][first:])
        rest = (self.offsets[first:], self.stamps[first:], self.values[first:])
        return Columns(self.partition, self.data, *rest, keys, self.after[first:])


class ColumnarRecords(Fetcher.PartitionRecords):  # type: ignore[misc]
    """What a fetch brought of one partition; `take` gives one `Columns` for each batch instead of records.

    For readers of uncommitted records, which is what kafka-python's are unless told otherwise.
    """

    def _unpack_records(self, tp: Any, records: Any, *_: Any) -> Iterator[Columns]:
        while (batch := records.next_batch()) is not None:
            if self.check_crcs and not batch.validate_crc():
                raise CorruptRecordError(f"the checksum of the batch at {tp} offset {batch.base_offset} is wrong")
            if batch.magic < 2:
                columns = _from_old(batch, tp.partition)
                self.next_fetch_offset = columns.offsets[-1] + 1
            else:
                self.leader_epoch, self.next_fetch_offset = batch.leader_epoch, batch.next_offset
                if batch.is_control_batch:  # says where a transaction ended
                    continue
                columns = columns_of(batch, tp.partition)
            rest = columns.since(self.fetch_offset)
            if rest.offsets:
                yield rest
        self.drain()

    def _maybe_skip_record(self, columns: Columns) -> bool:
        return False  # done above


def columns_of(batch: Any, partition: int) -> Columns:
    """The records of a kafka-python `DefaultRecordBatch` (format 2, KIP-98).

    Raises:
        CorruptRecordError: they are not what the format says.
    """
    batch._maybe_uncompress()
    data = bytes(batch._buffer)
    try:
        begins, ends = _records(data, batch._pos, batch.records_count)
        bytes_ = np.frombuffer(data, dtype=np.uint8)
        delta, at = _varints(bytes_, begins + 1)  # after the attributes, which say nothing
        offset, at = _varints(bytes_, at)
        key_size, key = _varints(bytes_, at)
        size, value = _varints(bytes_, key + np.maximum(key_size, 0))
    except IndexError:
        raise CorruptRecordError(f"the batch at offset {batch.base_offset} ends within a record") from None
    after = value + np.maximum(size, 0)
    if (after >= ends).any():
        raise CorruptRecordError(f"the batch at offset {batch.base_offset} has a record shorter than its value")
    stamps = np.full_like(delta, batch.max_timestamp) if batch.timestamp_type else batch.first_timestamp + delta
    values: list[bytes | None] = [data[a:b] for a, b in zip(value.tolist(), after.tolist(), strict=True)]
    for absent in np.flatnonzero(size < 0).tolist():
        values[absent] = None
    offsets = (batch.base_offset + offset).tolist()
    return Columns(partition, data, offsets, stamps.tolist(), values, (key, key_size), after)


def _from_old(batch: Any, partition: int) -> Columns:
    """The records of a batch of format 0 or 1, one by one: brokers of today have none."""
    records = list(batch)
    sizes = np.array([-1 if record.key is None else len(record.key) for record in records], dtype=np.int64)
    data = b"".join(record.key or b"" for record in records) + b"\0"  # at its end: no headers
    begins = np.maximum(sizes, 0).cumsum() - np.maximum(sizes, 0)
    after = np.full_like(sizes, len(data) - 1)
    stamps, values = [record.timestamp or 0 for record in records], [record.value for record in records]
    return Columns(partition, data, [record.offset for record in records], stamps, values, (begins, sizes), after)


def _records(data: bytes, at: int, count: int) -> tuple[Ints, Ints]:
    """[count] first byte of each record, after its length, and the byte after it."""
    begins, ends = [], []
    for _ in range(count):
        size = data[at]  # of two bytes, as a rule; zigzag: twice the length
        if size < 0x80:
            at += 1
        elif (more := data[at + 1]) < 0x80:
            size, at = size & 0x7F | more << 7, at + 2
        else:
            length, at = _varint(data, at)
            size = 2 * max(length, 0)
        begins.append(at)
        at += size >> 1
        ends.append(at)
    if at != len(data):
        raise CorruptRecordError(f"{count} records end at byte {at} of {len(data)}")
    return np.array(begins, dtype=np.int64), np.array(ends, dtype=np.int64)


def _varints(data: NDArray[np.uint8], at: Ints) -> tuple[Ints, Ints]:
    """The zigzag varint that begins at each byte `at` [n], and the bytes after them."""
    byte = data[at].astype(np.int64)
    value, at = byte & 0x7F, at + 1
    going = np.flatnonzero(byte & 0x80)
    shift = 7
    while len(going):
        if shift > 63:
            raise CorruptRecordError("a number has more than ten bytes")
        byte = data[at[going]].astype(np.int64)
        value[going] |= (byte & 0x7F) << shift
        at[going] += 1
        going, shift = going[byte >= 0x80], shift + 7
    return (value.view(np.uint64) >> np.uint64(1)).view(np.int64) ^ -(value & 1), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    values, after = _varints(np.frombuffer(data, dtype=np.uint8), np.array([at]))
    return int(values[0]), int(after[0])


def _bytes(data: bytes, at: int) -> tuple[bytes | None, int]:
    size, at = _varint(data, at)
    return (None, at) if size < 0 else (data[at : at + size], at + size)
