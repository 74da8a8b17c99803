"""Fitted Q evaluation with a small network."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from streamrec.ope.codes import EMPTY_LOG, Refused
from streamrec.ope.estimate import Estimate
from streamrec.ope.sequences.fqe import Convergence, valued_by_model


@dataclass(frozen=True)
class Transitions:
    """Steps of a log in the order of time, for a policy that chooses among A candidates.

    Args:
        features: [n, D] of the state and the action taken.
        reward: [n].
        following: [n, A, D] of the next state and each of its candidates.
        chances: [n, A] probabilities of the candidates under the policy; all 0 after the last step.
        starts: [m, A, D] of first states and each of their candidates.
        start_chances: [m, A] probabilities of those under the policy.
    """

    features: Tensor
    reward: Tensor
    following: Tensor
    chances: Tensor
    starts: Tensor
    start_chances: Tensor


class NetworkFqe:
    """Q of the policy as a network with one hidden layer, fitted again and again to r + gamma E_policy q(s', a').

    Le, Voloshin, Yue, ICML 2019, algorithm 3. Each round makes some passes of Adam over the steps against the network
    of the round before. The newest steps are held out of the fit; their Bellman error by round and the change of
    the value tell whether it settled. Features are what an encoder says of state and action; they stay as they are.

    Args:
        dim: features D.
        gamma: discount factor of a step, in (0, 1].
        hidden: units of the hidden layer.
        rounds: most regressions that are made.
        passes: passes over the steps in each.
        batch: steps a gradient step.
        lr: learning rate of Adam.
        tolerance: change of the value, relative to its size, that counts as settled when five rounds in a row have it.
        held_out: share of the steps, the newest, kept from the fit.
        seed: of initial weights and of the order of steps.
    """

    def __init__(
        self,
        dim: int,
        gamma: float,
        hidden: int = 64,
        rounds: int = 100,
        passes: int = 1,
        batch: int = 256,
        lr: float = 1e-3,
        tolerance: float = 1e-3,
        held_out: float = 0.1,
        seed: int = 0,
    ) -> None:
        if not (0 < gamma <= 1 and 0 <= held_out < 1 and min(dim, hidden, rounds, passes, batch) >= 1):
            text = f"gamma={gamma:g}, held_out={held_out:g}, dim={dim}, hidden={hidden}, rounds={rounds}"
            raise ValueError(f"{text}: expected gamma in (0, 1], held_out in [0, 1), the rest at least 1")
        self.gamma, self.rounds, self.passes, self.batch = gamma, rounds, passes, batch
        self.tolerance, self.held_out = tolerance, held_out
        self.generator = torch.Generator().manual_seed(seed)
        self.network = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, 1))
        for weight in self.network.parameters():
            bound = weight.shape[-1] ** -0.5
            nn.init.uniform_(weight, -bound, bound, generator=self.generator)
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=lr)

    def q(self, features: Tensor) -> Tensor:
        """[..., D] -> [...]."""
        values: Tensor = self.network(features).squeeze(-1)
        return values

    def fit(self, steps: Transitions) -> Convergence:
        """Fit until the value has settled or the rounds are used up.

        Raises:
            Refused: `empty_log`.
        """
        split = len(steps.reward) - int(self.held_out * len(steps.reward))
        if split == 0 or len(steps.starts) == 0:
            raise Refused(EMPTY_LOG, f"{split} steps to fit and {len(steps.starts)} beginnings of sessions")
        values, errors, settled = [self.value(steps)], list[float](), False
        while len(values) <= self.rounds and not settled:
            goal = self._goals(steps)
            self._regress(steps.features[:split], goal[:split])
            values.append(self.value(steps))
            if split < len(goal):
                errors.append(self._error(steps, split))
            near = self.tolerance * max(abs(values[-1]), 1e-12)
            settled = len(values) > 5 and max(abs(b - a) for a, b in pairwise(values[-6:])) <= near
        changes = [abs(b - a) for a, b in pairwise(values)]
        return Convergence(changes, errors, settled)

    @torch.no_grad()
    def _goals(self, steps: Transitions) -> Tensor:
        parts = zip(torch.split(steps.following, 4096), torch.split(steps.chances, 4096), strict=True)
        after = torch.cat([(self.q(features) * chances).sum(1) for features, chances in parts])
        return steps.reward + self.gamma * after

    @torch.no_grad()
    def _error(self, steps: Transitions, split: int) -> float:
        found = self.q(steps.features[split:]) - self._goals(steps)[split:]
        return float((found**2).mean())

    def _regress(self, features: Tensor, goal: Tensor) -> None:
        for _ in range(self.passes):
            order = torch.randperm(len(goal), generator=self.generator)
            for rows in torch.split(order, self.batch):
                self.optimiser.zero_grad()
                torch.autograd.backward(F.mse_loss(self.q(features[rows]), goal[rows]))
                self.optimiser.step()

    @torch.no_grad()
    def value(self, steps: Transitions) -> float:
        """Mean over first states of what the network says of the policy's choice."""
        return float((self.q(steps.starts) * steps.start_chances).sum(1).mean())

    def result(
        self, steps: Transitions, reward_range: tuple[float, float] | None = None
    ) -> tuple[Estimate, Convergence]:
        """Fit, and the value of a session without interval, with the convergence report.

        Args:
            steps: what to fit.
            reward_range: (least, most) a session can earn; a value outside is flagged.

        Raises:
            Refused: `empty_log`.
        """
        report = self.fit(steps)
        return valued_by_model(self.value(steps), len(steps.starts), report, reward_range), report
