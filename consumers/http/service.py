"""What the HTTP face needs of whoever serves; `consumers.serving.engine.Engine` is that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from consumers import wire
from consumers.serving.types import Answer, Ask, Health, ItemInfo, ModelInfo, UserState, Verdict


class Service(Protocol):
    """Every method is called on the thread of the event loop."""

    @property
    def slots(self) -> int:
        """Widest slate that can be asked for."""

    async def start(self) -> None:
        """Open what it needs; HTTP answers 503 until this returns."""

    async def close(self) -> None:
        """Finish what is under way and keep the state."""

    async def recommend(self, ask: Ask) -> Answer:
        """A slate, whatever the state of the model.

        Raises:
            BadAsk: no model could answer this.
        """

    async def append(self, events: Sequence[wire.Event]) -> list[Verdict]:
        """One verdict per event, once the broker has them.

        Raises:
            BrokerUnavailable: it does not take them now.
        """

    def user(self, user: str) -> UserState | None:
        """What is held of a user."""

    async def erase(self, user: str) -> bool:
        """Forget a user; False = there was none."""

    async def upsert(self, items: Sequence[ItemInfo]) -> None:
        """Add items or change what is known of them."""

    async def retire(self, item: str) -> bool:
        """Never show an item again; False = there was none."""

    def items(self, query: str = "", limit: int = 50) -> list[ItemInfo]:
        """Items whose id holds `query`."""

    def users(self, query: str = "", limit: int = 50) -> list[str]:
        """Users whose id holds `query`."""

    def models(self) -> list[ModelInfo]:
        """Versions that the learner published."""

    async def promote(self, version: str) -> ModelInfo:
        """Serve this version and no other.

        Raises:
            UnknownModel: it cannot be served.
        """

    async def rollback(self) -> ModelInfo:
        """Serve the version before.

        Raises:
            UnknownModel: there is none.
        """

    async def shadow(self, version: str | None) -> None:
        """Let a version see the traffic and show nothing; None = no more.

        Raises:
            UnknownModel: it cannot be loaded.
        """

    def dead_letters(self, limit: int) -> list[wire.DeadLetter]:
        """The newest records that could not be used."""

    def health(self) -> Health:
        """Whether it is ready, by part."""

    def live(self) -> dict[str, Any]:
        """Figures of this moment."""
