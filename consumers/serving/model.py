"""A version of the model as it answers: an agent with the catalogue of the learner it came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from streamrec.build import build
from streamrec.catalog import Catalog
from streamrec.explore import Probabilistic, Scoring
from streamrec.loop import policy_names
from streamrec.ope.codes import Refused
from streamrec.ports import Agent, State
from streamrec.records import Decision, History
from streamrec.replay.explorers import candidates
from streamrec.served import Receiver


class ServedModel:
    """One agent, into which version after version is loaded. Rows are translated at its door.

    The learner and the service read the same stream at different moments, so an item has one row there and maybe
    another here. Items the version does not know yet get rows the agent has not used; what may be shown is what the
    service's own catalogue says.

    Args:
        spec: the `[agent]` table.
        context: what a run knows: `sessions`, `slate`, `seed`, `device`, `run_dir`.
        capacity: of the learner's catalogue.
    """

    def __init__(self, spec: Mapping[str, Any], context: Mapping[str, Any], capacity: int) -> None:
        self.version = ""
        self.own = Catalog(capacity)
        self.agent: Agent = build(spec, {**context, "catalog": self.own}, "agent")
        self.policies = list(policy_names(self.agent))
        self._receiver = Receiver(self.agent)
        self._in = torch.zeros(1, dtype=torch.int64)  # row of the service -> own row, 0 = none
        self._out = torch.zeros(capacity + 1, dtype=torch.int64)
        self._known = 1  # rows of the service that are in the tables
        self._available = torch.zeros(0, dtype=torch.bool)  # of the service, as it was at the last `sync`

    def load(self, version: str, state: State) -> None:
        """Become `version`. `sync` has to follow before `act`."""
        self.version, before = version, self.own.ids
        self.own.load_state_dict(state["catalog"])
        self._receiver.load(state["agent"])
        self._available = torch.zeros(0, dtype=torch.bool)
        if self.own.ids[: len(before)] != before or not bool(self._in[1 : self._known].all()):
            self.forget_rows()

    def forget_rows(self) -> None:
        """The service's rows mean other items from now on, or items have got other rows here."""
        self._known = 1
        self._in.zero_()
        self._out.zero_()
        self._available = torch.zeros(0, dtype=torch.bool)

    def sync(self, ids: Sequence[str], available: Tensor) -> None:
        """Bring the rows up to date with the service's catalogue.

        Args:
            ids: by row of the service, row 0 first.
            available: [N] bool, by row of the service, at least as long.
        """
        if len(self._in) < len(available):
            self._in = torch.cat([self._in, self._in.new_zeros(len(available) - len(self._in))])
        if self._known < len(ids):
            mine = self.own.rows(ids[self._known :])
            self._in[self._known : len(ids)] = mine
            self._out[mine] = torch.arange(self._known, len(ids))
            self._out[0] = 0
            self._known = len(ids)
        now = available[: self._known]
        if not torch.equal(now, self._available):
            self._available = now.clone()
            self.own.available.zero_()
            self.own.available[self._in[torch.nonzero(now).squeeze(1)]] = True
            self.own.available[0] = False

    @torch.inference_mode()
    def act(self, history: History, without: Tensor | None = None) -> Decision:
        """Slates in the service's rows.

        Args:
            history: [B], in the service's rows.
            without: rows that none of the slates may show.
        """
        with self._hiding(without):
            decision = self.agent.act(self._history(history))
        return replace(decision, slate=self._out[decision.slate], shadow=self._out[decision.shadow])

    @contextmanager
    def _hiding(self, without: Tensor | None) -> Iterator[None]:
        """Nothing shows these rows of the service meanwhile."""
        if without is None or not len(without):
            yield
            return
        hidden = self._in[without]
        before = self.own.available[hidden]
        self.own.available[hidden] = False
        try:
            yield
        finally:
            self.own.available[hidden] = before

    @torch.inference_mode()
    def chances(self, history: History, shown: Tensor, policy: Tensor, without: Tensor | None = None) -> Tensor:
        """How likely the policies are to put an item into the first slot; draws nothing.

        Args:
            history: [B], in the service's rows.
            shown: [B] rows of the service.
            policy: [B] who would answer, as `act` says.
            without: as in `act`.

        Returns:
            [B] float64; NaN where a policy knows no probabilities.
        """
        mine, wanted = self._history(history), self._in[shown]
        out = torch.full((len(history),), torch.nan, dtype=torch.float64)
        with self._hiding(without):
            for number in sorted(set(policy.tolist())):
                agent, at = member(self.agent, number), torch.nonzero(policy == number).squeeze(1)
                if isinstance(agent, Probabilistic):
                    out[at] = self._chance(agent, mine[at], wanted[at])
        return out

    def _chance(self, agent: Probabilistic, history: History, wanted: Tensor) -> Tensor:
        items, mask = candidates(history, self.own)
        try:
            chances = agent.probabilities(history, items, mask)
        except Refused:
            return torch.full((len(history),), torch.nan, dtype=torch.float64)
        return (chances * (items == wanted.unsqueeze(1))).sum(1)

    @torch.inference_mode()
    def scores(self, history: History, items: Tensor, policy: int) -> Tensor | None:
        """What the policy thinks of `items` [B, K] of the service; [B, K], or None if it has no scores."""
        agent = member(self.agent, policy)
        if not isinstance(agent, Scoring):
            return None
        mine = self._in[items]
        return agent.scores(self._history(history), mine, mine > 0)

    def _history(self, history: History) -> History:
        columns = {name: getattr(history, name) for name in ("items", "skipped", "pages", "offer")}
        mine = {n: self._in[column.long()].to(column.dtype) for n, column in columns.items() if column.numel()}
        return replace(history, **mine)


def member(agent: Agent, policy: int) -> Agent:
    """The agent behind number `policy` of `policy_names`, where policies are agents in an agent."""
    inner: dict[str, Agent] = getattr(agent, "agents", {})
    for one in inner.values():
        size = max(len(policy_names(one)), 1)
        if policy < size:
            return member(one, policy)
        policy -= size
    return agent
