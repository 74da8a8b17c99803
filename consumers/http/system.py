"""Operations about the service itself: health, figures, live stream, documents and pages."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.types import Receive, Send
from starlette.types import Scope as Asgi

from consumers.http import meters
from consumers.http.access import Need
from consumers.http.bodies import AliveAnswer
from consumers.http.gate import trace
from consumers.http.operations import Doors, Operation, json_answer
from consumers.http.problems import Refusal
from consumers.http.service import Service
from consumers.http.shelf import Shelf
from consumers.http.stream import Hub
from consumers.serving.types import Health, Part

PAGES = Path(__file__).with_name("pages")
WEB = Path(__file__).parent.parent / "web"

_STARTING = Health(False, {"state": Part(False, "the service is starting")})


class System:
    """What the service says about itself.

    Args:
        service: whose health it is.
        figures: for Prometheus.
        hub: live figures.
        doors: know whether the service is still starting.
        open_metrics: figures are for everybody.
    """

    def __init__(self, service: Service, figures: meters.Meters, hub: Hub, doors: Doors, open_metrics: bool) -> None:
        self._service, self._figures, self._hub, self._doors = service, figures, hub, doors
        self._need: Need = "open" if open_metrics else "any"

    async def alive(self, request: Request) -> Response:
        """The process answers."""
        return json_answer(AliveAnswer())

    async def ready(self, request: Request) -> Response:
        """Whether traffic may come, by part."""
        health = _STARTING if self._doors.starting else self._service.health()
        return json_answer(health, 200 if health.ready else 503)

    async def metrics(self, request: Request) -> Response:
        """Figures for Prometheus."""
        return Response(self._figures.page(), headers={"Content-Type": meters.MEDIA})

    async def stream(self, request: Request) -> Response:
        """Live figures as server-sent events."""
        frames = self._hub.watch(request.headers.get("last-event-id", ""))
        return StreamingResponse(frames, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})

    def operations(self) -> list[Operation]:
        """What this part answers."""
        return [
            Operation(
                "GET",
                "/healthz",
                "healthz",
                "system",
                "open",
                "The process answers",
                self.alive,
                answer=AliveAnswer,
                counted=False,
            ),
            Operation(
                "GET",
                "/readyz",
                "readyz",
                "system",
                "open",
                "Whether traffic may come, by part",
                self.ready,
                "200 when model, state, consumer, lag, producer and clock are in order; 503 with the same body until "
                "then.",
                answer=Health,
                counted=False,
            ),
            Operation(
                "GET",
                "/metrics",
                "metrics",
                "system",
                self._need,
                "Figures for Prometheus",
                self.metrics,
                answer=str,
                answer_media="text/plain",
                counted=False,
            ),
            Operation(
                "GET",
                "/v1/stream",
                "stream",
                "system",
                "any",
                "Live figures as server-sent events",
                self.stream,
                "An event `live` each second. Come back with `Last-Event-ID` to get what was missed meanwhile, of the "
                "last minute. Ends when the service stops.",
                answer=str,
                answer_media="text/event-stream",
                refusals=(503,),
                counted=False,
            ),
        ]


class Pages:
    """Static files: the dashboard's, and those of the page at `/docs`. An ASGI application for every other path.

    Args:
        web: folder of the dashboard.
    """

    def __init__(self, web: Path = WEB) -> None:
        self._web, self._docs = Shelf(web), Shelf(PAGES)

    async def __call__(self, scope: Asgi, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        response = self._found(request, unquote(scope["path"]))
        if response is None:
            raise Refusal(404, "see /openapi.json for what is answered here")
        trace(request).route = "static"
        if scope["method"] not in ("GET", "HEAD"):
            raise Refusal(405, "expected GET, HEAD", headers={"Allow": "GET, HEAD"})
        await response(scope, receive, send)

    def _found(self, request: Request, path: str) -> Response | None:
        if path == "/docs":
            return self._docs.answer(request, "docs.html")
        if path.startswith("/docs/"):
            return self._docs.answer(request, path.removeprefix("/docs/"))
        name = path.removeprefix("/") or "index.html"
        response = self._web.answer(request, name)
        if response is None and path == "/":
            return RedirectResponse("/docs")
        return response
