"""Settings of the HTTP face: where it listens, who may call, how much at once."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

import msgspec
from msgspec import Meta

from streamrec.build import BadSpec
from streamrec.spec import check_keys

Scope = Literal["ingest", "serve", "admin"]
"""ingest: events and rewards in. serve: recommendations out. admin: everything."""

TOKENS_VARIABLE = "STREAMREC_TOKENS"
"""Environment variable with scope:sha256 pairs, separated by commas or lines."""

_SHA256 = re.compile(r"[0-9a-f]{64}")

Count = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0)]


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one request, one client and all of them together may take.

    Args:
        body_bytes: longest body.
        memory_bytes: all bodies that are being read together.
        events: most events, or items, of one body.
        depth: deepest nesting of JSON.
        in_flight: requests under way; more are answered 503.
        in_flight_per_client: of one address; more are answered 429.
        streams: open streams of live figures.
        body_seconds: patience with a body that trickles in.
        ahead_seconds: how far an event's time may lie in the future. A single far one would move event time for
            everybody.
    """

    body_bytes: Count = 1 << 20
    memory_bytes: Count = 1 << 26
    events: Count = 1000
    depth: Count = 8
    in_flight: Count = 256
    in_flight_per_client: Count = 192
    streams: Count = 32
    body_seconds: Seconds = 10.0
    ahead_seconds: Seconds = 300.0


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The HTTP part of the table `[serve]`.

    Args:
        host: address to listen on.
        port: TCP port, 0 = any free one.
        allowed_hosts: names by which the server may be called, beside loopback ones. Empty: any if there are tokens,
            loopback names only if there are none (or a web page could reach it by DNS rebinding).
        allowed_origins: origins (`https://shop.example`) of other sites whose pages may post here.
        tokens: sha256 (hex) of tokens by scope; `streamrec token` makes one. None at all: nobody is asked for one.
        limits: see `Limits`.
        open_metrics: `/metrics` asks for no token.
        access_log: one line of JSON per request on standard error.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535)] = 8700
    allowed_hosts: list[str] = []
    allowed_origins: list[str] = []
    tokens: dict[Scope, list[str]] = {}
    limits: Limits = Limits()
    open_metrics: bool = False
    access_log: bool = True

    KEYS: ClassVar[frozenset[str]] = frozenset(
        ["host", "port", "allowed_hosts", "allowed_origins", "tokens", "limits", "open_metrics", "access_log"]
    )

    def __post_init__(self) -> None:
        for scope, digests in self.tokens.items():
            for digest in digests:
                if not _SHA256.fullmatch(digest):
                    raise ValueError(
                        f"tokens.{scope}: expected the sha256 of a token, 64 hexadecimal digits in lower case; "
                        "`streamrec token` prints one"
                    )

    @classmethod
    def from_table(
        cls,
        table: Mapping[str, Any],
        token_file: Path | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> Settings:
        """Settings from the table `[serve]`; keys that are not of the HTTP face are left to others.

        Args:
            table: as read from TOML.
            token_file: a file with lines `scope:sha256`, whose tokens are added.
            environment: may hold further ones in `STREAMREC_TOKENS`.

        Raises:
            BadSpec: a value that does not fit, or a public address without a token.
        """
        own = {key: value for key, value in table.items() if key in cls.KEYS}
        check_keys("serve.limits", own.get("limits", {}), Limits.__struct_fields__)
        check_keys("serve.tokens", own.get("tokens", {}), get_args(Scope))
        lines = environment.get(TOKENS_VARIABLE, "").replace(",", "\n").splitlines()
        pairs = [*_pairs(lines, TOKENS_VARIABLE), *_pairs(_lines(token_file), str(token_file))]
        tokens = {scope: list(digests) for scope, digests in own.get("tokens", {}).items()}
        for scope, digest in pairs:
            tokens.setdefault(scope, []).append(digest)
        try:
            settings = msgspec.convert({**own, "tokens": tokens}, cls)
        except msgspec.ValidationError as error:
            raise BadSpec(f"serve: {error}") from error
        settings.require_safe()
        return settings

    def require_safe(self) -> None:
        """Refuses to listen to the world without asking for a token.

        Raises:
            BadSpec: the address is public and there are no tokens.
        """
        if not is_loopback(self.host) and not any(self.tokens.values()):
            raise BadSpec(
                f"serve.host = {self.host!r} is a public address and no token is set, so anybody could read and "
                "change everything: make one with `streamrec token` and give it in [serve] tokens or --token-file, or "
                "listen on 127.0.0.1"
            )


def is_loopback(host: str) -> bool:
    """Whether a host, without port or brackets, is this machine for sure."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _lines(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadSpec(f"cannot read the tokens in {path}: {error}") from error


def _pairs(lines: Iterable[str], source: str) -> list[tuple[str, str]]:
    pairs = []
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        scope, _, digest = text.partition(":")
        scope, digest = scope.strip(), digest.strip()
        # The line is not repeated in the message: somebody may have put the token itself there.
        if scope not in get_args(Scope) or not _SHA256.fullmatch(digest):
            raise BadSpec(
                f"{source}, line {number}: expected scope:sha256 with scope {', '.join(get_args(Scope))} and 64 "
                "hexadecimal digits in lower case; `streamrec token` prints such a line"
            )
        pairs.append((scope, digest))
    return pairs
