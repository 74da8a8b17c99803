"""Whatever arrives, over Kafka or HTTP: nothing stops, no 5xx but a told 503, and the books add up."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import socket
import time
from collections import Counter
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from consumers.kafka import connect_producer
from consumers.serving.engine import Engine
from tests.consumers.http import hostile
from tests.consumers.http.ledger import Books, audit
from tests.consumers.http.running import Running

pytestmark = [
    pytest.mark.kafka,
    # The service's threads use the module `random` while hypothesis draws; it takes them for its strategies.
    pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies"),
]

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
    negative_data_rejection,
]
ENDLESS = {"stream"}
UNREADY = {"readyz"}
"""Its 503 is an answer, told in the document: no model is learned here."""
PARTLY = {"events"}
"""Answers 202 as long as one event of many can be read, so a body that is wrong somewhere is not refused."""

_numbers = itertools.count(1)


def fuzz(examples: int) -> Any:
    """Settings: the same examples on every machine, as many as that."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],  # a service that remembers what came before cannot be asked to fail again
    )


def from_document(http: httpx.Client, examples: int) -> Counter[int]:
    """Requests made from the OpenAPI document, right ones and wrong ones; statuses of the answers."""
    schema = schemathesis.openapi.from_dict(http.get("/openapi.json").json())
    schema.config.update(base_url=str(http.base_url).rstrip("/"))
    seen: Counter[int] = Counter()
    for found in schema.get_all_operations():
        operation = found.ok()
        name = operation.definition.raw["operationId"]
        if name in ENDLESS:
            continue
        left_out = {not_a_server_error} if name in UNREADY else {negative_data_rejection} if name in PARTLY else set()
        checks = [check for check in CHECKS if check not in left_out]
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            send_cases(operation, mode, checks, examples, seen)
    return seen


def send_cases(operation: Any, mode: GenerationMode, checks: list[Any], examples: int, seen: Counter[int]) -> None:
    """Cases of one operation, each answer checked against what the document promises."""

    @fuzz(examples)
    @given(case=operation.as_strategy(generation_mode=mode))
    def run(case: Any) -> None:
        response = case.call()
        seen[response.status_code] += 1
        case.validate_response(response, checks=checks)

    with contextlib.suppress(Unsatisfiable):  # nothing about it can be wrong
        run()


def raw_requests(running: Running, examples: int) -> Counter[int]:
    """Requests as bytes over a socket; statuses of the answers, 0 = closed without one."""
    host, port = running.url.removeprefix("http://").rstrip("/").split(":")
    seen: Counter[int] = Counter()

    @fuzz(examples)
    @given(hostile.requests())
    def run(request: bytes) -> None:
        with socket.create_connection((host, int(port)), timeout=10.0) as line:
            try:
                line.sendall(request)
                head = line.recv(65_536)
            except OSError:
                head = b""
        status = int(head[9:12]) if head.startswith(b"HTTP/1.1 ") else 0
        seen[status] += 1
        assert status < 500 or (status == 503 and (b"retry-after" in head or b'"parts"' in head)), (request, head)

    run()
    return seen


def event_batches(running: Running, http: httpx.Client, examples: int, size: int, mutants: int) -> Counter[str]:
    """Batches of events as NDJSON, those that are objects with an id of their own, and variations; verdicts."""
    seen: Counter[str] = Counter()

    @fuzz(examples)
    @given(st.lists(st.one_of(hostile.right, hostile.objects, hostile.messages), min_size=size, max_size=size))
    def run(values: list[dict[str, Any] | bytes]) -> None:
        lines = [value if isinstance(value, bytes) else named(value) for value in values]
        lines += [one for value in values if isinstance(value, bytes) for one in hostile.mutants(value, mutants)]
        lines = [line.replace(b"\n", b" ").replace(b"\r", b" ") for line in lines]
        sent = [line for line in lines if line.strip()]
        answer = http.post("/v1/events", content=b"\n".join(lines), headers={"content-type": "application/x-ndjson"})
        if sum(map(len, lines)) + len(lines) - 1 > running.settings.limits.body_bytes:
            assert answer.status_code == 413
            return
        assert answer.status_code in (202, 422), answer.text
        verdicts = answer.json()["events"]
        assert len(verdicts) == len(sent)
        assert all(verdict["reason"] for verdict in verdicts if verdict["status"] == "rejected")
        seen.update(verdict["status"] + (":named" if verdict["id"].startswith("http-") else "") for verdict in verdicts)

    run()
    return seen


