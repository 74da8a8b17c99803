"""Several agents answer every request and one of them is heard: a comparison on a log, or beside live traffic."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from streamrec.build import did_you_mean
from streamrec.expiry import Recycles
from streamrec.loop import policy_names
from streamrec.ports import Agent, State
from streamrec.records import Decision, History, Transition


class Panel:
    """Every member decides about every request; what the lead wants is shown, all slates travel in `Decision.shadow`.

    Every member observes every transition, with its own slate as what it wanted; the propensities of slates other
    than the lead's are not kept and are NaN there.

    Args:
        agents: the members by name, all with the same slate.
        lead: whose slate is shown; the first one's if left out.

    Raises:
        ValueError: no members, or no member is called `lead`.
    """

    def __init__(self, agents: dict[str, Agent], lead: str | None = None) -> None:
        if not agents:
            raise ValueError("agents must name at least one member, for example agents = {popular = {use = ...}, ...}")
        lead = next(iter(agents)) if lead is None else lead
        if lead not in agents:
            raise ValueError(f"no member is called {lead!r}{did_you_mean(lead, agents)}")
        self.agents, self.lead = agents, lead
        inner = {name: policy_names(agent) if _shadows(agent) else [] for name, agent in agents.items()}
        self.names = [full for name in agents for full in ([f"{name}.{n}" for n in inner[name]] or [name])]
        """One per slate in `Decision.shadow`; a member that is a panel itself has one entry for each of its own."""
        sizes = [max(len(names), 1) for names in inner.values()]
        self._places = {name: slice(sum(sizes[:at]), sum(sizes[: at + 1])) for at, name in enumerate(agents)}

    @property
    def shadows(self) -> int:
        """Slates in `Decision.shadow`."""
        return len(self.names)

    def act(self, history: History) -> Decision:
        decisions = {name: agent.act(history) for name, agent in self.agents.items()}
        widths = {name: decision.slate.shape[1] for name, decision in decisions.items()}
        if len(set(widths.values())) > 1:
            raise ValueError(f"the members of a panel need slates of one width, got {widths}")
        slates = [d.shadow if _shadows(self.agents[name]) else d.slate.unsqueeze(1) for name, d in decisions.items()]
        heard = decisions[self.lead]
        place = self._places[self.lead]
        own = heard.policy if _shadows(self.agents[self.lead]) else torch.zeros_like(heard.policy)
        return replace(heard, policy=own + place.start, shadow=torch.cat(slates, dim=1))

    def observe(self, transition: Transition) -> None:
        """Every member sees the transition.

        Raises:
            ValueError: if `wanted` carries slates, but of another panel.
        """
        width = transition.wanted.shadow.shape[1]
        if width not in (0, self.shadows):
            raise ValueError(f"the panel has {self.shadows} slates, the transition carries {width}")
        for name, agent in self.agents.items():
            wanted = self._own(name, agent, transition.wanted) if width else transition.wanted
            agent.observe(replace(transition, wanted=wanted))

    def _own(self, name: str, agent: Agent, wanted: Decision) -> Decision:
        """What this member wanted."""
        place = self._places[name]
        slates = wanted.shadow[:, place]
        if name == self.lead:
            policy = (wanted.policy - place.start).clamp(min=0)
            return replace(wanted, policy=policy, shadow=slates if _shadows(agent) else slates[:, :0])
        slot_logp = torch.full_like(wanted.slot_logp, torch.nan)
        at = agent.place if isinstance(agent, Panel) else 0
        none = torch.zeros_like(wanted.policy)
        own = Decision(wanted.user, wanted.id, slates[:, at], slot_logp.sum(1), slot_logp, none + at, slates)
        return own if _shadows(agent) else replace(own, shadow=slates[:, :0])

    @property
    def place(self) -> int:
        """Where in `Decision.shadow` the slate stands that is shown."""
        start: int = self._places[self.lead].start
        inner = self.agents[self.lead]
        return start + (inner.place if isinstance(inner, Panel) else 0)

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
            ValueError: if it was saved with other members.
        """
        if set(state) != set(self.agents):
            raise ValueError(f"the panel was saved with members {sorted(state)}, here they are {sorted(self.agents)}")
        for name, agent in self.agents.items():
            agent.load_state_dict(state[name])


def _shadows(agent: Agent) -> int:
    return getattr(agent, "shadows", 0)
