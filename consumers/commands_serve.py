"""`streamrec serve`: recommendations over HTTP, learned from what comes of them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamrec.spec import Spec

DEFAULT_SERVERS = "127.0.0.1:9092"


def serve(
    spec: Annotated[str, typer.Argument(help="A spec file, or the name of a shipped one.")] = "serve",
    host: Annotated[str | None, typer.Option(help="Address to listen on; a public one needs tokens.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65_535, help="Port to listen on, 0 = any free one.")] = None,
    bootstrap_servers: Annotated[str | None, typer.Option(help="A Kafka of yours, host:port[,host:port].")] = None,
    embedded: Annotated[
        bool, typer.Option("--embedded", help="Start the embedded broker at that address; what it holds ends with it.")
    ] = False,
    run_dir: Annotated[
        Path | None, typer.Option(help="Models, snapshots, the learner's files. Default: runs/serve-<time>.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what is in --run-dir; an empty one is a fresh start.")
    ] = False,
    no_learner: Annotated[
        bool,
        typer.Option("--no-learner", help="Do not learn: `streamrec consume` elsewhere publishes into RUN_DIR/models."),
    ] = False,
    token_file: Annotated[Path | None, typer.Option(help="Lines scope:sha256; scopes ingest, serve, admin.")] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one value of the spec.")
    ] = None,
) -> None:
    """Serve recommendations over HTTP, and learn from what comes of them.

    Posts go to the topic of events; the service and its learner read it. Ends in order on SIGTERM or Ctrl-C.
    """
    from uvicorn.loops.auto import auto_loop_factory

    from consumers.http.settings import Settings

    loaded = _load(spec, sets or [], host, port)
    settings = Settings.from_table(loaded["serve"], token_file)
    where = _directory(run_dir, resume, learning=not no_learner)
    servers = bootstrap_servers or loaded.get("world", {}).get("bootstrap_servers", DEFAULT_SERVERS)
    loop = asyncio.Runner(loop_factory=auto_loop_factory())  # uvloop, where there is one
    with _broker(embedded, bootstrap_servers) as address, loop as runner:
        runner.run(_serve(loaded, where, address or servers, settings, learner=not no_learner))


def _load(name: str, sets: list[str], host: str | None, port: int | None) -> Spec:
    from streamrec import spec as specs

    loaded = specs.load(name, sets)
    table = loaded.setdefault("serve", {})
    given = {"host": host, "port": port}
    table |= {key: value for key, value in given.items() if value is not None}
    return loaded


def _directory(run_dir: Path | None, resume: bool, learning: bool) -> Path:
    """The run directory, made if it is not there.

    Raises:
        typer.BadParameter: it holds another run and nobody said to go on with it.
    """
    from datetime import datetime

    if run_dir is None:
        if resume or not learning:
            raise typer.BadParameter("--resume and --no-learner need --run-dir, the directory with the models")
        return Path("runs") / f"serve-{datetime.now().strftime('%Y%m%d-%H%M%S')}"
    left = [name for name in ("checkpoints", "serving", "models") if any((run_dir / name).glob("[0-9]*"))]
    if left and learning and not resume:
        raise typer.BadParameter(
            f"{run_dir} holds {' and '.join(left)} of an earlier run: add --resume to go on with it, or give another "
            "--run-dir"
        )
    return run_dir


@contextlib.contextmanager
def _broker(embedded: bool, servers: str | None) -> Iterator[str | None]:
    """The address of the embedded broker while the block runs; None without one."""
    if not embedded:
        yield None
        return
    from consumers.broker import EmbeddedBroker

    host, _, port = (servers or DEFAULT_SERVERS).partition(":")
    with EmbeddedBroker(port=int(port or 0), host=host) as broker:
        print(f"embedded broker on {broker.address}: what it holds ends with this process", file=sys.stderr)
        yield broker.address


async def _serve(loaded: Spec, run_dir: Path, servers: str, settings: object, learner: bool) -> None:
    from consumers.http.server import serve as serve_http
    from consumers.http.settings import Settings
    from consumers.serving.engine import Engine

    assert isinstance(settings, Settings)
    # Threads load models and talk to the broker; whoever answers must not wait the default 5 ms for each of them.
    sys.setswitchinterval(0.0002)
    gc.set_threshold(1_000, 200, 100)  # more often than elsewhere: pauses of a fraction of a millisecond, not 3 to 14
    engine = Engine(loaded, run_dir, servers, learner=learner, others=sorted(Settings.KEYS))

    def say(url: str) -> None:
        print(f"streamrec serves on {url} (files in {run_dir})", file=sys.stderr, flush=True)

    await serve_http(engine, settings, say)
