"""From a spec to the parts of a service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from consumers.clients.settings import ClientSettings
from consumers.kafka import KafkaWorld
from consumers.serving.model import ServedModel
from consumers.serving.settings import ServeSettings
from streamrec import spec as specs
from streamrec.build import BadSpec, build
from streamrec.catalog import Catalog
from streamrec.experiment import Settings as RunSettings
from streamrec.sessions import SessionStore

PUBLISH_S = 1.0
"""`[run] publish_s` of a spec that does not say."""

GATHER_S = 0.2
"""`[world] gather_s` of its learner: nobody waits for what that decides, and small steps take the processor's time."""

_SHARED = frozenset(
    {"topic", "decisions", "dead_letters", "partitions", "send_timeout_s", "remember", "context", "candidates"}
    | {"client", "client_library"}
)
"""Keys of `[world]` that the service's own reading of the log has in common with the learner's."""


class Plan:
    """Builds what a service consists of, each part when it is asked for.

    Args:
        spec: tables as in a spec file.
        run_dir: of the run.
        servers: host:port[,host:port].

    Raises:
        BadSpec: there is no world or no agent.
    """

    def __init__(self, spec: specs.Spec, run_dir: Path, servers: str) -> None:
        for table in ("world", "agent"):
            if table not in spec:
                raise BadSpec(f"the spec has no [{table}] table")
        self.spec, self.servers = spec, servers
        self.run = RunSettings(**spec.get("run", {}))
        self.client = ClientSettings(spec["world"].get("client"))
        self.client_library = str(spec["world"].get("client_library", "kafka-python"))
        self._context: dict[str, Any] = {
            "seed": int(spec.get("seed", 0)),
            "device": torch.device("cpu"),
            "slate": self.run.slate,
            "run_dir": run_dir,
        }

    def stores(self) -> tuple[SessionStore, Catalog]:
        """Sessions and items of the service; models are built for these sessions."""
        sessions: SessionStore = self._table(SessionStore, "sessions")
        catalog: Catalog = self._table(Catalog, "catalog")
        self._context["sessions"] = sessions
        return sessions, catalog

    def world(self, sessions: SessionStore, catalog: Catalog, settings: ServeSettings, bury: bool) -> KafkaWorld:
        """The log, read to its end and on, by nobody's group, never waiting.

        Args:
            sessions, catalog: what it fills.
            settings: how much at once.
            bury: nobody else publishes what cannot be read.

        Raises:
            BrokerUnavailable: nobody answers.
        """
        shared = {key: value for key, value in self.spec["world"].items() if key in _SHARED}
        return KafkaWorld(
            self.servers,
            catalog,
            sessions,
            self.run.slate,
            batch=settings.slice,
            follow=True,
            linger_s=0.0,
            bury=bury,
            **shared,
        )

    def model(self) -> ServedModel:
        """One model, with nothing loaded."""
        return ServedModel(self.spec["agent"], self._context, int(self.spec.get("catalog", {}).get("capacity", 65_536)))

    def learner(self) -> specs.Spec:
        """What the learner runs: the same spec, reading without answering, publishing what it learns."""
        out = {key: value for key, value in self.spec.items() if key != "serve"}
        out["world"] = {
            "gather_s": GATHER_S,
            **self.spec["world"],
            "bootstrap_servers": self.servers,
            "ask": True,
            "follow": True,
        }
        out["run"] = {"publish_s": PUBLISH_S, **self.spec.get("run", {})}
        return out

    def _table(self, cls: type, table: str) -> Any:
        return build({"use": f"{cls.__module__}.{cls.__qualname__}", **self.spec.get(table, {})}, self._context, table)
