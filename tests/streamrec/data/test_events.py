from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamrec.data import events
from streamrec.data.events import COLUMNS, BadLog, EventWriter, read, validate, write
from streamrec.records import Kind

SUFFIXES = ["parquet", "csv", "csv.gz", "jsonl", "jsonl.gz"]
PLAIN = {"user": "u", "item": "i", "kind": "click", "time": 1.0}

Rows = list[dict[str, Any]]


def save(path: Path, rows: Rows) -> Path:
    """`rows` as they are, without our writer, so that bad ones can be written."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist([{name: row.get(name) for name in names} for row in rows]), path)
        return path
    if ".csv" in path.name:
        lines = [",".join(names), *(",".join(str(row.get(name, "")) for name in names) for row in rows)]
    else:
        lines = [json.dumps(row) for row in rows]
    text = "".join(line + "\n" for line in lines).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def whole(path: Path, **options: Any) -> pd.DataFrame:
    return pd.concat(list(read(path, **options)), ignore_index=True)


def slate(name: str, size: int, user: str = "u", time: float = 1.0) -> Rows:
    return [
        {"user": user, "item": f"i{slot}", "kind": "impression", "time": time, "slate": name, "slot": slot}
        | {"propensity": 0.5}
        for slot in range(size)
    ]


# --- what is read ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_reads_all_columns_with_defaults(tmp_path: Path, suffix: str) -> None:
    rows = [*slate("s", 2), {**PLAIN, "session": "v", "value": 2.5}, {**PLAIN, "kind": "leave", "item": ""}]
    frame = whole(save(tmp_path / f"log.{suffix}", rows))
    assert tuple(frame.columns) == COLUMNS
    assert frame["kind"].tolist() == ["impression", "impression", "click", "leave"]
    assert frame["kind"].cat.codes.tolist() == [Kind.IMPRESSION, Kind.IMPRESSION, Kind.CLICK, Kind.LEAVE]
    assert frame["item"].tolist() == ["i0", "i1", "i", ""]
    assert frame["session"].tolist() == ["", "", "v", ""]
    assert frame["value"].tolist() == [1.0, 1.0, 2.5, 1.0]
    assert frame["slate"].tolist() == ["s", "s", "", ""]
    assert frame["slot"].tolist() == [0, 1, -1, -1]
    np.testing.assert_array_equal(frame["propensity"], [0.5, 0.5, np.nan, np.nan])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_mapping_reads_originals_as_they_are(tmp_path: Path, suffix: str) -> None:
    rows = [{"SessionId": 7, "ItemId": 3, "Period": 2, "Time": 10, "ms": 1506826800026}]
    path = save(tmp_path / f"log.{suffix}", rows)
    columns = {"user": "SessionId", "item": "ItemId", "kind": "'click'", "session": "SessionId"}
    frame = whole(path, columns={**columns, "time": "Period*604800 + Time*0.5"})
    assert frame.loc[0, ["user", "item", "session"]].tolist() == ["7", "3", "7"]
    assert frame["kind"].tolist() == ["click"]
    assert frame["time"].tolist() == [2 * 604800 + 5.0]
    frame = whole(path, columns={**columns, "time": "ms/1000"})
    assert frame["time"].tolist() == [1506826800.026]


def test_parquet_timestamps_are_seconds(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    pd.DataFrame([{**PLAIN, "time": pd.Timestamp("2020-01-01T00:00:00.5Z")}]).to_parquet(path)
    assert whole(path)["time"].tolist() == [1577836800.5]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_words_and_times_of_a_shop_are_read_as_they_are(tmp_path: Path, suffix: str) -> None:
    rows = [
        {"customer": "c1", "sku": "s1", "action": "view", "when": "2026-11-20T08:00:19.5"},
        {"customer": "c1", "sku": "s2", "action": "buy", "when": "2026-11-20 09:00:19+01:00"},
        {"customer": "c2", "sku": "s1", "action": "click", "when": "2026-11-21"},
    ]
    columns = {"user": "customer", "item": "sku", "kind": "action[view: click, buy:purchase]", "time": "when"}
    frame = whole(save(tmp_path / f"log.{suffix}", rows), columns=columns)
    assert frame["kind"].tolist() == ["click", "purchase", "click"]
    assert frame["time"].tolist() == [1795161619.5, 1795161619.0, 1795219200.0]


@pytest.mark.parametrize("words", ["action[]", "action[view]", "action[view:click:x]", "actio[view:click]"])
def test_words_that_cannot_be_read_are_refused_before_reading(tmp_path: Path, words: str) -> None:
    path = save(tmp_path / "log.csv", [{**PLAIN, "action": "view"}])
    with pytest.raises(BadLog, match=r"action"):
        read(path, columns={"kind": words})


def test_csv_quotes_line_ends_blank_lines_and_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes('\ufeffuser,item,kind,time\n"a,\nb",i,click,1\n\nc,"say ""x""",click,2\n'.encode())
    frame = whole(path)
    assert frame["user"].tolist() == ["a,\nb", "c"]
    assert frame["item"].tolist() == ["i", 'say "x"']


