"""The figures of a finished replay as JSON values: `policies.<name>.<quantity>` and what must be read beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from streamrec.evaluation.lists.segments import SEGMENTS
from streamrec.ope import judging
from streamrec.ope.accumulator import Accumulator
from streamrec.ope.codes import (
    COLD_ITEMS,
    DEPENDENT_ROWS,
    DROPPED_ROWS,
    EMPTY_LOG,
    EXTREME_WEIGHT,
    NO_PROPENSITY,
    ONE_DECISION,
    POLICY_NOT_PROBABILISTIC,
    SAMPLED_METRICS,
    Refused,
    Warned,
)
from streamrec.ope.estimate import Estimate
from streamrec.ope.paired import paired
from streamrec.ope.valuing import ClusterInterval
from streamrec.replay.measures import Q_EDGES
from streamrec.replay.policies import BASELINES, LOGGED
from streamrec.replay.run import Replay

SCHEMA = 1
"""Version of the layout of report.json."""

COLD_SHARE = 0.01
"""Share of the judged slots that showed what no policy could have known, from which it is a warning."""

DROPPED_SHARE = 0.01

STRIP = 20
"""Groups of items, by how often the log shows them, in the overlap strip."""

Figures = dict[str, Any]


def results(replay: Replay) -> Figures:
    """Everything a report shows.

    Raises:
        Refused: `empty_log`, no decision was scored.
    """
    measures = replay.measures
    if measures.decisions == 0:
        raise Refused(EMPTY_LOG, "no decision lies in the scored window")
    return {
        "schema": SCHEMA,
        "settings": replay.settings.as_json(),
        "log": _log(replay),
        "about": _about(replay),
        "policies": {name: _policy(replay, name) for name in (LOGGED, *replay.jury.names)},
        "segments": _segments(replay),
        "windows": _windows(replay),
        "weights": {name: _weights(acc) for name, acc in measures.values.items() if acc.sums.rows},
        "overlap": _overlap(replay),
        "q_calibration": _calibration(replay),
        "rejection": replay.jury.summary(),
        "dropped": dropped(replay),
        "audit": None if replay.audit is None else replay.audit.as_json(),
        "warnings": {one.code: one.message for one in _general(replay)},
    }


def _log(replay: Replay) -> Figures:
    measures = replay.measures
    return {
        "name": replay.settings.log,
        "fingerprint": measures.fingerprint.read(),
        "rows": measures.fingerprint.rows,
        "decisions": measures.decisions,
        "events": replay.loop.counts["events"],
        "items": len(replay.catalog),
        "available": int(replay.catalog.available.sum()),
        "scored": measures.span,
        "learned_until": replay.start if replay.settings.mode == "frozen" else None,
        "updates": replay.loop.counts["updates"],
    }


def _about(replay: Replay) -> Figures:
    told = {LOGGED: "whoever decided in the log: its own mean, whose ips must equal it"}
    told |= {member.name: member.about for member in replay.members}
    return {"policies": told, "left_out": dict(replay.left_out), "baselines": list(BASELINES)}


# --- policies --------------------------------------------------------------------------------------------------------


def _policy(replay: Replay, name: str) -> Figures:
    """Quantity -> figures."""
    found: Figures = {}
    for quantity, estimate in (values_of(replay, name) | lists_of(replay, name)).items():
        found[quantity] = estimate.as_json()
    return found


def values_of(replay: Replay, name: str) -> dict[str, Estimate]:
    """Estimates of the policy's value, and what it is above that of the log."""
    measures, settings = replay.measures, replay.settings
    lived = _lived(replay, name)
    if name not in measures.values:
        return lived
    acc = measures.values[name]
    if name in replay.jury.refused:
        why = _refused(POLICY_NOT_PROBABILISTIC, replay.jury.refused[name])
        return dict.fromkeys(replay.estimators, why) | lived
    if acc.sums.rows == 0:
        return dict.fromkeys(replay.estimators, _refused(NO_PROPENSITY, "no scored row has one")) | lived
    if name != LOGGED:
        acc.gap = _gap(replay, name)
    found = {
        quantity: _flagged(replay, estimate)
        for quantity, estimate in acc.result(settings.alpha, settings.interval).items()
        if quantity != "logged" or name == LOGGED
    }
    if name != LOGGED:
        for quantity in ("snips", "dr"):
            if quantity in found:
                found[f"{quantity}_minus_logged"] = _difference(acc, quantity, settings.alpha)
    return found | _wider(replay, name) | lived