def named(value: dict[str, Any]) -> bytes:
    text = json.dumps(value | {"id": f"http-{next(_numbers)}"}, ensure_ascii=False)
    return text.encode("utf-8", "surrogatepass")


def wire_messages(engine: Engine, examples: int, size: int, mutants: int) -> int:
    """Records put into the topic as they are, and variations of each; how many."""
    producer = connect_producer(engine.servers)
    sent = 0

    @fuzz(examples)
    @given(st.lists(st.tuples(hostile.keys, hostile.messages), min_size=size, max_size=size))
    def run(records: list[tuple[bytes | None, bytes]]) -> None:
        nonlocal sent
        for key, value in records:
            for one in (bytes(value), *hostile.mutants(value, mutants)):
                producer.send(engine.follower.world.topic, one, key=key)
                sent += 1

    try:
        run()
        producer.flush()
    finally:
        producer.close()
    return sent


def settled(engine: Engine, running: Running, seconds: float) -> Books:
    """The books, once the engine has read everything and what it buried has arrived: letters travel behind."""
    deadline = time.monotonic() + seconds
    while True:
        live = running.do(figures(engine))
        books = audit(engine) if live["lag"]["records"] == 0 else None
        if books is not None and books.reasons.total() == live["counts"]["dead_letters"] and not books.odd:
            return books
        if time.monotonic() > deadline:
            return books or audit(engine)
        time.sleep(0.5)


async def figures(engine: Engine) -> dict[str, Any]:
    return engine.live()


def assert_books_balance(books: Books, engine: Engine, running: Running) -> None:
    """Every record was taken in, came a second time, was an instruction, or is buried with its reason."""
    counts = running.do(figures(engine))["counts"]
    assert books.odd[:5] == []
    assert counts["dead_letters"] == books.buried.total() == books.reasons.total()
    assert counts["events"] + counts["repeated"] == books.records["event"] - books.buried["event"]
    assert books.records["unreadable"] == books.buried["unreadable"]


def assault(running: Running, http: httpx.Client, engine: Engine, scale: int, mutants: int) -> int:
    """All of it; how many messages that were."""
    began = next(_numbers)
    sent = wire_messages(engine, 7 * scale, 10, mutants)
    verdicts = event_batches(running, http, 2 * scale, 10, mutants)
    raw = raw_requests(running, 5 * scale)
    cases = from_document(http, max(3, scale // 12))
    sent += wire_messages(engine, scale, 10, mutants)
    books = settled(engine, running, 60.0 + scale)
    assert_books_balance(books, engine, running)
    named_ids = {name: count for name, count in books.ids.items() if name.startswith("http-")}
    ours = sum(count for name, count in named_ids.items() if int(name.removeprefix("http-")) > began)
    assert ours == verdicts["accepted:named"]
    assert http.get("/healthz").status_code == 200
    assert http.post("/v1/recommend", json={"user": "after all"}).status_code == 200
    assert {200, 202, 400, 404, 422} <= set(raw) | set(cases), "the assault got past the parser"
    total = sent + verdicts.total() + raw.total() + cases.total()
    print(f"{total} messages: wire {sent}, events {dict(verdicts)}, raw {dict(raw)}, described {dict(cases)}")
    print(f"topic {dict(books.records)}, buried {dict(books.buried)} for {len(books.reasons)} reasons")
    return total


def test_nothing_stops_and_the_books_add_up(
    running: Running, http: httpx.Client, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert assault(running, http, engine, 10, 0) > 1000
    assert "begins again" not in caplog.text, caplog.text[-3000:]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_hundred_thousand_messages_stop_nothing(
    running: Running, http: httpx.Client, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert assault(running, http, engine, 150, 7) >= 100_000
    assert "begins again" not in caplog.text, caplog.text[-3000:]
