"""Chunks put together: torn, mixed and repeated ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.handover.assembly import Assembly
from consumers.handover.chunk import BadChunk, Head, contents, encode, head_of


def heads(chain: str, links: int, offset: int = 0, count: int = 2) -> list[Head]:
    return [
        Head("log", 3, offset + 10 * link, False, chain, 0, link, number, count)
        for link in range(links)
        for number in range(count)
    ]


@given(st.integers(0, 8), st.integers(0, 4), st.data())
def test_a_chain_counts_as_far_as_its_links_are_whole(written: int, repeated: int, data: st.DataObject) -> None:
    chunks = heads("a", 4)
    there = chunks[:written]
    for _ in range(repeated if there else 0):
        there.append(data.draw(st.sampled_from(there)))
    assembly = Assembly("log", 3)
    for head in data.draw(st.permutations(there)):
        assembly.add(head, b"")
    whole = assembly.newest()
    if written < 2:
        assert whole is None
    else:
        assert whole is not None
        assert whole.head.offset == 10 * (written // 2 - 1)
        assert [(head.link, head.number) for head, _ in whole.chunks] == [
            (head.link, head.number) for head in chunks[: written // 2 * 2]
        ]


@given(st.data())
def test_of_two_writers_the_one_who_saw_more_counts_whoever_wrote_last(data: st.DataObject) -> None:
    zombie, heir = heads("a", 3, offset=5), heads("b", 2, offset=500)
    mixed: list[Head] = []
    while zombie or heir:
        source = data.draw(st.sampled_from([part for part in (zombie, heir) if part]))
        mixed.append(source.pop(0))
    assembly = Assembly("log", 3)
    for head in mixed:
        assembly.add(head, b"")
    whole = assembly.newest()
    assert whole is not None
    assert (whole.head.chain, whole.head.offset) == ("b", 510)


def test_what_a_newer_base_has_replaced_is_forgotten() -> None:
    assembly = Assembly("log", 3)
    for number in range(50):
        for head in heads(f"chain-{number}", 1, offset=number):
            assembly.add(head, b"x")
    assert len(assembly._chains) == 1


def test_chunks_of_other_logs_are_passed_over() -> None:
    assembly = Assembly("another", 3)
    for head in heads("a", 1):
        assembly.add(head, b"")
    assert assembly.newest() is None


@pytest.mark.parametrize("value", [None, b"", b"\x00" * 30, b"\xff" * 40, b"\x02" + b"\0" * 7 + b"{}"])
def test_bytes_that_are_no_chunk_are_refused(value: bytes | None) -> None:
    with pytest.raises(BadChunk, match="expected a chunk of state"):
        head_of(value)


@given(st.binary(max_size=300))
def test_no_bytes_do_more_than_be_refused(value: bytes) -> None:
    with pytest.raises(BadChunk):
        head_of(value)


def test_a_chunk_says_what_was_written() -> None:
    head = heads("a", 1)[0]
    value = encode(head, None)
    assert head_of(value) == head
    assert contents(head, value) == (None, {})
    newer = encode(Head(**{name: getattr(head, name) for name in head.__struct_fields__ if name != "v"}, v=2), None)
    with pytest.raises(BadChunk, match="update streamrec"):
        head_of(newer)
