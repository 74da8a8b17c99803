"""`streamrec dlq`: what could not be read, why, and another try. What a command needs is imported when it runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from consumers.clients.option import Client, settings_of

if TYPE_CHECKING:
    from consumers.dead_letters import Group
    from consumers.retry import Outcome

app = typer.Typer(help="Dead letters: what could not be read, why, and another try.", no_args_is_help=True)

Servers = Annotated[str, typer.Option(help="The Kafka, host:port[,host:port].")]
Topic = Annotated[str, typer.Option(help="The topic of the dead letters.")]
Reason = Annotated[
    str | None, typer.Option(help="Only these, as `dlq list` names them: wrong_type:user, or wrong_type for any field.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

SERVERS = "127.0.0.1:9092"
TOPIC = "streamrec.dead-letters"


@app.command("list")
def list_letters(
    bootstrap_servers: Servers = SERVERS, client: Client = None, topic: Topic = TOPIC, as_json: Json = False
) -> None:
    """Count the dead letters by reason, with the times and offsets of the first and the last."""
    from consumers.dead_letters import by_reason, groups_as_json

    with _usage():
        groups = by_reason(bootstrap_servers, topic, settings=settings_of(client))
    found = groups_as_json(topic, groups)
    if as_json:
        print(json.dumps(found))
        return
    for name, group in groups.items():
        print(f"{group.count:>9,}  {name}: expected {group.expected}")
        print(f"           {_when(group.first)} to {_when(group.last)}, at {_where(group)}")
    print(f"{topic}: {found['letters']:,} dead letters")


@app.command()
def show(
    offset: Annotated[
        str | None, typer.Argument(metavar="[OFFSET]", help="OFFSET or PARTITION:OFFSET in the topic of dead letters.")
    ] = None,
    reason: Reason = None,
    raw: Annotated[bool, typer.Option("--raw", help="Users as they are, not as pseudonyms.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Most letters.")] = 10,
    width: Annotated[int, typer.Option(min=1, help="Most characters of a value; --json has all.")] = 2000,
    bootstrap_servers: Servers = SERVERS,
    client: Client = None,
    topic: Topic = TOPIC,
    as_json: Json = False,
) -> None:
    r"""Show letters: the original, escaped (\xff, \u202e, \\), why it was refused and what was expected.

    Users, sessions and whatever else may name a person are pseudonyms unless --raw. Exit code 1: there is none.
    """
    from consumers.dead_letters import find, place, shown

    if offset is None and reason is None:
        raise typer.BadParameter("name an OFFSET or a --reason, as `streamrec dlq list` prints them")
    with _usage():
        at = None if offset is None else place(offset)
        letters = find(bootstrap_servers, topic, at, reason, limit, settings_of(client))
        found = [shown(letter, raw) for letter in letters]
    if as_json:
        print(json.dumps({"topic": topic, "letters": found}))
    else:
        for letter in found:
            _tell(letter, width)
    if not found:
        typer.echo("streamrec: no such dead letter; `streamrec dlq list` prints what is there", err=True)
        raise typer.Exit(1)


@app.command()
def retry(
    reason: Reason = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sent, and send nothing.")] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Also letters that came back from a retry, and those it is uncertain of.")
    ] = False,
    bootstrap_servers: Servers = SERVERS,
    client: Client = None,
    topic: Topic = TOPIC,
    as_json: Json = False,
) -> None:
    """Send letters that can be read by now to the topic they came from; none twice, however often this is called."""
    from consumers.retry import retry as send_again

    with _usage():
        outcome = send_again(bootstrap_servers, topic, reason, dry_run, again, settings_of(client))
    if as_json:
        print(json.dumps({"topic": topic, **outcome.as_json()}))
    else:
        _say(outcome)


@contextmanager
def _usage() -> Iterator[None]:
    """A topic or a place that does not exist is a mistake of whoever typed it: exit code 2."""
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _tell(letter: dict[str, Any], width: int) -> None:
    value = letter["value"]
    cut = "" if value is None or len(value) <= width else f" … ({letter['bytes']:,} bytes)"
    part = "" if letter["whole"] else " (the original was longer)"
    print(f"{letter['place']}  {letter['time']}  {letter['reason']}  from {letter['origin']}, sent {letter['sent']}")
    print(f"  said      {letter['said']}\n  expected  {letter['expected']}")
    print(f"  key       {letter['key'] or '-'}\n  value     {'-' if value is None else value[:width]}{cut}{part}")
    if letter["retry_of"]:
        print(f"  retry of  {letter['retry_of']}")


def _say(outcome: Outcome) -> None:
    bad, skipped = outcome.still_bad.total(), outcome.skipped.total()
    print(f"{outcome.sent:,} {'would be sent' if outcome.dry_run else 'sent'}, {bad:,} still bad, {skipped:,} skipped")
    for title, counts in (("still bad", outcome.still_bad), ("skipped", outcome.skipped)):
        for name, count in counts.most_common():
            print(f"{count:>9,}  {title}: {name}")


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _where(group: Group) -> str:
    parts = (f"{p}:{first}" if first == last else f"{p}:{first} to {p}:{last}" for p, (first, last) in _sorted(group))
    return ", ".join(parts)


def _sorted(group: Group) -> list[tuple[int, list[int]]]:
    return sorted(group.offsets.items())
