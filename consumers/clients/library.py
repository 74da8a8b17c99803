"""The client library that reads and writes, by its name."""

from __future__ import annotations

from collections.abc import Callable

from consumers.clients.confluent import ConfluentReader, ConfluentWriter
from consumers.clients.kafka_python import KafkaPythonReader, KafkaPythonWriter
from consumers.clients.seam import Reader, Writer
from consumers.clients.settings import ClientSettings

_READERS: dict[str, Callable[[str, str, str | None, ClientSettings, float], Reader]] = {
    "kafka-python": KafkaPythonReader,
    "confluent": ConfluentReader,
}

_WRITERS: dict[str, Callable[[str, ClientSettings, float, int], Writer]] = {
    "kafka-python": KafkaPythonWriter,
    "confluent": ConfluentWriter,
}


def open_reader(
    library: str, servers: str, topic: str, group: str | None, settings: ClientSettings, gather_s: float = 0.0
) -> Reader:
    """A reader of `topic` by the client library of that name.

    Args:
        library: its name.
        servers: host:port[,host:port].
        topic: must exist.
        group: None = no group.
        settings: how to connect.
        gather_s: how long whoever reads gathers records before they are needed.

    Raises:
        ValueError: there is no such library, or it is not installed.
        BrokerUnavailable: nobody answers at `servers`.
    """
    _check(library)
    return _READERS[library](servers, topic, group, settings, gather_s)


def open_writer(library: str, servers: str, settings: ClientSettings, timeout_s: float, linger_ms: int = 5) -> Writer:
    """A writer by the client library of that name.

    Args:
        library: its name.
        servers: host:port[,host:port].
        settings: how to connect.
        timeout_s: how long a record may take to reach the broker.
        linger_ms: how long a record waits for others to go with.

    Raises:
        ValueError: there is no such library, or it is not installed.
        BrokerUnavailable: nobody answers at `servers`.
    """
    _check(library)
    return _WRITERS[library](servers, settings, timeout_s, linger_ms)


def _check(library: str) -> None:
    if library not in _READERS:
        raise ValueError(f"world.client_library must be one of {', '.join(_READERS)}, got {library!r}")
