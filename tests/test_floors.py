"""Who may import whom, read from the source of every file."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parent.parent
OUTER = {"agents", "simulators", "consumers"}
GROUND = {"streamrec.records", "streamrec.ports", "streamrec.catalog"}
TOP = {"streamrec.__main__", "streamrec.cli", "streamrec.bench"}
"""The command line and its benchmarks stand above everything and may name anybody."""

FILES = [path for package in ("streamrec", *sorted(OUTER)) for path in sorted((HOME / package).rglob("*.py"))]
FORBIDDEN_NAMES = {"utils", "common", "helpers", "misc", "base"}


def module(path: Path) -> str:
    return ".".join(path.relative_to(HOME).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively; write the whole name"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module or ""}
    return found


@pytest.mark.parametrize("path", FILES, ids=module)
def test_no_file_imports_from_above_or_beside(path: Path) -> None:
    name = module(path)
    package = name.partition(".")[0]
    if any(name == top or name.startswith(f"{top}.") for top in TOP):
        return
    for used in imports(path):
        root = used.partition(".")[0]
        assert not any(used == top or used.startswith(f"{top}.") for top in TOP), f"{name} imports {used}"
        if package == "streamrec":
            assert root not in OUTER, f"the core imports {used}; name it in a spec instead"
        else:
            assert root not in OUTER - {package}, f"{name} imports {used}, a package beside it"
        if name in GROUND and root == "streamrec":
            assert any(used.startswith(ground) for ground in GROUND), f"{name} imports {used} from above"


@pytest.mark.parametrize("path", FILES, ids=module)
def test_a_files_name_says_what_is_in_it(path: Path) -> None:
    assert path.stem not in FORBIDDEN_NAMES


def test_every_package_has_files() -> None:
    assert {module(path).partition(".")[0] for path in FILES} == OUTER | {"streamrec"}


def test_our_packages_are_the_ones_imported() -> None:
    import agents
    import consumers
    import simulators
    import streamrec

    for package in (agents, consumers, simulators, streamrec):
        assert Path(package.__file__ or "").parent.parent == HOME
