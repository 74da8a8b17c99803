"""The networks of DeepPage: how a page becomes a vector, a user a state, a state a page, and a page a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence

from streamrec.catalog import Catalog
from streamrec.nn.adagrad import Adagrad
from streamrec.nn.items import uniform
from streamrec.ports import State
from streamrec.records import POSITIVE, History, Kind, Rows

ITEM, CATEGORY, FEEDBACK = 50, 35, 15
"""Widths of the three embeddings in the paper."""

Net = TypeVar("Net", "Actor", "Critic")


@dataclass(frozen=True)
class Parts:
    """Which parts of DeepPage are there. The seven variants of the paper's table 1 take out one each."""

    embedding: bool = True  # variant 1
    side: bool = True  # variant 2: category and feedback
    initial: bool = True  # variant 3: the recurrence over what was liked before
    cnn: bool = True  # variant 4
    attention: bool = True  # variant 5
    realtime: bool = True  # variant 6: the recurrence over pages
    deconv: bool = True  # variant 7

    def __post_init__(self) -> None:
        if not self.initial and not self.realtime:
            raise ValueError("initial and realtime are both off: nothing is left that says who the user is")


@dataclass(frozen=True)
class Sizes:
    """Widths and the shape of a page."""

    rows: int
    columns: int
    item: int  # D, of the item vectors
    categories: int
    hidden: int  # of both recurrences
    page: int  # of a page's vector
    filters: int
    paper_layout: bool


@dataclass
class Reading(Rows):
    """What of a history the encoders read, item vectors looked up."""

    before: Tensor  # [B, N, D] liked before the oldest page, newest last
    count: Tensor  # [B] int64, how many of them there are
    vectors: Tensor  # [B, P, K, D] of the items on the pages, 0 = empty place
    category: Tensor  # [B, P, K] int64
    kinds: Tensor  # [B, P, K] int64, a Kind per place
    seen: Tensor  # [B, P] bool, which of the pages there are


def before_pages(history: History, newest: int, pages: int) -> Tensor:
    """The `newest` positives from before the newest `pages` pages of the session: [B, N], oldest first, 0 at the end.

    Positives answer pages in order, so those of the pages are the newest of the window. Where a session keeps no pages
    these are simply the newest positives.
    """
    kinds = history.page_kinds[:, max(history.page_kinds.shape[1] - pages, 0) :].flatten(1)
    positive = torch.zeros_like(kinds, dtype=torch.bool)
    for kind in POSITIVE:
        positive |= kinds == int(kind)
    earlier = (history.items > 0).sum(1, keepdim=True) - positive.sum(1, keepdim=True)
    count = earlier.clamp(0, newest)
    step = torch.arange(newest, device=kinds.device)
    place = history.items.shape[1] - positive.sum(1, keepdim=True) - count + step
    return F.pad(history.items.long(), (0, 1)).gather(1, torch.where(step < count, place, history.items.shape[1]))


class PageEmbedding(nn.Module):
    """X = [E; C; F] of a place: tanh layers over item vector, category and feedback, the same at every place."""

    def __init__(self, sizes: Sizes, parts: Parts) -> None:
        super().__init__()
        self.parts = parts
        kinds = max(Kind) + 1
        self.item_width = ITEM if parts.embedding else sizes.item
        self.width = self.item_width
        if parts.embedding:
            self.item = nn.Linear(sizes.item, ITEM)
        if parts.side:
            self.counts = (sizes.categories, kinds)
            self.width += CATEGORY + FEEDBACK if parts.embedding else sum(self.counts)
        if parts.side and parts.embedding:
            # A layer over a one-hot vector is a row of a table.
            self.category = nn.Parameter(torch.empty(sizes.categories, CATEGORY))
            self.category_bias = nn.Parameter(torch.empty(CATEGORY))
            self.feedback = nn.Parameter(torch.empty(kinds, FEEDBACK))
            self.feedback_bias = nn.Parameter(torch.empty(FEEDBACK))

    def items(self, vectors: Tensor) -> Tensor:
        """E of item vectors: [..., D] -> [..., item_width]."""
        return torch.tanh(self.item(vectors)) if self.parts.embedding else vectors

    def forward(self, vectors: Tensor, category: Tensor, kinds: Tensor) -> Tensor:
        """X: [..., D], [...], [...] -> [..., width]."""
        items = self.items(vectors)
        if not self.parts.side:
            return items
        if not self.parts.embedding:
            hot = [F.one_hot(x % n, n).to(items.dtype) for x, n in zip((category, kinds), self.counts, strict=True)]
            return torch.cat([items, *hot], dim=-1)
        c = torch.tanh(F.embedding(category % len(self.category), self.category) + self.category_bias)
        f = torch.tanh(F.embedding(kinds, self.feedback) + self.feedback_bias)
        return torch.cat([items, c, f], dim=-1)


