"""Every benchmark that `streamrec bench` offers by name is there."""

from __future__ import annotations

import importlib

import pytest

from streamrec import bench
from streamrec.build import BadSpec


@pytest.mark.parametrize("name", [*bench.SPEEDS, *bench.BESIDE, *bench.STUDIES])
def test_every_name_has_a_measure(name: str) -> None:
    assert callable(importlib.import_module(f"streamrec.bench.{name.replace('-', '_')}").measure)


def test_other_names_are_refused() -> None:
    with pytest.raises(BadSpec, match="did you mean 'kafka'"):
        bench.measure("kafak", 1.0)
