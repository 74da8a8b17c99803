"""Specs: an experiment is a TOML file. Shipped ones go by their name."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Collection, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import tomli_w

from streamrec.build import BadSpec, did_you_mean

Spec = dict[str, Any]

HIDDEN = "***"
"""What stands in files in the place of a password."""

TABLES = ("about", "seed", "run", "catalog", "sessions", "world", "agent", "meters", "warm_start", "serve")


def shipped(shelf: str = "") -> list[str]:
    """Names of the specs that come with the package; of those on a shelf, such as "arena"."""
    return sorted(path.name.removesuffix(".toml") for path in _folder(shelf).iterdir() if path.name.endswith(".toml"))


def read(name: str, shelf: str = "", what: str = "spec") -> dict[str, Any]:
    """The TOML file `name`, or the shipped one of that name; `what` it is, for error messages.

    Raises:
        BadSpec: no such file, or bad TOML.
    """
    path = Path(name)
    if path.suffix == ".toml" or path.is_file():
        try:
            text = path.read_text()
        except OSError as error:
            raise BadSpec(f"cannot read the {what} {name}: {error.strerror}") from error
    elif name in shipped(shelf):
        text = str((_folder(shelf) / f"{name}.toml").read_text())
    else:
        raise BadSpec(f"there is no {what} {name!r}{did_you_mean(name, shipped(shelf))}; a file's name ends in .toml")
    return _toml(text, name)


def check_keys(where: str, table: Mapping[str, Any], known: Collection[str], needed: Sequence[str] = ()) -> None:
    """Raises BadSpec for a key that is not among the `known` ones, and for a `needed` one that is not there."""
    for key in table:
        if key not in known:
            raise BadSpec(f"{where}: unknown key {key!r}{did_you_mean(key, sorted(known))}")
    for key in needed:
        if key not in table:
            raise BadSpec(f"{where}: expected a key {key!r}")


def load(name: str, overrides: Sequence[str] = ()) -> Spec:
    """The spec in the file `name`, or the shipped one of that name, with `key=value` overrides applied.

    Raises:
        BadSpec: no such spec, bad TOML, an unknown table or an override that does not fit.
    """
    spec = _checked(read(name), name)
    for override in overrides:
        _override(spec, override)
    return spec


def parse(text: str, name: str) -> Spec:
    """A spec from TOML text; `name` is for error messages.

    Raises:
        BadSpec: bad TOML or an unknown table.
    """
    return _checked(_toml(text, name), name)


def _toml(text: str, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadSpec(f"{name} is not valid TOML: {error}") from error


def _checked(spec: Spec, name: str) -> Spec:
    for table in spec:
        if table not in TABLES:
            raise BadSpec(f"{name}: unknown table {table!r}{did_you_mean(table, TABLES)}")
    return spec


def dump(spec: Spec) -> str:
    """The spec as TOML text, with `HIDDEN` in the place of passwords."""
    return tomli_w.dumps(_hidden(spec))


def without_passwords(command: str) -> str:
    """A command line fit to be written down."""
    return shlex.join(re.sub(r"(password\s*=).*", rf"\1{HIDDEN}", part, flags=re.S) for part in shlex.split(command))


def _hidden(value: Any) -> Any:
    if isinstance(value, list):
        return [_hidden(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    return {key: HIDDEN if key.endswith("password") else _hidden(item) for key, item in value.items()}


def _folder(shelf: str = "") -> Any:
    specs = resources.files("streamrec") / "specs"
    return specs / shelf if shelf else specs


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
