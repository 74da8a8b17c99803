from __future__ import annotations

import pyarrow as pa
import pytest

from streamrec.data.importers import attributes
from streamrec.data.importers.attributes import Attributes


@pytest.mark.parametrize("least", [0, 1 << 16])
def test_first_and_latest(least: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attributes, "_LEAST", least)
    first, last = Attributes("item"), Attributes("item", by="at")
    for items, values, times in (
        (["b", "a", "b"], [1, 2, 3], [5, 1, 9]),
        (["a", "b"], [4, 5], [0, 9]),
        (["c"], [6], [0]),
    ):
        table = pa.table({"item": items, "value": values, "at": times})
        first.add(table)
        last.add(table)
    assert next(first.tables())["value"].to_pylist() == [2, 1, 6]
    assert next(last.tables())["value"].to_pylist() == [2, 5, 6], "the later of equals is the last that came"


def test_nothing_known() -> None:
    assert list(Attributes("item").tables()) == []
