"""Batches read as columns say what kafka-python says record by record."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka import TopicPartition
from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError
from kafka.record.memory_records import MemoryRecords, MemoryRecordsBuilder

from consumers.clients.columnar import ColumnarRecords, Columns

PLACE = TopicPartition("t", 3)
LZ4 = 3
Row = tuple[int, int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]

texts = st.none() | st.binary(max_size=40) | st.integers(60, 70).map(bytes) | st.integers(8190, 8200).map(bytes)
headers = st.lists(st.tuples(st.text(max_size=5), st.none() | st.binary(max_size=80)), max_size=3)
stamps = st.integers(0, 1 << 44)
rows = st.lists(st.tuples(stamps, texts, texts, headers), min_size=1, max_size=12)


def batch(rows: list[Any], first: int = 0, magic: int = 2, compression: int = 0) -> bytes:
    builder = MemoryRecordsBuilder(magic, compression, 1 << 24, offset=first)
    for stamp, key, value, headers in rows:
        builder.append(stamp, key, value, headers)
    builder.close()
    return bytes(builder.buffer())


def taken(data: bytes, offset: int = 0, checked: bool = True) -> list[Columns]:
    records = ColumnarRecords(offset, PLACE, MemoryRecords(data), check_crcs=checked)
    found: list[Columns] = records.take(1 << 30)
    assert not records, "all was taken"
    assert records.next_fetch_offset == theirs(data, offset)[1]
    return found


def theirs(data: bytes, offset: int = 0) -> tuple[list[Row], int]:
    records = Fetcher.PartitionRecords(offset, PLACE, MemoryRecords(data))
    found = [(r.offset, r.timestamp or 0, r.key, r.value, list(r.headers or ())) for r in records.take(1 << 30)]
    return found, records.next_fetch_offset


def ours(data: bytes, offset: int = 0) -> list[Row]:
    return [
        (at, columns.stamps[place], columns.key(place), columns.values[place], columns.headers(place))
        for columns in taken(data, offset)
        for place, at in enumerate(columns.offsets)
    ]


@settings(deadline=None, max_examples=40)
@given(st.lists(rows, min_size=1, max_size=3), st.sampled_from([0, LZ4]), st.integers(0, 40))
def test_columns_are_the_records(batches: list[list[Any]], compression: int, offset: int) -> None:
    data, first = b"", 0
    for part in batches:
        data += batch(part, first, compression=compression)
        first += len(part)
    offset = min(offset, first - 1)
    assert ours(data, offset) == theirs(data, offset)[0]
    for columns in taken(data, offset):
        assert columns.partition == PLACE.partition
        assert [columns.place(at) for at in columns.offsets] == list(range(len(columns.offsets)))


@pytest.mark.parametrize("magic", [0, 1])
@pytest.mark.parametrize("compression", [0, 1])
def test_formats_of_long_ago_are_read_too(magic: int, compression: int) -> None:
    rows: list[Any] = [(1000 + at, None if at % 3 else b"k%d" % at, b"v%d" % at, []) for at in range(7)]
    data = batch(rows, magic=magic, compression=compression)
    assert ours(data, 2) == theirs(data, 2)[0]
    assert len(ours(data, 2)) == 5


def test_the_time_of_a_batch_stamped_by_the_broker_is_the_brokers() -> None:
    data = _with_attributes(batch([(at, None, b"v", []) for at in range(3)]), 0x08)
    assert [row[1] for row in ours(data)] == [2, 2, 2] == [row[1] for row in theirs(data)[0]]


def test_what_a_transaction_leaves_behind_is_passed_over() -> None:
    control = _with_attributes(batch([(5, struct.pack(">hh", 0, 1), b"\0\0\0\0\0\0", [])], first=1), 0x20)
    data = batch([(5, None, b"a", [])]) + control + batch([(6, None, b"b", [])], first=2)
    assert [row[3] for row in ours(data)] == [b"a", b"b"]
    assert ours(data) == theirs(data)[0]


def test_a_batch_of_which_one_bit_is_wrong_is_refused() -> None:
    data = bytearray(batch([(at, b"k", b"v" * 30, []) for at in range(9)], compression=LZ4))
    data[90] ^= 4
    with pytest.raises(CorruptRecordError):
        taken(bytes(data))


@settings(deadline=None, max_examples=100)
@given(rows, st.data())
def test_nonsense_is_refused_and_nothing_else_happens(rows: list[Any], draw: st.DataObject) -> None:
    data = bytearray(batch(rows))
    for _ in range(draw.draw(st.integers(1, 4))):
        data[draw.draw(st.integers(61, len(data) - 1))] = draw.draw(st.integers(0, 255))  # behind the header
    try:
        found = ColumnarRecords(0, PLACE, MemoryRecords(bytes(data)), check_crcs=False).take(1 << 30)
    except CorruptRecordError:
        return
    for columns in found:
        assert len(columns.offsets) == len(columns.stamps) == len(columns.values) == len(rows)
        assert all(len(columns.headers(at)) < len(data) for at in range(len(rows)))


def _with_attributes(data: bytes, bits: int) -> bytes:
    """The batch with these attributes, and a checksum that fits."""
    from kafka.record.util import calc_crc32c

    data = data[:21] + struct.pack(">h", bits) + data[23:]
    return data[:17] + struct.pack(">I", calc_crc32c(data[21:])) + data[21:]
