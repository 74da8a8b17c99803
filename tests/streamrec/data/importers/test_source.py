from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from streamrec.data.formats import BadLog
from streamrec.data.importers.source import Source


def test_files_are_found_in_any_folder_and_case(tmp_path: Path) -> None:
    for name in ("deep/er/Events.CSV", "events.csv.gz", ".hidden/events.csv", "other.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    with Source(tmp_path) as source:
        assert source.find("events.csv") == ["deep/er/Events.CSV", "events.csv.gz"]
        with pytest.raises(BadLog, match=r"one file events\.csv"):
            source.one("events.csv")
        assert source.one("other.*") == "other.csv"


def test_one_file_is_a_source(tmp_path: Path) -> None:
    (tmp_path / "u.data").write_bytes(b"1\t2\n")
    with Source(tmp_path / "u.data") as source:
        assert source.find("u.data") == ["u.data"]
        assert source.where("u.data") == tmp_path / "u.data"
        with source.open("u.data") as file:
            assert file.read() == b"1\t2\n"


@pytest.mark.parametrize(
    ("name", "words"),
    [("x.7z", "unpack it first"), ("x.tar.gz", "download it again"), ("x.zip", "expected events.csv")],
)
def test_archives_that_cannot_be_read(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / name).write_bytes(b"this is no archive")
    with pytest.raises(BadLog, match=words), Source(tmp_path / name) as source:
        source.one("events.csv")


def test_a_damaged_member_is_refused_when_it_is_read(tmp_path: Path) -> None:
    from streamrec.data.importers.ledger import Ledger
    from streamrec.data.importers.text import Layout, batches

    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.csv", "a,b\n" + "1,2\n" * 1000)
    content = bytearray(path.read_bytes())
    content[2000] ^= 1
    path.write_bytes(bytes(content))
    with Source(path) as source, pytest.raises(BadLog, match="download it again"):
        list(batches(source, "a.csv", Layout(("a", "b")), Ledger()))
