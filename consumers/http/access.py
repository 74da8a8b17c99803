"""Who may call: names of the server, origins of pages, tokens with scopes."""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Literal
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from consumers.http.problems import Refusal
from consumers.http.settings import Scope, Settings, is_loopback

Need = Literal["open", "any", "ingest", "serve", "admin"]
"""What a caller must hold: nothing, some token, or one of that scope. An admin's opens everything."""

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})

_HOST = re.compile(r"(?P<name>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="streamrec"'}


class Access:
    """Checks requests before anything of them is read.

    Args:
        settings: tokens, names and origins.
    """

    def __init__(self, settings: Settings) -> None:
        self._digests = [
            (scope, bytes.fromhex(digest)) for scope, digests in settings.tokens.items() for digest in digests
        ]
        self._hosts = frozenset(name.lower() for name in settings.allowed_hosts)
        self._origins = frozenset(origin.lower().rstrip("/") for origin in settings.allowed_origins)

    @property
    def asks(self) -> bool:
        """Whether there are tokens at all."""
        return bool(self._digests)

    def check_host(self, headers: Headers) -> None:
        """The name that was called must be one of ours: else a page could reach us under a name of its own.

        Raises:
            Refusal: 400 for no host or a strange one, 421 for one that is not ours.
        """
        hosts = headers.getlist("host")
        match = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if match is None:
            raise Refusal(400, "expected exactly one Host header of the form name or name:port")
        name = match["name"].strip("[]").lower()
        if name in self._hosts or is_loopback(name) or (self.asks and not self._hosts):
            return
        raise Refusal(
            421,
            "the Host header names neither this machine nor one of [serve] allowed_hosts: call it "
            "127.0.0.1, or add the name",
        )

    def check_origin(self, method: str, headers: Headers) -> None:
        """A browser may change things only from our own pages, or those of `allowed_origins`.

        Raises:
            Refusal: 403.
        """
        if method in SAFE:
            return
        origin = headers.get("origin")
        site = headers.get("sec-fetch-site", "none")
        if origin is None:
            foreign = site not in ("none", "same-origin")
        elif origin.lower() in self._origins:
            return
        else:
            foreign = _authority(origin) != headers.get("host", "").lower()
        if foreign:
            raise Refusal(
                403, "a page of another origin may not post here: add its origin to [serve] allowed_origins if it may"
            )

    def check_token(self, headers: Headers, need: Need) -> None:
        """The bearer must hold what the operation needs.

        Raises:
            Refusal: 401 without a valid token, 403 for one of another scope.
        """
        if need == "open" or not self._digests:
            return
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Refusal(401, "expected a header `Authorization: Bearer TOKEN`", headers=_CHALLENGE)
        scopes = self._scopes(token.strip())
        if not scopes:
            raise Refusal(401, "the token is not known here", headers=_CHALLENGE)
        if need != "any" and need not in scopes and "admin" not in scopes:
            raise Refusal(403, f"expected a token of scope {need}, got one of scope {', '.join(sorted(scopes))}")

    def _scopes(self, token: str) -> set[Scope]:
        """Scopes of a token. All digests are compared, each in constant time: how long it takes tells nothing."""
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        return {scope for scope, known in self._digests if hmac.compare_digest(known, digest)}


def _authority(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None
