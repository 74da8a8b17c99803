"""The three uses differ in nothing but where the world is."""

from __future__ import annotations

import pytest

from streamrec import spec as specs


def without_world(name: str) -> specs.Spec:
    return {table: value for table, value in specs.load(name).items() if table not in ("world", "about")}


def test_the_three_uses_differ_in_nothing_but_the_world() -> None:
    assert without_world("train") == without_world("consume") == without_world("replay")
    worlds = {specs.load(name)["world"]["use"] for name in ("train", "consume", "replay")}
    assert len(worlds) == 3


def test_a_click_stream_is_scored_alike_from_kafka_and_from_a_file() -> None:
    assert without_world("clickstream") == without_world("clicklog")


@pytest.mark.parametrize("name", specs.shipped())
def test_every_shipped_spec_says_what_it_is_for(name: str) -> None:
    assert specs.load(name)["about"]
