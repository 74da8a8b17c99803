"""Make the secrets of the stack, once: python docker/make_secrets.py

The service gets the sha256 of its tokens only. The tokens themselves are printed and kept nowhere else, but for the one
of the load generator. What is there already is left alone, so this can be called again.
"""

from __future__ import annotations

import hashlib
import secrets
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "secrets"
SCOPES = ("ingest", "serve", "admin")


def make(folder: Path) -> dict[str, str]:
    """Write the files that are missing into `folder`. Returns the tokens, and the password, that were made, by name."""
    folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)
    made: dict[str, str] = {}
    if not (folder / "streamrec_tokens").exists():
        made = {scope: secrets.token_urlsafe(32) for scope in SCOPES}
        players = secrets.token_urlsafe(32)
        lines = [_line(scope, token) for scope, token in made.items()]
        _write(folder / "streamrec_tokens", "\n".join([*lines, f"{_line('admin', players)} # players"]))
        _write(folder / "players_token", players)
    if not (folder / "grafana_admin_password").exists():
        made["grafana admin"] = secrets.token_urlsafe(24)
        _write(folder / "grafana_admin_password", made["grafana admin"])
    return made


def _line(scope: str, token: str) -> str:
    return f"{scope}:{hashlib.sha256(token.encode()).hexdigest()}"


def _write(path: Path, text: str) -> None:
    """Readable in the containers, whose users are others; the folder around it is closed to everybody else here."""
    path.write_text(text + "\n")
    path.chmod(0o644)


if __name__ == "__main__":
    new = make(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
    for name, secret in new.items():
        print(f"{name:14} {secret}")
    if not new:
        print(f"nothing to do: {FOLDER} has all of them", file=sys.stderr)
