"""Live sessions as rows of tensors: what each user did lately, and the decision each user has not answered yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from streamrec.expiry import blank
from streamrec.mixing import keys_of, mix
from streamrec.ports import State
from streamrec.records import FEEDBACK, POSITIVE, Decision, Events, History, Kind, Rows, Transition
from streamrec.users import Users

_STRENGTH = {Kind.IMPRESSION: 1, Kind.SKIP: 2, Kind.CLICK: 3, Kind.RATING: 4, Kind.PURCHASE: 5}
"""When one slot gets several reactions the strongest one names it; rewards add up."""


@dataclass
class _Open(Rows):
    """Decisions that wait for their reaction, one row per user."""

    history: History
    shown: Decision
    wanted: Decision
    ticket: Tensor  # [U] int64, a log's own number for the decision, negative; 0 = none
    seen: Tensor  # [U, K] int64, bit per Kind already received for the slot
    feedback: Tensor  # [U, K] int8, strongest Kind per slot
    rewards: Tensor  # [U, K] float32


class SessionStore:
    """Per-user state, and the join of feedback with the decision it answers.

    A user has at most one open decision. It is closed into a `Transition` by the user's next request, as soon as
    every slot has a reaction, when the user leaves, or when `patience_s` of event time pass without either.
    Slots nobody reacted to are then IMPRESSION: silence is not a skip. Feedback for a decision already closed
    ("late"), received before ("duplicate") or for a decision never heard of ("unknown") is counted in `counts`
    and earns nothing; late and unknown clicks still enter the history, because they did happen. So do events older
    than what the user was last heard of ("out_of_order"): histories are in the order of arrival, and the time a user
    was last heard of does not go back.

    What a decision earns that nobody reacts to is the weight of `impression` per slot, 0 unless `reward` has one.

    Args:
        users: the most users held; beyond it the longest idle make room. Memory is about
            `users * (26 * length + 24 * skips + 60 * slate)` bytes, touched only for rows in use.
        length: L, positives kept per user.
        skips: S, skips kept per user.
        slate: K, slots of a slate.
        gap_s: a pause longer than this starts a new session (where the stream names no sessions).
        patience_s: event time after which an unanswered decision is closed with what there is.
        grace_s: event time for which the decision is kept open after that, for reactions that come behind others.
        reward: weight per kind of feedback; reward of a slot = sum of weight * value.
        device: where the tables live.
    """

    def __init__(
        self,
        users: int = 100_000,
        length: int = 20,
        skips: int = 20,
        slate: int = 10,
        gap_s: float = 1800.0,
        patience_s: float = 1800.0,
        grace_s: float = 0.0,
        reward: Mapping[str, float] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        for name, number in (("length", length), ("skips", skips), ("slate", slate)):
            if number < 1:
                raise ValueError(f"sessions.{name} must be at least 1, got {number}")
        self.users = Users(users)
        self.length, self.skips, self.slots = length, skips, slate
        if grace_s < 0:
            raise ValueError(f"sessions.grace_s must be at least 0, got {grace_s}")
        self.gap_s, self.patience_s, self.grace_s = gap_s, patience_s, grace_s
        self.device = torch.device(device)
        self.watermark = float("-inf")  # newest event time seen
        self.recycled = 0  # how often items left everything, since this store was made
        self.counts = dict.fromkeys(("late", "duplicate", "unknown", "out_of_order", "evicted_open"), 0)
        self._strength = torch.tensor([_STRENGTH.get(kind, 0) for kind in Kind], device=self.device)
        self._positive, self._feedback = (_table_of(kinds).to(self.device) for kinds in (POSITIVE, FEEDBACK))
        self._weights = _reward_table(reward or {"click": 1.0, "purchase": 1.0, "rating": 1.0}).to(self.device)
        self._next_scan = float("-inf")

        def table(*width: int, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.zeros(users, *width, dtype=dtype, device=self.device)

        self._items, self._kinds = table(length, dtype=torch.int32), table(length, dtype=torch.int8)
        self._times = table(length, dtype=torch.float64)
        self._skipped, self._skip_times = table(skips, dtype=torch.int32), table(skips, dtype=torch.float64)
        self._key, self._session, self._in_session, self._asked = table(), table(), table(), table()
        self._last = table(dtype=torch.float64)  # event time last heard of
        self._open_id, self._closed_id, self._closed_ticket = table(), table(), table()
        self._pages, self._page_kinds = table(0, slate, dtype=torch.int32), table(0, slate, dtype=torch.int8)
        self._context, self._offer = table(0, dtype=torch.float32), table(0)
        self._open: _Open | None = None  # allocated by the first decision, whose widths it takes

    def reserve(self, pages: int = 0, context: int = 0, offer: int = 0) -> None:
        """Make room for windows that not every run needs, before the first event.

        Args:
            pages: P, slates of the running session kept per user, at least; an agent that reads pages asks for it.
            context: F, numbers that come with a request; a world that has them says so.
            offer: C, candidates that come with a request.

        Raises:
            ValueError: context or offer have another width already.
        """
        tables = {"context": (self._context, context), "offer": (self._offer, offer)}
        for name, (table, width) in tables.items():
            if width and table.shape[1] not in (0, width):
                raise ValueError(
                    f"the {name} of a request is {table.shape[1]} wide in this run, now {width} is asked for"
                )
        users = self.users.capacity
        if pages > self._pages.shape[1]:
            self._pages = self._pages.new_zeros(users, pages, self.slots)
            self._page_kinds = self._page_kinds.new_zeros(users, pages, self.slots)
        self._context = self._context.new_zeros(users, context or self._context.shape[1])
        self._offer = self._offer.new_zeros(users, offer or self._offer.shape[1])

    @property
    def context_width(self) -> int:
        """F, numbers that come with a request."""
        return self._context.shape[1]

    @property
    def offer_width(self) -> int:
        """C, candidates that come with a request, 0 = none do."""
        return self._offer.shape[1]

    # --- users -------------------------------------------------------------------------------------------------

    def rows(self, ids: Sequence[str]) -> Tensor:
        """Store rows of user ids, on the CPU. [B] int64. New users get a row; the longest idle may lose theirs."""
        rows, fresh = self.users.rows(ids)
        if len(self.users.evicted):
            self._forget(self.users.evicted.to(self.device))
        if fresh:
            self._name(fresh)
        return rows

    def erase(self, ids: Sequence[str]) -> Tensor:
        """Leave nothing of these users: no id, no history, no open decision, which closes without a transition.

        Returns:
            their rows, [R] int64 on the CPU, which new users may get. Users nobody knows have none.
        """
        rows = torch.tensor(self.users.remove(ids), dtype=torch.int64)
        for table in self._tables().values():
            table[rows.to(self.device)] = 0
        return rows

    def rename(self, rows: Tensor, ids: Sequence[str]) -> None:
        """Give `rows` [B], in use, to new users: nothing is left of those before."""
        self._forget(rows.to(self.device))
        self.users.rename(rows.tolist(), ids)
        self._name(rows.tolist())

    def _name(self, rows: list[int]) -> None:
        keys = keys_of([self.users.ids[row] or "" for row in rows])
        self._key[torch.tensor(rows, device=self.device)] = keys.to(self.device)

    def user_ids(self, rows: Tensor) -> list[str]:
        """The ids that `rows` stand for now. They are personal data: for the wire and the log file only."""
        ids = self.users.ids
        return [ids[row] or "" for row in rows.tolist()]

    def _forget(self, rows: Tensor) -> None:
        self.counts["evicted_open"] += int((self._open_id[rows] != 0).sum())
        for table in self._tables().values():
            table[rows] = 0

    def recycle(self, items: Tensor) -> None:
        """Take the items of these catalogue rows [R] int64, rising, out of everything: other items will have them.

        Of a decision that waits, the slots that showed them are empty from then on.
        """
        self.recycled += 1
        used = slice(len(self.users.ids))
        blank(self._all()[used], items)
        if self._open is not None:
            blank(self._open[used], items)

    # --- reading -----------------------------------------------------------------------------------------------

    def _all(self) -> History:
        """The tables themselves as one history of every row; whose it is and when is for `read` to say."""
        return History(
            user=self._key,
            key=self._key,
            time=self._last,
            items=self._items,
            kinds=self._kinds,
            times=self._times,
            skipped=self._skipped,
            skip_times=self._skip_times,
            in_session=self._in_session,
            pages=self._pages,
            page_kinds=self._page_kinds,
            context=self._context,
            offer=self._offer,
        )

    def read(self, rows: Tensor, time: Tensor) -> History:
        """What is known of the users at `rows` [B] at event time `time` [B]."""
        return replace(self._all()[rows], user=rows, time=time)

    def number(self, rows: Tensor) -> Tensor:
        """New decision ids for `rows` [B]: positive, below 2**53 so that every JSON reader keeps them whole.

        An id is a hash of the user and of how often the user has asked. A decision that is made again after a
        crash has the same id then, whatever batch it falls into, and a front end can drop it.
        """
        self._asked[rows] += 1
        return (mix(self._key[rows] + self._asked[rows] * 0x5851F42D4C957F2D) & ((1 << 53) - 2)) + 1

    def find(self, user: str) -> int | None:
        """The row of a user who is held; None = nobody of that id is."""
        return self.users.find(user)

    def heard(self, rows: Tensor) -> Tensor:
        """Event time at which the users at `rows` [B] were last heard of, [B] float64."""
        return self._last[rows]

    def preview(self, rows: Tensor, time: Tensor, session: Tensor) -> History:
        """What `read` will say once requests of `rows` [B] at `time` [B], of `session` [B] (0 = unnamed), are taken."""
        history = self.read(rows, time)
        cut = torch.where(session != 0, session != self._session[rows], time - self._last[rows] > self.gap_s)
        history.in_session.masked_fill_(cut, 0)
        if history.pages.shape[1]:
            history.pages[cut], history.page_kinds[cut] = 0, 0
        return history

    # --- one wave ----------------------------------------------------------------------------------------------

    def take(self, wave: Events) -> Transition | None:
        """Take in one wave (each user at most once); returns what it closed, None if nothing.

        Reactions are matched with open decisions and, with organic actions, enter the histories. A request closes
        the decision the user left unanswered.
        """
        if len(wave) == 0:
            return None
        self.watermark = max(self.watermark, float(wave.time.max()))
        complete = torch.zeros(len(wave), dtype=torch.bool, device=wave.user.device)
        fresh = torch.ones_like(complete)
        answers = ((wave.decision != 0) & self._feedback.index_select(0, wave.kind.int())).nonzero().squeeze(1)
        if len(answers):
            fresh[answers], complete[answers] = self._mark(wave[answers])
        self._touch(wave)
        self._remember(wave, fresh)
        if self._open is None:
            return None
        leaving = wave.kind == int(Kind.LEAVE)
        open_id = self._open_id.index_select(0, wave.user)
        ends = (complete | leaving | (wave.kind == int(Kind.REQUEST))) & (open_id != 0)
        at = torch.nonzero(ends).squeeze(1)
        return self._close(*(column.index_select(0, at) for column in (wave.user, wave.time, leaving, wave.sent)))

    def open(self, shown: Decision, wanted: Decision, history: History, asked: Events) -> None:
        """Wait for the reaction to `shown`, the answer to the requests `asked`."""
        n, k = shown.slate.shape
        opened = _Open(
            history=history,
            shown=shown,
            wanted=wanted,
            ticket=torch.where(asked.decision < 0, asked.decision, 0),
            seen=torch.zeros(n, k, dtype=torch.int64, device=self.device),
            feedback=torch.where(shown.slate > 0, int(Kind.IMPRESSION), 0).to(torch.int8),
            rewards=(shown.slate > 0) * self._weights[int(Kind.IMPRESSION)],
        )
        if self._open is None:
            self._open = opened.allocate(self.users.capacity)
        self._open.put(shown.user, opened)
        self._open_id[shown.user] = shown.id

    def expire(self) -> Transition | None:
        """Close what nobody answered for `patience_s`, judged by the newest event time: replays are exact."""
        if self.watermark < self._next_scan or self._open is None:
            return None
        self._next_scan = self.watermark + self.patience_s / 8
        used = len(self.users.ids)
        before = self.watermark - self.patience_s - self.grace_s
        waiting = (self._open_id[:used] != 0) & (self._open.history.time[:used] < before)
        rows = torch.nonzero(waiting).squeeze(1)
        deadline = self._open.history.time[rows] + self.patience_s
        never = torch.zeros_like(deadline)
        return self._close(rows, deadline, torch.ones_like(rows, dtype=torch.bool), never)

    def _touch(self, wave: Events) -> None:
        """Notice new sessions and the passing of time, requests included."""
        user = wave.user
        last, session = self._last.index_select(0, user), self._session.index_select(0, user)
        self.counts["out_of_order"] += int((wave.time < last).sum())
        named = wave.session != 0
        cut = torch.where(named, wave.session != session, wave.time - last > self.gap_s)
        self._in_session.index_copy_(0, user, self._in_session.index_select(0, user).masked_fill_(cut, 0))
        self._session.index_copy_(0, user, torch.where(named, wave.session, session))
        self._last.index_copy_(0, user, torch.maximum(last, wave.time))
        if self._pages.shape[1]:
            self._pages[user[cut]], self._page_kinds[user[cut]] = 0, 0
        if self._context.shape[1] or self._offer.shape[1]:
            self._listen(wave[wave.kind == int(Kind.REQUEST)])

    def _listen(self, asked: Events) -> None:
        """Keep what requests say beside who asks; one that says nothing leaves what was said before."""
        for table, said in ((self._context, asked.context), (self._offer, asked.offer)):
            if len(asked) and said.shape[1] and table.shape[1]:
                if said.shape[1] != table.shape[1]:
                    raise ValueError(
                        f"a request came with {said.shape[1]} numbers where {table.shape[1]} were expected"
                    )
                table[asked.user] = said.to(table.dtype)

    def _remember(self, wave: Events, fresh: Tensor) -> None:
        """The rows of `wave` that are `fresh` [B] bool enter the windows."""
        fresh = fresh & (wave.item > 0)
        at = torch.nonzero(fresh & self._positive.index_select(0, wave.kind.int())).squeeze(1)
        if len(at):
            user = wave.user.index_select(0, at)
            _push(self._items, user, wave.item.index_select(0, at))
            _push(self._kinds, user, wave.kind.index_select(0, at))
            _push(self._times, user, wave.time.index_select(0, at))
            self._in_session.index_add_(0, user, torch.ones_like(user))
        at = torch.nonzero(fresh & (wave.kind == int(Kind.SKIP))).squeeze(1)
        if len(at):
            user = wave.user.index_select(0, at)
            _push(self._skipped, user, wave.item.index_select(0, at))
            _push(self._skip_times, user, wave.time.index_select(0, at))

    def _mark(self, answers: Events) -> tuple[Tensor, Tensor]:
        """Write reactions into the open decisions. Returns [B] bool: not seen before; [B] bool: all slots answered."""
        user, decision = answers.user, answers.decision
        fresh, complete = torch.ones_like(user, dtype=torch.bool), torch.zeros_like(user, dtype=torch.bool)
        if self._open is None:
            self.counts["unknown"] += len(answers)
            return fresh, complete
        open_id, slate = self._open_id.index_select(0, user), self._open.shown.slate.index_select(0, user)
        same = (decision == open_id) | (decision == self._open.ticket.index_select(0, user))
        named = answers.slot >= 0
        there = (slate == answers.item.unsqueeze(1)) & (slate > 0)
        slot = torch.where(named, answers.slot, there.int().argmax(1))
        match = (open_id != 0) & same & (slot < slate.shape[1]) & (named | there.any(1))
        closed = [column.index_select(0, user) for column in (self._closed_id, self._closed_ticket)]
        late = ~match & ((decision == closed[0]) | (decision == closed[1]))
        self.counts["late"] += int(late.sum())
        self.counts["unknown"] += int((~match & ~late).sum())

        at = match.nonzero().squeeze(1)
        if len(at):
            user, slot = user.index_select(0, at), slot.index_select(0, at)
            kind, value = answers.kind.index_select(0, at).long(), answers.value.index_select(0, at)
            fresh[at] = self._react(user * slate.shape[1] + slot, kind, value)
            complete[at] = self._answered(user)
        return fresh, complete

    def _react(self, place: Tensor, kind: Tensor, value: Tensor) -> Tensor:
        """Reactions [B] to slots at `place` [B] int64 of the flattened tables; returns [B] bool: not seen before."""
        assert self._open is not None
        seen, rewards, kinds = (t.view(-1) for t in (self._open.seen, self._open.rewards, self._open.feedback))
        before, bit = seen.index_select(0, place), torch.ones_like(kind) << kind
        again = (before & bit) != 0
        self.counts["duplicate"] += int(again.sum())
        new = (~again).nonzero().squeeze(1)
        place, kind, before, bit, value = (c.index_select(0, new) for c in (place, kind, before, bit, value))
        seen.index_copy_(0, place, before | bit)
        earned = self._weights.index_select(0, kind) * value - self._weights[int(Kind.IMPRESSION)] * (before == 0)
        rewards.index_add_(0, place, earned)
        known = kinds.index_select(0, place).long()
        stronger = self._strength.index_select(0, kind) > self._strength.index_select(0, known)
        kinds.index_copy_(0, place, torch.where(stronger, kind, known).to(torch.int8))
        return ~again

    def _answered(self, user: Tensor) -> Tensor:
        """[B] bool: every slot that shows something has a reaction."""
        assert self._open is not None
        reacted = (self._open.seen.index_select(0, user) & ~(1 << int(Kind.IMPRESSION))) != 0
        return (reacted | (self._open.shown.slate.index_select(0, user) == 0)).all(1)

    def _close(self, rows: Tensor, time: Tensor, done: Tensor, sent: Tensor) -> Transition | None:
        if len(rows) == 0 or self._open is None:
            return None
        opened = self._open[rows]
        if self._pages.shape[1]:
            _push(self._pages, rows, opened.shown.slate)
            _push(self._page_kinds, rows, opened.feedback)
        self._closed_id[rows], self._closed_ticket[rows] = self._open_id[rows], opened.ticket
        self._open_id[rows] = 0
        return Transition(
            history=opened.history,
            shown=opened.shown,
            wanted=opened.wanted,
            feedback=opened.feedback,
            rewards=opened.rewards,
            next=self.read(rows, time),
            time=time,
            done=done,
            sent=sent,
        )

    # --- users who move to another store -------------------------------------------------------------------------

    @property
    def open_ids(self) -> Tensor:
        """[users held] int64: the decision each row has not answered yet, 0 = none."""
        return self._open_id[: len(self.users.ids)]

    @property
    def row_bytes(self) -> int:
        """Of all tables, per row: what a user costs, beside the id."""
        return sum(table[:1].numel() * table.element_size() for table in self._tables().values())

    def part(self, rows: Tensor) -> State:
        """Copies of everything known of the users at `rows` [R], on the CPU, in the rows of this run's catalogue."""
        tables = {name: table[rows].cpu() for name, table in self._tables().items() if name != "key"}
        return {"users": self.user_ids(rows), "tables": tables, "widths": self._widths()}

    def put_part(self, part: State) -> Tensor:
        """Take over users from a `part`; returns their rows [R] int64, on the CPU.

        Raises:
            ValueError: it has tables of other widths than this store.
        """
        rows = self.rows(part["users"])
        if self._open is None and part["widths"] is not None:
            self._open = self._empty_open(*part["widths"])
        for name, saved in part["tables"].items():
            table = self._tables()[name]
            if saved.shape[1:] != table.shape[1:]:
                raise ValueError(
                    f"the state has {name} of width {tuple(saved.shape[1:])}, this run {tuple(table.shape[1:])}: "
                    "sessions.length, sessions.skips and slate must be the same in all members of a group"
                )
            owner = name.startswith("open.") and name.endswith(".user")
            table[rows] = rows.to(table) if owner else saved.to(self.device)
        return rows

    # --- state -------------------------------------------------------------------------------------------------

    def _tables(self) -> dict[str, Tensor]:
        names = ("items", "kinds", "times", "skipped", "skip_times", "key", "session", "in_session", "asked", "last")
        more = ("pages", "page_kinds", "context", "offer", "open_id", "closed_id", "closed_ticket")
        tables = {name: getattr(self, f"_{name}") for name in (*names, *more)}
        return tables | ({} if self._open is None else {f"open.{name}": t for name, t in self._open.columns()})

    def state_dict(self) -> State:
        used = len(self.users.ids)
        tables = {name: table[:used].clone() for name, table in self._tables().items()}
        clock = [self.watermark, self._next_scan]
        numbers = {"counts": dict(self.counts), "clock": torch.tensor(clock, dtype=torch.float64)}
        return {"users": self.users.state_dict(), "tables": tables, "widths": self._widths(), **numbers}

    def _widths(self) -> list[int] | None:
        """What `_empty_open` needs."""
        return None if self._open is None else [self._open.shown.slate.shape[1], *self._open.wanted.shadow.shape[1:]]

    def load_state_dict(self, state: State) -> None:
        self.users.load_state_dict(state["users"])
        self._open = None if state["widths"] is None else self._empty_open(*state["widths"])
        used = len(self.users.ids)
        for name, table in self._tables().items():
            saved = state["tables"][name]
            if saved.shape[1:] != table.shape[1:]:
                raise ValueError(
                    f"the checkpoint has {name} of width {tuple(saved.shape[1:])}, this run {tuple(table.shape[1:])}: "
                    "sessions.length, sessions.skips and slate must be what they were"
                )
            table.zero_()
            table[:used] = saved.to(self.device)
        self.counts |= state["counts"]
        self.watermark, self._next_scan = state["clock"].tolist()

    def _empty_open(self, slots: int, policies: int, wide: int) -> _Open:
        """A table of open decisions for `slots` shown, and `policies` x `wide` shadow slates."""
        none = torch.zeros(0, dtype=torch.int64, device=self.device)
        wanted = Decision.of(none, none.new_zeros(0, wide))
        wanted.shadow = none.new_zeros(0, policies, wide)
        shown = Decision.of(none, none.new_zeros(0, slots))
        shown.shadow = none.new_zeros(0, 0, slots)
        history = self.read(none, none.to(torch.float64))
        floats = torch.zeros(0, slots, device=self.device)
        one = _Open(history, shown, wanted, none, none.new_zeros(0, slots), floats.to(torch.int8), floats)
        return one.allocate(self.users.capacity)


def _table_of(kinds: Sequence[Kind]) -> Tensor:
    """[kinds there are] bool, to be asked by the number of a kind."""
    return torch.tensor([kind in kinds for kind in Kind])


def _push(table: Tensor, rows: Tensor, newest: Tensor) -> None:
    """Shift the windows of `rows`, all different, to the left and write `newest` on the right."""
    width = table.shape[1]
    wider = table.new_empty(len(rows), width + 1, *table.shape[2:])
    torch.index_select(table, 0, rows, out=wider[:, :width])
    wider[:, width] = newest
    table.index_copy_(0, rows, wider[:, 1:])


def _reward_table(weights: Mapping[str, float]) -> Tensor:
    table = torch.zeros(len(Kind))
    names = {kind.name.lower(): kind for kind in Kind}
    for name, weight in weights.items():
        if name not in names:
            raise ValueError(f"sessions.reward has no kind {name!r}; kinds are {', '.join(list(names)[1:])}")
        table[names[name]] = weight
    return table
