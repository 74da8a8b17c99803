"""Static files of a folder, by name only: a path that is not in the listing does not exist."""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
    ".txt": "text/plain; charset=utf-8",
}
"""Kinds of files that are handed out; others, such as sources in Python, are not."""

_LISTED_S = 2.0


@dataclass(frozen=True)
class _Kept:
    stamp: tuple[int, int]
    data: bytes
    etag: str


class Shelf:
    """Files below a folder, kept in memory until they change. A folder that does not exist has none.

    Args:
        folder: where they lie.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kept: dict[str, _Kept] = {}
        self._names: dict[str, Path] = {}
        self._listed_at = -math.inf

    def _listed(self) -> dict[str, Path]:
        """The listing, a few seconds old at most: walking a folder for each request would hold up the others."""
        if time.monotonic() - self._listed_at > _LISTED_S:
            self._names, self._listed_at = self.names(), time.monotonic()
        return self._names

    def names(self) -> dict[str, Path]:
        """Files that are handed out, by their path below the folder."""
        if not self._folder.is_dir():
            return {}
        found = (path for path in self._folder.rglob("*") if path.suffix in TYPES and path.is_file())
        return {path.relative_to(self._folder).as_posix(): path for path in found if not path.is_symlink()}

    def answer(self, request: Request, name: str) -> Response | None:
        """The file `name` as an answer, 304 if the browser has it already; None = there is no such file."""
        path = self._listed().get(name)
        if path is None or not path.is_file():
            return None
        file = self._read(name, path)
        headers = {"ETag": file.etag, "Cache-Control": "no-cache"}
        asked = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
        if file.etag in asked or "*" in asked:
            return Response(status_code=304, headers=headers)
        return Response(file.data, 200, headers | {"Content-Type": TYPES[path.suffix]})

    def _read(self, name: str, path: Path) -> _Kept:
        status = path.stat()
        stamp = (status.st_mtime_ns, status.st_size)
        kept = self._kept.get(name)
        if kept is None or kept.stamp != stamp:
            data = path.read_bytes()
            kept = self._kept[name] = _Kept(stamp, data, f'"{hashlib.sha256(data).hexdigest()[:32]}"')
        return kept
