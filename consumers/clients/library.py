"""The client library that reads, by its name."""

from __future__ import annotations

from collections.abc import Callable

from consumers.clients.confluent import ConfluentReader
from consumers.clients.kafka_python import KafkaPythonReader
from consumers.clients.seam import Reader
from consumers.clients.settings import ClientSettings

_READERS: dict[str, Callable[[str, str, str | None, ClientSettings], Reader]] = {
    "kafka-python": KafkaPythonReader,
    "confluent": ConfluentReader,
}


def open_reader(library: str, servers: str, topic: str, group: str | None, settings: ClientSettings) -> Reader:
    """A reader of `topic` by the client library of that name.

    Raises:
        ValueError: there is no such library, or it is not installed.
        BrokerUnavailable: nobody answers at `servers`.
    """
    if library not in _READERS:
        raise ValueError(f"world.client_library must be one of {', '.join(_READERS)}, got {library!r}")
    return _READERS[library](servers, topic, group, settings)
