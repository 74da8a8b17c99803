"""The command line. Commands import what they need when they run: `--help` must not wait for torch."""

from __future__ import annotations

import gc
import shlex
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from consumers.clients.option import Client, settings_of
from consumers.commands_dead_letters import app as dead_letters_app
from consumers.commands_events import app as events_app
from consumers.commands_serve import serve
from consumers.commands_token import token
from streamrec.data.importers.command import app as data_app
from streamrec.lifeline import tie_to_parent
from streamrec.printed import json_line
from streamrec.replay import commands

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamrec.spec import Spec

app = typer.Typer(
    name="streamrec",
    help="A streaming recommender that learns while people click.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(data_app, name="data")
app.add_typer(events_app, name="events")
app.add_typer(dead_letters_app, name="dlq")
app.command()(token)

SpecName = Annotated[str, typer.Argument(help="A spec file, or the name of a shipped one (`streamrec specs`).")]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one value of the spec.")]
RunDir = Annotated[Path | None, typer.Option(help="Where the run leaves its files. Default: runs/<spec>-<time>.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in --run-dir.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.")]
Seconds = Annotated[float | None, typer.Option(min=0, help="Stop after this many seconds.")]
Servers = Annotated[str | None, typer.Option(help="A Kafka of yours, host:port[,host:port].")]
Columns = Annotated[
    list[str] | None,
    typer.Option("--column", metavar="NAME=EXPR", help="Where a column of the event format comes from in this log."),
]

ReplayColumns = commands.Columns

DEFAULT_SERVERS = "127.0.0.1:9092"
_METRICS = "recall@20,ndcg@20,mrr@20,coverage@20,novelty@20"


def main() -> None:
    """Entry point: exit code 0 done (or stopped and resumable), 1 failed, 2 wrong usage or spec."""
    tie_to_parent()
    # Every 700 objects the collector would look through what a poll brings and now and then through all of torch: half
    # of the time of reading a topic, and pauses of a service.
    gc.set_threshold(100_000, 20, 100)
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(1)
    except Exception as error:
        code = next((_EXIT[cls.__name__] for cls in type(error).__mro__ if cls.__name__ in _EXIT), None)
        if code is None:
            raise
        print(f"streamrec: {error}", file=sys.stderr)
        sys.exit(code)


_EXIT = {
    "BadSpec": 2,
    "BadLog": 2,
    "Refused": 2,
    "BadHandOver": 2,
    "BrokerUnavailable": 1,
    "DemoFailed": 1,
    "CannotListen": 1,
    "OutOfStep": 1,
}
"""Errors that the person at the keyboard can mend, told without a traceback. By name: their modules import torch."""


@app.command()
def train(
    spec: SpecName = "train",
    sets: Sets = None,
    run_dir: RunDir = None,
    resume: Resume = False,
    seconds: Seconds = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train agents in a user simulator."""
    _run(_load(spec, sets, seconds), spec, run_dir, resume, as_json, quiet)


@app.command()
def consume(
    spec: SpecName = "consume",
    bootstrap_servers: Servers = None,
    embedded: Annotated[bool, typer.Option("--embedded", help="Start the embedded broker at that address.")] = False,
    sets: Sets = None,
    run_dir: RunDir = None,
    resume: Resume = False,
    seconds: Seconds = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Consume a live event stream: keep sessions, answer, learn."""
    loaded = _load(spec, sets, seconds)
    servers = bootstrap_servers or loaded.get("world", {}).get("bootstrap_servers", DEFAULT_SERVERS)
    loaded["world"]["bootstrap_servers"] = servers
    if not embedded:
        _run(loaded, spec, run_dir, resume, as_json, quiet)
        return
    from consumers.broker import EmbeddedBroker

    host, _, port = servers.partition(":")
    with EmbeddedBroker(port=int(port or 9092), host=host) as broker:
        broker.create_topic(loaded["world"].get("topic", "streamrec.events"), partitions=1)
        print(f"broker listens on {broker.address}; waiting for events", file=sys.stderr)
        _run(loaded, spec, run_dir, resume, as_json, quiet)


@app.command()
def replay(
    log_or_spec: Annotated[
        str | None,
        typer.Argument(
            metavar="LOG|SPEC",
            help="A log to evaluate policies on: Parquet, CSV, JSONL, a folder, kafka:TOPIC. Or a spec, with --log.",
        ),
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]WHAT[@WRAPPER[:NUMBER]]",
            help="baseline:NAME, a run directory, table:FILE, a .toml with [agent], or a class; may be repeated. "
            "Wrappers: epsilon-greedy, softmax, plackett-luce.",
        ),
    ] = None,
    mode: Annotated[str, typer.Option(help="prequential, frozen or rejection.")] = "prequential",
    start: Annotated[str | None, typer.Option("--from", help="Score decisions from this time on.")] = None,
    until: Annotated[str | None, typer.Option(help="Score decisions before this time.")] = None,
    feedback_delay: Annotated[str, typer.Option(help="When the outcome of a decision may be learned: 10m.")] = "0s",
    estimators: Annotated[str | None, typer.Option(help="Names with commas, or none. Default: all that fit.")] = None,
    metrics: Annotated[str, typer.Option(help="Of lists: recall@20,ndcg@20,..., or none.")] = _METRICS,
    reward: Annotated[str, typer.Option(help="Weights of reactions: click=1,purchase=10.")] = "",
    reward_range: Annotated[str | None, typer.Option(help="Least and most reward of a slot: 0,11.")] = None,
    ci: Annotated[str, typer.Option(help="What is independent: session, user or row.")] = "session",
    interval: Annotated[str, typer.Option(help="session, bootstrap, bernstein or anytime.")] = "session",
    alpha: Annotated[float, typer.Option(help="1 - level of the intervals.")] = 0.05,
    items: Annotated[str, typer.Option(help="What may be shown from the start: log, or a table of items.")] = "",
    slate: Annotated[int, typer.Option(min=1, help="Slots of the log's slates that are looked at.")] = 10,
    marginal: Annotated[
        bool, typer.Option("--marginal", help="Propensities are of an item in a slot, whatever stands above.")
    ] = False,
    attribution: Annotated[str, typer.Option(help="How long a reaction counts for what was shown.")] = "30m",
    late: commands.Late = commands.LATE,
    bound: Annotated[float | None, typer.Option(help="Largest weight: for rejection, or bernstein.")] = None,
    gamma: Annotated[float, typer.Option(help="Discount per step of a session: pdis, weighted-pdis, ...")] = 1.0,
    allow_sampled: Annotated[
        bool, typer.Option("--allow-sampled", help="Rank also where requests bring candidates of their own.")
    ] = False,
    bootstrap_servers: Servers = None,
    until_offset: Annotated[str, typer.Option(help="kafka: end (an end message) or latest (what is there).")] = "end",
    candidates: Annotated[int, typer.Option(min=0, max=1000, help="kafka: most candidates of a request.")] = 0,
    context: Annotated[int, typer.Option(min=0, max=256, help="kafka: numbers that come with a request.")] = 0,
    seed: Annotated[int, typer.Option(help="Of everything drawn.")] = 0,
    log: Annotated[Path | None, typer.Option(help="With a spec: the log of its world.")] = None,
    column: ReplayColumns = None,
    sets: Sets = None,
    run_dir: Annotated[
        Path | None, typer.Option("--out", "--run-dir", help="Where the files go. Default: runs/replay-<time>.")
    ] = None,
    resume: Resume = False,
    checkpoint: Annotated[str, typer.Option(help="Wall time between checkpoints.")] = "30s",
    seconds: Seconds = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Evaluate policies on a recorded log; exit code 2 where no honest number can be given.

    With a spec: ask its policies about every click of --log, score, then learn.
    """
    if _is_spec(log_or_spec, log):
        if policy:
            raise typer.BadParameter("--policy goes with a log; a spec names its policies itself")
        name = log_or_spec or "replay"
        loaded = _load(name, sets, seconds)
        if log is not None:
            loaded["world"]["path"] = str(log)
        if column:
            loaded["world"]["columns"] = commands.columns(column)
        _run(loaded, name, run_dir, resume, as_json, quiet)
        return
    if sets or seconds is not None:
        raise typer.BadParameter("--set and --seconds go with a spec; a log is read to its end")
    from streamrec.replay.commands import replay_log, settings

    asked = settings(
        log=log_or_spec or "", policy=policy, mode=mode, start=start, until=until, feedback_delay=feedback_delay,
        estimators=estimators, metrics=metrics, reward=reward, reward_range=reward_range, ci=ci, interval=interval,
        alpha=alpha, items=items, slate=slate, marginal=marginal, attribution=attribution, late=late, bound=bound,
        gamma=gamma, allow_sampled=allow_sampled,
        servers=bootstrap_servers or DEFAULT_SERVERS, until_offset=until_offset, seed=seed, column=column,
        candidates=candidates, context=context,
    )  # fmt: skip
    replay_log(asked, run_dir or _new_run_dir("replay"), resume, checkpoint, as_json, quiet)


def _is_spec(name: str | None, log: Path | None) -> bool:
    """A spec: nothing named, a .toml, or the name of a shipped one that is no file here."""
    from streamrec import spec as specs

    if name is None or log is not None or name.endswith(".toml"):
        return True
    return name in specs.shipped() and not Path(name).exists()


app.command()(serve)
app.command()(commands.audit)
app.command()(commands.compare)
app.command()(commands.plan)


@app.command()
def produce(
    source: Annotated[str, typer.Argument(help="An event log, or a spec whose simulated users shall play.")],
    bootstrap_servers: Servers = DEFAULT_SERVERS,
    client: Client = None,
    topic: Annotated[str, typer.Option(help="Where the events go.")] = "streamrec.events",
    column: Columns = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Send only this many events of a log.")] = None,
    pace: Annotated[
        float | None, typer.Option(min=0, help="Simulated users: seconds of event time per second; default: no wait.")
    ] = None,
    http: Annotated[
        str | None, typer.Option(help="Simulated users: play over HTTP with the service at this URL.")
    ] = None,
    token_file: Annotated[Path | None, typer.Option(help="--http: a file with a token of scope admin.")] = None,
    rate: Annotated[float | None, typer.Option(help="--http: most recommendations asked for per second.")] = None,
    seconds: Seconds = None,
    sets: Sets = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Send a log, or simulated users, to Kafka; or have simulated users come over HTTP."""
    from consumers.produce import play, send_log

    servers, how = bootstrap_servers or DEFAULT_SERVERS, settings_of(client)
    if http is not None:
        from consumers.http_players import over_http

        report = over_http(_load(source, sets, None), http, token_file, rate, seconds or 0.0, quiet)
    elif Path(source).exists() and not source.endswith(".toml"):
        report = send_log(Path(source), servers, topic, commands.columns(column), limit, quiet=quiet, settings=how)
    else:
        spec = _load(source, sets, None)
        report = play(spec, servers, topic, seconds or 0.0, pace=pace, quiet=quiet, settings=how)
    _print(report, as_json)


@app.command()
def demo(
    seconds: Annotated[float, typer.Option(min=5, help="Length of the live part.")] = 90.0,
    headless: Annotated[bool, typer.Option("--headless", help="No terminal panel and no browser page.")] = False,
    bootstrap_servers: Servers = None,
    run_dir: RunDir = None,
    resume: Resume = False,
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """The main job: simulated users click over Kafka, five policies answer and learn, tastes shift."""
    from consumers.demo import run_demo

    where = run_dir or _new_run_dir("demo")
    report = run_demo(where, seconds, headless=headless, servers=bootstrap_servers, resume=resume, sets=sets or [])
    _print(report, as_json)
    if report.get("failed"):
        raise typer.Exit(1)


@app.command()
def doctor(bootstrap_servers: Servers = None, as_json: Json = False) -> None:
    """Check this machine: packages, threads, broker, disk."""
    from streamrec.doctor import examine

    findings = examine(bootstrap_servers)
    if as_json:
        print(json_line(findings))
    else:
        for finding in findings["checks"]:
            print(f"{'ok  ' if finding['ok'] else 'BAD '} {finding['check']}: {finding['says']}")
    if not findings["ok"]:
        raise typer.Exit(1)


@app.command("fit-world")
def fit_world(
    log: Annotated[Path, typer.Option(help="An event log: Parquet, CSV or JSONL, or a folder of them.")],
    out: Annotated[Path, typer.Option(help="The folder of the fitted world.")],
    items: Annotated[Path | None, typer.Option(help="A CSV with the columns item and category.")] = None,
    rest: Annotated[Path | None, typer.Option(help="Where to write the part of the log that agents may see.")] = None,
    split: Annotated[str, typer.Option(help="user or time.")] = "user",
    share: Annotated[float, typer.Option(help="Part of the log that the world is made of.")] = 0.5,
    column: Columns = None,
    as_json: Json = False,
) -> None:
    """Fit users on a log as a world to train in, and report how far it can be trusted."""
    import pandas as pd

    from simulators.logged_fit import fit

    table = None if items is None else pd.read_csv(items, dtype=str)
    known = None if table is None else dict(zip(table["item"], table["category"], strict=True))
    try:
        manifest = fit(log, out, commands.columns(column), known, rest, source=log.name, split=split, share=share)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    _print({**manifest["report"], "out": str(out)}, as_json)


@app.command()
def bench(
    name: Annotated[
        str,
        typer.Argument(
            help="What to measure: simulators, loop, kafka, dqn, warmstart, serving, ranking, replay, agents, encoders "
            "or continual; live: a service under load; cost: memory and speed by size; crash: kills; gru4rec, vsknn: "
            "beside their authors' code; or a study: coverage, own-world."
        ),
    ],
    as_json: Json = False,
    seconds: Annotated[float, typer.Option(min=0.1, help="Time per measurement of a speed.")] = 5.0,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="agents: an arena, encoders, gru4rec, vsknn: an experiment, continual: a row; may be repeated."
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="encoders, continual, gru4rec, vsknn: the folder of the data set.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="agents, encoders: seeds per agent or model.")] = 3,
    short: Annotated[
        bool, typer.Option("--short", help="agents, replay, crash: much shorter, to see that it works.")
    ] = False,
    kills: Annotated[int, typer.Option(min=1, help="crash: how often a consumer is killed.")] = 200,
    peer_python: Annotated[
        str | None, typer.Option(help="kafka, live: an interpreter that has quixstreams, to measure against.")
    ] = None,
    peer_code: Annotated[
        Path | None, typer.Option(help="gru4rec, vsknn: the folder of the peer's repository, to measure against.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="gru4rec, vsknn: threads of each side.")] = 1,
    jobs: Annotated[int, typer.Option(min=1, help="agents, encoders: processes at a time.")] = 1,
    device: Annotated[str, typer.Option(help="encoders, continual: where models live, cpu or cuda.")] = "cpu",
    run_dir: RunDir = None,
    quiet: Quiet = False,
) -> None:
    """Measure: speed as ratios against a limit or peer of the same run, agents in worlds, encoders on data sets."""
    if name == "crash":
        from streamrec.bench.crash import all_of_it

        told = all_of_it(kills, short, 0, lambda text: None if quiet else print(text, file=sys.stderr, flush=True))
        print(json_line(told))
        raise typer.Exit(0 if told["equal"] else 1)
    if name == "replay":
        _bench_replay(seconds, short, as_json)
        return
    if name not in ("agents", "encoders", "continual"):
        from streamrec.bench import BESIDE, measure

        options: dict[str, object] = {"peer_python": peer_python} if name in ("kafka", "live") else {}
        if name in BESIDE:
            if peer_code is None:
                raise typer.BadParameter(f"bench {name} needs --peer-code, the folder of the peer's repository")
            options = {"data": _folder(data, name), "peer_code": peer_code, "only": only or (), "threads": threads}
        _print(measure(name, seconds, **options), as_json)
        return

    def say(text: str) -> None:
        if not quiet:
            print(text, file=sys.stderr, flush=True)

    where = run_dir or _new_run_dir(name)
    if name == "encoders":
        _bench_encoders(where, _folder(data, name), only or [], seeds, jobs, device, None if quiet else say, as_json)
        return
    if name == "continual":
        from streamrec.bench import continual

        print(json_line(continual.run(where, _folder(data, name), rows=only or (), device=device, say=say)))
        return
    from consumers.progress import print_agents
    from streamrec.bench.agents import run

    results = run(where, only or (), seeds, short, jobs, say)
    if as_json:
        print(json_line(results))
    else:
        print_agents(results)


def _bench_replay(seconds: float, short: bool, as_json: bool) -> None:
    from streamrec.bench import replay as of_replay

    figures = of_replay.measure(seconds, of_replay.ROWS // (50 if short else 1), 1_000_000 // (50 if short else 1))
    if as_json:
        print(json_line({"bench": "replay", "threads": 1, **figures}))
    else:
        of_replay.as_text(figures)


def _folder(data: Path | None, name: str) -> Path:
    if data is None:
        raise typer.BadParameter(f"bench {name} needs --data, the folder of the data set")
    return data


def _bench_encoders(
    where: Path,
    data: Path,
    only: list[str],
    seeds: int,
    jobs: int,
    device: str,
    say: Callable[[str], None] | None,
    as_json: bool,
) -> None:
    from streamrec.bench.encoders import as_text, run

    results = run(where, data, only, seeds, jobs, device, say)
    print(json_line(results) if as_json else as_text(results))


@app.command("specs")
def list_specs() -> None:
    """Names of the shipped specs, with what they are for."""
    from streamrec import spec as specs

    for name in specs.shipped():
        print(f"{name:14} {specs.load(name).get('about', '')}")


def _load(name: str, sets: list[str] | None, seconds: float | None) -> Spec:
    from streamrec import spec as specs

    loaded = specs.load(name, sets or [])
    if seconds is not None:
        loaded.setdefault("run", {})["seconds"] = seconds
    return loaded


def _new_run_dir(name: str) -> Path:
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{Path(name).stem}-{stamp}"


def _run(spec: Spec, name: str, run_dir: Path | None, resume: bool, as_json: bool, quiet: bool) -> None:
    from consumers.progress import following
    from streamrec.experiment import Experiment

    if resume and run_dir is None:
        raise typer.BadParameter("--resume needs --run-dir, the directory of the run to go on with")
    where = run_dir or _new_run_dir(name)
    experiment = Experiment(spec, where, command=shlex.join(["streamrec", *sys.argv[1:]]))
    if resume and not experiment.resume():
        raise typer.BadParameter(f"{where} has no usable checkpoint to resume from")
    with following(experiment.run_dir, quiet or not experiment.leads):
        summary = experiment.run()
    if experiment.leads:
        _print(summary, as_json)


def _print(summary: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json_line(summary))
        return
    from consumers.progress import print_summary

    print_summary(summary)


if __name__ == "__main__":
    main()
