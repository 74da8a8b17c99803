"""The OpenAPI 3.1 document, made from the operations and the structs they read and write."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from consumers.http.bodies import TAKEN
from consumers.http.operations import Operation
from consumers.http.problems import MEDIA, TITLES, Problem
from consumers.http.reading import JSON
from consumers.wire import MAX_ID
from streamrec import __version__

Json = dict[str, Any]

_REF = "#/components/schemas/{name}"
_TAGS = {
    "traffic": "Recommendations out, events and rewards in.",
    "users": "What is held of users, and erasure.",
    "items": "The catalogue.",
    "models": "Versions of the model, and records that could not be used.",
    "system": "Health and figures.",
}
_PARAMETER = re.compile(r"{(\w+)}")


def document(operations: Sequence[Operation], secured: bool) -> Json:
    """The document.

    Args:
        operations: what is answered.
        secured: tokens are asked for.
    """
    types = _types(operations)
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    schema_of = {id(kind): schema for kind, schema in zip(types, schemas, strict=True)}
    _narrow(components)
    paths: Json = {}
    for operation in operations:
        entry = _operation(operation, schema_of, secured)
        paths.setdefault(operation.path, {})[operation.method.lower()] = entry
    document: Json = {
        "openapi": "3.1.0",
        "info": {
            "title": "streamrec",
            "version": __version__,
            "summary": "Recommendations that learn while people click.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": about} for name, about in _TAGS.items()],
        "paths": paths,
        "components": {"schemas": components, "responses": _problems()},
    }
    if secured:
        about = "A token made by `streamrec token`. Each operation names the scope it needs; admin opens everything."
        scheme = {"type": "http", "scheme": "bearer", "description": about}
        document["components"]["securitySchemes"] = {"token": scheme}
    return document


def _types(operations: Sequence[Operation]) -> list[Any]:
    """Every type once, by identity: annotated lists are no keys of a dictionary."""
    found: dict[int, Any] = {id(Problem): Problem}
    for operation in operations:
        for kind in (*_bodies(operation), operation.answer, operation.query):
            if kind is not None:
                found[id(kind)] = kind
    return list(found.values())


def _bodies(operation: Operation) -> list[Any]:
    if operation.body is None:
        return []
    return operation.body if isinstance(operation.body, list) else [operation.body]


def _narrow(components: Json) -> None:
    """Instructions are messages on the wire, but no events that anybody may post."""
    components["Event"]["properties"]["kind"]["enum"] = list(TAKEN)


def _operation(operation: Operation, schema_of: dict[int, Json], secured: bool) -> Json:
    parameters = [_path_parameter(name) for name in _PARAMETER.findall(operation.path)]
    parameters += _query_parameters(operation.query)
    entry: Json = {
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": operation.summary,
        "responses": _responses(operation, schema_of, secured),
    }
    if operation.about:
        entry["description"] = operation.about
    if parameters:
        entry["parameters"] = parameters
    if operation.body is not None:
        entry["requestBody"] = _request_body(operation, schema_of)
    if secured and operation.need != "open":
        entry["security"] = [{"token": [] if operation.need == "any" else [operation.need]}]
    return entry


def _request_body(operation: Operation, schema_of: dict[int, Json]) -> Json:
    schemas = [schema_of[id(kind)] for kind in _bodies(operation)]
    content: Json = {JSON: {"schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas}}}
    if operation.examples:
        content[JSON]["examples"] = {name: {"value": value} for name, value in operation.examples.items()}
    for media in operation.media:
        content[media] = {"schema": {"type": "string", "description": "One JSON object per line."}}
    return {"required": True, "content": content}


def _responses(operation: Operation, schema_of: dict[int, Json], secured: bool) -> Json:
    schema = schema_of[id(operation.answer)]
    content = {operation.answer_media: {"schema": schema}}
    responses: Json = {str(operation.status): {"description": operation.summary, "content": content}}
    for status in sorted(_refusals(operation, secured)):
        responses[str(status)] = {"$ref": f"#/components/responses/{TITLES[status][0]}"}
    if operation.id == "readyz":
        responses["503"] = {"description": "Not ready; `parts` says why.", "content": content}
    return responses


def _refusals(operation: Operation, secured: bool) -> set[int]:
    """Every status a caller can meet."""
    refusals = {400, *operation.refusals}
    if operation.path not in ("/healthz", "/readyz"):
        refusals |= {421}
    if secured and operation.need != "open":
        refusals |= {401, 403}
    if operation.method != "GET":
        refusals |= {403}
    if operation.counted:
        refusals |= {429, 503}
    if operation.body is not None:
        refusals |= {408, 413, 415, 422}
    if "{" in operation.path:
        refusals |= {422}
    return refusals - {operation.status}


def _problems() -> Json:
    content = {MEDIA: {"schema": {"$ref": _REF.format(name="Problem")}}}
    problems: Json = {}
    for status, (slug, title) in TITLES.items():
        problems[slug] = {"description": title, "content": content}
        if status in (429, 503):
            about = {"description": "Seconds to wait before another try.", "schema": {"type": "integer", "minimum": 0}}
            problems[slug]["headers"] = {"Retry-After": about}
    return problems


def _path_parameter(name: str) -> Json:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": "Percent-encoded; a / in it is %2F.",
        "schema": {"type": "string", "minLength": 1, "maxLength": MAX_ID},
    }


def _query_parameters(kind: type[msgspec.Struct]) -> list[Json]:
    schemas = msgspec.json.schema(kind)
    properties = schemas["$defs"][kind.__name__]["properties"] if "$defs" in schemas else schemas["properties"]
    return [{"name": name, "in": "query", "required": False, "schema": schema} for name, schema in properties.items()]