def _wider(replay: Replay, name: str) -> dict[str, Estimate]:
    """Estimates of what a slate and what a session earns."""
    measures, settings = replay.measures, replay.settings
    cluster: ClusterInterval = "bootstrap" if settings.interval == "bootstrap" else "session"
    found: dict[str, Estimate] = {}
    for unit, accs in (("slate", measures.slates), ("session", measures.sequences)):
        acc = accs.get(name)
        if acc is None:
            continue
        try:
            estimates = acc.result(settings.alpha, cluster)
        except Refused as refusal:
            estimates = dict.fromkeys(acc.names, _refused(refusal.code, f"there is no {unit} that could be used"))
        found |= {f"logged_{unit}" if quantity == "logged" else quantity: one for quantity, one in estimates.items()
                  if quantity != "logged" or name == LOGGED}  # fmt: skip
    return found


def _lived(replay: Replay, name: str) -> dict[str, Estimate]:
    """Rejection: the mean reward of the decisions that the policy lived through."""
    lived = replay.measures.lived.get(name)
    if lived is None:
        return {}
    if lived.sums.rows == 0:
        return {"rejection": _refused(EMPTY_LOG, "no decision of the log was accepted")}
    estimate = _flagged(replay, lived.result(replay.settings.alpha)["logged"])
    said = replay.jury.summary()[name]
    if said["beyond"]:
        text = f"{said['beyond']} of {said['accepted']} accepted decisions weigh more than the bound {said['bound']:g}"
        estimate.warnings.append(Warned.of(EXTREME_WEIGHT, text))
    return {"rejection": estimate}


def _refused(code: str, found: str) -> Estimate:
    return Estimate(None, None, None, None, 0, 0, refused=Warned(code, str(Refused(code, found))))


def _difference(acc: Accumulator, quantity: str, alpha: float) -> Estimate:
    try:
        return paired(acc, acc, quantity, "logged", alpha)
    except Refused as refusal:
        return _refused(refusal.code, refusal.found)


def _flagged(replay: Replay, estimate: Estimate) -> Estimate:
    """With what only the replay knows: rewards seen, rows of one session, cold items."""
    if estimate.value is None:
        return estimate
    measures = replay.measures
    if replay.settings.reward_range is None:
        low, high = measures.rewarded
        estimate.warnings.extend(judging.reach(estimate.value, (low, high)) if low <= high else [])
    if estimate.sessions >= 0.97 * estimate.n and not measures.independent and estimate.n > 1:
        text = "hardly any session has two rows: rows of one person may depend on each other and nothing shows it"
        estimate.warnings.append(Warned.of(DEPENDENT_ROWS, text))
    counts = replay.jury.counts
    if counts["cold"] > COLD_SHARE * counts["judged"]:
        share = counts["cold"] / counts["judged"]
        text = (
            f"{share:.1%} of the shown slots held something that was no candidate then, which counts as probability 0"
        )
        estimate.warnings.append(Warned.of(COLD_ITEMS, text))
    return estimate


def _gap(replay: Replay, name: str) -> float:
    """Probability, summed over judged slots, that the policy puts on items the log never shows."""
    mass = replay.jury.mass[replay.jury.names.index(name)]
    return float(mass[replay.jury.shown == 0].sum())


def lists_of(replay: Replay, name: str) -> dict[str, Estimate]:
    """Metrics of the policy's lists."""
    metrics = replay.measures.lists.get(name)
    if metrics is None or metrics.rows == 0:
        return {}
    found = metrics.result(replay.settings.alpha, int(replay.catalog.available.sum()))
    if replay.jury.counts["sampled"] and not replay.settings.allow_sampled:
        return dict.fromkeys(found, _refused(SAMPLED_METRICS, _sampled(replay)))
    return found


def _sampled(replay: Replay) -> str:
    return f"{replay.jury.counts['sampled']:,} requests brought candidates of their own, not the whole catalogue"


# --- beside them -----------------------------------------------------------------------------------------------------


def _segments(replay: Replay) -> Figures:
    """policy -> segment -> label -> metric -> figures."""
    told: Figures = {}
    if replay.jury.counts["sampled"] and not replay.settings.allow_sampled:
        return told
    for name, metrics in replay.measures.lists.items():
        if metrics is not None and metrics.rows:
            told[name] = {
                segment: {
                    label: {metric: estimate.as_json() for metric, estimate in figures.items()}
                    for label, figures in metrics.by(segment, replay.settings.alpha).items()
                }
                for segment in SEGMENTS
            }
    return told


