"""Sequences: windows and prefixes against plain loops, and readers on small files written here."""

from __future__ import annotations

import gzip
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
import torch

from streamrec.catalog import Catalog
from streamrec.data.formats import BadLog
from streamrec.data.sequences import Sequences, read_lines, read_periods, read_sessions

ROWS = [[3, 1, 4], [], [5], [9, 2, 6, 5], [3, 5]]


def as_lists(sequences: Sequences) -> list[list[int]]:
    items, starts = sequences.items.tolist(), sequences.starts.tolist()
    return [items[start:end] for start, end in pairwise(starts)]


def named(sequences: Sequences, catalog: Catalog) -> list[list[str]]:
    return [[catalog.ids[row] for row in rows] for rows in as_lists(sequences)]


def test_rows_come_back() -> None:
    made = Sequences.of(ROWS)
    assert as_lists(made) == ROWS
    assert len(made) == 5
    assert made.lengths.tolist() == [3, 0, 1, 4, 2]
    assert made.support(11).tolist() == [0, 1, 1, 2, 1, 3, 1, 0, 0, 1, 0]
    assert len(Sequences.of([])) == 0


@pytest.mark.parametrize("length", [1, 2, 3, 6, None])
def test_histories_end_at_the_newest_click(length: int | None) -> None:
    rows = [3, 1, 0, 3]
    history = Sequences.of(ROWS).history(torch.tensor(rows), length)
    width = 4 if length is None else length
    expected = [([0] * width + ROWS[row])[-width:] for row in rows]
    assert history.items.tolist() == expected
    assert history.items.dtype == torch.int32
    assert history.in_session.tolist() == [4, 0, 3, 4]
    assert history.user.tolist() == rows


@pytest.mark.parametrize("length", [2, None])
def test_prefixes_are_the_clicks_before_the_target(length: int | None) -> None:
    made = Sequences.of(ROWS)
    rows, ends = made.clicks()
    pairs = [(row, end) for row, items in enumerate(ROWS) for end in range(1, len(items))]
    assert list(zip(rows.tolist(), ends.tolist(), strict=True)) == pairs
    history, target = made.prefixes(rows, ends, length)
    width = 3 if length is None else length
    assert target.tolist() == [ROWS[row][end] for row, end in pairs]
    assert history.items.tolist() == [([0] * width + ROWS[row][:end])[-width:] for row, end in pairs]
    assert history.in_session.tolist() == [end for _, end in pairs]


def test_a_prefix_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="below the length of the sequence, 2, got 2"):
        Sequences.of(ROWS).prefixes(torch.tensor([0, 4]), torch.tensor([2, 2]))


def test_select_takes_masks_places_and_slices_and_keeps_periods() -> None:
    made = Sequences(*(Sequences.of(ROWS).__dict__[n] for n in ("items", "starts")), period=torch.arange(5))
    assert as_lists(made.select(torch.tensor([4, 0, 4]))) == [ROWS[4], ROWS[0], ROWS[4]]
    masked = made.select(torch.tensor([True, True, False, True, False]))
    assert as_lists(masked) == [ROWS[0], ROWS[1], ROWS[3]]
    assert masked.period is not None
    assert masked.period.tolist() == [0, 1, 3]
    assert as_lists(made.select(slice(2, 4))) == ROWS[2:4]
    joined = Sequences.cat([made.select(slice(0, 2)), made.select(slice(2, 5))])
    assert as_lists(joined) == ROWS
    assert joined.period is not None
    assert joined.period.tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="at least one"):
        Sequences.cat([])


def test_unknown_items_leave_no_gap() -> None:
    known = torch.ones(10, dtype=torch.bool)
    known[[3, 6]] = False
    assert as_lists(Sequences.of(ROWS).only(known)) == [[1, 4], [], [5], [9, 2, 5], [5]]


def test_newest_clicks_can_be_held_out() -> None:
    assert as_lists(Sequences.of(ROWS).older(2)) == [[3], [], [], [9, 2], []]
    assert as_lists(Sequences.of(ROWS).older(0)) == ROWS


TABLE = [  # session, item, time: sessions interleaved, one out of order, two at the same time
    ("b", "x", 5),
    ("a", "y", 1),
    ("b", "z", 7),
    ("a", "x", 3),
    ("b", "y", 6),
    ("b", "x", 7),
    ("c", "007", 2),
]
EXPECTED = [["y", "x"], ["007"], ["x", "y", "z", "x"]]


