from __future__ import annotations

import numpy as np
import pyarrow as pa

from streamrec.data.importers.slates import Once, numbered, with_reactions


def test_reactions_follow_the_slate_they_are_about() -> None:
    shown = pa.table({"item": ["a", "b", "c"], "slot": [0, 1, 0], "propensity": [0.5, 0.25, 0.1]})
    slate = np.array([3, 3, 8])
    out = with_reactions(
        shown, slate, ("skip", np.array([True, False, False])), ("click", np.array([True, True, True]))
    )
    assert list(zip(out["kind"].to_pylist(), out["item"].to_pylist(), strict=True)) == [
        ("impression", "a"),
        ("impression", "b"),
        ("skip", "a"),
        ("click", "a"),
        ("click", "b"),
        ("impression", "c"),
        ("click", "c"),
    ]
    assert out["propensity"].to_pylist() == [0.5, 0.25, None, None, None, 0.1, None]


def test_once_lets_the_first_good_row_through() -> None:
    once = Once()
    good = np.array([False, True, True, True])
    assert once.new(np.array([5, 5, 5, 2]), good).tolist() == [False, True, False, True]
    assert once.new(np.array([2, 1, 5, 9]), good).tolist() == [False, True, False, True]


def test_numbered() -> None:
    assert numbered("q", np.array([0, 12])).to_pylist() == ["q0", "q12"]
