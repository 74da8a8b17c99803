"""`--client FILE`: how commands beside worlds connect. What it needs is imported when a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from consumers.clients.settings import ClientSettings

Client = Annotated[
    Path | None,
    typer.Option(
        "--client",
        metavar="FILE",
        help="How to connect: TLS, user, password. A spec with [world.client], or TOML with its keys.",
    ),
]


def settings_of(path: Path | None) -> ClientSettings | None:
    """What the file says: its table `[client]` or `[world.client]`, or its keys where it has neither; None = nothing.

    Raises:
        BadSpec: no such file, no TOML, a spec that does not say how to connect, or an option that is wrong.
    """
    if path is None:
        return None
    from streamrec import spec as specs

    name = str(path)
    return settings_from(_table(specs.read(name, what="client file"), name), name)


def settings_from(table: dict[str, Any], where: str) -> ClientSettings:
    """The same of a table.

    Args:
        table: option -> value.
        where: it stands, for error messages.

    Raises:
        BadSpec: an option is wrong.
    """
    from consumers.clients.settings import ClientSettings
    from streamrec.build import BadSpec

    try:
        return ClientSettings(table)
    except ValueError as error:
        raise BadSpec(f"{where}: {error}") from None


def _table(content: dict[str, Any], name: str) -> dict[str, Any]:
    from streamrec.build import BadSpec
    from streamrec.spec import TABLES

    world = content.get("world")
    found = content.get("client", world.get("client") if isinstance(world, dict) else None)
    if found is None and not any(table in content for table in TABLES):
        return content
    if not isinstance(found, dict):
        raise BadSpec(f"{name} does not say how to connect: expected a table [world.client] or [client]")
    return found
