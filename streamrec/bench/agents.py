"""`streamrec bench agents`: agents x worlds x seeds, one table, one page of plots, and the claims with their controls.

Runs already in `runs.jsonl` of the directory are not run again, so an interrupted benchmark goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrec import lifeline
from streamrec.bench.arena import ENDS, Arena, foresight_of, load, null, play, ready, shorter
from streamrec.bench.claims import bootstrap, interquartile_mean, judge, parse
from streamrec.bench.kept import Kept
from streamrec.bench.page import write_page
from streamrec.build import BadSpec

SHORT = 100
"""How much shorter the runs of the short form are."""

FIRST = 100
"""Seeds begin here: those below are for choosing settings, and nobody is judged on what was chosen on him."""

NEAR = 0.9
"""An agent has arrived when it is this share of the way from random to the best agent of the world."""

_APART = ("about", "source", "claims", "agents", "null", "needs")


@dataclass(frozen=True)
class Job:
    """One run to make."""

    arena: str
    control: bool  # with the arena's [null] applied
    agent: str
    seed: int


def run(
    out: Path,
    names: Sequence[str] = (),
    seeds: int = 3,
    short: bool = False,
    jobs: int = 1,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Run the arenas, write `results.json` and `agents.html` into `out`, and return the results.

    Args:
        out: directory of this benchmark; runs found in it are kept.
        names: arenas, shipped or files; none = all that are shipped and `ready`.
        seeds: seeds per agent, from `FIRST` on.
        short: runs a hundredth as long, for a check that everything works; its figures mean nothing.
        jobs: processes at a time.
        say: told about progress.

    Returns:
        JSON values: `results`: one row per agent and world with `score`, `low`, `high` (interquartile mean over seeds
        as a share of the way from random to oracle, with its bootstrap interval), `raw` (the mean in the unit of the
        world), `steps` and `seconds` (decisions and wall seconds until it has arrived, null if it never does);
        `claims`: see `streamrec.bench.claims`, each with its `control`; `worlds`: ends of the scale and unit.

    Raises:
        BadSpec: an arena that does not exist or is wrong.
    """
    arenas = {Path(name).stem: load(name) for name in names or ready()}
    if short:
        arenas = {name: shorter(arena, SHORT) for name, arena in arenas.items()}
    out.mkdir(parents=True, exist_ok=True)
    runs = _Runs(out / "runs.jsonl")
    todo = [job for name, arena in arenas.items() for job in _jobs(name, arena, seeds)]
    missing = [job for job in todo if runs.get(arenas[job.arena], job) is None]
    say(f"{len(todo)} runs, {len(todo) - len(missing)} of them made before")
    for done, (job, made) in enumerate(_made(arenas, missing, runs, jobs), 1):
        runs.add(arenas[job.arena], job, made)
        control = " (control)" if job.control else ""
        say(f"{done}/{len(missing)} {job.arena}{control} {job.agent} seed {job.seed}: {made['score']:.4g}")
    results: dict[str, Any] = {"results": [], "claims": [], "worlds": []}
    for name, arena in arenas.items():
        _summarise(name, arena, seeds, runs, results)
    (out / "results.json").write_text(json.dumps(results, indent=1))
    return {**results, "report": str(write_page(out / "agents.html", results))}


def _jobs(name: str, arena: Arena, seeds: int) -> Iterator[Job]:
    for control in (False, True) if arena.get("null") else (False,):
        for seed in range(FIRST, FIRST + seeds):
            for agent in _claimed(arena) if control else (*ENDS, *arena["agents"]):
                yield Job(name, control, agent, seed)


def _claimed(arena: Arena) -> list[str]:
    """Agents that a claim is about: a control needs no others."""
    everybody = dict.fromkeys((*ENDS, *arena["agents"]))
    claims = [parse(claim, everybody) for claim in arena.get("claims", [])]
    about = {name for claim in claims for name in (claim.left, claim.right)}
    return [agent for agent in everybody if agent in about]


def _settings(arena: Arena, control: bool) -> Arena:
    return null(arena) if control else {key: value for key, value in arena.items() if key != "null"}


# --- making runs -------------------------------------------------------------------------------------------------


def _made(
    arenas: dict[str, Arena], missing: Sequence[Job], runs: _Runs, jobs: int
) -> Iterator[tuple[Job, dict[str, Any]]]:
    sights: dict[tuple[str, bool], float] = {}
    for job in missing:
        if job.agent == "oracle" and (job.arena, job.control) not in sights:
            sights[job.arena, job.control] = runs.foresight(_settings(arenas[job.arena], job.control))
    work = [
        (job, _settings(arenas[job.arena], job.control), sights.get((job.arena, job.control), 0.0)) for job in missing
    ]
    if jobs == 1:
        for job, arena, sight in work:
            yield job, _one(arena, job, sight)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=lifeline.tie_worker) as pool:
        futures = {pool.submit(_one, arena, job, sight): job for job, arena, sight in work}
        for future in as_completed(futures):
            yield futures[future], future.result()


