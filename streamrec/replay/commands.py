"""`streamrec audit`, `replay LOG`, `compare` and `plan`. What a command needs is imported when it runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

if TYPE_CHECKING:
    from streamrec.ope.accumulator import IntervalName
    from streamrec.replay.settings import Mode, Settings

Log = Annotated[str, typer.Argument(help="An event log: Parquet, CSV, JSONL, a folder of them, or kafka:TOPIC.")]
Columns = Annotated[
    list[str] | None,
    typer.Option("--column", "--col", metavar="NAME=EXPR", help="Where a column of the event format comes from."),
]
Late = Annotated[str, typer.Option(help="By how much a row may be older than the newest before it, such as 5m.")]
LATE = "1m"
"""What streams of one machine room are out of order by."""

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of standard output.")]


def audit(
    logs: Annotated[list[Path], typer.Argument(help="Event logs; several are taken as those of several loggers.")],
    column: Columns = None,
    late: Late = LATE,
    start: Annotated[str | None, typer.Option("--from", help="A time split to look at: sessions it would cut.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write what was found to this JSON file, too.")] = None,
    as_json: Json = False,
) -> None:
    """Look at a log before anything is estimated from it; exit code 2 if it cannot be used."""
    from streamrec.replay.audit import Audit, between_loggers
    from streamrec.replay.moments import moment, seconds
    from streamrec.replay.tables import print_audit, print_loggers

    late_s = _read(seconds, late, "--late")
    split = None if start is None else _read(moment, start, "--from")
    audits = [Audit(log, columns(column), late_s, split).run() for log in logs]
    told: dict[str, Any] = {"logs": [one.as_json() for one in audits]}
    if len(audits) > 1:
        told["between"] = between_loggers(audits)
    if out is not None:
        out.write_text(json.dumps(told, indent=1, allow_nan=False))
    if as_json:
        print(json.dumps(told, allow_nan=False))
    else:
        for one in told["logs"]:
            print_audit(one)
        print_loggers(told.get("between", {}))
    if any(one.refused for one in audits):
        raise typer.Exit(2)


def compare(
    a: Annotated[Path, typer.Argument(help="The directory of a report.")],
    b: Annotated[Path, typer.Argument(help="Another one, over the same rows.")],
    policy: Annotated[list[str] | None, typer.Option(help="NAME, or NAME_IN_A:NAME_IN_B.")] = None,
    metric: Annotated[list[str] | None, typer.Option(help="A quantity to compare; may be repeated.")] = None,
    alpha: Annotated[float, typer.Option(help="1 - level of the intervals.")] = 0.05,
    as_json: Json = False,
) -> None:
    """Compare two reports, paired by session; exit code 2 if they were made from different rows."""
    from streamrec.replay.compare import compare as compared
    from streamrec.replay.tables import print_comparison

    told: dict[str, Any] = {}
    for pair in policy or [""]:
        mine, _, theirs = pair.partition(":")
        more = compared(a, b, mine, theirs, alpha, metric)
        told = {**more, "differences": told.get("differences", []) + more["differences"]}
    if as_json:
        print(json.dumps(told, allow_nan=False))
    else:
        print_comparison(told)


def plan(
    log: Log,
    width: Annotated[float, typer.Option(min=0.0, help="The whole width of the interval that is wanted.")],
    policy: Annotated[list[str] | None, typer.Option(help="As in replay; may be repeated.")] = None,
    estimator: Annotated[str, typer.Option(help="Whose interval: ips, snips, dr, ...")] = "snips",
    column: Columns = None,
    items: Annotated[str, typer.Option(help="As in replay.")] = "",
    slate: Annotated[int, typer.Option(min=1, help="As in replay.")] = 10,
    marginal: Annotated[bool, typer.Option("--marginal", help="As in replay.")] = False,
    alpha: Annotated[float, typer.Option(help="1 - level of the interval.")] = 0.05,
    as_json: Json = False,
) -> None:
    """How many rows, and how much exploration, an interval of a wanted width needs."""
    from streamrec.replay.plan import planned
    from streamrec.replay.settings import Settings
    from streamrec.replay.tables import print_plan

    settings = Settings(
        log=log,
        policies=policy or [],
        columns=columns(column),
        estimators=[estimator],
        metrics=[],
        items=items,
        slate=slate,
        marginal=marginal,
        alpha=alpha,
    )
    told = planned(settings, estimator, width)
    if as_json:
        print(json.dumps(told, allow_nan=False))
    else:
        print_plan(told)


def settings(
    *,
    log: str,
    policy: list[str] | None,
    mode: str,
    start: str | None,
    until: str | None,
    feedback_delay: str,
    estimators: str | None,
    metrics: str,
    reward: str,
    reward_range: str | None,
    ci: str,
    interval: str,
    alpha: float,
    items: str,
    slate: int,
    marginal: bool,
    attribution: str,
    late: str,
    bound: float | None,
    gamma: float,
    allow_sampled: bool,
    servers: str,
    until_offset: str,
    candidates: int,
    context: int,
    seed: int,
    column: list[str] | None,
) -> Settings:
    """What `streamrec replay LOG` was asked for, read from its options.

    Raises:
        typer.BadParameter: an option that cannot be read.
        BadSpec: a name that there is not.
    """
    from streamrec.replay.moments import moment, seconds
    from streamrec.replay.settings import Settings

    names, ks = listed(metrics)
    return Settings(
        log=log,
        policies=policy or [],
        columns=columns(column),
        mode=cast("Mode", mode),  # `Settings` says what there is
        start=None if start is None else _read(moment, start, "--from"),
        until=None if until is None else _read(moment, until, "--until"),
        delay_s=_read(seconds, feedback_delay, "--feedback-delay"),
        estimators=None if estimators is None else _names(estimators),
        metrics=names,
        ks=ks or [20],
        reward=numbers(reward, "--reward"),
        reward_range=None if reward_range is None else _range(reward_range),
        cluster=ci,
        interval=cast("IntervalName", interval),
        alpha=alpha,
        marginal=marginal,
        items=items,
        slate=slate,
        attribution_s=_read(seconds, attribution, "--attribution"),
        late_s=_read(seconds, late, "--late"),
        bound=bound,
        gamma=gamma,
        allow_sampled=allow_sampled,
        seed=seed,
        servers=servers,
        until_offset=until_offset,
        candidates=candidates,
        context=context,
    )


def replay_log(asked: Settings, out: Path, resume: bool, checkpoint: str, as_json: bool, quiet: bool) -> None:
    """Replay a log into the directory `out`, and print what came of it."""
    from streamrec.replay.moments import seconds
    from streamrec.replay.run import Replay
    from streamrec.replay.store import save
    from streamrec.replay.tables import print_report

    run = Replay(asked, out, _read(seconds, checkpoint, "--checkpoint"))
    if resume and not run.resume():
        raise typer.BadParameter(f"{out} has no usable checkpoint to resume from")
    if not resume and any((out / "checkpoints").glob("[0-9]*")):
        raise typer.BadParameter(f"{out} holds a replay that was not finished: add --resume, or name another --out")
    if not run.run(None if quiet or as_json else lambda text: print(text, file=sys.stderr, flush=True)):
        print(f"stopped; go on with --resume --out {out}", file=sys.stderr)
        raise typer.Exit(1)
    figures = save(run)
    run.clean()
    if as_json:
        print(json.dumps(figures, allow_nan=False))
    elif not quiet:
        print_report(figures)
        print(f"report {out / 'report.html'}")


def columns(pairs: list[str] | None) -> dict[str, str]:
    """NAME=EXPR, each once."""
    found = {}
    for pair in pairs or []:
        name, equals, expression = pair.partition("=")
        if not equals:
            raise typer.BadParameter(f"--column takes NAME=EXPR, such as --column user=session_id, got {pair!r}")
        found[name] = expression
    return found


def listed(metrics: str) -> tuple[list[str], list[int]]:
    """Names and lengths of `recall@20,ndcg@20,coverage`; a name without a length is cut at 20 or where others are."""
    names, ks = [], []
    for part in _names(metrics):
        name, _, k = part.partition("@")
        names.append(name)
        if k:
            try:
                ks.append(int(k))
            except ValueError as error:
                raise typer.BadParameter(f"--metrics takes names such as recall@20, got {part!r}") from error
    return list(dict.fromkeys(names)), sorted(set(ks))


def _names(text: str) -> list[str]:
    """Names with commas between them; `none` = none at all."""
    names = [name.strip().replace("-", "_") for name in text.split(",") if name.strip()]
    return [] if names == ["none"] else [_SYNONYMS.get(name, name) for name in names]


_SYNONYMS = {"switch_dr": "switch"} | {f"slate_{name}": name for name in ("sips", "iips", "rips", "pi", "cascade_dr")}


def _range(text: str) -> tuple[float, float]:
    low, _, high = text.partition(",")
    try:
        return float(low), float(high)
    except ValueError as error:
        raise typer.BadParameter(f"--reward-range takes LEAST,MOST, such as 0,11, got {text!r}") from error


def numbers(text: str, option: str) -> dict[str, float]:
    """`click=1,buy=10` by name."""
    found = {}
    for pair in filter(None, text.split(",")):
        name, equals, value = pair.partition("=")
        try:
            found[_KINDS.get(name.strip(), name.strip())] = float(value)
        except ValueError:
            equals = ""
        if not equals:
            raise typer.BadParameter(f"{option} takes KIND=NUMBER, such as click=1,purchase=10, got {text!r}")
    return found


_KINDS = {"buy": "purchase"}


def _read(parse: Any, text: str, option: str) -> float:
    try:
        return float(parse(text))
    except ValueError as error:
        raise typer.BadParameter(f"{option}: {error}") from error
