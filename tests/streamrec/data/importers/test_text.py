from __future__ import annotations

from pathlib import Path

import pytest

from streamrec.data.formats import BadLog
from streamrec.data.importers import text
from streamrec.data.importers.ledger import Ledger
from streamrec.data.importers.source import Source
from streamrec.data.importers.text import ODD_LINE, Layout, batches

PAIRS = Layout(("a", "b"))
BARE = Layout(("a", "b"), header=False)


def read(path: Path, content: bytes, layout: Layout) -> tuple[list[dict[str, bytes]], Ledger]:
    path.write_bytes(content)
    ledger = Ledger()
    with Source(path) as source:
        rows = [row for batch, _ in batches(source, path.name, layout, ledger) for row in batch.to_pylist()]
    return rows, ledger


@pytest.mark.parametrize(
    ("content", "layout"),
    [
        (b"a,b\n1,2\n3,4\n", PAIRS),
        (b"\xef\xbb\xbfa,b\r\n1,2\r\n3,4", PAIRS),
        (b'"a","b"\n1,2\n\n3,4\n', PAIRS),
        (b"1,2\n3,4\n", BARE),
        (b"1::2\n3::4\n", Layout(("a", "b"), header=False, delimiter="::")),
        (b"1\t2\n3\t4\n", Layout(("a", "b"), header=False, delimiter="\t")),
    ],
)
def test_fields_of_each_layout(tmp_path: Path, content: bytes, layout: Layout) -> None:
    rows, ledger = read(tmp_path / "x.csv", content, layout)
    assert rows == [{"a": b"1", "b": b"2"}, {"a": b"3", "b": b"4"}]
    assert ledger.pages["x.csv"].summary() == {
        "columns": ["a", "b"],
        "rows_read": 2,
        "rows_kept": 2,
        "rows_dropped": {},
    }


def test_odd_lines_are_counted_and_leave_the_rest_alone(tmp_path: Path) -> None:
    rows, ledger = read(tmp_path / "x.csv", b'1,2\n3\n4,5,6\n"7,8\n9,\xff\n', BARE)
    assert [row["a"] for row in rows] == [b"1", b'"7', b"9"]
    assert rows[-1]["b"] == b"\xff"
    page = ledger.pages["x.csv"]
    assert (page.read, page.kept, dict(page.dropped)) == (5, 3, {ODD_LINE: 2})


def test_a_field_between_two_delimiters_is_an_odd_line(tmp_path: Path) -> None:
    rows, ledger = read(tmp_path / "x.dat", b"1::2\n3:4:5\n", Layout(("a", "b"), header=False, delimiter="::"))
    assert len(rows) == 1
    assert (ledger.pages["x.dat"].read, ledger.pages["x.dat"].dropped[ODD_LINE]) == (2, 1)


def test_a_file_longer_than_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "BLOCK", 1000)
    lines = [f"{n},{n * n}" if n % 7 else "odd" for n in range(5000)]
    rows, ledger = read(tmp_path / "x.csv", "\n".join(["a,b", *lines]).encode(), PAIRS)
    assert [int(row["a"]) for row in rows] == [n for n in range(5000) if n % 7]
    assert ledger.pages["x.csv"].read == 5000
    assert ledger.pages["x.csv"].parsed == len(rows)


def test_only_a_header_is_no_row(tmp_path: Path) -> None:
    rows, ledger = read(tmp_path / "x.csv", b"b,a,c\n", PAIRS)
    assert rows == []
    assert ledger.pages["x.csv"].columns == ["b", "a", "c"]


def test_further_columns_come_along_if_wanted_even_without_a_name(tmp_path: Path) -> None:
    content = b",a,b,b\n0,1,2,3\n"
    assert read(tmp_path / "x.csv", content, PAIRS)[0] == [{"a": b"1", "b": b"2"}]
    rows, _ = read(tmp_path / "x.csv", content, Layout(("a", "b"), rest=True))
    assert rows == [{"#0": b"0", "a": b"1", "b": b"2", "b#3": b"3"}]


@pytest.mark.parametrize(
    ("content", "layout", "words"),
    [
        (b"", PAIRS, "'a', 'b' on the first line"),
        (b"a,B\n", PAIRS, "no 'b' ('b' may be 'B' here)"),
        (b"1,2,3\n", BARE, "expected 2 fields between ','"),
        (b"a;b\n1;2\n", PAIRS, "got 'a;b'"),
    ],
)
def test_what_was_expected_and_what_came(tmp_path: Path, content: bytes, layout: Layout, words: str) -> None:
    with pytest.raises(BadLog) as refused:
        read(tmp_path / "x.csv", content, layout)
    assert words in str(refused.value)
    assert str(tmp_path / "x.csv") in str(refused.value)