def test_jsonl_mixes_numbers_and_text_and_absent_keys(tmp_path: Path) -> None:
    rows = [PLAIN, {**PLAIN, "user": 2**70, "time": "2.5"}, {**PLAIN, "user": 5, "value": None}]
    frame = whole(save(tmp_path / "log.jsonl", rows))
    assert frame["user"].tolist() == ["u", str(2**70), "5"]
    assert frame["time"].tolist() == [1.0, 2.5, 1.0]


def test_jsonl_optional_key_may_first_come_late(tmp_path: Path) -> None:
    frame = whole(save(tmp_path / "log.jsonl", [PLAIN] * 1500 + [{**PLAIN, "session": "late"}]))
    assert frame["session"].iloc[-1] == "late"


def test_folder_of_parts_is_one_log(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / f"part-{number:05d}.parquet", [pd.DataFrame([{**PLAIN, "time": float(number)}] * 4)])
    for start in range(13):
        expected = [0.0] * 4 + [1.0] * 4 + [2.0] * 4
        assert [t for f in read(tmp_path, start=start, chunk=3) for t in f["time"]] == expected[start:]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_start_and_chunk_do_not_change_the_rows(tmp_path: Path, suffix: str) -> None:
    rows = [{**PLAIN, "time": float(i)} for i in range(23)]
    path = tmp_path / f"log.{suffix}"
    with EventWriter(path, group=5) as writer:
        for begin in range(0, 23, 4):
            writer.append(pd.DataFrame(rows[begin : begin + 4]))
    for start in (0, 1, 4, 5, 9, 10, 22, 23):
        for chunk in (1, 4, 100):
            frames = list(read(path, chunk=chunk, start=start))
            assert [t for frame in frames for t in frame["time"]] == [float(i) for i in range(start, 23)]
            assert all(0 < len(frame) <= chunk for frame in frames)


