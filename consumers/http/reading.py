"""Reading requests: bodies within limits, paths, queries; what cannot be read becomes a refusal with its place."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote_to_bytes

import msgspec
from starlette.datastructures import Headers
from starlette.requests import Request

from consumers import wire
from consumers.http.overload import Memory, Overload
from consumers.http.problems import FieldError, Refusal, invalid

JSON = "application/json"
NDJSON = ("application/x-ndjson", "application/ndjson", "application/jsonl")

_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NOT_BRACKETS = bytes(at for at in range(256) if at not in b"[]{}")

T = TypeVar("T")


async def read_body(request: Request, overload: Overload) -> bytes:
    """The body, within the limits of size, memory and time.

    Raises:
        Refusal: 408, 413, 415 (a content encoding), 503.
        starlette.requests.ClientDisconnect: the client went away.
    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refusal(415, "expected a body without content encoding, since a small one may unfold to a huge one")
    with overload.memory() as memory:
        _announced(request.headers, memory)
        try:
            async with asyncio.timeout(overload.limits.body_seconds):
                return b"".join([chunk async for chunk in _chunks(request, memory)])
        except TimeoutError:
            raise Refusal(408, f"expected the whole body within {overload.limits.body_seconds:g} seconds") from None


def _announced(headers: Headers, memory: Memory) -> None:
    """Refuse by the announced length, before anything is read; what comes is counted all the same."""
    length = headers.get("content-length", "")
    if length.isascii() and length.isdigit():
        # 18 digits are more than any limit; int() of thousands would take its time.
        size = int(length) if len(length) < 18 else 1 << 60
        memory.take(size)
        memory.take(-size)


async def _chunks(request: Request, memory: Memory) -> AsyncIterator[bytes]:
    async for chunk in request.stream():
        memory.take(len(chunk))
        yield chunk


def media(request: Request) -> str:
    """Media type of the body, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def require_json(request: Request) -> None:
    """Raises Refusal 415 unless the body is declared as JSON. A page's form cannot declare that, so this also keeps
    other sites' forms out."""
    if media(request) != JSON:
        raise Refusal(415, f"expected a header `Content-Type: {JSON}`", headers={"Accept-Post": JSON})


def decode(body: bytes, decoder: msgspec.json.Decoder[T], depth: int) -> T:
    """The body as what `decoder` knows.

    Raises:
        Refusal: 400 no JSON, 422 JSON of another shape or nested too deeply.
    """
    if is_deep(body, depth):
        raise deep(depth)
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise invalid(error) from None
    except RecursionError:
        raise deep(depth) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refusal(400, f"expected JSON in UTF-8: {error}") from None


def deep(depth: int) -> Refusal:
    """422 for JSON that is nested too deeply."""
    says = f"expected at most {depth} levels of lists and objects"
    return Refusal(422, says, [FieldError("$", says)])


def is_deep(body: bytes, depth: int) -> bool:
    """Whether the JSON in `body` has more than `depth` levels. Text that is no JSON is never called deep."""
    if body.count(b"[") + body.count(b"{") <= depth:
        return False
    brackets = _STRINGS.sub(b"", body).translate(_BRACKETS, _NOT_BRACKETS)
    for _ in range(depth):
        brackets = brackets.replace(b"[]", b"")
    return b"[]" in brackets


def path_id(request: Request, name: str, longest: int = wire.MAX_ID) -> str:
    """An id that stands percent-encoded in one segment of the path.

    Raises:
        Refusal: 422.
    """
    try:
        text = unquote_to_bytes(request.path_params[name]).decode()
    except UnicodeDecodeError:
        says = "expected percent-encoded UTF-8"
        raise Refusal(422, f"{says} in the path", [FieldError(f"path.{name}", says)]) from None
    if len(text) > longest:
        says = f"expected at most {longest} characters, got {len(text)}"
        raise Refusal(422, f"{says}, at path.{name}", [FieldError(f"path.{name}", says)])
    return text


def query(request: Request, kind: type[T]) -> T:
    """The query of the URL as a struct; numbers are read from text.

    Raises:
        Refusal: 422 for an unknown or repeated name, or a value that does not fit.
    """
    raw = request.scope["query_string"].decode("latin-1")
    try:
        pairs = parse_qsl(raw, keep_blank_values=True, max_num_fields=16, encoding="utf-8", errors="strict")
        values: dict[str, Any] = dict(pairs)
        if len(values) != len(pairs):
            raise ValueError("a name stands in the query twice")
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        raise invalid(error, "query") from None
    except ValueError as error:
        says = "expected percent-encoded UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        raise Refusal(422, f"{says}, at query", [FieldError("query", says)]) from None


def split_events(body: bytes, lines: bool, most: int, depth: int) -> list[bytes]:
    """The events of a body, still as JSON: the elements of an array, one object, or the lines of NDJSON.

    Raises:
        Refusal: 400 or 422 as for `decode`, 413 for more than `most`.
    """
    if lines:
        parts = [line for line in body.splitlines() if line.strip()]
    elif body.lstrip(b" \t\r\n")[:1] == b"[":
        parts = [bytes(raw) for raw in decode(body, _LIST, depth)]
    else:
        parts = [bytes(decode(body, _ONE, depth))]
    if len(parts) > most:
        raise Refusal(413, f"expected at most {most} events in a body, got {len(parts)}: send them in parts")
    return parts


_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_ONE = msgspec.json.Decoder(msgspec.Raw)
