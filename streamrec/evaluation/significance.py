"""Is one system better than another on the same rows? Paired by session, corrected for how often it was asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from streamrec.evaluation.lists.chunk import Floats
from streamrec.evaluation.lists.metrics import ListMetrics
from streamrec.ope import judging
from streamrec.ope.codes import DIFFERENT_ROWS, Refused
from streamrec.ope.estimate import Estimate
from streamrec.ope.intervals import by_session
from streamrec.ope.student import above

_AT_ONCE = 256
"""Draws of signs held at a time."""


@dataclass(frozen=True)
class Comparison:
    """A metric of two systems on the same rows.

    Args:
        a: value of one.
        b: value of the other.
        difference: a - b with its interval.
        p_t: two-sided, by the t test on what each bucket of sessions does to the difference.
        p_flip: two-sided, by swapping the systems in random buckets of sessions.
        holm_t: `p_t` corrected for all comparisons asked for together.
        holm_flip: `p_flip` corrected so.
    """

    a: float
    b: float
    difference: Estimate
    p_t: float
    p_flip: float
    holm_t: float
    holm_flip: float


def paired(
    a: ListMetrics,
    b: ListMetrics,
    metrics: Sequence[str] | None = None,
    alpha: float = 0.05,
    draws: int = 10_000,
    seed: int = 0,
) -> dict[str, Comparison]:
    """Compare two systems that listed for the same rows; see `against`.

    Raises:
        Refused: `different_rows`.
    """
    return against(b, {"": a}, metrics, alpha, draws, seed)[""]


def against(
    baseline: ListMetrics,
    systems: Mapping[str, ListMetrics],
    metrics: Sequence[str] | None = None,
    alpha: float = 0.05,
    draws: int = 10_000,
    seed: int = 0,
) -> dict[str, dict[str, Comparison]]:
    """Compare each of `systems` with `baseline`, all of them having listed for the same rows.

    Two tests, because their assumptions differ. The t test is that of the interval: the difference of two ratios of
    sums is linear in the buckets up to second order (delta method), and buckets of sessions are independent. The
    randomisation test supposes that, were the systems equally good, it would not matter in any bucket of sessions
    which of the two answered; it swaps them there (Fisher's sign flips; Smucker, Allan & Carterette, CIKM 2007, do so
    by query). With at most `draws` different ways to swap all are tried; else p is (1 + those as far from 0) /
    (1 + draws). With more sessions than buckets, those of one bucket are swapped together: valid, and coarser.

    Holm's correction (Scand. J. Statist. 1979) is over all systems and metrics of the call: ask for what you will look
    at.

    Args:
        baseline: what the systems are compared with.
        systems: by name.
        metrics: `name@k` of those to compare; None = all that are means. Coverage and gini are not.
        alpha: 1 - level of the intervals of differences, not corrected.
        draws: of the randomisation test.
        seed: of its generator; the same sums give the same p.

    Returns:
        system -> metric -> comparison, for metrics that have a value in both.

    Raises:
        Refused: `different_rows`, other rows, sessions, relevant items or numbers of buckets.
        ValueError: an unknown metric, or no draws.
    """
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    found: dict[str, dict[str, Comparison]] = {}
    for name, system in systems.items():
        _check_same(system, baseline)
        found[name] = _compared(system, baseline, metrics, alpha, draws, seed)
    return _corrected(found)


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p values: p times the number of hypotheses not yet rejected, never falling, at most 1 (Holm, 1979)."""
    out, running = [0.0] * len(p), 0.0
    for step, at in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        running = max(running, min(1.0, (len(p) - step) * p[at]))
        out[at] = running
    return out


def _check_same(a: ListMetrics, b: ListMetrics) -> None:
    mine, theirs = ((of.rows, of.fingerprint, of.with_sessions, of.buckets) for of in (a, b))
    if mine != theirs:
        raise Refused(
            DIFFERENT_ROWS,
            f"{a.rows} rows with fingerprint {a.fingerprint:016x} in {a.buckets} buckets on one side, "
            f"{b.rows} with {b.fingerprint:016x} in {b.buckets} on the other",
        )


