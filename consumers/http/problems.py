"""Refusals as RFC 9457 problem details."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from starlette.responses import Response

from consumers.serving.types import Verdict

MEDIA = "application/problem+json"

TITLES = {
    400: ("malformed", "The request cannot be read"),
    401: ("token-needed", "A token is needed"),
    403: ("forbidden", "This is not allowed"),
    404: ("not-found", "There is no such thing"),
    405: ("method-not-allowed", "This method is not answered here"),
    408: ("too-slow", "The body took too long to arrive"),
    409: ("conflict", "This cannot be done now"),
    413: ("too-large", "The request is too large"),
    415: ("unsupported-media-type", "This kind of body is not read here"),
    421: ("misdirected", "This server does not go by that name"),
    422: ("invalid", "A value is not valid"),
    429: ("too-many-requests", "Too many requests of yours are under way"),
    500: ("internal", "The server made a mistake"),
    503: ("unavailable", "The service cannot do this now"),
}
"""Last part of `type`, and `title`, by status."""


class FieldError(msgspec.Struct, frozen=True):
    """One value that is wrong. `path`: where it stands, such as `$.items[3].item`."""

    path: str
    says: str


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a request was refused. `instance` holds the request's id, as the log does."""

    type: str
    title: str
    status: int
    detail: str
    instance: str = ""
    errors: list[FieldError] = []
    events: list[Verdict] = []


class Refusal(Exception):
    """A request that is not answered as asked.

    Args:
        status: one of `TITLES`.
        detail: what was expected, what came, what to do. Never holds a secret or a user id.
        errors: the values that are wrong.
        retry_after: seconds after which another try makes sense.
        headers: further headers of the answer.
        events: verdicts, where a batch of events was refused as a whole.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        errors: Sequence[FieldError] = (),
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
        events: Sequence[Verdict] = (),
    ) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail
        self.errors, self.events = list(errors), list(events)
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(retry_after)

    def response(self, request_id: str) -> Response:
        """The refusal as an answer."""
        slug, title = TITLES[self.status]
        problem = Problem(
            f"urn:streamrec:problem:{slug}",
            title,
            self.status,
            self.detail,
            f"urn:streamrec:request:{request_id}",
            self.errors,
            self.events,
        )
        return Response(msgspec.json.encode(problem), self.status, self.headers, MEDIA)


def invalid(error: Exception, where: str = "") -> Refusal:
    """422 for a value that msgspec refused; its message ends in the path of the value."""
    says, _, path = str(error).partition(" - at `")
    path = path.removesuffix("`") or "$"
    if where:
        path = where + path.removeprefix("$")
    return Refusal(422, f"{says}, at {path}", [FieldError(path, says)])
