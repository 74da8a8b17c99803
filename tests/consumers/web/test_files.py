"""What can be said of the page without a browser."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from consumers.http.app import create_app
from consumers.http.settings import Settings
from consumers.http.shelf import TYPES
from consumers.http.system import WEB
from consumers.serving.engine import Engine
from tests.consumers.web.conftest import SPEC

FILES = sorted(path for path in WEB.rglob("*") if path.is_file())
SCRIPTS = [path for path in FILES if path.suffix == ".js"]
API = WEB / "js" / "api.js"

_CALL = re.compile(r"""(?:call|open)\("(?P<method>[A-Z]+)",\s*(?P<path>["`][^"`]*["`])""")
_READ = re.compile(r"""(?:get|search)\((?P<path>["`]v1[^"`]*["`])""")


def name(path: Path) -> str:
    return path.relative_to(WEB).as_posix()


def test_there_is_something_to_check() -> None:
    assert {"index.html", "js/main.js", "css/page.css", "icon.svg"} <= {name(path) for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=name)
def test_every_file_is_handed_out_and_names_no_other_server(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert path.suffix in TYPES
    assert set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"'`]*", text)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"@import|url\((?!#)", text)


def test_page_holds_no_script_style_or_handler_of_its_own() -> None:
    """The policy of the service would refuse them."""
    page = (WEB / "index.html").read_text(encoding="utf-8")
    assert re.findall(r"<script(?![^>]*\ssrc=)", page) == []
    assert "<style" not in page
    assert re.findall(r"\s(?:on\w+|style)=", page) == []


@pytest.mark.parametrize("path", SCRIPTS, ids=name)
def test_scripts_write_text_and_never_html(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc", text)
    assert not re.search(r"""setAttribute\(\s*["'](?:style|on\w+)["']""", text)


@pytest.mark.parametrize("path", SCRIPTS, ids=name)
def test_imports_lead_to_files_that_export_the_names(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for names, target in re.findall(r"""import\s+(\{[^}]*\}|\* as \w+)\s+from\s+"([^"]+)";""", text):
        found = (path.parent / target).resolve()
        assert found.is_file(), target
        exported = set(re.findall(r"export (?:async )?(?:function|const|class|let) (\w+)", found.read_text("utf-8")))
        if names.startswith("{"):
            wanted = {one.strip().partition(" as ")[0] for one in names.strip("{} \n").split(",")} - {""}
            assert wanted <= exported


def test_files_named_by_the_page_exist() -> None:
    page = (WEB / "index.html").read_text(encoding="utf-8")
    named = {found for found in re.findall(r'(?:src|href)="([^"#]+)"', page)}
    assert named
    assert all((WEB / one).is_file() for one in named)


def test_only_one_file_makes_requests() -> None:
    assert [name(path) for path in SCRIPTS if re.search(r"\bfetch\(|EventSource|XMLHttpRequest", path.read_text())] == [
        name(API)
    ]


def asked() -> set[tuple[str, str]]:
    """Method and path of every request that the page can make, `x` for what is filled in."""
    text = API.read_text(encoding="utf-8")
    calls = [(found["method"], found["path"]) for found in _CALL.finditer(text)]
    calls += [("GET", found["path"]) for found in _READ.finditer(text)]
    return {(method, "/" + re.sub(r"\$\{[^}]*\}", "x", path[1:-1]).partition("?")[0]) for method, path in calls}


def test_every_request_is_one_that_the_service_answers(tmp_path: Path) -> None:
    app = create_app(Engine(SPEC, tmp_path, "127.0.0.1:1"), Settings())
    routes = {
        route.path: route.endpoint._allow.split(", ") for route in app.routes if hasattr(route.endpoint, "_allow")
    }
    patterns = {re.compile(re.sub(r"\{\w+\}", "[^/]+", path) + "$"): methods for path, methods in routes.items()}
    made = asked()
    assert len(made) >= 16
    for method, path in made:
        exact = [methods for pattern, methods in patterns.items() if pattern.match(path)]
        assert any(method in methods for methods in exact), f"{method} {path} is not answered"


def test_tokens_are_kept_for_the_tab_only() -> None:
    for path in SCRIPTS:
        for line in path.read_text(encoding="utf-8").splitlines():
            assert not ("token" in line.lower() and "localStorage" in line), f"{name(path)}: {line}"
            assert "document.cookie" not in line
