"""The OpenAPI document says what the application does."""

from __future__ import annotations

from typing import Any

import httpx
import jsonschema_rs
import msgspec
import pytest

from consumers.http.bodies import ItemBody, RankBody, RecommendBody, RewardBody
from consumers.http.settings import Settings
from tests.consumers.http.running import Borrowed, Running
from tests.consumers.http.test_access import GUARDED

pytestmark = pytest.mark.kafka

BODIES = {
    "recommend": [RecommendBody],
    "rank": [RankBody],
    "reward": [RewardBody],
    "putItems": [list[ItemBody], ItemBody],
}


@pytest.fixture(scope="module")
def document(http: httpx.Client) -> dict[str, Any]:
    return http.get("/openapi.json").json()  # type: ignore[no-any-return]


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(path, method, one) for path, methods in document["paths"].items() for method, one in methods.items()]


def test_it_is_a_document_of_openapi_3_1(document: dict[str, Any]) -> None:
    assert document["openapi"] == "3.1.0"
    ids = [one["operationId"] for _, _, one in operations(document)]
    assert len(ids) == len(set(ids))
    tags = {tag["name"] for tag in document["tags"]}
    for _, _, one in operations(document):
        assert set(one["tags"]) <= tags
        assert one["summary"]


def test_every_reference_has_its_target(document: dict[str, Any]) -> None:
    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if "$ref" in node:
                at: Any = document
                for key in node["$ref"].removeprefix("#/").split("/"):
                    at = at[key]
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(document)


def test_every_operation_tells_its_refusals(document: dict[str, Any]) -> None:
    for path, method, one in operations(document):
        told = set(one["responses"])
        if path.startswith("/v1/") and path != "/v1/stream":
            assert {"400", "421", "429", "503"} <= told, path
        if "requestBody" in one:
            assert {"408", "413", "415", "422"} <= told, path
        if method != "get":
            assert "403" in told, path


def test_every_example_is_what_its_operation_reads(document: dict[str, Any]) -> None:
    checked = 0
    for _, _, one in operations(document):
        for example in (
            one.get("requestBody", {}).get("content", {}).get("application/json", {}).get("examples", {}).values()
        ):
            schema = one["requestBody"]["content"]["application/json"]["schema"] | {
                "components": document["components"]
            }
            jsonschema_rs.validator_for(schema).validate(example["value"])
            for kind in BODIES.get(one["operationId"], [])[:1]:
                msgspec.convert(example["value"], kind)
            checked += 1
    assert checked >= 5


def test_tokens_are_described_where_they_are_asked_for(running: Running, document: dict[str, Any]) -> None:
    assert "securitySchemes" not in document["components"]
    settings = Settings(port=0, access_log=False, tokens=GUARDED.tokens)
    with Running(Borrowed(running.engine), settings) as guarded, guarded.client() as http:
        told = http.get("/openapi.json").json()
    assert told["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    assert told["paths"]["/v1/users/{id}"]["delete"]["security"] == [{"token": ["admin"]}]
    assert told["paths"]["/v1/models"]["get"]["security"] == [{"token": []}]
    assert "security" not in told["paths"]["/healthz"]["get"]
    assert "401" in told["paths"]["/v1/recommend"]["post"]["responses"]
