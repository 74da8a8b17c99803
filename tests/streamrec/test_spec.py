from __future__ import annotations

from pathlib import Path

import pytest

from streamrec import spec as specs
from streamrec.build import BadSpec


def test_overrides_are_toml_or_text(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text('seed = 1\n[run]\nslate = 5\n[world]\nuse = "a.B"\n')
    spec = specs.load(str(path), ["run.slate=7", "world.path=/some/log", 'run.marks={"12.5"="shift"}', "seed=3"])
    assert spec == {
        "seed": 3,
        "run": {"slate": 7, "marks": {"12.5": "shift"}},
        "world": {"use": "a.B", "path": "/some/log"},
    }
    assert specs.parse(specs.dump(spec), "again") == spec


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["run"], r"takes key=value"),
        (["rnu.slate=3"], r"unknown table 'rnu'; did you mean 'run'\?"),
        (["seed.x=3"], r"'seed' is a value, not a table"),
    ],
)
def test_overrides_that_do_not_fit(tmp_path: Path, overrides: list[str], message: str) -> None:
    path = tmp_path / "x.toml"
    path.write_text("seed = 1\n")
    with pytest.raises(BadSpec, match=message):
        specs.load(str(path), overrides)


def test_unknown_specs_and_tables_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadSpec, match=r"there is no spec 'trian'; did you mean 'train'\?"):
        specs.load("trian")
    path = tmp_path / "x.toml"
    path.write_text("[agnet]\n")
    with pytest.raises(BadSpec, match=r"unknown table 'agnet'; did you mean 'agent'\?"):
        specs.load(str(path))
    path.write_text("[agent\n")
    with pytest.raises(BadSpec, match="not valid TOML"):
        specs.load(str(path))
