"""Keys met before."""

from __future__ import annotations

import numpy as np

from streamrec.replay.traces import Traces, hashed


def test_keys_are_found_again_within_and_across_calls() -> None:
    traces = Traces(bits=10)
    keys = hashed(np.array(["a", "b", "a", "c"]))
    found, last = traces.before(keys, np.array([1.0, 2.0, 3.0, 4.0]))
    assert found.tolist() == [False, False, True, False]
    assert last[2] == 1.0
    found, last = traces.before(keys[:2], np.array([5.0, 6.0]))
    assert found.tolist() == [True, True]
    assert last.tolist() == [3.0, 2.0]


def test_what_was_pushed_out_is_not_invented() -> None:
    traces = Traces(bits=2)
    many = hashed(np.arange(100))
    traces.before(many, np.zeros(100))
    assert not traces.before(hashed(np.arange(100, 200)), np.zeros(100))[0].any()


def test_hashes_tell_columns_apart() -> None:
    one = hashed(np.array(["a", "b"]), np.array(["b", "a"]))
    assert one[0] != one[1]
    assert hashed(np.array(["b"]), np.array(["a"])).tolist() == [one[1]]