class PageNet(nn.Module):
    """A page of vectors -> one vector: FC(conv2d(page)), or FC alone (variant 4).

    The widths of places are channels of the convolution, so that neighbours in the picture are neighbours on the page.
    The paper lays the vectors of a row side by side in one channel, h x (w * width): `paper_layout`.
    """

    def __init__(self, width: int, sizes: Sizes, cnn: bool) -> None:
        super().__init__()
        rows, columns, filters = sizes.rows, sizes.columns, sizes.filters
        self.rows, self.columns, self.cnn, self.paper_layout = rows, columns, cnn, sizes.paper_layout
        flat = rows * columns * width
        if cnn and sizes.paper_layout:
            self.first = nn.Conv2d(1, filters, 3, padding=1, stride=(1, 2))
            self.second = nn.Conv2d(filters, filters, 3, padding=1, stride=(1, 2))
            flat = filters * rows * ((columns * width + 3) // 4)  # a stride of 2 halves, rounded up, twice
        elif cnn:
            wide = 1 if columns == 1 else 3
            self.first = nn.Conv2d(width, filters, (3, wide), padding=(1, wide // 2))
            self.second = nn.Conv2d(filters, filters, (3, 1), padding=(1, 0))
            flat = filters * rows * columns
        self.out = nn.Linear(flat, sizes.page)

    def forward(self, page: Tensor) -> Tensor:
        """[n, K, width], row after row of the page -> [n, page]."""
        if self.cnn:
            page = F.relu(self.second(F.relu(self.first(self._picture(page)))))
        seen: Tensor = self.out(page.flatten(1))
        return F.relu(seen)

    def _picture(self, page: Tensor) -> Tensor:
        grid = page.view(-1, self.rows, self.columns, page.shape[2])
        return grid.flatten(2).unsqueeze(1) if self.paper_layout else grid.permute(0, 3, 1, 2)


class Encoder(nn.Module):
    """The user's state s_cur [B, H].

    One recurrence over what was liked before hands its last state to a second one over the pages of the session, whose
    states are averaged with location attention softmax(w h_t + b).
    """

    def __init__(self, sizes: Sizes, parts: Parts) -> None:
        super().__init__()
        self.parts, self.hidden = parts, sizes.hidden
        self.embedding = PageEmbedding(sizes, parts)
        if parts.initial:
            self.before = nn.GRU(self.embedding.item_width, sizes.hidden, batch_first=True)
        if parts.realtime:
            self.page = PageNet(self.embedding.width, sizes, parts.cnn)
            self.session = nn.GRUCell(sizes.page, sizes.hidden)
        if parts.realtime and parts.attention:
            self.attend = nn.Linear(sizes.hidden, 1)

    def forward(self, reading: Reading) -> Tensor:
        state = reading.before.new_zeros(len(reading), self.hidden)
        if self.parts.initial:
            state = self._liked(reading)
        if not self.parts.realtime or reading.seen.shape[1] == 0:
            return state
        last, states = recur(self.session, self._pages(reading), reading.seen, state)
        if not self.parts.attention:
            return last
        score = self.attend(states).squeeze(2).masked_fill(~reading.seen, -1e9)
        mixed = (score.softmax(1).unsqueeze(2) * states).sum(1)
        return torch.where(reading.seen.any(1, keepdim=True), mixed, state)

    def _liked(self, reading: Reading) -> Tensor:
        """[B, H], 0 where nothing was liked before."""
        if len(reading) == 0:
            return reading.before.new_zeros(0, self.hidden)
        lengths = reading.count.clamp(min=1).cpu()
        packed = pack_padded_sequence(self.embedding.items(reading.before), lengths, True, enforce_sorted=False)
        state: Tensor = self.before(packed)[1][0]
        return torch.where(reading.count.unsqueeze(1) > 0, state, 0.0)

    def _pages(self, reading: Reading) -> Tensor:
        """[B, P, page]; the network runs over the pages that there are."""
        n, pages = reading.seen.shape
        at = torch.nonzero(reading.seen.flatten()).squeeze(1)
        vectors, category, kinds = (x.flatten(0, 1)[at] for x in (reading.vectors, reading.category, reading.kinds))
        made: Tensor = self.page(self.embedding(vectors, category, kinds))
        width = made.shape[1]
        return made.new_zeros(n * pages, width).index_copy(0, at, made).view(-1, pages, width)


def recur(cell: nn.GRUCell, inputs: Tensor, there: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """States of a GRU over [B, T, W] that waits where `there` [B, T] is false: last [B, H] and all [B, T, H]."""
    states = []
    for step in range(inputs.shape[1]):
        state = torch.where(there[:, step : step + 1], cell(inputs[:, step], state), state)
        states.append(state)
    every = torch.stack(states, dim=1) if states else state.new_zeros(len(state), 0, state.shape[1])
    return state, every


class Decoder(nn.Module):
    """State -> proto page [B, K, D].

    A dense layer to a small picture, then transposed convolutions; or dense layers alone (variant 7).
    """

    def __init__(self, sizes: Sizes, parts: Parts) -> None:
        super().__init__()
        self.rows, self.columns, self.item, self.deconv = sizes.rows, sizes.columns, sizes.item, parts.deconv
        self.small = (sizes.filters, sizes.rows // 2 + 1, sizes.columns // 2 + 1)
        flat = self.small[0] * self.small[1] * self.small[2]
        self.first = nn.Linear(sizes.hidden, flat)
        if parts.deconv:
            self.grow = nn.ConvTranspose2d(sizes.filters, sizes.filters, 3, stride=2, padding=1)
            self.out = nn.ConvTranspose2d(sizes.filters, sizes.item, 3, padding=1)
        else:
            self.dense = nn.Linear(flat, sizes.rows * sizes.columns * sizes.item)

    def forward(self, state: Tensor) -> Tensor:
        hidden = F.relu(self.first(state))
        if not self.deconv:
            dense: Tensor = self.dense(hidden)
            return dense.view(-1, self.rows * self.columns, self.item)
        picture = self.out(F.relu(self.grow(hidden.view(-1, *self.small))))
        cut: Tensor = picture[:, :, : self.rows, : self.columns]
        return cut.flatten(2).transpose(1, 2)


class Actor(nn.Module):
    """A history's proto page [B, K, D]."""

    def __init__(self, sizes: Sizes, parts: Parts) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(sizes, parts), Decoder(sizes, parts)

    def forward(self, reading: Reading) -> Tensor:
        page: Tensor = self.decoder(self.encoder(reading))
        return page


class Critic(nn.Module):
    """Q(s, page) with an encoder of its own: MLP([s; FC(conv2d(embeddings of the page))])."""

    def __init__(self, sizes: Sizes, parts: Parts) -> None:
        super().__init__()
        self.encoder = Encoder(sizes, parts)
        self.page = PageNet(self.encoder.embedding.item_width, sizes, parts.cnn)
        self.joint = nn.Linear(sizes.hidden + sizes.page, sizes.hidden)
        self.out = nn.Linear(sizes.hidden, 1)

    def forward(self, state: Tensor, page: Tensor) -> Tensor:
        """Of states [B, H] of `encoder` and pages [B, K, D]: [B].

        Only the direction of each place's vector counts, as in the mapping to items, which goes by cosine.
        """
        seen = self.page(self.encoder.embedding.items(F.normalize(page, dim=2)))
        value: Tensor = self.out(F.relu(self.joint(torch.cat([state, seen], dim=1))))
        return value.squeeze(1)


def build(make: type[Net], sizes: Sizes, parts: Parts, generator: Generator) -> Net:
    """A network whose start is drawn from `generator`: weights uniform within +-1 / sqrt(inputs), biases 0."""
    with torch.device("meta"):  # torch's own start would draw from its global randomness
        net = make(sizes, parts)
    net = net.to_empty(device="cpu")
    for parameter in net.parameters():
        with torch.no_grad():
            inputs = parameter[0].numel() if parameter.dim() > 1 else 0
            bound = inputs**-0.5 if inputs else 0.0
            parameter.uniform_(-bound, bound, generator=generator)
    return net


class SkipGram:
    """Item vectors for worlds that tell nothing of their items.

    Skip-gram with negative sampling (Mikolov et al., NIPS 2013) over the clicks of users, learned while the stream goes
    on. The paper's are trained before, with the clicked items of sessions as sentences.

    Args:
        catalog: capacity of the tables.
        dim: D.
        window: positives before a click that it goes together with.
        negatives: per pair, drawn uniformly from the items that have a row.
        learning_rate: of Adagrad.
        generator: start of the vectors.
        device: where the tables live.
    """

    def __init__(
        self,
        catalog: Catalog,
        dim: int,
        window: int,
        negatives: int,
        learning_rate: float,
        generator: Generator,
        device: torch.device,
    ) -> None:
        self.catalog, self.window, self.negatives = catalog, window, negatives
        start = uniform(catalog.capacity + 1, dim, generator)
        self.item = nn.Parameter(F.normalize(start, dim=1).to(device))
        self.near = nn.Parameter(torch.zeros_like(self.item))
        self.optimiser = Adagrad([("item", self.item), ("near", self.near)], learning_rate)

    def learn(self, clicked: Tensor, before: Tensor, generator: Generator) -> float:
        """One step on clicked items [B] and what was liked before them [B, L]; returns the loss of a pair."""
        context = before[:, -self.window :]
        row, column = torch.nonzero((context > 0) & (clicked > 0).unsqueeze(1), as_tuple=True)
        if len(row) == 0:
            return 0.0
        one, other = clicked[row], context[row, column].long()
        centre, near = torch.cat([one, other]), torch.cat([other, one])
        size = (len(centre), self.negatives)
        wrong = torch.randint(1, self.catalog.size, size, generator=generator, device=centre.device)
        vectors = F.embedding(centre, self.item, sparse=True)
        right = (vectors * F.embedding(near, self.near, sparse=True)).sum(1)
        false = (vectors.unsqueeze(1) * F.embedding(wrong, self.near, sparse=True)).sum(2)
        loss = F.softplus(-right).mean() + F.softplus(false).sum(1).mean()
        self.optimiser.zero_grad()
        torch.autograd.backward(loss)
        self.optimiser.step()
        return float(loss.detach())

    def state_dict(self) -> State:
        return {
            "item": self.item.detach().clone(),
            "near": self.near.detach().clone(),
            "optimiser": self.optimiser.state_dict(),
        }

    @torch.no_grad()
    def load_state_dict(self, state: State) -> None:
        self.item.copy_(state["item"])
        self.near.copy_(state["near"])
        self.optimiser.load_state_dict(state["optimiser"])
