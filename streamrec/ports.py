"""The four ports. Everything that plugs into the loop is one of these; there is nothing to inherit from."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from streamrec.records import Decision, Events, History, Transition

State = dict[str, Any]
"""A tree of dictionaries whose leaves are tensors or JSON values: what a checkpoint holds of an object."""


@runtime_checkable
class Source(Protocol):
    """Where events come from."""

    def poll(self, timeout_s: float = 0.0) -> Events | None:
        """The next events, oldest first. None = the stream is over; an empty record = nothing yet."""

    def position(self) -> State:
        """Where the next `poll` will read. A simulator's position is its whole state."""

    def seek(self, position: State) -> None:
        """Continue at a `position()` taken earlier, maybe by another process."""

    def close(self) -> None:
        """Let go of files, sockets and threads. Calling it twice is fine."""


@runtime_checkable
class Sink(Protocol):
    """Where decisions go."""

    def send(self, wanted: Decision, asked: Events) -> Decision:
        """Hand out decisions, row for row in answer to the requests `asked`; returns what was really shown."""

    def flush(self) -> None:
        """Return once everything sent is where it belongs: called before each checkpoint."""


@runtime_checkable
class World(Source, Sink, Protocol):
    """Both ports in one object: a simulator, a log or a live stream."""

    def commit(self, position: State) -> None:
        """A courtesy, after the checkpoint with this position is safe: tell a broker how far we are."""


@runtime_checkable
class Agent(Protocol):
    """Who decides and learns."""

    def act(self, history: History) -> Decision:
        """Decide for every row: slates without repeats, logp of each. No gradient, no change of weights."""

    def observe(self, transition: Transition) -> None:
        """See closed decisions, each exactly once, in order. Remember what learning needs."""

    def update(self) -> dict[str, float]:
        """Learn one step from what was observed; returns what is worth plotting, {} if there was nothing to do."""

    def state_dict(self) -> State:
        """Everything the agent would need to go on as if never stopped, memory and randomness included."""

    def load_state_dict(self, state: State) -> None:
        """Take over a `state_dict()`."""


@runtime_checkable
class Meter(Protocol):
    """Who measures. Sees each transition before the agent may learn from it."""

    def see(self, transition: Transition) -> None: ...

    def read(self) -> dict[str, Any]:
        """The figures so far, as JSON values."""

    def state_dict(self) -> State: ...

    def load_state_dict(self, state: State) -> None: ...
