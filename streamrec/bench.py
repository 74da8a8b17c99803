"""`streamrec bench`: speed as ratios against a limit measured in the same run, because machines differ."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from agents.random import Random
from simulators.feed import Feed
from simulators.world import SimulatorWorld
from streamrec.build import BadSpec, did_you_mean
from streamrec.catalog import Catalog
from streamrec.loop import Loop
from streamrec.sessions import SessionStore

USERS, ITEMS, SLATE = 4096, 1000, 5
EVENTS = 100_000  # in the topic that `kafka` reads


def measure(name: str, seconds: float) -> dict[str, Any]:
    """Run the benchmark `name`, about `seconds` per measurement, on one thread.

    Returns:
        `{"bench", "threads", ...}`: rates per second and `ratio` = ours / the limit of the same run.

    Raises:
        BadSpec: there is no such benchmark.
    """
    if name not in BENCHMARKS:
        raise BadSpec(f"there is no benchmark {name!r}{did_you_mean(name, BENCHMARKS)}")
    torch.set_num_threads(1)
    return {"bench": name, "threads": 1, **BENCHMARKS[name](seconds)}


def rate(work: Callable[[], int], seconds: float) -> float:
    """Units per second of `work`, which returns how many it did; a first call is not counted."""
    work()
    done, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds:
        done += work()
    return done / spent


def simulator(seconds: float) -> dict[str, Any]:
    """User-item interactions of `Feed` with every effect on, against the least such a world must compute.

    The limit draws a number per slot and compares it with the sigmoid of <taste, item>: no skips, boredom, leaving,
    drift or clock.
    """
    core = Feed(users=USERS, items=ITEMS, slate=SLATE)
    users = torch.arange(USERS)
    slates = torch.randint(1, ITEMS + 1, (64, USERS, SLATE))
    at = 0

    def full() -> int:
        nonlocal at
        at += 1
        core.step(users, slates[at % 64])
        return USERS * SLATE

    def least() -> int:
        nonlocal at
        at += 1
        affinity = (core.vectors[slates[at % 64]] * core.taste.unsqueeze(1)).sum(2)
        _ = torch.rand(USERS, SLATE) < torch.sigmoid(affinity)
        return USERS * SLATE

    ours, limit = rate(full, seconds), rate(least, seconds)
    return {"interactions_per_s": ours, "bare_clicks_per_s": limit, "ratio": ours / limit, "users": USERS}


def loop(seconds: float) -> dict[str, Any]:
    """Decisions of the whole loop with a random agent, against stepping the same simulator without sessions."""
    catalog = Catalog(4 * ITEMS)
    sessions = SessionStore(users=USERS, slate=SLATE)
    world = SimulatorWorld(Feed(users=USERS, items=ITEMS, slate=SLATE), catalog, sessions, tick_s=10.0)
    run = Loop(world, sessions, catalog, Random(catalog, SLATE))
    core = Feed(users=USERS, items=ITEMS, slate=SLATE)
    users, slates = torch.arange(USERS), torch.randint(1, ITEMS + 1, (USERS, SLATE))

    def whole() -> int:
        before = run.counts["requests"]
        run.step()
        return run.counts["requests"] - before

    def bare() -> int:
        core.step(users, slates)
        return USERS

    ours, limit = rate(whole, seconds), rate(bare, seconds)
    return {"decisions_per_s": ours, "simulator_steps_per_s": limit, "ratio": ours / limit}


def kafka(seconds: float) -> dict[str, Any]:
    """Events polled, decoded and turned into records by `KafkaWorld`, against a bare kafka-python poll loop.

    Both read the same topic of the embedded broker to its end; `seconds` is not used.
    """
    from kafka import KafkaConsumer, TopicPartition

    from consumers import wire
    from consumers.broker import EmbeddedBroker
    from consumers.kafka import KafkaWorld
    from consumers.topic import EventTopic

    with EmbeddedBroker() as broker:
        target = EventTopic(broker.address, "streamrec.events")
        for at in range(EVENTS):
            user = f"u{at % 20_000}"
            event = wire.Event("click", user, 1, f"i{at % 5000}", 1.7e9 + at)
            target.send(user.encode(), wire.encode(event))
        target.end()
        target.close()
        world = KafkaWorld(broker.address, Catalog(), SessionStore(users=50_000, slate=SLATE), SLATE, batch=5000)
        start = time.perf_counter()
        while world.poll(1.0) is not None:
            pass
        ours = world.events_consumed / (time.perf_counter() - start)
        world.close()
        consumer = KafkaConsumer(bootstrap_servers=broker.address, max_poll_records=5000, fetch_max_wait_ms=10)
        consumer.assign([TopicPartition("streamrec.events", 0)])
        consumer.seek_to_beginning()
        start, read = time.perf_counter(), 0
        while read < EVENTS:
            read += sum(map(len, consumer.poll(1000).values()))
        limit = read / (time.perf_counter() - start)
        consumer.close()
    return {"events_per_s": ours, "bare_poll_per_s": limit, "ratio": ours / limit, "events": EVENTS}


BENCHMARKS: dict[str, Callable[[float], dict[str, Any]]] = {"simulator": simulator, "loop": loop, "kafka": kafka}
