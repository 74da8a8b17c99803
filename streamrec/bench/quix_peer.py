"""Quix Streams on the same events: what a session store keeps of each user, in its keyed state with a changelog.

Run by `streamrec.bench.live_ingest` with an interpreter that has `quixstreams`; prints one JSON object.

    python quix_peer.py SERVERS TOPIC EVENTS STATE_DIR
"""

from __future__ import annotations

import json
import sys
import time
import uuid
from typing import Any

LENGTH = 20
"""Events kept per user, as a session store keeps by default."""


def main(servers: str, topic: str, events: int, state_dir: str) -> None:
    """Aggregate `events` records of `topic` and say how fast that was, from the first record to the last."""
    from quixstreams import Application

    app = Application(
        broker_address=servers,
        consumer_group=f"quix-{uuid.uuid4().hex[:8]}",
        auto_offset_reset="earliest",
        state_dir=state_dir,
        use_changelog_topics=True,
        loglevel="ERROR",
    )
    times: list[float] = []
    count = 0

    def session(event: dict[str, Any], state: Any) -> dict[str, Any]:
        nonlocal count
        if count == 0:
            times.append(time.perf_counter())
        count += 1
        if event["kind"] == "click":
            kept = state.get("items", [])
            kept.append([event["item"], event["time"]])
            state.set("items", kept[-LENGTH:])
            state.set("last", event["time"])
        if count == events:
            times.append(time.perf_counter())
            app.stop()
        return event

    frame = app.dataframe(app.topic(topic, key_deserializer="str", value_deserializer="json"))
    frame.apply(session, stateful=True)
    app.run()
    print(json.dumps({"events": count, "seconds": times[-1] - times[0]}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
