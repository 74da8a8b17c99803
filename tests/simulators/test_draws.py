"""Hashed randomness: uniform, independent of the company, equal for equal keys."""

from __future__ import annotations

import torch

from simulators.draws import keys, uniforms
from streamrec.mixing import mix

_MASK = (1 << 64) - 1


def splitmix(x: int) -> int:
    """The finaliser in plain integers, as in Steele, Lea & Flood (2014) with Stafford's variant 13."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def test_mix_is_the_published_finaliser() -> None:
    numbers = [0, 1, -1, 2**62, -(2**63), 123456789]
    ours = mix(torch.tensor(numbers)).tolist()
    assert [x & _MASK for x in ours] == [splitmix(x & _MASK) for x in numbers]


def test_mix_starts_the_published_stream() -> None:
    # First output of SplitMix64 with seed 0 (Vigna's splitmix64.c): 0xE220A8397B1DCDAF.
    assert int(mix(torch.tensor([0x9E3779B97F4A7C15 - (1 << 64)]))) & _MASK == 0xE220A8397B1DCDAF


def test_draws_are_uniform_and_uncorrelated() -> None:
    draws = uniforms(mix(torch.arange(20_000)), 8)
    assert 0 < float(draws.min()) < float(draws.max()) < 1
    # Kolmogorov-Smirnov distance of 160,000 draws: 1.95 / sqrt(n) has probability .001.
    ordered = draws.flatten().sort().values.double()
    steps = torch.arange(1, len(ordered) + 1) / len(ordered)
    assert float((ordered - steps).abs().max()) < 1.95 / len(ordered) ** 0.5
    correlation = torch.corrcoef(draws.T) - torch.eye(8)
    assert float(correlation.abs().max()) < 5 / 20_000**0.5


def test_a_draw_does_not_depend_on_who_else_draws() -> None:
    key = keys(torch.arange(100), 3)
    assert torch.equal(uniforms(key, 5)[17:18], uniforms(key[17:18], 5))
    assert torch.equal(uniforms(key, 8)[:, 3:5], uniforms(key, 2, first=3))


def test_streams_of_one_seed_differ() -> None:
    seeds = torch.arange(1000)
    together = torch.cat([keys(seeds, stream) for stream in range(5)])
    assert len(together.unique()) == 5000
