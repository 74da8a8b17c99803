"""What every importer must do, tried on a tiny data set in the publisher's layout. New ones are found by themselves."""

from __future__ import annotations

import gzip
import json
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from streamrec.data.events import read, validate
from streamrec.data.formats import BadLog
from streamrec.data.importers.ledger import Ledger
from streamrec.data.importers.run import ABOUT, import_data
from streamrec.data.importers.shelf import data_sets, named
from streamrec.data.importers.source import Source
from streamrec.data.rules import COLUMNS
from tests.streamrec.data.importers.originals import ORIGINALS, Original

SETS = sorted(data_sets())


@pytest.fixture(params=SETS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def original(name: str) -> Original:
    return ORIGINALS[name]


@pytest.fixture
def source(original: Original, tmp_path: Path) -> Path:
    return original.write(tmp_path / "original")


def log_of(out: Path) -> pd.DataFrame:
    return pd.concat(read(out), ignore_index=True)


def content(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def test_every_data_set_has_a_tiny_original() -> None:
    assert set(SETS) == set(ORIGINALS)


def test_the_log_is_valid_and_sorted_by_time(name: str, source: Path, tmp_path: Path) -> None:
    import_data(named(name)(), source, tmp_path / "out")
    assert validate(tmp_path / "out")["faults"] == {}
    frame = log_of(tmp_path / "out")
    assert tuple(frame.columns) == COLUMNS
    assert (np.diff(frame["time"]) >= 0).all()


def test_events_are_those_of_the_original(name: str, original: Original, source: Path, tmp_path: Path) -> None:
    import_data(named(name)(), source, tmp_path / "out")
    frame = log_of(tmp_path / "out")
    assert {kind: int(n) for kind, n in frame["kind"].value_counts().items() if n} == original.kinds
    first = frame.iloc[0]
    assert {column: first[column] for column in original.first} == original.first
    for table, lines in original.table.items():
        assert (tmp_path / "out" / table).read_text().startswith(lines)


def test_no_row_disappears_without_a_cause(name: str, original: Original, source: Path, tmp_path: Path) -> None:
    about = import_data(named(name)(), source, tmp_path / "out")
    assert about["rows_dropped"] == original.dropped
    for page in about["files"].values():
        assert page["rows_read"] == page["rows_kept"] + sum(page["rows_dropped"].values())
        assert page["columns"]


def test_every_line_of_the_log_is_counted(name: str, original: Original, source: Path, tmp_path: Path) -> None:
    about = import_data(named(name)(), source, tmp_path / "out")
    if name == "coat":
        pytest.skip("its rows are the cells of a matrix that are not 0, counted in test_coat")
    text = original.files[original.log]
    assert isinstance(text, str)
    header = "\n" in text and not text[0].isdigit()
    assert about["files"][original.log]["rows_read"] == len(text.splitlines()) - header


def test_manifest_says_what_is_in_the_log(name: str, original: Original, source: Path, tmp_path: Path) -> None:
    about = import_data(named(name)(), source, tmp_path / "out")
    assert json.loads((tmp_path / "out" / ABOUT).read_text()) == about
    frame = log_of(tmp_path / "out")
    assert about["data_set"] == name
    assert (about["users"], about["items"]) == (original.users, original.items)
    assert (frame["user"].nunique(), frame["item"].nunique()) == (original.users, original.items)
    assert about["sessions"] == frame.loc[frame["session"] != "", "session"].nunique()
    assert about["slates"] == frame.loc[frame["slate"] != "", "slate"].nunique()
    assert about["propensities"] == frame["propensity"].notna().sum()
    assert about["events"] == len(frame) == sum(about["kinds"].values())
    assert (about["time"]["first"], about["time"]["last"]) == (frame["time"].min(), frame["time"].max())
    assert {"user", "item", "kind", "time"} <= set(about["mapping"])
    assert all(about[key] for key in ("title", "homepage", "licence", "from"))


def test_tables_name_each_key_once_and_are_counted(name: str, source: Path, tmp_path: Path) -> None:
    about = import_data(named(name)(), source, tmp_path / "out")
    there = {path.name for path in (tmp_path / "out").glob("*.csv")}
    assert there == set(about["tables"])
    for table, rows in about["tables"].items():
        frame = pd.read_csv(tmp_path / "out" / table, dtype=str, keep_default_na=False)
        assert len(frame) == rows
        key = frame.columns[0]
        assert key == table.removesuffix("s.csv")
        assert frame[key].is_unique
        assert key != "item" or frame.columns[1] == "category"


def test_the_same_files_give_the_same_bytes_whatever_the_memory(name: str, source: Path, tmp_path: Path) -> None:
    import_data(named(name)(), source, tmp_path / "one")
    import_data(named(name)(), source, tmp_path / "two")
    import_data(named(name)(), source, tmp_path / "little", rows=1)
    assert content(tmp_path / "one") == content(tmp_path / "two") == content(tmp_path / "little")


def test_packed_files_give_the_same_log(name: str, original: Original, source: Path, tmp_path: Path) -> None:
    wanted = import_data(named(name)(), source, tmp_path / "plain")
    for path in _packed(original, source, tmp_path):
        about = import_data(named(name)(), path, tmp_path / f"out-{path.name}")
        assert about["rows_dropped"] == wanted["rows_dropped"]
        assert log_of(tmp_path / f"out-{path.name}").equals(log_of(tmp_path / "plain"))


def _packed(original: Original, source: Path, tmp_path: Path) -> Iterator[Path]:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for file in original.files:
            archive.write(source / file, f"top/{file}")
        archive.writestr(f"__MACOSX/top/{original.log}", b"what other systems add")
    yield tmp_path / "all.zip"
    with tarfile.open(tmp_path / "all.tar.gz", "w:gz") as tar:
        tar.add(source, "top")
    yield tmp_path / "all.tar.gz"
    for file in original.files:
        packed = tmp_path / "packed" / f"{file}.gz"
        packed.parent.mkdir(parents=True, exist_ok=True)
        packed.write_bytes(gzip.compress((source / file).read_bytes()))
    yield tmp_path / "packed"


def _refused(name: str, path: Path, out: Path) -> str:
    with pytest.raises(BadLog) as refused:
        import_data(named(name)(), path, out)
    assert not out.exists(), "something was left"
    assert not out.with_name(f"{out.name}.partial").exists(), "something half-written was left"
    return str(refused.value)


def test_a_wrong_path_is_refused(name: str, tmp_path: Path) -> None:
    assert "check the path" in _refused(name, tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "holiday.jpg").write_bytes(b"")
    message = _refused(name, tmp_path / "other", tmp_path / "out")
    assert "expected" in message
    assert "holiday.jpg" in message


@pytest.mark.parametrize("text", ["apples and pears\n1 and 2\n", "", "\n\n"])
def test_another_layout_is_refused(name: str, original: Original, source: Path, tmp_path: Path, text: str) -> None:
    (source / original.log).write_text(text)
    message = _refused(name, source, tmp_path / "out")
    assert "expected" in message
    assert "got" in message
    assert Path(original.log).name in message


def test_a_column_that_is_missing_is_named(name: str, original: Original, source: Path, tmp_path: Path) -> None:
    header, *rows = str(original.files[original.log]).splitlines()
    if header[0].isdigit():
        pytest.skip("the layout has no header")
    column = "user_id" if "user_id" in header else "timestamp" if "timestamp" in header else "itemId"
    (source / original.log).write_text("\n".join([header.replace(column, "somebody", 1), *rows]))
    assert f"no {column!r}" in _refused(name, source, tmp_path / "out")


def test_rows_that_are_all_bad_are_refused_with_their_causes(
    name: str, original: Original, source: Path, tmp_path: Path
) -> None:
    if name == "coat":
        pytest.skip("a matrix is refused as a whole, see test_coat")
    for file in original.files:
        text = (source / file).read_bytes().replace(b"\r", b"").decode("latin-1")
        header, _, _ = text.partition("\n")
        if "log" in file or file == original.log or "clicks" in file or "buys" in file or "purchases" in file:
            (source / file).write_text((header + "\n" if not header[0].isdigit() else "") + _blank(header) + "\n")
    message = _refused(name, source, tmp_path / "out")
    assert "at least one row" in message
    assert "no id" in message or "no whole number" in message or "no time" in message


def _blank(header: str) -> str:
    """A row with the fields of the layout and nothing in them."""
    gap = next((gap for gap in ("::", "\t", ";") if gap in header), ",")
    return gap.join("?" for _ in header.split(gap))


def test_a_torn_file_is_refused(name: str, original: Original, source: Path, tmp_path: Path) -> None:
    whole = gzip.compress((source / original.log).read_bytes() * 400)
    (source / original.log).unlink()
    (source / f"{original.log}.gz").write_bytes(whole[: len(whole) // 2])
    assert "download it again" in _refused(name, source, tmp_path / "out")


def test_what_is_there_is_not_overwritten(name: str, source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(BadLog, match="does not exist yet"):
        import_data(named(name)(), source, tmp_path / "out")
    assert content(tmp_path / "out") == {"mine": b"mine"}
    (tmp_path / "other.partial").mkdir()
    with pytest.raises(BadLog, match="import under way"):
        import_data(named(name)(), source, tmp_path / "other")


def test_nothing_is_left_when_it_fails_late(
    name: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> Iterator[Any]:
        raise KeyboardInterrupt

    data_set = named(name)()
    monkeypatch.setattr(type(data_set), "items", stop)
    with pytest.raises(KeyboardInterrupt):
        import_data(data_set, source, tmp_path / "out", rows=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["original"]


def test_an_instance_can_be_used_again(name: str, source: Path, tmp_path: Path) -> None:
    data_set = named(name)()
    import_data(data_set, source, tmp_path / "one")
    import_data(data_set, source, tmp_path / "two")
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_impressions_of_a_slate_share_time_user_and_place(name: str, source: Path, tmp_path: Path) -> None:
    with Source(source) as files:
        tables = [table for table in named(name)().events(files, Ledger()) if "slate" in table.schema.names]
    for table in tables:
        shown = table.to_pandas().query("kind == 'impression' and slate.notna()")
        assert (shown.groupby("slate")[["time", "user"]].nunique() == 1).all(axis=None)
