"""Messages made fit to be looked at: bytes escaped, and whatever may name a person as a hash.

A hash lets one see that two messages are of one user. It is no anonymity: who has a list of users finds them in it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection

import msgspec

PLAIN = frozenset(
    {"v", "kind", "item", "time", "value", "decision", "slot", "slate", "slot_logp"}
    | {"policy", "model", "category", "available"}
)
"""Fields whose values speak of no person."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.$-]{0,63}")
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"?|[\[\]{}:,]|\s+|[^"\[\]{}:,\s]+', re.DOTALL)
_USER = re.compile(rb'"user"\s*:\s*("(?:[^"\\]|\\.)*"?|[^"\[\]{}:,\s]+)', re.DOTALL)
_WORDS = frozenset({b"true", b"false", b"null"})


def escaped(data: bytes) -> str:
    r"""`data` as text that a terminal cannot mistake for commands: `\xff`, `\x1b`, `\u202e`; a backslash is `\\`."""
    text = data.decode("utf-8", "surrogateescape")
    return "".join(_escape(sign) for sign in text)


def _escape(sign: str) -> str:
    if sign == "\\":
        return "\\\\"
    if "\udc80" <= sign <= "\udcff":  # a byte that is no UTF-8
        return f"\\x{ord(sign) - 0xDC00:02x}"
    return sign if sign.isprintable() else sign.encode("unicode_escape").decode()


def pseudonym(user: bytes) -> str:
    """Ten characters that stand for a user id: the same in every process."""
    return f"~{hashlib.blake2b(user, digest_size=8).hexdigest()[:9]}"


def people(key: bytes | None, value: bytes | None) -> set[bytes]:
    """What names the user of a record: its key, and the values of `user`."""
    found = {key} if key else set()
    for match in _USER.finditer(value or b""):
        found.add(_content(match[1]))
    return found - {b""}


def disguised(value: bytes, names: Collection[bytes]) -> bytes:
    """`value` with a pseudonym for everything that may name a person.

    Of anything like JSON the signs, the names of fields and the values of `PLAIN` fields are kept; other texts, numbers
    and words become pseudonyms, and so does everything that is one of `names`. What is no JSON at all becomes
    pseudonyms between its signs.
    """
    out: list[bytes] = []
    tokens = _TOKEN.findall(value)
    field, in_list = "", False
    for at, token in enumerate(tokens):
        if token in (b"{", b"}", b",") and not (token == b"," and in_list):
            field = ""
        elif token in (b"[", b"]"):
            in_list = token == b"[" and field != ""
            field = field if in_list else ""
        if token[:1] in b"[]{}:," or token.isspace():
            out.append(token)
        elif _is_name(tokens, at) and _content(token) not in names:
            field = _content(token).decode("utf-8", "replace")
            out.append(token)
        elif token in _WORDS or (field in PLAIN and _content(token) not in names):
            out.append(token)
        else:
            field = "" if _follows(tokens, at) == b":" else field
            out.append(_hidden(token))
    return b"".join(out)


def said(reason: str, names: Collection[bytes]) -> str:
    """A reason without the user, should it quote one."""
    for name in sorted(names, key=len, reverse=True):
        word = repr(name.decode("utf-8", "replace"))
        reason = reason.replace(word, f"'{pseudonym(name)}'")
    return escaped(reason.encode("utf-8", "replace"))


def _content(token: bytes) -> bytes:
    """What a token says: the text of a string, without escapes where it has good ones."""
    if not token.startswith(b'"'):
        return token
    try:
        return msgspec.json.decode(token, type=str).encode()
    except (msgspec.MsgspecError, UnicodeError):
        return token.strip(b'"')


def _follows(tokens: list[bytes], at: int) -> bytes:
    return next((token for token in tokens[at + 1 : at + 3] if not token.isspace()), b"")


def _is_name(tokens: list[bytes], at: int) -> bool:
    if not tokens[at].startswith(b'"') or _follows(tokens, at) != b":":
        return False
    return _NAME.fullmatch(_content(tokens[at]).decode("utf-8", "replace")) is not None


def _hidden(token: bytes) -> bytes:
    name = pseudonym(_content(token)).encode()
    return b'"' + name + b'"' if token.startswith(b'"') else name
