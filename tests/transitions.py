"""Hand-made transitions for tests of meters and agents."""

from __future__ import annotations

import torch
from torch import Tensor

from streamrec.records import Decision, History, Kind, Transition


def transition(
    rewards: Tensor,
    *,
    key: Tensor | None = None,
    policy: Tensor | None = None,
    shown: Tensor | None = None,
    time: Tensor | None = None,
    in_session: Tensor | None = None,
) -> Transition:
    """One slot per decision, clicked, with the given reward [B]; wanted = shown."""
    n = len(rewards)
    users = torch.arange(n)
    times = torch.zeros(n) if time is None else time
    history = History.of(
        user=users,
        key=users if key is None else key,
        time=times.double(),
        items=torch.zeros(n, 3, dtype=torch.int32),
        kinds=torch.zeros(n, 3, dtype=torch.int8),
        times=torch.zeros(n, 3, dtype=torch.float64),
        skipped=torch.zeros(n, 2, dtype=torch.int32),
        skip_times=torch.zeros(n, 2, dtype=torch.float64),
        in_session=torch.ones(n, dtype=torch.int64) if in_session is None else in_session,
    )
    decision = Decision.of(users, torch.ones(n, 1, dtype=torch.int64) if shown is None else shown)
    wanted = Decision.of(users, decision.slate)
    if policy is not None:
        wanted.policy = decision.policy = policy
    return Transition(
        history=history,
        shown=decision,
        wanted=wanted,
        feedback=torch.full((n, 1), int(Kind.CLICK), dtype=torch.int8),
        rewards=rewards.float().unsqueeze(1),
        next=history,
        time=times.double() + 5,
        done=torch.zeros(n, dtype=torch.bool),
        sent=torch.zeros(n, dtype=torch.float64),
    )
