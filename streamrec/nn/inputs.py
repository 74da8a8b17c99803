"""What a value or policy network reads of users and items: an encoder's vectors beside what the world says of them."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from streamrec.catalog import Catalog
from streamrec.models.next_item import Encoder
from streamrec.records import History
from streamrec.sessions import SessionStore


class Inputs(nn.Module):
    """States [B, S] = [encoder(history), context] and items [..., I] = [encoder.items, features].

    Either half may be missing: worlds that tell nothing need an encoder, and one that tells everything does without.
    Copies (target networks) must share the catalogue: `copy.deepcopy(net, {id(catalog): catalog})`.

    Args:
        catalog: holds the features of items.
        sessions: knows how wide the context of a request is.
        encoder: makes vectors of histories and owns those of items; None = the world's own numbers only.

    Raises:
        ValueError: there is nothing to read: no encoder, and no context of users or no features of items.
    """

    encoder: Encoder | None

    def __init__(self, catalog: Catalog, sessions: SessionStore, encoder: Encoder | None = None) -> None:
        super().__init__()
        self.catalog, self.encoder = catalog, encoder
        width = 0 if encoder is None else encoder.dim
        self.state_dim = width + sessions.context_width
        self.item_dim = width + catalog.features.shape[1]
        if not self.state_dim or not self.item_dim:
            raise ValueError(
                f"this world gives {sessions.context_width} numbers per request and {catalog.features.shape[1]} per "
                "item, so the agent needs an encoder: agent.encoder = {use = ...}"
            )

    @property
    def reads(self) -> tuple[str, ...]:
        """Columns of `History` that are used."""
        return (*(() if self.encoder is None else self.encoder.reads), "context", "offer")

    def state(self, history: History, generator: Generator | None = None) -> Tensor:
        """[B, S]; `generator` is where the encoder's dropout draws from, None = no dropout."""
        if self.encoder is None:
            return history.context
        return torch.cat([self.encoder(history, generator), history.context], dim=1)

    def items(self, rows: Tensor) -> Tensor:
        """Vectors of `rows` [...]: [..., I]."""
        features = self.catalog.features[rows]
        return features if self.encoder is None else torch.cat([self.encoder.items(rows), features], dim=-1)
