"""How to connect: the `client` table of a world, for whichever library connects. Its secrets stay in here."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from streamrec.build import did_you_mean
from streamrec.spec import HIDDEN

_CONFLUENT = {
    "client_id": "client.id",
    "security_protocol": "security.protocol",
    "sasl_mechanism": "sasl.mechanism",
    "sasl_plain_username": "sasl.username",
    "sasl_plain_password": "sasl.password",
    "sasl_kerberos_service_name": "sasl.kerberos.service.name",
    "ssl_cafile": "ssl.ca.location",
    "ssl_certfile": "ssl.certificate.location",
    "ssl_keyfile": "ssl.key.location",
    "ssl_password": "ssl.key.password",
    "ssl_crlfile": "ssl.crl.location",
    "ssl_ciphers": "ssl.cipher.suites",
    "ssl_check_hostname": "ssl.endpoint.identification.algorithm",
    "fetch_max_bytes": "fetch.max.bytes",
    "max_partition_fetch_bytes": "max.partition.fetch.bytes",
    "fetch_max_wait_ms": "fetch.wait.max.ms",
    "session_timeout_ms": "session.timeout.ms",
    "max_poll_interval_ms": "max.poll.interval.ms",
    "heartbeat_interval_ms": "heartbeat.interval.ms",
    "request_timeout_ms": "socket.timeout.ms",
}
"""Names of options: kafka-python's, which are those of the table, and confluent-kafka's."""

_OF_CONSUMERS = frozenset(
    {"fetch_max_bytes", "max_partition_fetch_bytes", "fetch_max_wait_ms"}
    | {"session_timeout_ms", "max_poll_interval_ms", "heartbeat_interval_ms"}
)
"""Options that a producer of confluent-kafka refuses."""

_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")

SECRETS = ("sasl_plain_password", "ssl_password")
"""Options that may also come from the environment (`NAME_env`) or from a file (`NAME_file`)."""


class _Quiet(logging.Filter):
    """Takes secrets out of what kafka-python logs: at level DEBUG that is its whole configuration."""

    def __init__(self) -> None:
        super().__init__()
        self._secrets: set[str] = set()

    def keep(self, secrets: Iterable[str]) -> None:
        """Keep `secrets` out of every logger of the library that there is by now."""
        self._secrets.update(secret for secret in secrets if secret)
        for name in list(logging.root.manager.loggerDict):
            if name.split(".")[0] == "kafka":
                logging.getLogger(name).addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        record.msg, record.args = text, None
        return True


_QUIET = _Quiet()


class ClientSettings:
    """Options of the connection, under the names kafka-python gives them.

    Args:
        table: option -> value. A secret is better named than given: `sasl_plain_password_env = "VARIABLE"` or
            `sasl_plain_password_file = "path"`, whose last line break does not count.

    Raises:
        ValueError: an option nobody knows, a variable that is not set, a file that cannot be read, or a secret that
            is given twice.
    """

    def __init__(self, table: Mapping[str, Any] | None = None) -> None:
        table = dict(table or {})
        self._secrets = {name: value for name in SECRETS if (value := _secret(table, name)) is not None}
        known = [*_CONFLUENT, *(f"{name}_{source}" for name in SECRETS for source in ("env", "file"))]
        for name in table:
            if name not in known:
                raise ValueError(f"the client table has no option {name!r}{did_you_mean(name, known)}")
        self._plain = table
        if self.protocol not in _PROTOCOLS:  # kafka-python would take any other word for PLAINTEXT
            raise ValueError(
                f"client.security_protocol is no {self.protocol!r}{did_you_mean(self.protocol, _PROTOCOLS)}"
            )

    def __repr__(self) -> str:
        return f"ClientSettings({self._plain | dict.fromkeys(self._secrets, HIDDEN)})"

    @property
    def protocol(self) -> str:
        """What the broker's port must speak: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL."""
        return str(self._plain.get("security_protocol", "PLAINTEXT"))

    @property
    def encrypted(self) -> bool:
        """With TLS."""
        return self.protocol.endswith("SSL")

    def for_kafka_python(self, known: Collection[str]) -> dict[str, Any]:
        """Keywords for a client of kafka-python that takes the options `known`; its log says no secret from then on."""
        if self._secrets:
            _QUIET.keep(self._secrets.values())
        return {name: value for name, value in (self._plain | self._secrets).items() if name in known}

    def for_confluent(self, producer: bool = False) -> dict[str, Any]:
        """Properties for a consumer of confluent-kafka, or for a producer, which has never heard of some."""
        given = (self._plain | self._secrets).items()
        options = {_CONFLUENT[name]: value for name, value in given if not (producer and name in _OF_CONSUMERS)}
        check = options.get("ssl.endpoint.identification.algorithm")
        if check is not None:
            options["ssl.endpoint.identification.algorithm"] = "https" if check else "none"
        return options

    def redacted(self, said: object) -> str:
        """What an error says, without the secrets should it quote one."""
        text = str(said)
        for secret in self._secrets.values():
            text = text.replace(secret, HIDDEN) if secret else text
        return text


def _secret(table: dict[str, Any], name: str) -> str | None:
    """Take the secret `name` out of the table, wherever it says it is."""
    given = [key for key in (name, f"{name}_env", f"{name}_file") if key in table]
    if len(given) > 1:
        raise ValueError(f"the client table says {name} more than once: {', '.join(given)}")
    if not given:
        return None
    value = str(table.pop(given[0]))
    if value == HIDDEN:
        raise ValueError(
            f"client.{name} was left out when this spec was written: name it with {name}_env or {name}_file"
        )
    if given[0].endswith("_env"):
        if value not in os.environ:
            raise ValueError(f"client.{given[0]}: the environment has no variable {value!r}")
        return os.environ[value]
    if given[0].endswith("_file"):
        try:
            return Path(value).read_text().removesuffix("\n").removesuffix("\r")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"client.{given[0]}: {value} cannot be read ({type(error).__name__})") from None
    return value
