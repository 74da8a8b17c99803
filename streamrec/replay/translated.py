"""An agent from another run among agents of this one: its catalogue has rows of its own for the same item ids."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from streamrec.catalog import Catalog
from streamrec.explore import Probabilistic
from streamrec.ope.codes import POLICY_NOT_PROBABILISTIC, Refused
from streamrec.ports import Agent, State
from streamrec.records import Decision, History, Transition


class Translated:
    """Puts every catalogue row that goes in or comes out into the other catalogue's words.

    Items are matched by id. Items the agent's catalogue has no room for do not exist for it: they are empty places in
    histories, and have probability 0. What may be shown is what this run's catalogue says. Windows and slates that it
    learns from are cut, or filled up with nothing, to the widths it knows.

    Args:
        agent: built for `own`.
        own: its catalogue, as its checkpoint had it.
        shared: the catalogue of this run; gets the items of `own` that could be shown there.
        widths: clicks, skips and slots of the other run; None = those of this one.

    Raises:
        ValueError: `shared` has no room for them.
    """

    def __init__(self, agent: Agent, own: Catalog, shared: Catalog, widths: tuple[int, int, int] | None = None) -> None:
        self.agent, self.own, self.shared, self.widths = agent, own, shared, widths
        known = [own.ids[row] for row in torch.nonzero(own.available).squeeze(1).tolist()]
        rows = shared.rows(known)
        if bool((rows == 0).any()):
            raise ValueError(
                f"the policy knows {len(known)} items, more than fit into {shared.capacity}: raise --items"
            )
        shared.see(rows)
        self._in = torch.zeros(shared.capacity + 1, dtype=torch.int64)  # shared row -> own row, 0 = none
        self._out = torch.zeros(own.capacity + 1, dtype=torch.int64)
        self._known = 1  # rows of `shared` that are in the tables

    def _sync(self) -> None:
        """Bring the tables and what may be shown up to date."""
        if self._known < self.shared.size:
            fresh = torch.arange(self._known, self.shared.size)
            mine = self.own.rows(self.shared.ids[self._known :])
            self._in[fresh] = mine
            self._out[mine] = fresh
            self._out[0] = 0
            self._known = self.shared.size
        self.own.available.zero_()
        self.own.see(self._in[torch.nonzero(self.shared.available).squeeze(1)])

    def act(self, history: History) -> Decision:
        self._sync()
        decision = self.agent.act(self._history(history))
        return replace(decision, slate=self._out[decision.slate], shadow=self._out[decision.shadow])

    def probabilities(self, history: History, items: Tensor, mask: Tensor) -> Tensor:
        """See `streamrec.explore.Probabilistic`.

        Raises:
            Refused: the agent says none.
        """
        if not isinstance(self.agent, Probabilistic):
            raise Refused(POLICY_NOT_PROBABILISTIC, f"{type(self.agent).__name__} only gives lists")
        self._sync()
        mine = self._in[items]
        return self.agent.probabilities(self._history(history), mine, mask & (mine > 0))

    def observe(self, transition: Transition) -> None:
        self._sync()
        slots = transition.feedback.shape[1] if self.widths is None else self.widths[2]
        self.agent.observe(
            replace(
                transition,
                history=self._history(transition.history),
                next=self._history(transition.next),
                shown=self._decision(transition.shown, slots),
                wanted=self._decision(
                    transition.wanted, transition.wanted.slate.shape[1] if not self.widths else slots
                ),
                feedback=_first(transition.feedback, slots),
                rewards=_first(transition.rewards, slots),
            )
        )

    def _history(self, history: History) -> History:
        columns = {name: getattr(history, name) for name in ("items", "skipped", "pages", "offer")}
        mine = replace(history, **{name: self._in[column.long()].to(column.dtype) for name, column in columns.items()})
        if self.widths is None:
            return mine
        clicks, skips, _ = self.widths
        windows = {name: _newest(getattr(mine, name), clicks) for name in ("items", "kinds", "times")}
        return replace(mine, **windows, **{n: _newest(getattr(mine, n), skips) for n in ("skipped", "skip_times")})

    def _decision(self, decision: Decision, slots: int) -> Decision:
        slate, slot_logp = _first(self._in[decision.slate], slots), _first(decision.slot_logp, slots)
        return replace(decision, slate=slate, slot_logp=slot_logp, shadow=_first(self._in[decision.shadow], slots))

    def update(self) -> dict[str, float]:
        return self.agent.update()

    def recycle(self, rows: Tensor) -> None:
        """Items do not expire in a replay."""
        raise ValueError("catalog.ttl_s cannot be set where an agent of another run takes part")

    def state_dict(self) -> State:
        return {"agent": self.agent.state_dict(), "own": self.own.state_dict(), "in": self._in[: self._known].clone()}

    def load_state_dict(self, state: State) -> None:
        self.own.load_state_dict(state["own"])
        self.agent.load_state_dict(state["agent"])
        self._known = len(state["in"])
        self._in.zero_()
        self._out.zero_()
        self._in[: self._known] = state["in"]
        self._out[state["in"]] = torch.arange(self._known)
        self._out[0] = 0


def _first(columns: Tensor, width: int) -> Tensor:
    """The first `width` of [..., K], filled up with 0 on the right."""
    return pad(columns[..., :width], (0, max(0, width - columns.shape[-1])))


def _newest(window: Tensor, width: int) -> Tensor:
    """The newest `width` of a window [B, L], filled up with 0 on the left."""
    return pad(window[:, max(0, window.shape[1] - width) :], (max(0, width - window.shape[1]), 0))
