"""`streamrec events`: a look at events before anything runs on them. What a command needs is imported when it runs."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from consumers.clients.option import Client, settings_of
from streamrec.replay.commands import columns

if TYPE_CHECKING:
    from consumers.validate import Verdict

app = typer.Typer(help="Events, before anything runs on them.", no_args_is_help=True)


@app.callback()
def events() -> None:
    """Events, before anything runs on them."""


@app.command()
def validate(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE|TOPIC", help="A log: Parquet, CSV, JSONL, a folder. Or a topic, kafka:TOPIC for sure."
        ),
    ],
    bootstrap_servers: Annotated[str, typer.Option(help="Of a topic: host:port[,host:port].")] = "127.0.0.1:9092",
    client: Client = None,
    column: Annotated[
        list[str] | None,
        typer.Option("--column", metavar="NAME=EXPR", help="Where a column of the event format comes from in a log."),
    ] = None,
    examples: Annotated[int, typer.Option(min=0, help="Places told per reason.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Count what is wrong with a log or a topic, by reason; exit code 0 clean, 1 faults, 2 cannot be read.

    No user ids are printed.
    """
    from consumers.validate import is_topic, validate_log, validate_topic

    if is_topic(source):
        verdict = validate_topic(bootstrap_servers, source, examples, settings_of(client))
    else:
        verdict = validate_log(source, columns(column), examples)
    if as_json:
        print(json.dumps(verdict.as_json()))
    else:
        _tell(verdict)
    raise typer.Exit(verdict.code)


def _tell(verdict: Verdict) -> None:
    unit = "rows" if verdict.faulty is None else "messages"
    for reason, found in verdict.faults.items():
        of = f" ({found.column})" if found.column and found.column not in reason else ""
        remedy = f"; {found.remedy}" if found.remedy else ""
        print(f"{found.count:>9,}  {reason}{of}: expected {found.expected}{remedy}")
        for example in found.examples:
            print(f"           {_place(example)}")
    faults = sum(found.count for found in verdict.faults.values())
    ends = f", {verdict.ends:,} of them `end`" if verdict.ends else ""
    print(f"{verdict.source}: {verdict.checked:,} {unit}{ends}, {faults:,} fault{'' if faults == 1 else 's'}")
    if verdict.unreadable:
        print(f"streamrec: {verdict.unreadable}", file=sys.stderr)


def _place(example: dict[str, Any]) -> str:
    if "offset" in example:
        return f"partition {example['partition']}, offset {example['offset']}"
    line = "" if example["line"] is None else f" (line {example['line']})"
    return f"{example['file']}, row {example['row']}{line}"
