"""Options reach the client that connects, under its own names; secrets reach nothing else."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer

from consumers.broker import BrokerUnavailable, EmbeddedBroker, cluster_id
from consumers.clients import confluent, kafka_python
from consumers.clients.settings import ClientSettings
from streamrec import spec as specs
from streamrec.experiment import Experiment

SECRET = "pass=word*1"
TABLE = {
    "security_protocol": "SASL_SSL",
    "sasl_mechanism": "SCRAM-SHA-512",
    "sasl_plain_username": "streamrec",
    "sasl_plain_password_env": "A_TEST_PASSWORD",
    "ssl_cafile": "/etc/ssl/ca.pem",
    "ssl_check_hostname": True,
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TEST_PASSWORD", SECRET)


@pytest.mark.parametrize("client", [KafkaConsumer, KafkaProducer, KafkaAdminClient])
def test_kafka_python_gets_its_own_names(client: Any) -> None:
    options = ClientSettings(TABLE).for_kafka_python(client.DEFAULT_CONFIG)
    plain = {name: value for name, value in TABLE.items() if not name.endswith("_env")}
    assert options == plain | {"sasl_plain_password": SECRET}
    assert set(options) <= set(client.DEFAULT_CONFIG)


def test_a_producer_is_not_given_what_only_a_consumer_knows() -> None:
    settings = ClientSettings({"fetch_max_bytes": 5})
    assert settings.for_kafka_python(KafkaProducer.DEFAULT_CONFIG) == {}
    assert settings.for_kafka_python(KafkaConsumer.DEFAULT_CONFIG) == {"fetch_max_bytes": 5}
    assert settings.for_confluent(producer=True) == {}
    assert settings.for_confluent() == {"fetch.max.bytes": 5}


def test_confluent_gets_its_own_names() -> None:
    assert ClientSettings(TABLE).for_confluent() == {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "streamrec",
        "sasl.password": SECRET,
        "ssl.ca.location": "/etc/ssl/ca.pem",
        "ssl.endpoint.identification.algorithm": "https",
    }


def test_the_options_reach_both_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("confluent_kafka")
    given: dict[str, Any] = {}

    def note(*options: dict[str, Any], **more: Any) -> None:
        given.update(*options, **more)

    settings = ClientSettings({**TABLE, "session_timeout_ms": 9000})
    monkeypatch.setattr(kafka_python, "reach", lambda servers, settings: None)
    monkeypatch.setattr(
        kafka_python,
        "KafkaConsumer",
        type("", (), {"DEFAULT_CONFIG": KafkaConsumer.DEFAULT_CONFIG, "__new__": lambda cls, **o: note(**o)}),
    )
    kafka_python.connect_consumer("h:1", None, settings)
    assert given["sasl_plain_password"] == SECRET
    assert given["session_timeout_ms"] == 9000
    monkeypatch.setattr(confluent, "Consumer", note)
    confluent.ConfluentReader("h:1", "t", None, settings)
    assert given["sasl.password"] == SECRET
    assert given["session.timeout.ms"] == 9000
    assert (given["fetch.wait.max.ms"], given["fetch.min.bytes"]) == (10, 1)
    confluent.ConfluentReader("h:1", "t", None, settings, gather_s=0.2)
    assert (given["fetch.wait.max.ms"], given["fetch.min.bytes"]) == (100, 65_536)


def test_a_password_from_a_file_without_its_line_break(tmp_path: Path) -> None:
    (tmp_path / "password").write_text(f"{SECRET}\n")
    settings = ClientSettings({"sasl_plain_password_file": str(tmp_path / "password")})
    assert settings.for_confluent() == {"sasl.password": SECRET}


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"security_protocol": "SASL_SL"}, "did you mean 'SASL_SSL'"),
        ({"security_protocoll": "SSL"}, "did you mean 'security_protocol'"),
        ({"sasl_plain_password_env": "NOT_THERE_AT_ALL"}, "has no variable 'NOT_THERE_AT_ALL'"),
        ({"sasl_plain_password_file": "/not/there"}, "/not/there cannot be read"),
        ({"ssl_password": "a", "ssl_password_env": "A_TEST_PASSWORD"}, "more than once"),
        ({"ssl_password": specs.HIDDEN}, "ssl_password_env"),
    ],
)
def test_a_table_that_cannot_be_meant_says_why(table: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        ClientSettings(table)


def test_secrets_are_neither_shown_nor_quoted() -> None:
    settings = ClientSettings({"sasl_plain_password": SECRET, "client_id": "me"})
    assert SECRET not in repr(settings)
    assert "me" in repr(settings)
    assert settings.redacted(ValueError(f"bad {SECRET}!")) == "bad ***!"


@pytest.mark.kafka
def test_what_a_client_refuses_is_an_error_without_the_secret(
    broker: EmbeddedBroker, caplog: pytest.LogCaptureFixture
) -> None:
    settings = ClientSettings(
        {"sasl_plain_password": SECRET, "security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "NONE-SUCH"}
    )
    with caplog.at_level(logging.DEBUG), pytest.raises(BrokerUnavailable) as error:
        cluster_id(broker.address, settings)
    assert SECRET not in str(error.value)
    assert error.value.__cause__ is None
    assert "Starting KafkaAdminClient" in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.kafka
def test_a_run_writes_no_secret_anywhere(broker: EmbeddedBroker, topic: str, tmp_path: Path) -> None:
    world = {
        "use": "consumers.kafka.KafkaWorld",
        "bootstrap_servers": broker.address,
        "topic": topic,
        "until": "latest",
    }
    spec = {
        "run": {"slate": 2},
        "world": {**world, "client": {"sasl_plain_password": SECRET, "ssl_password_env": "A_TEST_PASSWORD"}},
        "agent": {"use": "agents.popular.Popular"},
    }
    Experiment(spec, tmp_path, f"streamrec consume --set 'world.client.sasl_plain_password={SECRET} x'").run()
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert SECRET.encode() not in written
    assert b"A_TEST_PASSWORD" in written
    assert specs.load(str(tmp_path / "spec.toml"))["world"]["client"]["sasl_plain_password"] == specs.HIDDEN


def test_there_is_no_other_client_library() -> None:
    from consumers.clients.library import open_reader

    with pytest.raises(ValueError, match="kafka-python, confluent"):
        open_reader("librdkafka", "h:1", "t", None, ClientSettings())