def test_late_start_reads_no_earlier_row_group(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    with EventWriter(path, group=10) as writer:
        for i in range(10):
            writer.append(pd.DataFrame([{**PLAIN, "time": float(i)}] * 10))
    data = bytearray(path.read_bytes())
    first = pq.ParquetFile(path).metadata.row_group(0)
    begin, size = first.column(0).dictionary_page_offset, first.column(0).total_compressed_size
    data[begin : begin + size] = bytes(size)
    path.write_bytes(data)
    assert whole(path, start=10)["time"].iloc[0] == 1.0
    with pytest.raises(BadLog, match=r"log\.parquet: expected a readable \.parquet file"):
        whole(path)


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_a_slate_is_never_split_between_frames(tmp_path: Path, suffix: str) -> None:
    rows = [row for n in range(6) for row in [*slate(f"s{n}", 3), {**PLAIN, "slate": f"s{n}", "slot": 1}]]
    path = save(tmp_path / f"log.{suffix}", rows)
    for chunk in range(1, 9):
        frames = list(read(path, chunk=chunk))
        assert sum(map(len, frames)) == len(rows)
        for frame in frames:
            shown = frame[frame["kind"] == "impression"]
            assert (shown.groupby("slate").size() == 3).all()


def test_reading_is_bounded_by_the_chunk(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user,item,kind,time\n" + "u,i,click,1\n" * 100 + "u,i,click,soon\n")
    frames = read(path, chunk=10)
    assert [len(next(frames)) for _ in range(10)] == [10] * 10  # the bad row is not looked at before its turn
    with pytest.raises(BadLog, match=r"row 101 \(line 102\)"):
        next(frames)


# --- what is refused -------------------------------------------------------------------------------------------

LONG = "x" * 129
TOO_LONG = "expected an id of at most 128 characters, got one of 129; shorten or hash the ids"
NO_SLOT = "expected a whole number from 0 to 999, got {}; number the slots from 0"
BAD_ROWS: dict[str, tuple[dict[str, Any], str, str]] = {
    "unknown kind": (
        {"kind": "clik"},
        "kind",
        "expected one of request, impression, click, skip, purchase, rating, leave, return, got 'clik'; did you mean "
        "'click'? to read words of yours: columns={\"kind\": \"action[view:click, buy:purchase]\"}, or \"'click'\"",
    ),
    "text as time": (
        {"time": "soon"},
        "time",
        "expected a finite number of seconds since the epoch, or a time as in 2026-11-20T08:00:19, got 'soon'; fix it, "
        "or map it, as in "
        'columns={"time": "ms/1000"}',
    ),
    "no time": (
        {"time": ""},
        "time",
        "expected a finite number of seconds since the epoch, or a time as in 2026-11-20T08:00:19, got nothing; fix "
        "it, or map it, as in "
        'columns={"time": "ms/1000"}',
    ),
    "infinite time": (
        {"time": "inf"},
        "time",
        "expected a finite number of seconds since the epoch, or a time as in 2026-11-20T08:00:19, got 'inf'; fix it, "
        "or map it, as in "
        'columns={"time": "ms/1000"}',
    ),
    "no user": (
        {"user": ""},
        "user",
        "expected an id of 1 to 128 characters, got nothing; leave the row out, or map another column",
    ),
    "no item": (
        {"item": ""},
        "item",
        "expected an id of 1 to 128 characters, got nothing; leave the row out, or map another column",
    ),
    "long user": ({"user": LONG}, "user", TOO_LONG),
    "long item": ({"item": LONG}, "item", TOO_LONG),
    "bad value": ({"value": "much"}, "value", "expected a finite number, got 'much'; fix it or leave it empty"),
    "negative slot": ({"slot": "-1"}, "slot", NO_SLOT.format("'-1'")),
    "half a slot": ({"slot": "1.5"}, "slot", NO_SLOT.format("'1.5'")),
    "impression without slot": (
        {"kind": "impression", "slate": "s"},
        "slot",
        "expected the slot of an impression that has a slate, got nothing; number the slots from 0",
    ),
    "propensity of 0": (
        {"propensity": "0"},
        "propensity",
        "expected a probability in (0, 1], got '0'; fix it, or leave it empty if unknown",
    ),
    "propensity above 1": (
        {"propensity": "1.01"},
        "propensity",
        "expected a probability in (0, 1], got '1.01'; fix it, or leave it empty if unknown",
    ),
}  # fmt: skip


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_row_is_named(tmp_path: Path, suffix: str, case: str) -> None:
    change, column, problem = BAD_ROWS[case]
    blank = {"value": "", "slate": "", "slot": "", "propensity": ""}
    good = {"user": "u", "item": "i", "kind": "click", "time": "1", **blank}
    path = save(tmp_path / f"log.{suffix}", [good, good, {**good, **change}, good])
    line = {"csv": " (line 4)", "jsonl": " (line 3)", "parquet": ""}[suffix]
    with pytest.raises(BadLog) as caught:
        whole(path)
    assert str(caught.value) == f"{path}, row 3{line}, column {column!r}: {problem}"
    assert (caught.value.row, caught.value.column) == (3, column)
    assert whole(path, chunk=1, start=3)["user"].tolist() == ["u"]


BAD_SLATES: dict[str, tuple[Callable[[Rows], Rows], int, str, str]] = {
    "slot twice": (
        lambda rows: [*rows[:2], {**rows[2], "slot": 1}],
        3,
        "slot",
        "expected each slot of a slate once, got 1 twice in slate 's'; give each decision its own slate id",
    ),
    "item twice": (
        lambda rows: [*rows[:2], {**rows[2], "item": "i0"}],
        3,
        "item",
        "expected each item of a slate once, got 'i0' twice in slate 's'; give each decision its own slate id",
    ),
    "two users": (
        lambda rows: [*rows[:2], {**rows[2], "user": "secret"}],
        3,
        "user",
        "expected one user for all impressions of a slate, got another user in slate 's'; give each decision its own "
        "slate id",
    ),
    "scattered": (
        lambda rows: [*rows[:2], {**PLAIN, "slate": "s", "slot": 0, "propensity": 0.1}, rows[2]],
        4,
        "slate",
        "expected the impressions of a slate next to each other, got more of slate 's'; sort the log by time, then "
        "slate, then slot",
    ),
}


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
@pytest.mark.parametrize("case", BAD_SLATES)
def test_bad_slate_is_named(tmp_path: Path, suffix: str, case: str) -> None:
    spoil, row, column, problem = BAD_SLATES[case]
    path = save(tmp_path / f"log.{suffix}", spoil(slate("s", 3)))
    line = {"csv": f" (line {row + 1})", "jsonl": f" (line {row})", "parquet": ""}[suffix]
    with pytest.raises(BadLog) as caught:
        whole(path)
    assert str(caught.value) == f"{path}, row {row}{line}, column {column!r}: {problem}"


def test_a_slot_twice_is_found_across_chunks(tmp_path: Path) -> None:
    rows = slate("s", 4)
    path = save(tmp_path / "log.parquet", [*rows[:3], {**rows[3], "slot": 0}])
    with pytest.raises(BadLog, match="row 4, column 'slot'"):
        whole(path, chunk=2)


def test_a_slate_without_end_is_refused(tmp_path: Path) -> None:
    row = {**PLAIN, "kind": "impression", "slate": "s", "slot": 0}
    path = save(tmp_path / "log.parquet", [{**row, "item": str(i)} for i in range(3000)])
    with pytest.raises(BadLog, match="slates of at most 1000 impressions"):
        whole(path, chunk=100)


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_missing_column(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"log.{suffix}", [{"user_id": "u", "item": "i", "kind": "click", "time": 1}])
    with pytest.raises(BadLog) as caught:
        read(path)
    assert str(caught.value) == (
        f"{path}, column 'user': expected column 'user', the file has 'user_id', 'item', 'kind', 'time'; did you mean "
        '\'user_id\'?; map it, as in columns={"user": "user_id"} or --column "user=user_id"'
    )


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"user": "usr"}, ", column 'user': the mapping 'usr' names column 'usr', the file has 'user', 'item', 'kind', "
         "'time'; did you mean 'user'?"),
        ({"usr": "user"}, ": expected a mapping of user, item, kind, time, session, value, slate, slot, propensity, "
         "got one of 'usr'; did you mean 'user'?"),
        ({"time": "time/0"}, ", column 'time': expected a column, column[its word:ours, ...], 'text' in quotes, "
            "column*number, column/number, or "
         "a sum of such terms, got the mapping 'time/0'"),
        ({"user": "time*2"}, ", column 'user': expected one column or 'text' in quotes, since it is no number, got "
         "'time*2'; name the column alone"),
    ],
)  # fmt: skip
def test_bad_mapping(tmp_path: Path, suffix: str, columns: dict[str, str], problem: str) -> None:
    path = save(tmp_path / f"log.{suffix}", [PLAIN])
    with pytest.raises(BadLog) as caught:
        read(path, columns)
    assert str(caught.value) == f"{path}{problem}"