def write(path: Path, separator: str) -> Path:
    text = "\n".join(separator.join(map(str, row)) for row in [("SessionId", "ItemId", "Time"), *TABLE]) + "\n"
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["s.tsv", "s.tsv.gz", "s.csv", "s.csv.gz", "s.parquet", "s.txt"])
def test_sessions_are_sorted_by_time_and_stand_in_the_order_they_began(tmp_path: Path, name: str) -> None:
    if name.endswith("parquet"):
        pd.DataFrame(TABLE, columns=["SessionId", "ItemId", "Time"]).to_parquet(tmp_path / name)
    else:
        write(tmp_path / name, "," if "csv" in name else "\t")
    catalog = Catalog(20)
    assert named(read_sessions(tmp_path / name, catalog), catalog) == EXPECTED


def test_columns_by_other_names_without_an_order_and_with_periods(tmp_path: Path) -> None:
    table = pd.DataFrame({"u": [1, 2, 1, 2], "i": [30, 31, 32, 30], "week": [0, 0, 0, 1]})
    table.to_csv(tmp_path / "s.csv", index=False)
    catalog = Catalog(20)
    catalog.rows(["31"])
    made = read_sessions(tmp_path / "s.csv", catalog, session="u", item="i", order=None, period="week")
    assert named(made, catalog) == [["30", "32"], ["31", "30"]]
    assert catalog.ids == ["", "31", "30", "32"]
    assert made.period is not None
    assert made.period.tolist() == [0, 1]


def test_times_in_words(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("SessionId,ItemId,Time\na,x,2020-01-02T10:00:00Z\na,y,2020-01-02T09:00:00.5Z\n")
    catalog = Catalog(20)
    assert named(read_sessions(tmp_path / "s.csv", catalog), catalog) == [["y", "x"]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SessionId,ItemId\na,x\n", r"s\.csv, column 'Time': expected a column with the order, found"),
        ("SessionId,ItemId,Time\na,x,1\na,,2\n", r"s\.csv, row 2, column 'ItemId': expected an id, got nothing"),
        ("SessionId,ItemId,Time\na,x,1\na,y,soon\n", r"row 2, column 'Time': expected a number or an ISO time, got 's"),
        ("SessionId,ItemId,Time\na,x,1\na,y,\n", r"row 2, column 'Time': expected a number"),
        ("SessionId,ItemId,Time\na,x,1\na,y,2\na,z,3\n", r"more items than catalog.capacity=2: 1 of 3"),
        ("", r"expected a table with the columns"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(BadLog, match=message):
        read_sessions(tmp_path / "s.csv", Catalog(2))


def test_numbers_with_a_point_are_no_ids(tmp_path: Path) -> None:
    pd.DataFrame({"SessionId": [1, 1], "ItemId": [1.0, 2.0], "Time": [1, 2]}).to_parquet(tmp_path / "s.parquet")
    with pytest.raises(BadLog, match=r"column 'ItemId': expected ids, text or whole numbers, got float64"):
        read_sessions(tmp_path / "s.parquet", Catalog(2))


def test_missing_files_are_said(tmp_path: Path) -> None:
    for read in (read_sessions, read_lines):
        with pytest.raises(BadLog, match="there is no such file"):
            read(tmp_path / "none.txt", Catalog(2))


def test_lines_of_two_words(tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text("1 10\n2 NA\n1 12\n  2\t10\n\n")
    catalog = Catalog(20)
    assert named(read_lines(tmp_path / "s.txt", catalog), catalog) == [["10", "12"], ["NA", "10"]]
    (tmp_path / "empty.txt").write_text("")
    assert len(read_lines(tmp_path / "empty.txt", catalog)) == 0


@pytest.mark.parametrize("line", ["3", "3 4 5", "3 4 5 6"])
def test_lines_of_other_lengths_are_said(tmp_path: Path, line: str) -> None:
    (tmp_path / "s.txt").write_text(f"1 10\n2 11\n{line}\n1 12\n")
    with pytest.raises(BadLog, match=r"(row 3: expected two words.*\['3'|expected two words.*line 3)"):
        read_lines(tmp_path / "s.txt", Catalog(20))


def test_a_file_for_each_period(tmp_path: Path) -> None:
    for at, text in enumerate(("1 10\n2 11\n1 12\n", "1 11\n1 10\n")):
        (tmp_path / f"{at}.txt").write_text(text)
    catalog = Catalog(20)
    made = read_periods([tmp_path / "0.txt", tmp_path / "1.txt"], catalog)
    assert named(made, catalog) == [["10", "12"], ["11"], ["11", "10"]]
    assert made.period is not None
    assert made.period.tolist() == [0, 0, 1]
