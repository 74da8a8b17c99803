"""States of a recurrent encoder carried from click to click, so that long sessions cost no more than short ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor, nn

from streamrec.encoders.gru4rec import GRU4Rec, pack
from streamrec.nn import windows
from streamrec.nn.items import ItemVectors
from streamrec.nn.windows import Scope
from streamrec.records import History
from streamrec.sessions import SessionStore

_ODD = 0x5851F42D4C957F2D
"""Multiplier of the fingerprint, a polynomial in wrapping int64 arithmetic: Knuth's, of the generator of MMIX."""

_LOADED = -1
"""Stands for the version of the weights while they are being loaded."""


class Carried(nn.Module):
    """A GRU4Rec whose state of each user is kept, and advanced by the clicks that are new since.

    What it computes is a function of the history alone, whether a state was carried or not: the state after the newest
    click of the running session, read from h = 0 at the last *anchor*. Let n be the clicks of the session and W the
    window (`encoder.length`, at most the width of the histories). Up to W clicks the anchor is the start of the
    session. After that it jumps ahead by W // 2 clicks whenever more than W clicks would be read, so a state has read
    between W - W // 2 + 1 and W clicks. A plain encoder reads the newest W clicks, and the click that falls out of its
    window at each step makes all of the window new; the authors' code reads the whole session, which no window can
    give back once weights have changed. Anchors make both exact: a state can always be made again from what the
    session store holds, training reads the same clicks as serving, and a long session costs two clicks per step on
    average, one to advance and one for the jumps. Sessions that fit the window read what GRU4Rec reads.

    A state is used where all of the following hold; other rows are encoded again, in one batch with those that are
    advanced. Nobody has to say which histories are current:

    * no gradient is asked for and nothing is dropped out: training goes through the encoder as it is;
    * the weights of the encoder are those the state was made with (torch counts changes in place; see `forget`);
    * a fingerprint of the clicks the state has read, 64 bits, fits the history without its newest clicks. So a new
      session, a row of the store given to another user, an older history from a replay memory or an evaluation over
      other sequences cannot be answered with a wrong state.

    Carried equals encoded again up to rounding: the sums of a matrix product depend on how many rows it has. Resuming
    must not change a bit, so states made with the present weights are in the `state_dict`.

    Memory: `4 * layers * dim + 24` bytes for each row of the session store that was asked for, which is 424 bytes
    at width 100; rows are those of the store, so evicted, renamed and expired users leave nothing that grows.

    Args:
        encoder: with `scope = "session"`. Of a user's whole window a history does not say how many clicks came before,
            so there would be no anchor.
        sessions: how many rows there are.

    Raises:
        ValueError: the encoder has another scope.
    """

    def __init__(self, encoder: GRU4Rec, sessions: SessionStore) -> None:
        super().__init__()
        if encoder.scope != "session":
            raise ValueError(f'Carried needs an encoder with scope = "session", got {encoder.scope!r}')
        self.encoder = encoder
        self.cache = Cache(sessions.users.capacity, len(encoder.layers) * encoder.dim)
        self._weights: tuple[object, ...] = ()
        self._number = 0
        after_loading: Callable[..., Any] = self.register_load_state_dict_post_hook
        after_loading(_adopt)

    @property
    def dim(self) -> int:
        """Width D of the vectors."""
        return self.encoder.dim

    @property
    def items(self) -> ItemVectors:
        """The item table of the encoder."""
        return self.encoder.items

    @property
    def scope(self) -> Scope:
        """Always "session"."""
        return self.encoder.scope

    @property
    def length(self) -> int | None:
        """The newest clicks read at most, None = as many as a history holds."""
        return self.encoder.length

    @property
    def reads(self) -> tuple[str, ...]:
        """Columns of `History` that are used."""
        return self.encoder.reads

    def forward(self, history: History, generator: Generator | None = None) -> Tensor:
        """State after the newest click of each row, [B, D]; zero where there is no click.

        Args:
            history: B rows, of any age.
            generator: where dropout draws from; None = no dropout.
        """
        since = self._since_anchor(history)
        if torch.is_grad_enabled() or generator is not None:
            vectors: Tensor = self.encoder(replace(history, in_session=since), generator)
            return vectors
        return self._serve(history, since)[:, -self.dim :]

    def states(self, history: History, generator: Generator | None = None) -> Tensor:
        """State after each click since the anchor, [B, L, D], in the places of `history.items`; zero elsewhere."""
        return self.encoder.states(replace(history, in_session=self._since_anchor(history)), generator)

    def forget(self) -> None:
        """Let go of every state.

        Needed only after item vectors alone were changed behind torch's back, so that the `_version` of the table
        stayed as it was: through `.data`, by a captured CUDA graph, or by a fused optimiser of torch.
        """
        self.cache.version.zero_()

    def _since_anchor(self, history: History) -> Tensor:
        """How many of the newest clicks are read, [B] int64."""
        width = history.items.shape[1]
        longest = width if self.encoder.length is None else min(width, self.encoder.length)
        hop = max(longest // 2, 1)
        held = windows.lengths(history, "session", None)
        total = torch.where(held < width, held, history.in_session)
        beyond = (total - longest).clamp(min=0)
        jumps = (beyond + hop - 1).div(hop, rounding_mode="floor")
        return total - jumps * hop

    # --- serving -----------------------------------------------------------------------------------------------

    def _serve(self, history: History, since: Tensor) -> Tensor:
        """State of every layer after the newest click, [B, layers * D]; kept for the next time."""
        cache, version = self.cache.on(self.items.weight.device), self._made_by()
        inside = (history.user >= 0) & (history.user < cache.rows)  # of other sequences than the store's, maybe not
        row = history.user.where(inside, 0)
        fresh = history.in_session - cache.count[row]  # clicks since the state was made, if it was in this session
        good = inside & (cache.version[row] == version) & (fresh >= 0) & (fresh <= since)
        fresh = fresh.where(good, 0)
        age, power = cache.ages(history.items.shape[1])
        terms = history.items * power[age] * (age < since.unsqueeze(1))
        older = (terms * (age >= fresh.unsqueeze(1))).sum(1)
        good &= cache.trace[row] * power[fresh.clamp(max=len(age) - 1)] == older  # as old as they are now
        state = torch.where(good.unsqueeze(1), cache.state[row], 0.0)
        state = advance(self.encoder, history, fresh.where(good, since), state)
        cache.put(row[inside], state[inside], history.in_session[inside], terms.sum(1)[inside], version)
        return state

    def _made_by(self) -> int:
        """Number of the present weights, from 1: another one whenever a parameter was changed or replaced."""
        changes = tuple((id(p), p._version) for p in self.encoder.parameters())
        # Fused optimisers and CUDA graphs change weights without counting it; then the layers add up to something else.
        sums = torch.stack([p.detach().sum() for p in self.encoder.layers.parameters()]).tolist()
        now = (*changes, *sums)
        if now != self._weights:
            self._weights = now
            self._number += 1
        return self._number

    # --- checkpoints -------------------------------------------------------------------------------------------

    def get_extra_state(self) -> Tensor:
        """The states that are good for the present weights, as bytes: see `Cache.pack`."""
        return self.cache.pack(self._made_by())

    def set_extra_state(self, state: Tensor) -> None:
        self.cache.on(self.items.weight.device).unpack(state)


def _adopt(module: nn.Module, incompatible: object) -> None:
    """After weights were loaded: the states that came with them were made by them."""
    assert isinstance(module, Carried)
    module.cache.adopt(module._made_by())


class Cache:
    """One state per row of the session store, with what is needed to know whether it is still good.

    A copy (`copy.deepcopy`, for a target network) begins empty.

    Args:
        rows: of the session store.
        width: numbers in a state.
    """

    def __init__(self, rows: int, width: int) -> None:
        self.rows, self.width = rows, width
        self._age = self._power = torch.zeros(0, dtype=torch.int64)
        self._allocate(torch.device("cpu"))

    def _allocate(self, device: torch.device) -> None:
        # Zeros cost no memory before they are written to.
        self.state = torch.zeros(self.rows, self.width, device=device)
        self.count = torch.zeros(self.rows, dtype=torch.int64, device=device)  # clicks of the session at that time
        self.trace = torch.zeros(self.rows, dtype=torch.int64, device=device)  # fingerprint of the clicks read
        self.version = torch.zeros(self.rows, dtype=torch.int64, device=device)  # of the weights, 0 = no state

    def on(self, device: torch.device) -> Cache:
        """This cache, emptied if it was on another device before."""
        if self.state.device != device:
            self._allocate(device)
        return self

    def ages(self, width: int) -> tuple[Tensor, Tensor]:
        """How many clicks are newer than each column of a window, [L], and the multiplier to the power of 0..L-1."""
        if len(self._age) != width or self._age.device != self.state.device:
            self._age = torch.arange(width - 1, -1, -1, device=self.state.device)
            self._power = torch.full_like(self._age, _ODD).index_fill_(0, self._age[-1:], 1).cumprod(0)
        return self._age, self._power

    def put(self, row: Tensor, state: Tensor, count: Tensor, trace: Tensor, version: int) -> None:
        """Keep what belongs to `row` [B]. Of a row that is named twice the last one stays, with all its parts."""
        order = torch.argsort(row, stable=True)
        last = torch.ones_like(row, dtype=torch.bool)
        last[:-1] = row[order][1:] != row[order][:-1]
        kept = order[last]
        row = row[kept]
        self.state[row], self.count[row], self.trace[row] = state[kept], count[kept], trace[kept]
        self.version[row] = version

    def pack(self, version: int) -> Tensor:
        """The rows made with `version`, [R, 24 + 4 * width] uint8: row, count, trace and state of each."""
        row = torch.nonzero(self.version == version).squeeze(1)
        numbers = torch.stack([row, self.count[row], self.trace[row]], dim=1).cpu()
        return torch.cat([numbers.view(torch.uint8), self.state[row].cpu().view(torch.uint8)], dim=1)

    def unpack(self, packed: Tensor) -> None:
        """Take over what `pack` gave, to be declared good by `adopt`; everything else is forgotten.

        Raises:
            ValueError: the states have another width.
        """
        if packed.shape[1] != 24 + 4 * self.width:
            raise ValueError(f"a state has {24 + 4 * self.width} bytes here, the checkpoint has {packed.shape[1]}")
        packed = packed.to(self.state.device)
        row, count, trace = packed[:, :24].contiguous().view(torch.int64).unbind(1)
        self.version.zero_()
        self.put(row, packed[:, 24:].contiguous().view(torch.float32), count, trace, _LOADED)

    def adopt(self, version: int) -> None:
        """What was unpacked is good for the weights of `version`."""
        self.version.masked_fill_(self.version == _LOADED, version)

    def __deepcopy__(self, memo: dict[int, object]) -> Cache:
        return Cache(self.rows, self.width)


def advance(encoder: GRU4Rec, history: History, many: Tensor, state: Tensor) -> Tensor:
    """States of all layers after the newest `many` [B] clicks of each row, begun from `state` [B, layers * D].

    `state` is overwritten. Rows with no click to read cost nothing.
    """
    packed = pack(replace(history, in_session=many), "session", None)
    if not packed.sizes:
        return state
    moved = torch.nonzero(many).squeeze(1)
    newest = packed.newest[moved]
    first = packed.token[: packed.sizes[0]] // history.items.shape[1]  # the rows at work, longest first
    before = torch.split(state, encoder.dim, dim=1)
    vectors = encoder.items(history.items.flatten()[packed.token])
    after = encoder.run(vectors, packed.sizes, start=[part[first] for part in before])
    for part, made in zip(before, after, strict=True):
        part[moved] = made[newest]
    return state
