"""`streamrec token`: a new token for the HTTP service."""

from __future__ import annotations

import hashlib
import json
import secrets
import sys
from typing import Annotated, Literal

import typer


def token(
    scope: Annotated[
        Literal["ingest", "serve", "admin"],
        typer.Argument(help="ingest: events in. serve: recommendations out. admin: everything."),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Make a random token; the service keeps only the line scope:sha256, the caller the token.

    Without --json the token goes to standard error and the line to standard output, so that
    `streamrec token serve >> tokens.txt` leaves no token in the file.
    """
    secret = secrets.token_urlsafe(32)
    line = f"{scope}:{hashlib.sha256(secret.encode()).hexdigest()}"
    if as_json:
        print(json.dumps({"scope": scope, "token": secret, "line": line}))
        return
    print(f"token (shown once, send it as `Authorization: Bearer ...`): {secret}", file=sys.stderr)
    print(line)