def test_bad_row_of_a_sum_shows_its_parts(tmp_path: Path) -> None:
    path = save(tmp_path / "log.jsonl", [{**PLAIN, "day": 3, "second": None}])
    with pytest.raises(BadLog, match="got day = 3, second = nothing; fix it"):
        whole(path, columns={"time": "day*86400 + second"})


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("log.txt", b"", ": expected a name that ends in .parquet, .csv, .csv.gz, .jsonl or .jsonl.gz, got 'log.txt'; "
         "rename or convert the file"),
        ("log.parquet", b"no parquet here", ": expected a readable .parquet file, got: "),
        ("log.csv", b"", " (line 1): expected a header line"),
        ("log.csv", b"user,item,kind,time,user\n", ", column 'user': expected each column once, got 'user' twice"),
        ("log.csv", b"user,item,kind,time\nu,i,click,1\nu,i,click,1,5\n", ", row 2 (line 3): expected 4 fields as in "
         "the header, got 5"),
        ("log.csv", b'user,item,kind,time\n"u\nv",i,click,1\n\nu,i,click\n', ", row 2 (line 5): expected 4 fields"),
        ("log.csv", b"user,item,kind,time\n\xff,i,click,1\n", ": expected a readable .csv file, got: 'utf-8' codec"),
        ("log.csv.gz", b"user,item,kind,time\n", ": expected a readable .csv file, got: Not a gzipped file"),
        ("log.jsonl", b'{"user":"u"}\n\n{"user":\n', ", row 2 (line 3): expected one JSON object on the line, got: "),
        ("log.jsonl", b"[1]\n", ", row 1 (line 1): expected one JSON object on the line, got: a list"),
        ("log.jsonl", b'{"user":["u"],"item":"i","kind":"click","time":1}\n', ", row 1 (line 1), column 'user': "
         "expected text or a number, got a list"),
        ("log.jsonl", b'{"user":"' + b"u" * (1 << 20), " (line 1): expected lines of at most 1048576 characters"),
    ],
)  # fmt: skip
def test_bad_file(tmp_path: Path, name: str, content: bytes, problem: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BadLog) as caught:
        whole(path)
    place = str(caught.value).removeprefix(str(path))
    assert problem.startswith(" (line") or place.startswith(problem)
    assert problem.removeprefix(" (line 1): ") in place


