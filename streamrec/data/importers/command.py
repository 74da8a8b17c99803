"""`streamrec data`: public data sets as event logs. What a command needs is imported when it runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from streamrec.data.importers.dataset import DataSet

app = typer.Typer(help="Public data sets as event logs.", no_args_is_help=True)


@app.command("list")
def list_sets(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """The data sets that can be imported, where they are offered and under what licence. Nothing is downloaded."""
    from streamrec.data.importers.shelf import data_sets

    found = data_sets()
    facts = ("title", "homepage", "licence", "files")
    if as_json:
        print(json.dumps({name: {fact: getattr(cls, fact) for fact in facts} for name, cls in found.items()}))
        return
    for name, cls in found.items():
        print(f"{name:13} {cls.title}; {cls.homepage}; {cls.licence}")


@app.command("import")
def import_set(
    name: Annotated[str, typer.Argument(help="A name of `streamrec data list`.")],
    path: Annotated[Path, typer.Argument(help="The original files: a folder, one file, a .zip or a .tar.")],
    out: Annotated[Path, typer.Argument(help="The folder to make: the log, tables of items and users, about.json.")],
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A keyword of the data set.")
    ] = None,
    rows: Annotated[int, typer.Option(min=1024, help="Events kept in memory while sorting.")] = 1 << 19,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as one JSON object.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Import a data set: `streamrec replay --log OUT` can read the result."""
    from streamrec.data.importers.run import import_data

    def say(text: str) -> None:
        print(f"{name}: {text}", file=sys.stderr, flush=True)

    about = import_data(_made(name, sets or []), path, out, None if quiet else say, rows)
    print(json.dumps(about) if as_json else _said(about, out))


def _made(name: str, sets: list[str]) -> DataSet:
    from streamrec.data.importers.shelf import named

    try:
        cls = named(name)
        return cls(**_keywords(cls, sets))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _keywords(cls: type[DataSet], sets: list[str]) -> dict[str, Any]:
    """Words given as KEY=VALUE; true and false are read as such."""
    import inspect

    known = [key for key in inspect.signature(cls).parameters if cls.__init__ is not object.__init__]
    words: dict[str, Any] = {"true": True, "false": False}
    found = {}
    for pair in sets:
        key, equals, value = pair.partition("=")
        if not equals or key not in known:
            raise ValueError(f"expected --set with one of {', '.join(known) or 'no keyword'} and a value, got {pair!r}")
        found[key] = words.get(value, value)
    return found


def _said(about: dict[str, Any], out: Path) -> str:
    dropped = ", ".join(f"{rows:,} ({cause})" for cause, rows in about["rows_dropped"].items()) or "none"
    kinds = ", ".join(f"{kind} {rows:,}" for kind, rows in about["kinds"].items())
    span = f"{about['time']['first_utc'][:19]} to {about['time']['last_utc'][:19]}"
    return (
        f"{about['title']}: {about['events']:,} events ({kinds}) of {about['users']:,} users and {about['items']:,} "
        f"items, {span} UTC\nrows read: {about['rows_read']:,}; dropped: {dropped}\nwritten to {out}"
    )
