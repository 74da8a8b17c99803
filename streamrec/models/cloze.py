"""The Cloze task: clicks are hidden inside a sequence, and the model says which they were."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from streamrec.catalog import Catalog
from streamrec.encoders.bert4rec import BERT4Rec
from streamrec.models.next_item import NextItem, Objective
from streamrec.nn import windows
from streamrec.records import History


class Cloze(NextItem):
    """BERT4Rec as its authors train it (Sun et al., CIKM 2019, section 3.6): predicts clicks from both of their sides.

    Of each row max(1, round(share * clicks)) clicks are hidden, chosen uniformly; the loss is the mean over all hidden
    clicks of the batch. In some of the rows only the newest is hidden instead, which is the question that is asked
    later. Scores are those of `NextItem`: h . w_i + b_i with the item table as output.

    Departures from the authors' code (FeiSun/BERT4Rec): choices are drawn anew for every batch, where theirs makes ten
    copies of the log beforehand; rows are the windows given, without their sliding windows. `loss`, which a stream
    needs, always hides the click in question, and others beside it.

    Args:
        encoder: fills in what is hidden and owns the item table.
        catalog: which rows are in use.
        share: of the clicks of a row that are hidden; the authors took .2 on MovieLens-1M, .6 on Amazon Beauty.
        newest: share of the rows in which only the newest click is hidden; the authors' ten copies have one such row
            each beside them, a share of 1/11.
        loss: as in `NextItem`; the paper's is the cross-entropy.
        n_sample: as in `NextItem`; the paper's is None, all items.
        seed: hidden clicks, negatives and dropout.
        device: where the weights live.

    Raises:
        ValueError: if a setting is out of its range.
    """

    encoder: BERT4Rec

    def __init__(
        self,
        encoder: BERT4Rec,
        catalog: Catalog,
        share: float = 0.2,
        newest: float = 0.1,
        loss: Objective = "cross-entropy",
        n_sample: int | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(encoder, catalog, loss, n_sample, seed=seed, device=device)
        for name, value in (("share", share), ("newest", newest)):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} must be between 0 and 1, got {value}")
        self.share = share
        self.newest = newest

    def loss(self, history: History, target: Tensor) -> Tensor:
        """Mean loss of the clicks that are hidden: `target` [B] int64 behind each row, and a share of the row.

        The target of a row without any click is scored by the biases alone, as `score` does.
        """
        items = torch.cat([history.items, target.unsqueeze(1).to(history.items.dtype)], dim=1)
        asked = replace(history, items=items, in_session=history.in_session + 1)
        many = windows.lengths(asked, self.encoder.scope, self.encoder.length)
        hidden = self._some(many, items.shape[1], torch.round(self.share * (many - 1)).long())
        hidden[:, -1] = many > 1
        outputs, place = self.encoder.fill(asked, hidden, self.generator)
        alone = target[many == 1]
        outputs = torch.cat([outputs, outputs.new_zeros(len(alone), self.encoder.dim)])
        return self._mean_loss(outputs, torch.cat([items.flatten()[place].long(), alone]))

    def sequence_loss(self, history: History) -> Tensor:
        """Mean loss of the clicks that are hidden in the windows, a scalar; 0 where there is no click.

        A training step: clicks to hide, negatives and dropout are drawn, the hidden clicks are counted as support.
        Windows of one click teach nothing: there is nothing left to see.
        """
        many = windows.lengths(history, self.encoder.scope, self.encoder.length)
        width = history.items.shape[1]
        count = torch.round(self.share * many).long().clamp(min=1)
        hidden = self._some(many, width, count)
        chance = torch.rand(len(many), generator=self.generator, device=self.generator.device)
        only_newest = torch.arange(width, device=many.device) == width - 1
        hidden = torch.where((chance < self.newest).to(many.device).unsqueeze(1), only_newest, hidden)
        outputs, place = self.encoder.fill(history, hidden & (many > 1).unsqueeze(1), self.generator)
        return self._mean_loss(outputs, history.items.flatten()[place].long())

    def _some(self, many: Tensor, width: int, count: Tensor) -> Tensor:
        """[B, width] bool: `count` [B] of the newest `many` [B] places of each row, any as likely as another."""
        drawn = torch.rand(len(many), width, generator=self.generator, device=self.generator.device).to(many.device)
        inside = torch.arange(width, 0, -1, device=many.device) <= many.unsqueeze(1)
        rank = drawn.masked_fill(~inside, 2.0).argsort(1).argsort(1)
        return inside & (rank < count.unsqueeze(1))