def test_truncated_gzip(tmp_path: Path) -> None:
    path = save(tmp_path / "log.csv.gz", [{**PLAIN, "user": f"{i * 2654435761:x}"} for i in range(5000)])
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(BadLog, match=r"readable \.csv file, got: Compressed file ended"):
        whole(path)


def test_missing_file_and_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(BadLog, match="expected a log file here, found none"):
        read(tmp_path / "log.csv")
    with pytest.raises(BadLog, match=r"expected files part-\*.parquet in this folder, found none"):
        read(tmp_path)


def test_nested_parquet_column(tmp_path: Path) -> None:
    path = save(tmp_path / "log.parquet", [{**PLAIN, "item": ["a", "b"]}])
    with pytest.raises(BadLog, match="column 'item': expected one value a row, got the type list"):
        whole(path)


def test_validate_counts_by_reason(tmp_path: Path) -> None:
    bad = [
        {**PLAIN, "kind": "x"},
        {**PLAIN, "kind": "y"},
        {**PLAIN, "time": "soon"},
        PLAIN,
        *slate("s", 2),
        *slate("s", 1),
    ]
    report = validate(save(tmp_path / "log.csv", bad))
    assert report["rows"] == 7
    assert report["faults"] == {"unknown_kind": 2, "bad_time": 1, "duplicate_slot": 1, "duplicate_item": 1}
    assert len(report["examples"]) == 4
    assert "row 1 (line 2), column 'kind'" in report["examples"][0]
    assert len(validate(tmp_path / "log.csv", limit=1)["examples"]) == 1
    assert validate(save(tmp_path / "good.csv", [PLAIN])) == {"rows": 1, "faults": {}, "examples": []}


