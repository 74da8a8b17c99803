"""The live stream: one pulse for all, short queues, an end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from consumers.http.problems import Refusal
from consumers.http.stream import Hub


class Figures:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self) -> dict[str, Any]:
        self.asked += 1
        return {"n": self.asked}


async def take(frames: AsyncIterator[bytes], count: int) -> list[bytes]:
    return [await asyncio.wait_for(anext(frames), 5.0) for _ in range(count)]


def numbers(frames: list[bytes]) -> list[int]:
    return [int(frame.split(b"\n")[0].rpartition(b"-")[2]) for frame in frames if frame.startswith(b"id: ")]


def test_all_readers_share_one_pulse_and_none_beats_without_them() -> None:
    async def story() -> None:
        figures = Figures()
        hub = Hub(figures, every_s=0.01)
        readers = [hub.watch() for _ in range(3)]
        seen = [numbers(await take(reader, 6)) for reader in readers]
        assert figures.asked < 12, "three readers of six frames each, asked once for all"
        assert all(list(range(one[0], one[0] + len(one))) == one for one in seen)
        for reader in readers:
            await reader.aclose()  # type: ignore[attr-defined]
        assert hub.readers == 0
        await asyncio.sleep(0.05)
        asked = figures.asked
        await asyncio.sleep(0.05)
        assert figures.asked == asked
        await hub.close()

    asyncio.run(story())


def test_a_reader_who_comes_back_gets_what_was_missed() -> None:
    async def story() -> None:
        hub = Hub(Figures(), every_s=0.005)
        watching, leaving = hub.watch(), hub.watch()
        last = (await take(leaving, 3))[-1].split(b"\n")[0].removeprefix(b"id: ").decode()
        await leaving.aclose()  # type: ignore[attr-defined]
        await take(watching, 8)
        missed = numbers(await take(hub.watch(last), 5))
        first = int(last.rpartition("-")[2]) + 1
        assert missed == list(range(first, first + len(missed)))
        await hub.close()

    asyncio.run(story())


@pytest.mark.parametrize("last", ["", "x", "-", "deadbeef-1", "deadbeef-99999999999999999999", "\u0663", "-" * 5000])
def test_a_strange_last_id_is_a_new_reader(last: str) -> None:
    async def story() -> None:
        hub = Hub(Figures(), every_s=0.005)
        assert numbers(await take(hub.watch(last), 3)) == [1, 2]
        await hub.close()

    asyncio.run(story())


def test_a_slow_reader_loses_the_oldest_and_holds_nobody_up() -> None:
    async def story() -> None:
        hub = Hub(Figures(), every_s=0.002, queue=3)
        slow, quick = hub.watch(), hub.watch()
        await take(slow, 2)
        assert len(numbers(await take(quick, 21))) == 20
        late = numbers(await take(slow, 3))
        assert late[0] > 10
        assert late == sorted(late)
        await hub.close()

    asyncio.run(story())


def test_silence_is_filled_with_comments() -> None:
    async def story() -> None:
        hub = Hub(Figures(), every_s=60.0, heartbeat_s=0.01)
        frames = await take(hub.watch(), 4)
        assert [frame.startswith(b":") for frame in frames] == [False, False, True, True]
        await hub.close()

    asyncio.run(story())


def test_streams_end_when_the_hub_closes_and_no_new_one_begins() -> None:
    async def story() -> None:
        hub = Hub(Figures(), every_s=0.005, queue=2)
        readers = [hub.watch(), hub.watch()]
        for reader in readers:
            await take(reader, 2)
        await asyncio.sleep(0.03)  # queues are full
        await hub.close()
        await hub.close()
        for reader in readers:
            assert len([frame async for frame in reader]) <= 2
        assert hub.readers == 0
        with pytest.raises(Refusal, match="stopping"):
            hub.watch()

    asyncio.run(story())


def test_there_is_an_end_to_how_many_watch_and_those_who_never_read_take_no_place() -> None:
    async def story() -> None:
        hub = Hub(Figures(), every_s=0.01, most=2)
        for _ in range(5):
            hub.watch()
        readers = [hub.watch(), hub.watch()]
        for reader in readers:
            await take(reader, 1)
        with pytest.raises(Refusal, match="2 streams"):
            hub.watch()
        await readers[0].aclose()  # type: ignore[attr-defined]
        hub.watch()
        await hub.close()

    asyncio.run(story())