def _one(arena: Arena, job: Job, foresight: float) -> dict[str, Any]:
    return asdict(play(arena, job.agent, job.seed, foresight))


class _Runs:
    """Runs made so far, found again by what they were made from."""

    def __init__(self, path: Path) -> None:
        self._kept = Kept(path)

    def get(self, arena: Arena, job: Job) -> dict[str, Any] | None:
        return self._kept.made.get(self._key(arena, job))

    def add(self, arena: Arena, job: Job, made: dict[str, Any]) -> None:
        self._kept.add(self._key(arena, job), {"arena": job.arena, "agent": job.agent, "seed": job.seed}, made)

    def foresight(self, settings: Arena) -> float:
        """The oracle's foresight in this setting, found once."""
        key = _hash(["foresight", _world(settings)])
        if key not in self._kept.made:
            self._kept.add(key, {"agent": "foresight"}, foresight_of(settings))
        return float(self._kept.made[key])

    def _key(self, arena: Arena, job: Job) -> str:
        settings = _settings(arena, job.control)
        return _hash([_world(settings), settings["agents"].get(job.agent), job.agent, job.seed])


def _world(settings: Arena) -> dict[str, Any]:
    """What a run depends on, its agent apart."""
    return {key: value for key, value in settings.items() if key not in _APART}


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


# --- what they say -----------------------------------------------------------------------------------------------


def _summarise(name: str, arena: Arena, seeds: int, runs: _Runs, results: dict[str, list[Any]]) -> None:
    verdicts: dict[str, dict[str, Any]] = {}
    for control in (False, True) if arena.get("null") else (False,):
        made = {
            agent: [
                found
                for seed in range(FIRST, FIRST + seeds)
                if (found := runs.get(arena, Job(name, control, agent, seed)))
            ]
            for agent in (*ENDS, *arena["agents"])
        }
        for claim in arena.get("claims", []):
            said = parse(claim, made)
            scores = {agent: _quantity(agent, made[agent], said.quantity) for agent in (said.left, said.right)}
            verdict = judge(claim, scores, control).as_json()
            if control:
                verdicts[claim]["control"] = verdict
            else:
                verdicts[claim] = {"world": name, "source": arena.get("source", ""), **verdict, "control": None}
        if not control:
            _rows(name, made, results)
            results["worlds"].append({"world": name, "about": arena.get("about", ""), **_ends(made)})
    results["claims"] += verdicts.values()


def _quantity(agent: str, runs: list[dict[str, Any]], name: str) -> list[float]:
    """What each run of an agent says of "score", or of "swing.value" and the like."""
    table, _, key = name.rpartition(".")
    for run in runs:
        said = run.get(table, {}) if table else run
        if key not in said:
            raise BadSpec(f"a claim is about {name!r}, but {agent} says nothing of it; of {table}: {sorted(said)}")
    return [(run[table] if table else run)[key] for run in runs]


def _ends(made: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    ends = {end: float(np.mean([run["score"] for run in made[end]])) for end in ENDS}
    way = ends["oracle"] - ends["random"]
    return {**ends, "lookahead_share": (ends["oracle"] - ends["myopic"]) / way if way else 0.0}


def _rows(name: str, made: dict[str, list[dict[str, Any]]], results: dict[str, list[Any]]) -> None:
    bottom = float(np.mean([run["score"] for run in made["random"]]))
    way = float(np.mean([run["score"] for run in made["oracle"]])) - bottom
    way = way or math.inf  # an oracle no better than random, in a run too short to tell: nobody is anywhere on the way
    curves = {a: (np.mean([run["curve"] for run in of], axis=0) - bottom) / way for a, of in made.items()}
    best = max(curves[agent][-1] for agent in made if agent not in ENDS)
    for agent, of in made.items():
        results["results"].append({"agent": agent, "world": name, **_row(of, curves[agent], NEAR * best, bottom, way)})


def _row(
    of: list[dict[str, Any]], curve: NDArray[np.float64], goal: float, bottom: float, way: float
) -> dict[str, Any]:
    shares = (np.asarray([run["score"] for run in of]) - bottom) / way
    low, high = bootstrap(shares)
    reached = np.flatnonzero(curve >= goal)
    at = int(reached[0]) if len(reached) else None
    decisions = float(np.mean([run["decisions"] for run in of]))
    return {
        "seeds": len(of),
        "score": float(interquartile_mean(shares)),
        "low": None if math.isnan(low) else low,
        "high": None if math.isnan(high) else high,
        "raw": float(np.mean([run["score"] for run in of])),
        "steps": None if at is None else int(decisions * (at + 1) / len(curve)),
        "seconds": None if at is None else float(np.mean([run["times"][min(at, len(run["times"]) - 1)] for run in of])),
        "decisions": int(decisions),
        "wall_s": float(np.mean([run["seconds"] for run in of])),
        "curve": [round(float(x), 4) for x in curve],
    }