# --- writing ---------------------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=8)
finite = st.floats(allow_nan=False, allow_infinity=False)
organic = st.fixed_dictionaries(
    {
        "user": texts,
        "item": texts,
        "kind": st.sampled_from(["click", "skip", "purchase", "rating", "leave", "request"]),
        "time": finite,
        "session": texts | st.just(""),
        "value": finite,
        "slate": texts | st.just(""),
        "slot": st.integers(-1, 999),
        "propensity": st.floats(0, 1, exclude_min=True) | st.just(float("nan")),
    }
)


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(max_examples=20, deadline=None)
@given(rows=st.lists(organic, min_size=1, max_size=12))
def test_what_is_written_is_read_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, rows: Rows
) -> None:
    path = tmp_path_factory.mktemp("log") / f"log.{suffix}"
    frame = pd.DataFrame(rows)
    assert write(path, [frame[:5], frame[5:]]) == len(rows)
    back = whole(path, chunk=4)
    for name in COLUMNS:
        kind = np.float64 if name in ("time", "value", "slot", "propensity") else object
        np.testing.assert_array_equal(back[name].to_numpy(kind), frame[name].to_numpy(kind))


def test_the_file_appears_only_when_whole(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    with EventWriter(path) as writer:
        writer.append(pd.DataFrame([PLAIN]))
        assert not path.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["log.parquet"]
    with pytest.raises(BadLog), EventWriter(tmp_path / "other.csv") as writer:
        writer.append(pd.DataFrame([PLAIN, {**PLAIN, "kind": "x"}]))
    assert [p.name for p in tmp_path.iterdir()] == ["log.parquet"]


def test_small_appends_share_row_groups(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    with EventWriter(path, group=100) as writer:
        for _ in range(250):
            writer.append(pd.DataFrame([PLAIN]))
    assert pq.ParquetFile(path).metadata.num_row_groups == 3


def test_writer_checks_rows(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path / "log.csv")
    writer.append(pd.DataFrame([PLAIN] * 4))
    with pytest.raises(BadLog, match=r"row 6, column 'propensity': expected a probability in \(0, 1\], got 2.0"):
        writer.append(pd.DataFrame([{**PLAIN, "propensity": 1.0}, {**PLAIN, "propensity": 2.0}]))
    with pytest.raises(BadLog, match="column 'time': expected column 'time', the file has 'user', 'item', 'kind'"):
        writer.append(pd.DataFrame([PLAIN])[["user", "item", "kind"]])
    writer.close()
    assert len(whole(tmp_path / "log.csv")) == 4
    with pytest.raises(ValueError, match="closed: make a new EventWriter"):
        writer.append(pd.DataFrame([PLAIN]))


def test_writer_refuses_other_formats(tmp_path: Path) -> None:
    with pytest.raises(BadLog, match=r"expected a name that ends in \.parquet"):
        EventWriter(tmp_path / "log.xlsx")


def test_packed_files_of_the_same_rows_are_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / f"{name}.csv.gz", [pd.DataFrame([PLAIN])])
    assert (tmp_path / "a.csv.gz").read_bytes() == (tmp_path / "b.csv.gz").read_bytes()


def test_kind_names_are_numbered_as_kinds() -> None:
    assert [Kind[name.upper()] for name in events.KINDS] == list(range(len(Kind)))