def _windows(replay: Replay) -> Figures:
    """policy -> estimator -> windows of time."""
    told: Figures = {}
    for name, acc in replay.measures.values.items():
        wanted = ["logged"] if name == LOGGED else [one for one in ("snips", "dr") if one in acc.estimators]
        if acc.sums.rows:
            told[name] = {one: [dict(vars(window)) for window in acc.windows(one)] for one in wanted}
    return told


def _weights(acc: Accumulator) -> Figures:
    """Histogram of the weights over their logarithm, where there are any."""
    used = np.flatnonzero(acc.tails.bins)
    if len(used) == 0:
        return {"edges": [], "rows": [], "zeros": acc.tails.zeros}
    low, high = int(used[0]), int(used[-1])
    return {
        "edges": acc.tails.edges()[low : high + 2].tolist(),
        "rows": acc.tails.bins[low : high + 1].tolist(),
        "zeros": acc.tails.zeros,
    }


def _overlap(replay: Replay) -> Figures:
    """Share of each policy's choices by how often the log shows the items: groups of equal share of what was shown."""
    shown = replay.jury.shown
    total = float(shown.sum())
    if total == 0:
        return {}
    order = torch.argsort(shown, descending=True, stable=True)
    there = order[shown[order] > 0]
    before = shown[there].cumsum(0) - shown[there]
    group = (before / total * STRIP).long().clamp(max=STRIP - 1)
    told: Figures = {"groups": STRIP, "items": torch.bincount(group, minlength=STRIP).tolist(), "policies": {}}
    for number, name in enumerate(replay.jury.names):
        mass = replay.jury.mass[number]
        whole = float(mass.sum())
        if whole == 0:
            continue
        share = torch.zeros(STRIP, dtype=torch.float64).index_add_(0, group, mass[there]) / whole
        told["policies"][name] = {"share": share.tolist(), "never_shown": float(mass[shown == 0].sum()) / whole}
    logged = torch.zeros(STRIP, dtype=torch.float64).index_add_(0, group, shown[there]) / total
    told["policies"] = {LOGGED: {"share": logged.tolist(), "never_shown": 0.0}, **told["policies"]}
    return told


def _calibration(replay: Replay) -> list[Figures]:
    rows, q, reward = replay.measures.calibration
    edges = [None, *Q_EDGES, None]
    return [
        {"from": edges[at], "to": edges[at + 1], "rows": int(n), "q": float(q[at] / n), "reward": float(reward[at] / n)}
        for at, n in enumerate(rows.tolist())
        if n
    ]


def dropped(replay: Replay) -> dict[str, int]:
    """Rows of the log that no figure was made of, by cause."""
    sessions, world = replay.sessions.counts, replay.world.world
    causes = dict(replay.measures.dropped)
    causes["reactions too late for what was shown"] = sessions["late"]
    causes["reactions given twice"] = sessions["duplicate"]
    causes["reactions to nothing that was shown"] = sessions["unknown"]
    causes["user pushed out before a decision closed"] = sessions["evicted_open"]
    causes["no room for the item"] = getattr(world, "skipped", 0)
    causes["slot beyond those looked at"] = getattr(world, "cut", 0)
    causes["message that could not be read"] = getattr(world, "dead_letters", 0)
    return causes


def _general(replay: Replay) -> list[Warned]:
    """What holds for the whole report."""
    found = []
    if replay.measures.values:
        found.append(Warned.of(ONE_DECISION, "every value here is of one decision at a time, in the logger's states"))
    ledger = dropped(replay)
    lost = sum(many for cause, many in ledger.items() if cause not in ("outside the window", _FIRST))
    if lost > DROPPED_SHARE * max(replay.measures.fingerprint.rows, 1):
        text = ", ".join(f"{many} {cause}" for cause, many in ledger.items() if many)
        found.append(Warned.of(DROPPED_ROWS, text))
    if replay.jury.counts["sampled"] and replay.settings.allow_sampled:
        text = f"lists are sampled, and not comparable with rankings of a whole catalogue: {_sampled(replay)}"
        found.append(Warned(SAMPLED_METRICS, text))
    return found + ([] if replay.audit is None else replay.audit.warned)


_FIRST = "first click of its session"
