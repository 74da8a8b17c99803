"""The application: operations behind their doors, pages, and the document that describes them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from consumers.http import openapi
from consumers.http.access import Access
from consumers.http.admin import Admin
from consumers.http.gate import Gate, on_http_exception, on_refusal
from consumers.http.meters import Meters
from consumers.http.operations import Doors, Operation, routes
from consumers.http.overload import Overload
from consumers.http.problems import Refusal
from consumers.http.reading import JSON
from consumers.http.service import Service
from consumers.http.settings import Settings
from consumers.http.stream import Hub
from consumers.http.system import Pages, System
from consumers.http.traffic import Traffic


def create_app(engine: Service, settings: Settings) -> Starlette:
    """The HTTP face of `engine`, which somebody else starts and closes (`consumers.http.server.serve` does).

    `app.state.doors.starting` may be set while the engine is not open yet; `app.state.hub` holds the open streams.
    """
    access, overload = Access(settings), Overload(settings.limits)
    doors = Doors(access, overload)
    hub = Hub(engine.live, most=settings.limits.streams)

    def live() -> dict[str, Any] | None:
        return None if doors.starting else engine.live()

    meters = Meters(live)
    operations = [
        *Traffic(engine, overload, meters).operations(),
        *Admin(engine, overload).operations(),
        *System(engine, meters, hub, doors, settings.open_metrics).operations(),
    ]
    document = msgspec.json.encode(openapi.document(operations, access.asks))

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await hub.close()

    app = Starlette(
        routes=_routes(operations, doors, document),
        middleware=[Middleware(Gate, access=access, meters=meters)],
        exception_handlers={HTTPException: on_http_exception, Refusal: on_refusal},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.doors, app.state.hub, app.state.meters = doors, hub, meters
    return app


def _routes(operations: list[Operation], doors: Doors, document: bytes) -> list[BaseRoute]:
    async def described(request: Request) -> Response:
        return Response(document, media_type=JSON)

    about = Operation(
        "GET",
        "/openapi.json",
        "openapi",
        "system",
        "open",
        "The OpenAPI document",
        described,
        counted=False,
    )
    return [*routes([*operations, about], doors), Route("/{path:path}", Pages())]
