from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from streamrec.data.importers.fields import Fields
from streamrec.data.importers.ledger import Page


def fields(**columns: list[str | bytes | None]) -> tuple[Fields, Page]:
    raw = {
        name: pa.array([value.encode() if isinstance(value, str) else value for value in values], pa.binary())
        for name, values in columns.items()
    }
    page = Page(list(columns))
    batch = pa.RecordBatch.from_pydict(raw)
    page.parse(batch.num_rows)
    return Fields(batch, page), page


def test_a_row_is_dropped_once_for_the_first_thing_wrong() -> None:
    rows, page = fields(id=["1", "x", "", "4"], n=["1", "y", "2", "-3"])
    rows.ids("id")
    rows.whole("n", low=0)
    assert page.dropped == {"id: no id": 2, "n: below 0": 1}
    assert rows.good.tolist() == [True, False, False, False]
    assert page.kept == 1


@pytest.mark.parametrize("word", ["1.5", "1e3", " 1", "", "١", "9" * 19, "0x1", "1_000", "nan", "--1"])
def test_no_whole_numbers(word: str) -> None:
    rows, page = fields(n=[word, "-7"])
    assert rows.whole("n")[1] == -7
    assert page.dropped == {"n: no whole number": 1}


@pytest.mark.parametrize("word", ["nan", "inf", "1,5", "", ".", "e5", "1e", "- 1"])
def test_no_numbers(word: str) -> None:
    rows, page = fields(n=[word, "-7.25e-1"])
    assert rows.decimal("n")[1] == -0.725
    assert page.dropped == {"n: no number": 1}


def test_numbers_beyond_all_bounds_are_not_finite() -> None:
    rows, page = fields(n=["1e999", "1"])
    rows.decimal("n")
    assert page.dropped == {"n: no finite number": 1}


def test_moments_keep_their_milliseconds_and_zones() -> None:
    rows, page = fields(t=["2014-04-07T10:51:09.277Z", "2014-04-07T12:51:09.277+02:00", "2014-02-30T00:00:00Z", "\xff"])
    found = rows.moments("t", "ISO8601")
    assert found[:2].tolist() == [1396867869.277, 1396867869.277]
    assert np.isfinite(found).all()
    assert page.dropped == {"t: no time": 2}


def test_moments_of_the_afternoon() -> None:
    rows, _ = fields(t=["11/15/2019 12:00:00 AM", "11/15/2019 12:30:00 PM"])
    found = rows.moments("t", "%m/%d/%Y %I:%M:%S %p")
    assert (found - 1573776000).tolist() == [0, 45_000]


def test_optional_ids_and_words() -> None:
    rows, page = fields(id=["1", "NA"], word=["view", "look"])
    assert rows.optional_ids("id", prefix="u").to_pylist() == ["u1", None]
    assert page.dropped == {}
    assert rows.one_of("word", {"view": "click"}).to_pylist() == ["click", None]
    assert page.dropped == {"word: none of view": 1}


def test_text_that_is_no_utf8_is_latin1() -> None:
    rows, _ = fields(t=["ä", b"\xe4", None])
    assert rows.text("t").to_pylist() == ["ä", "ä", None]


def test_rows_are_numbered_through_the_file() -> None:
    page = Page(["a"])
    numbers = []
    for size in (3, 2):
        batch = pa.RecordBatch.from_pydict({"a": pa.array([b"1"] * size)})
        page.parse(size)
        numbers += Fields(batch, page).number.tolist()
    assert numbers == [0, 1, 2, 3, 4]
