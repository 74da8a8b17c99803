"""Twenty million logged decisions through IPS, SNIPS and DR, a hundred million after them, and a million lists."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from streamrec.ope.accumulator import Accumulator

ROWS, TIMES, PARTS = 20_000_000, 5, 5
GROUP = 262_144
"""Rows of a Parquet row group: what is in memory at once."""

ESTIMATORS = ("ips", "snips", "dr")
COLUMNS = ("session", "reward", "propensity", "target", "q", "v")
PER_SESSION = 5
LIMIT_BYTES = 1_000_000_000


def measure(seconds: float, rows: int = ROWS, sessions: int = 1_000_000) -> dict[str, Any]:
    """Values from a log written here, each pass in a process of its own, then the lists of `streamrec.bench.ranking`.

    The log is five Parquet files of `rows` / 5 decisions in sessions of five. The long pass reads them five times with
    other session keys each time, so it has as many different sessions as a log of that length.

    Args:
        seconds: for the lists, see `streamrec.bench.ranking.measure`.
        rows: decisions of the short pass.
        sessions: of the lists.

    Returns:
        `values`: of the short and the long pass `rows`, `cpu_s`, `wall_s`, `peak_bytes` and `estimates`; `cost_ratio`,
        processor seconds of the long one over five times those of the short one, 1 = linear; `within_limit`, neither
        took more than `LIMIT_BYTES`. `lists`: see `streamrec.bench.ranking.measure`. `ratio`: that of the lists.
    """
    from streamrec.bench import ranking

    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), rows)
        short, long = (_in_a_process(Path(folder), times) for times in (1, TIMES))
    values = {
        "estimators": list(ESTIMATORS),
        "short": short,
        "long": long,
        "cost_ratio": long["cpu_s"] / (TIMES * short["cpu_s"]),
        "limit_bytes": LIMIT_BYTES,
        "within_limit": max(short["peak_bytes"], long["peak_bytes"]) <= LIMIT_BYTES,
    }
    lists = ranking.measure(seconds, sessions)
    return {"values": values, "lists": lists, "ratio": lists["ratio"]}


def write(folder: Path, rows: int, seed: int = 0) -> None:
    """The log: rewards that depend within a session, propensities from 0.01 to 0.5, a policy close to the logger."""
    draw = np.random.default_rng(seed)
    for part in range(PARTS):
        begin, end = rows * part // PARTS, rows * (part + 1) // PARTS
        with pq.ParquetWriter(folder / f"part-{part}.parquet", _SCHEMA, compression="zstd") as file:
            for start in range(begin, end, GROUP):
                file.write_table(_drawn(draw, start, min(start + GROUP, end)), row_group_size=GROUP)


_SCHEMA = pa.schema([(name, pa.uint64() if name == "session" else pa.float64()) for name in COLUMNS])


def _drawn(draw: np.random.Generator, start: int, end: int) -> pa.Table:
    n = end - start
    session = np.arange(start, end, dtype=np.uint64) // np.uint64(PER_SESSION)
    mood = _shared(session)
    propensity = draw.uniform(0.01, 0.5, n)
    q = 0.02 + 0.1 * propensity
    columns = {
        "session": session,
        "reward": (draw.random(n) < q * (0.5 + mood)).astype(np.float64),
        "propensity": propensity,
        "target": np.minimum(propensity * draw.gamma(2.0, 0.5, n), 1.0),
        "q": q,
        "v": np.full(n, 0.045),
    }
    return pa.table(columns, schema=_SCHEMA)


def _shared(session: NDArray[np.uint64]) -> NDArray[np.float64]:
    """A number between 0 and 1 that the rows of a session have in common."""
    from streamrec.ope.keys import mix

    return (mix(session) >> np.uint64(11)).astype(np.float64) / 2.0**53


def values(folder: Path, times: int = 1) -> dict[str, Any]:
    """One pass over the files of `write`, `times` times with other session keys: what it took and what came out."""
    start, cpu = time.perf_counter(), time.process_time()
    accumulator = Accumulator(ESTIMATORS)
    for turn in range(times):
        key = np.uint64(turn) << np.uint64(48)
        for batch in _batches(folder):
            columns = {name: batch.column(name).to_numpy(zero_copy_only=False) for name in COLUMNS}
            session = columns.pop("session") ^ key
            accumulator.add(session=session, **columns)
    found = accumulator.result()
    return {
        "rows": accumulator.sums.rows,
        "cpu_s": time.process_time() - cpu,
        "wall_s": time.perf_counter() - start,
        "peak_bytes": _peak(),
        "estimates": {name: [one.value, one.low, one.high] for name, one in found.items()},
    }


def _peak() -> int:
    """Most memory this process has had. The kernel's `ru_maxrss` also remembers that of the process it came from."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return 1024 * int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _batches(folder: Path) -> Iterator[pa.RecordBatch]:
    for path in sorted(folder.glob("part-*.parquet")):
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(GROUP, use_threads=False)


def _in_a_process(folder: Path, times: int) -> dict[str, Any]:
    """`values`, where nothing else has used memory before."""
    command = [sys.executable, "-m", "streamrec.bench.replay", str(folder), str(times)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def as_text(figures: dict[str, Any], say: Callable[[str], None] = print) -> None:
    """For people."""
    of = figures["values"]
    for name in ("short", "long"):
        one = of[name]
        say(
            f"{one['rows'] / 1e6:,.0f}M decisions, {', '.join(of['estimators'])} with session intervals: "
            f"{one['cpu_s']:.1f} s of processor, {one['wall_s']:.1f} s of wall, {one['peak_bytes'] / 1e6:,.0f} MB"
        )
    say(f"the long one costs {of['cost_ratio']:.2f} of {TIMES} short ones; within 1 GB: {of['within_limit']}")
    lists = figures["lists"]
    say(f"{lists['sessions']:,} lists, Recall, NDCG and MRR at {lists['k']}: {lists['ours_s']:.3f} s")
    for name, row in lists["peers"].items():
        say(f"  {name} {row['version']}: {row['seconds']:.2f} s, {row['ratio']:.0f} times ours")


if __name__ == "__main__":
    print(json.dumps(values(Path(sys.argv[1]), int(sys.argv[2]))))
