"""Every operation, over a real socket, on the real engine."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx
import pytest

from tests.consumers.http.running import Running

pytestmark = pytest.mark.kafka

PROBLEM = "application/problem+json"


def post(http: httpx.Client, path: str, body: Any, **headers: str) -> httpx.Response:
    return http.post(path, json=body, headers=headers)


def until(http: httpx.Client, path: str, status: int = 200, seconds: float = 10.0) -> httpx.Response:
    """The state follows the topic, a moment behind."""
    deadline = time.monotonic() + seconds
    while (answer := http.get(path)).status_code != status:
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.02)
    return answer


def wait_until_recent(http: httpx.Client, user: str, decision: int, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not any(one["decision"] == decision for one in until(http, f"/v1/users/{user}").json()["recent"]):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def listed(http: httpx.Client, query: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = http.get("/v1/items", params={"query": query}).json()["items"]
    return items


def wait_until_listed(http: httpx.Client, query: str, many: int, seconds: float = 10.0) -> list[dict[str, Any]]:
    deadline = time.monotonic() + seconds
    while len(found := listed(http, query)) < many:
        assert time.monotonic() < deadline, found
        time.sleep(0.02)
    return found


def assert_problem(answer: httpx.Response, status: int, path: str | None = None) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == PROBLEM
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == status
    assert problem["instance"].endswith(answer.headers["x-request-id"])
    if path is not None:
        assert [error["path"] for error in problem["errors"]] == [path]
    return problem


def test_a_newcomer_gets_a_slate_with_what_reactions_quote(http: httpx.Client) -> None:
    post(http, "/v1/events", [{"kind": "click", "user": "a", "item": f"i{n}"} for n in range(5)]).raise_for_status()
    until(http, "/v1/users/a")
    answer = post(http, "/v1/recommend", {"user": "b", "k": 3})
    assert answer.status_code == 200
    given = answer.json()
    assert -(1 << 53) < given["decision"] < 0
    assert len(given["items"]) == 3
    assert all(set(slot) == {"item", "propensity", "score"} for slot in given["items"])
    assert {"policy", "model", "fallback", "took_ms"} <= set(given)


def test_excluded_items_do_not_come_and_candidates_are_all_there_is(http: httpx.Client) -> None:
    shown = post(http, "/v1/recommend", {"user": "c", "k": 2}).json()["items"]
    kept = {slot["item"] for slot in shown}
    again = post(http, "/v1/recommend", {"user": "c", "k": 2, "exclude": sorted(kept)}).json()["items"]
    assert not kept & {slot["item"] for slot in again}
    ranked = post(http, "/v1/rank", {"user": "c", "candidates": ["i3", "i1"]}).json()["items"]
    assert sorted(slot["item"] for slot in ranked) == ["i1", "i3"]


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"user": "u", "k": 201}, "$.k"),
        ({"user": "u", "k": 0}, "$.k"),
        ({"user": ""}, "$.user"),
        ({"user": "x" * 129}, "$.user"),
        ({"user": 5}, "$.user"),
        ({"k": 5}, "$"),
        ({"user": "u", "kk": 5}, "$"),
        ({"user": "u", "candidates": ["i"] * 1001}, "$.candidates"),
        ({"user": "u", "exclude": ["ok", ""]}, "$.exclude[1]"),
        ({"user": "u", "deadline_ms": 0}, "$.deadline_ms"),
        ([], "$"),
    ],
)
def test_a_wrong_value_is_named_by_its_path(http: httpx.Client, body: Any, path: str) -> None:
    assert_problem(post(http, "/v1/recommend", body), 422, path)


def test_rank_needs_candidates(http: httpx.Client) -> None:
    assert_problem(post(http, "/v1/rank", {"user": "u"}), 422)
    assert_problem(post(http, "/v1/rank", {"user": "u", "candidates": []}), 422, "$.candidates")


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b'{"user":"\xff"}', b'{"user":"u"}}', b"nul"])
def test_what_is_no_json_is_400(http: httpx.Client, body: bytes) -> None:
    shapeless = body[:1] != b"{" or body == b"{"
    for path in ("/v1/recommend", "/v1/rank", "/v1/reward", "/v1/events") if shapeless else ("/v1/recommend",):
        answer = http.post(path, content=body, headers={"content-type": "application/json"})
        assert_problem(answer, 400)


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_other_kinds_of_bodies_are_415(http: httpx.Client, kind: str) -> None:
    headers = {"content-type": kind} if kind else {}
    answer = http.post("/v1/recommend", content=b'{"user":"u"}', headers=headers)
    assert_problem(answer, 415)
    assert_problem(http.post("/v1/events", content=b'{"user":"u"}', headers=headers), 415)


def test_events_get_a_verdict_each_and_an_id_counts_once(http: httpx.Client) -> None:
    click = {"kind": "click", "user": "d", "item": "i1", "id": "d-1"}
    answer = post(http, "/v1/events", [click, {"kind": "click", "user": "d"}, click | {"id": "d-2"}])
    assert answer.status_code == 202
    first, bad, second = answer.json()["events"]
    assert (first, second) == (
        {"status": "accepted", "id": "d-1", "reason": ""},
        {"status": "accepted", "id": "d-2", "reason": ""},
    )
    assert bad["status"] == "rejected"
    assert "`item`" in bad["reason"]
    assert [v["status"] for v in post(http, "/v1/events", click).json()["events"]] == ["duplicate"]
    assert len(until(http, "/v1/users/d/state").json()["items"]) in (1, 2)


def test_events_come_as_lines_too_and_a_broken_line_stops_no_other(http: httpx.Client) -> None:
    lines = b'{"kind":"click","user":"e","item":"i1"}\r\n\n{"kind":\n' + b"[" * 5000 + b"\n\xff\n"
    lines += b'{"kind":"skip","user":"e","item":"i2"}'
    answer = http.post("/v1/events", content=lines, headers={"content-type": "application/x-ndjson"})
    assert answer.status_code == 202
    assert [v["status"] for v in answer.json()["events"]] == ["accepted", *["rejected"] * 3, "accepted"]


def test_nothing_that_can_be_read_is_422_with_the_verdicts(http: httpx.Client) -> None:
    problem = assert_problem(post(http, "/v1/events", [{"kind": "click"}, {"kind": "dance", "user": "u"}]), 422)
    assert [v["status"] for v in problem["events"]] == ["rejected", "rejected"]
    assert [error["path"] for error in problem["errors"]] == ["$[0]", "$[1]"]


@pytest.mark.parametrize("kind", ["end", "erase", "item", "retire"])
def test_instructions_are_no_events(http: httpx.Client, kind: str) -> None:
    problem = assert_problem(post(http, "/v1/events", {"kind": kind, "user": "u", "item": "i"}), 422)
    assert "instruction" in problem["events"][0]["reason"]


def test_an_event_from_the_future_is_refused(http: httpx.Client) -> None:
    far = {"kind": "click", "user": "u", "item": "i", "time": time.time() + 3600}
    assert "clock" in assert_problem(post(http, "/v1/events", far), 422)["events"][0]["reason"]
    near = far | {"time": time.time() + 60}
    assert post(http, "/v1/events", near).status_code == 202


def test_batches_and_bodies_have_their_limits(http: httpx.Client) -> None:
    event = {"kind": "click", "user": "f", "item": "i1"}
    assert_problem(post(http, "/v1/events", [event] * 1001), 413)
    assert post(http, "/v1/events", [event] * 1000).status_code == 202
    assert post(http, "/v1/events", []).json() == {"events": []}
    assert_problem(
        http.post("/v1/events", content=b" " * ((1 << 20) + 1), headers={"content-type": "application/json"}), 413
    )


def test_a_reward_names_the_item_or_its_slot(http: httpx.Client) -> None:
    assert http.put("/v1/items", json=[{"item": f"reward/{number}"} for number in range(3)]).status_code == 200
    wait_until_listed(http, "reward/", 3)
    given = post(http, "/v1/recommend", {"user": "g", "k": 3}).json()
    reward = {"user": "g", "decision": given["decision"], "item": given["items"][1]["item"], "id": "g-1"}
    answer = post(http, "/v1/reward", reward)
    assert (answer.status_code, answer.json()["status"]) == (202, "accepted")
    assert post(http, "/v1/reward", reward).json()["status"] == "duplicate"
    wait_until_recent(http, "g", given["decision"])
    by_slot = {"user": "g", "decision": given["decision"], "slot": 2, "value": 0.0}
    assert post(http, "/v1/reward", by_slot).json()["status"] == "accepted"
    assert_problem(post(http, "/v1/reward", by_slot | {"slot": 3}), 422, "$.item")
    assert_problem(post(http, "/v1/reward", {"user": "g", "decision": given["decision"]}), 422, "$.item")
    assert_problem(post(http, "/v1/reward", {"user": "g", "decision": -5, "slot": 0}), 422, "$.item")
    assert_problem(post(http, "/v1/reward", {"user": "g"}), 422)


@pytest.mark.parametrize("user", ["x/y", "ü ß", "state", "a/state", "%2F", "?#&=", "日本", ".hidden", "e\u0000f"])
def test_any_id_finds_its_user_when_percent_encoded(http: httpx.Client, user: str) -> None:
    from urllib.parse import quote

    post(http, "/v1/events", {"kind": "click", "user": user, "item": "i1"}).raise_for_status()
    place = f"/v1/users/{quote(user, safe='')}"
    assert until(http, place).json()["user"] == user
    assert until(http, f"{place}/state").json()["user"] == user
    assert user in http.get("/v1/users", params={"limit": 1000}).json()["users"]
    assert http.delete(place).json() == {"erased": True}
    until(http, place, 404)
    assert_problem(http.delete(place), 404)


def test_ids_in_paths_are_checked(http: httpx.Client) -> None:
    assert_problem(http.get("/v1/users/" + "x" * 129), 422, "path.id")
    assert_problem(http.get("/v1/users/%ff"), 422, "path.id")
    assert_problem(http.get("/v1/users/"), 404)


@pytest.mark.parametrize("search", ["limit=0", "limit=1001", "limit=x", "what=1", "limit=1&limit=2", "query=%ff"])
def test_queries_are_checked(http: httpx.Client, search: str) -> None:
    for path in ("/v1/users", "/v1/items"):
        assert_problem(http.get(f"{path}?{search}"), 422)


def test_items_are_added_listed_and_retired(http: httpx.Client) -> None:
    items = [{"item": "new/1", "category": "shoes"}, {"item": "new/2", "available": False}]
    assert http.put("/v1/items", json=items).json() == {"upserted": 2}
    assert http.put("/v1/items", json=items[0]).json() == {"upserted": 1}
    found = wait_until_listed(http, "new/", 2)
    assert {(one["item"], one["available"]) for one in found} == {("new/1", True), ("new/2", False)}
    assert http.delete("/v1/items/new%2F1").json() == {"retired": True}
    assert_problem(http.delete("/v1/items/never"), 404)
    assert_problem(http.put("/v1/items", json=[{"item": "x"}, {"item": ""}]), 422, "$[1].item")
    assert_problem(http.put("/v1/items", json=[{"item": "x"}] * 1001), 413)


def test_models_are_listed_and_unknown_ones_are_404(http: httpx.Client) -> None:
    assert isinstance(http.get("/v1/models").json()["models"], list)
    assert_problem(http.post("/v1/models/nope/promote"), 404)
    assert_problem(http.post("/v1/models/nope/shadow"), 404)
    assert http.delete("/v1/models/shadow").json() == {"shadow": None}


def test_dead_letters_are_listed(http: httpx.Client) -> None:
    assert isinstance(http.get("/v1/dead-letters", params={"limit": 5}).json()["dead_letters"], list)


def test_health_is_told_by_part(http: httpx.Client) -> None:
    assert http.get("/healthz").json() == {"alive": True}
    health = http.get("/readyz")
    assert health.status_code == (200 if health.json()["ready"] else 503)
    assert all(set(part) == {"ok", "says"} for part in health.json()["parts"].values())


def test_what_is_not_there_is_404_and_a_wrong_method_405_with_those_that_are_right(http: httpx.Client) -> None:
    assert_problem(http.get("/v1/nothing"), 404)
    assert_problem(http.post("/nothing"), 404)
    answer = http.patch("/v1/users/u")
    assert_problem(answer, 405)
    assert answer.headers["allow"] == "DELETE, GET, HEAD"
    assert http.head("/v1/models").content == b""


def test_no_get_changes_anything(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    changing = [
        path
        for path, methods in document["paths"].items()
        if {"post", "put", "delete"} & set(methods) and "get" not in methods
    ]
    for path in changing:
        assert http.get(path.replace("{version}", "v").replace("{id}", "i")).status_code == 405, path
    assert {"/v1/events", "/v1/models/rollback", "/v1/items/{id}"} <= set(changing)


def test_a_request_id_is_kept_if_it_is_harmless(http: httpx.Client) -> None:
    assert http.get("/healthz", headers={"x-request-id": "my-1"}).headers["x-request-id"] == "my-1"
    for bad in ("x" * 65, "a b", "{}"):
        assert http.get("/healthz", headers={"x-request-id": bad}).headers["x-request-id"] != bad


def test_figures_count_what_was_refused_too(http: httpx.Client) -> None:
    def count(line: str) -> float:
        found = [text for text in http.get("/metrics").text.splitlines() if text.startswith(line)]
        return float(found[0].split()[-1]) if found else 0.0

    refused = 'streamrec_http_requests_total{code="422",method="POST",route="/v1/recommend"}'
    unknown = 'streamrec_http_requests_total{code="404",method="GET",route="unmatched"}'
    rejected = 'streamrec_events_total{verdict="rejected"}'
    before = [count(refused), count(unknown), count(rejected)]
    post(http, "/v1/recommend", {})
    http.get("/secret-user-17")
    post(http, "/v1/events", {"kind": "click"})
    assert [count(refused), count(unknown), count(rejected)] == [value + 1 for value in before]
    page = http.get("/metrics").text
    assert "secret-user-17" not in page
    assert "streamrec_ready" in page
    assert 'streamrec_http_request_seconds_bucket{le="0.025",route="/v1/recommend"}' in page


def test_the_live_stream_tells_the_figures_and_goes_on_where_it_was(running: Running) -> None:
    with running.client() as http, http.stream("GET", "/v1/stream") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.iter_lines()
        frames = [next(lines) for _ in range(6)]
    assert frames[0] == "retry: 2000"
    assert frames[3] == "event: live"
    assert {"t", "counts", "lag"} <= set(json.loads(frames[4].removeprefix("data: ")))
    last = frames[2].removeprefix("id: ")
    with running.client() as http, http.stream("GET", "/v1/stream", headers={"last-event-id": last}) as answer:
        lines = answer.iter_lines()
        again = next(line for line in lines if line.startswith("id: "))
    assert int(again.rpartition("-")[2]) == int(last.rpartition("-")[2]) + 1


def test_pages_are_served_and_known_again(http: httpx.Client) -> None:
    for path, kind in (("/docs", "text/html"), ("/docs/docs.js", "text/javascript"), ("/docs/docs.css", "text/css")):
        answer = http.get(path)
        assert answer.headers["content-type"].startswith(kind)
        again = http.get(path, headers={"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    assert http.get("/", follow_redirects=True).headers["content-type"].startswith("text/html")
    for path in ("/docs/../app.py", "/..%2fapp.py", "/docs/%2e%2e/app.py", "//etc/passwd", "/__init__.py"):
        assert http.get(path).status_code == 404
    assert_problem(http.post("/docs"), 405)
