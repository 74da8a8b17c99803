"""Static files: known by name, known again by etag, nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.requests import Request

from consumers.http import shelf
from consumers.http.shelf import Shelf


def request(etag: str = "") -> Request:
    headers = [(b"if-none-match", etag.encode())] if etag else []
    return Request({"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": headers})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(shelf, "_LISTED_S", -1.0)
    (tmp_path / "web" / "js").mkdir(parents=True)
    (tmp_path / "web" / "index.html").write_text("<p>hi")
    (tmp_path / "web" / "js" / "a.js").write_text("1")
    (tmp_path / "web" / "secret.py").write_text("x = 1")
    (tmp_path / "outside.js").write_text("no")
    (tmp_path / "web" / "link.js").symlink_to(tmp_path / "outside.js")
    return tmp_path / "web"


def test_files_are_served_with_their_kind_and_known_again(folder: Path) -> None:
    found = Shelf(folder)
    answer = found.answer(request(), "js/a.js")
    assert answer is not None
    assert (answer.body, answer.headers["content-type"]) == (b"1", "text/javascript; charset=utf-8")
    again = found.answer(request(f'"other", W/{answer.headers["etag"]}'), "js/a.js")
    assert again is not None
    assert (again.status_code, again.body) == (304, b"")
    (folder / "js" / "a.js").write_text("22")
    changed = found.answer(request(answer.headers["etag"]), "js/a.js")
    assert changed is not None
    assert changed.body == b"22"


@pytest.mark.parametrize(
    "name", ["secret.py", "../outside.js", "link.js", "js", "js/../index.html", "", "/index.html", "a\0"]
)
def test_nothing_else_is(folder: Path, name: str) -> None:
    assert Shelf(folder).answer(request(), name) is None


def test_a_folder_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert Shelf(tmp_path / "none").answer(request(), "index.html") is None


def test_a_file_that_went_is_gone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Shelf(folder)
    assert found.answer(request(), "js/a.js") is not None
    monkeypatch.setattr(shelf, "_LISTED_S", 60.0)
    (folder / "js" / "a.js").unlink()
    assert found.answer(request(), "js/a.js") is None