def _compared(
    a: ListMetrics, b: ListMetrics, metrics: Sequence[str] | None, alpha: float, draws: int, seed: int
) -> dict[str, Comparison]:
    first, second = a.ratios(), b.ratios()
    names = [name for name in first if name in second] if metrics is None else list(metrics)
    unknown = [name for name in names if name not in first or name not in second]
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: no mean of both systems; expected some of {', '.join(first)}")
    names = [name for name in names if first[name][1].any() and second[name][1].any()]
    tables = [np.stack([*first[name], *second[name]]) for name in names]  # each [4, buckets]: sums, rows, sums, rows
    flips = _flipped(tables, draws, seed)
    return {
        name: _one(table, p, a.sessions, a.with_sessions, alpha)
        for name, table, p in zip(names, tables, flips, strict=True)
    }


def _one(table: Floats, p_flip: float, sessions: int, known: bool, alpha: float) -> Comparison:
    sum_a, n_a, sum_b, n_b = table.sum(1).tolist()
    a, b = sum_a / n_a, sum_b / n_b
    used = (table[1] > 0) | (table[3] > 0)
    residual = (table[0] - a * table[1]) / n_a - (table[2] - b * table[3]) / n_b
    found = by_session(a - b, residual[used], alpha)
    warnings = judging.sessions(sessions, known)
    ends = (found.low, found.high, found.se)
    difference = Estimate(a - b, *ends, int(n_a), sessions, kind="ranking", warnings=warnings)
    p = _p_of_t(a - b, found.se, int(used.sum()) - 1)
    return Comparison(a, b, difference, p, p_flip, p, p_flip)


def _p_of_t(difference: float, se: float | None, freedom: int) -> float:
    """Two-sided; 1 where nothing can be said."""
    if se is None or difference == 0.0:
        return 1.0
    return 2.0 * above(abs(difference) / se, freedom) if se > 0.0 else 0.0


def _flipped(tables: Sequence[Floats], draws: int, seed: int) -> list[float]:
    """p of the randomisation test for each table [4, buckets], the same swaps for all of them."""
    if not tables:
        return []
    both = np.stack(tables)  # [M, 4, buckets]
    both = both[:, :, (both != 0).any((0, 1))]
    middle = (both[:, :2] + both[:, 2:]).sum(2) / 2  # [M, 2] half of both systems' sums and rows
    half = (both[:, :2] - both[:, 2:]) / 2  # [M, 2, buckets]
    buckets = half.shape[2]
    observed = np.abs(_difference(middle, half.sum(2)[None]))[0]
    as_far, tried = np.zeros(len(tables)), 0
    for signs in _signs(buckets, draws, seed):
        moved = (signs @ half.reshape(-1, buckets).T).reshape(len(signs), len(tables), 2)
        as_far += (np.abs(_difference(middle, moved)) >= observed * (1.0 - 1e-9)).sum(0)
        tried += len(signs)
    exact = tried == 1 << buckets if buckets < 63 else False
    p: list[float] = (as_far / tried if exact else (1.0 + as_far) / (1.0 + tried)).tolist()
    return p


def _difference(middle: Floats, moved: Floats) -> Floats:
    """[draws, M] a - b where a has middle + moved and b has middle - moved, sums and rows [.., 2] each."""
    high, low = middle + moved, middle - moved
    with np.errstate(invalid="ignore", divide="ignore"):  # swaps may leave one side without a row: as far as it gets
        apart = high[..., 0] / high[..., 1] - low[..., 0] / low[..., 1]
    return np.where(np.isfinite(apart), apart, np.inf)


def _signs(buckets: int, draws: int, seed: int) -> Iterator[Floats]:
    """[some, buckets] of 1 and -1: every combination where there are at most `draws`, else random ones."""
    if buckets < 63 and 1 << buckets <= draws:
        number = np.arange(1 << buckets)[:, None]
        yield 1.0 - 2.0 * ((number >> np.arange(buckets)) & 1).astype(np.float64)
        return
    generator = np.random.default_rng(seed)
    for start in range(0, draws, _AT_ONCE):
        rows = min(_AT_ONCE, draws - start)
        bits = np.frombuffer(generator.bytes(rows * ((buckets + 7) // 8)), dtype=np.uint8).reshape(rows, -1)
        yield 1.0 - 2.0 * np.unpackbits(bits, axis=1, count=buckets).astype(np.float64)


def _corrected(found: dict[str, dict[str, Comparison]]) -> dict[str, dict[str, Comparison]]:
    places = [(system, metric) for system, of in found.items() for metric in of]
    by_t = holm([found[system][metric].p_t for system, metric in places])
    by_flip = holm([found[system][metric].p_flip for system, metric in places])
    for (system, metric), t, flip in zip(places, by_t, by_flip, strict=True):
        found[system][metric] = replace(found[system][metric], holm_t=t, holm_flip=flip)
    return found
