"""Several policies share the users: an honest comparison on live traffic."""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import Literal, cast

import torch
from torch import Tensor

from streamrec.expiry import Recycles
from streamrec.loop import policy_names
from streamrec.mixing import mix
from streamrec.ports import Agent, State
from streamrec.records import Decision, History, Transition


class Split:
    """Each user belongs to one member for good, by a hash of the user id; each member learns from its own users only.

    With `learn_from = "all"` every member sees all transitions: more data, but no longer a comparison of policies
    each living with the consequences of its own decisions.

    Args:
        agents: the members by name, all with the same slate.
        learn_from: "own" or "all".

    Raises:
        ValueError: no members, or `learn_from` is unknown.
    """

    def __init__(self, agents: dict[str, Agent], learn_from: Literal["own", "all"] = "own") -> None:
        if not agents:
            raise ValueError("agents must name at least one member, for example agents = {popular = {use = ...}, ...}")
        if learn_from not in ("own", "all"):
            raise ValueError(f'learn_from must be "own" or "all", got {learn_from!r}')
        self.agents, self.learn_from = agents, learn_from
        inner = [names if len(names) > 1 else [] for names in map(policy_names, agents.values())]
        self._sizes = [max(len(names), 1) for names in inner]
        self._starts = [sum(self._sizes[:at]) for at in range(len(inner))]
        self.names = [
            full
            for name, names in zip(agents, inner, strict=True)
            for full in ([f"{name}.{n}" for n in names] or [name])
        ]
        """One per value of `Decision.policy`; a member with policies of its own has one entry for each of them."""
        wide = any(getattr(agent, "shadows", 0) for agent in agents.values())
        self.shadows = len(self.names) if wide else 0
        """Slates in `Decision.shadow`: none, unless a member is a panel."""
        # Members that split again must not do it by the same bits.
        self._salt = zlib.crc32("\n".join(self.names).encode())

    def member(self, key: Tensor) -> Tensor:
        """Which member a user belongs to: [B] int64 stable hashes of user ids -> [B] int64."""
        return ((mix(key ^ self._salt) >> 33) & 0x7FFFFFFF) % len(self.agents)

    def act(self, history: History) -> Decision:
        member = self.member(history.key)
        parts, rows = [], []
        for at, agent in enumerate(self.agents.values()):
            mine = torch.nonzero(member == at).squeeze(1)
            if len(mine) == len(history):
                return self._numbered(agent.act(history), at)
            if len(mine):
                parts.append(self._numbered(agent.act(history[mine]), at))
                rows.append(mine)
        return Decision.cat(parts)[torch.argsort(torch.cat(rows))]

    def _numbered(self, decision: Decision, at: int) -> Decision:
        """Policies counted over all members, and the slates of a panel at the places of its names."""
        policy = decision.policy + self._starts[at]
        n, k = decision.slate.shape
        shadow = decision.slate.new_zeros(n, self.shadows, k)
        if self.shadows:
            shadow[torch.arange(n, device=shadow.device), policy] = decision.slate
            there = decision.shadow.shape[1]
            shadow[:, self._starts[at] : self._starts[at] + there] = decision.shadow
        return replace(decision, policy=policy, shadow=shadow)

    def observe(self, transition: Transition) -> None:
        member = self.member(transition.history.key)
        for at, agent in enumerate(self.agents.values()):
            mine = transition if self.learn_from == "all" else transition[torch.nonzero(member == at).squeeze(1)]
            if len(mine):
                agent.observe(replace(mine, wanted=self._own(mine.wanted, at, agent)))

    def _own(self, wanted: Decision, at: int, agent: Agent) -> Decision:
        """`_numbered` undone."""
        start, there = self._starts[at], getattr(agent, "shadows", 0)
        policy = (wanted.policy - start).clamp(min=0, max=self._sizes[at] - 1)
        return replace(wanted, policy=policy, shadow=wanted.shadow[:, start : start + there])

    def update(self) -> dict[str, float]:
        """Update every member; what they say is prefixed with their names."""
        said = {name: agent.update() for name, agent in self.agents.items()}
        return {f"{name}.{key}": value for name, values in said.items() for key, value in values.items()}

    def recycle(self, rows: Tensor) -> None:
        """Items that are gone leave every member."""
        for agent in self.agents.values():
            cast(Recycles, agent).recycle(rows)

    def state_dict(self) -> State:
        return {name: agent.state_dict() for name, agent in self.agents.items()}

    def load_state_dict(self, state: State) -> None:
        """Take over a `state_dict()`.

        Raises:
            ValueError: if it was saved with other members: the users would change hands.
        """
        if list(state) != list(self.agents):
            raise ValueError(f"the split was saved with members {list(state)}, here they are {list(self.agents)}")
        for name, agent in self.agents.items():
            agent.load_state_dict(state[name])
