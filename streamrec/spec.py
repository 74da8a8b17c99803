"""Specs: an experiment is a TOML file. Shipped ones go by their name."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import tomli_w

from streamrec.build import BadSpec, did_you_mean

Spec = dict[str, Any]

TABLES = ("about", "seed", "run", "catalog", "sessions", "world", "agent", "meters", "warm_start")


def shipped() -> list[str]:
    """Names of the specs that come with the package."""
    return sorted(path.name.removesuffix(".toml") for path in _folder().iterdir() if path.name.endswith(".toml"))


def load(name: str, overrides: Sequence[str] = ()) -> Spec:
    """The spec in the file `name`, or the shipped one of that name, with `key=value` overrides applied.

    Raises:
        BadSpec: no such spec, bad TOML, an unknown table or an override that does not fit.
    """
    spec = parse(_text(name), name)
    for override in overrides:
        _override(spec, override)
    return spec


def parse(text: str, name: str) -> Spec:
    """A spec from TOML text; `name` is for error messages.

    Raises:
        BadSpec: bad TOML or an unknown table.
    """
    try:
        spec = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadSpec(f"{name} is not valid TOML: {error}") from error
    for table in spec:
        if table not in TABLES:
            raise BadSpec(f"{name}: unknown table {table!r}{did_you_mean(table, TABLES)}")
    return spec


def dump(spec: Spec) -> str:
    """The spec as TOML text."""
    return tomli_w.dumps(spec)


def _folder() -> Any:
    return resources.files("streamrec") / "specs"


def _text(name: str) -> str:
    path = Path(name)
    if path.suffix == ".toml" or path.exists():
        try:
            return path.read_text()
        except OSError as error:
            raise BadSpec(f"cannot read the spec {name}: {error.strerror}") from error
    if name not in shipped():
        raise BadSpec(f"there is no spec {name!r}{did_you_mean(name, shipped())}; a file's name ends in .toml")
    return str((_folder() / f"{name}.toml").read_text())


def _override(spec: Spec, override: str) -> None:
    """Apply `a.b.c=value`; the value is read as TOML, or as text where it is no TOML."""
    place, equals, text = override.partition("=")
    keys = place.split(".")
    if not equals or not all(keys):
        raise BadSpec(f"--set takes key=value with a dotted key, such as --set run.decisions=10000, got {override!r}")
    if keys[0] not in TABLES:
        raise BadSpec(f"--set {override}: unknown table {keys[0]!r}{did_you_mean(keys[0], TABLES)}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    table = spec
    for key in keys[:-1]:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise BadSpec(f"--set {override}: {key!r} is a value, not a table")
    table[keys[-1]] = value
