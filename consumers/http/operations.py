"""What is answered: each operation said once, for the router, the checks and the OpenAPI document."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Send
from starlette.types import Scope as Asgi

from consumers.broker import BrokerUnavailable
from consumers.http.access import Access, Need
from consumers.http.bodies import NoQuery
from consumers.http.gate import trace
from consumers.http.overload import RETRY_S, Overload
from consumers.http.problems import FieldError, Refusal
from consumers.http.reading import JSON
from consumers.serving.answers import Overloaded
from consumers.serving.types import BadAsk, UnknownModel

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path.

    Args:
        method: upper case.
        path: template with `{name}` for a percent-encoded segment.
        id: name in the OpenAPI document.
        tag: group in the OpenAPI document.
        need: what the caller must hold.
        summary: one line.
        handler: answers.
        about: more about it.
        body: type of the JSON body; a list of types = any of them.
        media: further media types of the body.
        query: struct of the query.
        answer: type of the answer.
        answer_media: its media type.
        status: of the answer.
        refusals: statuses of problems, beside those that the body and the token bring with them.
        examples: of the body, by name.
        counted: takes one of the places for requests under way.
    """

    method: str
    path: str
    id: str
    tag: str
    need: Need
    summary: str
    handler: Handler
    about: str = ""
    body: Any = None
    media: tuple[str, ...] = ()
    query: type[msgspec.Struct] = NoQuery
    answer: Any = None
    answer_media: str = JSON
    status: int = 200
    refusals: tuple[int, ...] = ()
    examples: dict[str, Any] = field(default_factory=dict)
    counted: bool = True


def json_answer(value: Any, status: int = 200) -> Response:
    """`value` as JSON; what is no number (NaN) is null."""
    return Response(msgspec.json.encode(value), status, media_type=JSON)


class Doors:
    """What stands before every operation.

    Args:
        access: tokens.
        overload: places.

    Attributes:
        starting: the service is not open yet; what is below /v1 is answered 503.
    """

    def __init__(self, access: Access, overload: Overload) -> None:
        self.access, self.overload = access, overload
        self.starting = False

    async def through(self, operation: Operation, request: Request) -> Response:
        """The answer of an operation to a caller who may have it.

        Raises:
            Refusal: she may not, or it cannot be done.
        """
        self.access.check_token(request.headers, operation.need)
        if self.starting and operation.path.startswith("/v1/"):
            raise Refusal(503, "the service is starting: see /readyz", retry_after=2)
        if not operation.counted:
            return await operation.handler(request)
        client = request.client.host if request.client else ""
        with self.overload.slot(client), _mended():
            return await operation.handler(request)


@contextlib.contextmanager
def _mended() -> Iterator[None]:
    """Errors of the service that a caller can understand, as refusals."""
    try:
        yield
    except UnknownModel as error:
        raise Refusal(404, str(error)) from error
    except BadAsk as error:
        raise Refusal(422, f"{error}, at $.{error.path}", [FieldError(f"$.{error.path}", str(error))]) from error
    except Overloaded as error:
        raise Refusal(503, str(error), retry_after=RETRY_S) from error
    except BrokerUnavailable as error:
        raise Refusal(503, "the broker does not take events now: try again", retry_after=2) from error


class Endpoint:
    """All methods of one path, as an ASGI application."""

    def __init__(self, operations: Sequence[Operation], doors: Doors) -> None:
        self._doors = doors
        self._template = operations[0].path
        self._by_method = {operation.method: operation for operation in operations}
        if "GET" in self._by_method:
            self._by_method["HEAD"] = self._by_method["GET"]
        self._allow = ", ".join(sorted(self._by_method))

    async def __call__(self, scope: Asgi, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        trace(request).route = self._template
        operation = self._by_method.get(scope["method"])
        if operation is None:
            raise Refusal(405, f"expected {self._allow}", headers={"Allow": self._allow})
        response = await self._doors.through(operation, request)
        await response(scope, receive, send)


def routes(operations: Sequence[Operation], doors: Doors) -> list[Route]:
    """One route per path."""
    by_path: dict[str, list[Operation]] = {}
    for operation in operations:
        by_path.setdefault(operation.path, []).append(operation)
    return [Route(path, Endpoint(of_path, doors), name=path) for path, of_path in by_path.items()]
