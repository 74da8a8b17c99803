"""What an agent can take over from a supervised teacher before it learns by itself, and the check each part must pass.

Nothing here knows an agent: parts of networks are copied and compared, values and policies are functions. Which part of
which agent goes where is said by `agents.warmstart`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from streamrec.memory import Replay
from streamrec.ports import Agent, State
from streamrec.records import Decision, History, Rows, Transition

Scores = Callable[[History, Tensor], Tensor]
"""(history [B], items [B, C]) -> [B, C]: a teacher, the values or the logits of an agent."""

Descend = Callable[[Tensor], None]
"""One optimiser step down the gradient of a scalar loss."""

NEIGHBOURS = 10
"""Nearest neighbours of an item that are compared."""


class BadHandOver(ValueError):
    """A part was handed over and does not do in its new place what it did in the old one."""


@dataclass
class Lesson(Rows):
    """Logged decisions whose outcome is known to the end."""

    history: History
    slate: Tensor  # [B, K] int64, what was shown, 0 = empty slot
    clicked: Tensor  # [B, K] bool
    reward: Tensor  # [B, K] float32, per slot
    returns: Tensor  # [B, K] float32: reward of the slot and an equal part of the discounted rewards that followed


class Witness:
    """A teacher who learns while somebody else decides, and what was decided, kept for later lessons.

    Args:
        teacher: learns from every transition.
        actor: decides; None = the teacher.
        size: newest transitions kept.
        gamma: discount per decision of the returns in a `lesson`.
        n_step: decisions after which the rest of a return is left out; 0 = until 95 % of its weight has passed.
        device: where they are kept.
    """

    def __init__(
        self,
        teacher: Agent,
        actor: Agent | None = None,
        size: int = 50_000,
        gamma: float = 0.9,
        n_step: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.teacher, self.actor = teacher, actor or teacher
        self.memory = Replay(size, n_step or steps_of(gamma), gamma, None, device)

    def act(self, history: History) -> Decision:
        return self.actor.act(history)

    def observe(self, transition: Transition) -> None:
        self.memory.add(transition)
        self.teacher.observe(transition)

    def update(self) -> dict[str, float]:
        return self.teacher.update()

    def lesson(self) -> Lesson:
        """The decisions kept whose returns are complete: the visit ended, or `n_step` decisions followed.

        Raises:
            BadHandOver: there is none; the log is too short.
        """
        memory = self.memory
        if len(memory) == 0:
            raise BadHandOver("the log holds no decision: nothing can be learned from it")
        numbers = torch.arange(memory.added - len(memory), memory.added, device=memory.device)
        sample = memory.at(numbers)
        whole = (sample.steps == memory.n_step) | (sample.discount == 0.0)
        if not bool(whole.any()):
            raise BadHandOver(f"no user of the log makes {memory.n_step} decisions; lower gamma or n_step")
        sample = sample[whole]
        first = sample.first
        filled = first.shown.slate != 0
        # What is cut off is taken to go on as it went so far.
        kept = (1.0 - sample.discount).clamp(min=0.05) if memory.gamma < 1.0 else torch.ones_like(sample.discount)
        total = first.reward + sample.later
        later = torch.where(sample.discount > 0, total / kept, total) - first.reward
        share = later / filled.sum(1).clamp(min=1)
        returns = torch.where(filled, first.rewards + share.unsqueeze(1), 0.0)
        return Lesson(first.history, first.shown.slate, first.clicked() & filled, first.rewards, returns)

    def state_dict(self) -> State:
        acts = {} if self.actor is self.teacher else self.actor.state_dict()
        return {"teacher": self.teacher.state_dict(), "actor": acts, "memory": self.memory.state_dict()}

    def load_state_dict(self, state: State) -> None:
        self.teacher.load_state_dict(state["teacher"])
        if self.actor is not self.teacher:
            self.actor.load_state_dict(state["actor"])
        self.memory.load_state_dict(state["memory"])


def steps_of(gamma: float) -> int:
    """Decisions in which 95 % of the weight of a discounted return lies; at most 50."""
    return 1 if gamma <= 0.0 else 50 if gamma >= 1.0 else min(50, max(1, math.ceil(math.log(0.05) / math.log(gamma))))


# --- item vectors --------------------------------------------------------------------------------------------------


@torch.no_grad()
def copy_items(teacher: Tensor, mine: Tensor, rows: int) -> dict[str, float]:
    """Copy the vectors of the first `rows` catalogue rows, [N + 1, D] both. Items to come keep their small vectors.

    Returns:
        `neighbour_overlap`: share of the nearest neighbours of an item (cosine) that are still the same; must be 1.

    Raises:
        BadHandOver: tables of different width, or a check that fails.
    """
    if teacher.shape != mine.shape:
        raise BadHandOver(
            f"item vectors are {tuple(teacher.shape)} at the teacher and {tuple(mine.shape)} at the agent: give both "
            "the same dim"
        )
    mine[:rows] = teacher[:rows].to(mine.device)
    overlap = neighbour_overlap(teacher[1:rows], mine[1:rows])
    if overlap < 1.0 or not bool(torch.isfinite(mine).all()):
        raise BadHandOver(f"copied item vectors must be finite and keep all neighbours, got an overlap of {overlap}")
    return {"neighbour_overlap": overlap}


def neighbour_overlap(one: Tensor, other: Tensor, at_once: int = 1024) -> float:
    """Mean share of the `NEIGHBOURS` nearest items (cosine) that two tables [n, .] of the same items agree on."""
    k = min(NEIGHBOURS, len(one) // 2)  # of few items, all would be neighbours
    if k < 1:
        return 1.0
    tables = [F.normalize(table.detach().float().cpu(), dim=1) for table in (one, other)]
    agreed = 0.0
    for start in range(0, len(one), at_once):
        rows = torch.arange(start, min(start + at_once, len(one)))
        near = []
        for table in tables:
            cosine = table[rows] @ table.T
            cosine[torch.arange(len(rows)), rows] = -torch.inf
            near.append(cosine.topk(k, dim=1).indices)
        agreed += float((near[0].unsqueeze(2) == near[1].unsqueeze(1)).any(2).double().sum())
    return agreed / (len(one) * k)


# --- encoder -------------------------------------------------------------------------------------------------------


def copy_module(teacher: nn.Module, mine: nn.Module, what: str) -> None:
    """Copy all weights.

    Raises:
        BadHandOver: the two are not of the same make.
    """
    theirs, ours = _weights(teacher), _weights(mine)
    shapes = [{name: tuple(value.shape) for name, value in state.items()} for state in (theirs, ours)]
    if type(teacher) is not type(mine) or shapes[0] != shapes[1]:
        raise BadHandOver(
            f"the {what} of the teacher is a {type(teacher).__name__}, that of the agent a {type(mine).__name__}, or "
            "their widths differ: build both with the same keywords"
        )
    mine.load_state_dict(theirs, strict=False)


def _weights(module: nn.Module) -> dict[str, Tensor]:
    """What can be handed over: not the states of users that an encoder carries."""
    return {name: x for name, x in module.state_dict().items() if not name.endswith("_extra_state")}


@torch.no_grad()
def same_lists(teacher: Scores, mine: Scores, lesson: Lesson, items: Tensor, slate: int, rows: int = 512) -> float:
    """Share of the users to whom the agent would show what the teacher would, were both greedy; 1 = all.

    Args:
        teacher: its scores.
        mine: values or logits of the agent.
        lesson: whose histories are asked about.
        items: [C] catalogue rows to choose from.
        slate: K.
        rows: histories asked about, at most.
    """
    few = lesson[:: max(len(lesson) // rows, 1)].history
    wide = items.expand(len(few), -1)
    theirs, ours = teacher(few, wide), mine(few, wide)
    k = min(slate, len(items))
    best, chosen = theirs.topk(k, dim=1).values, theirs.gather(1, ours.topk(k, dim=1).indices)
    # Equal scores may come in any order, and the last bits of a sum depend on how it is written.
    near = (best - chosen.sort(1, descending=True).values).abs() <= 1e-4 * theirs.std(1, keepdim=True).clamp(min=1e-6)
    return float(near.all(1).double().mean())


# --- candidates ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def candidate_recall(candidates: Agent, lesson: Lesson, rows: int = 2048) -> float:
    """Share of the logged clicks that are among what `candidates` proposes to the same histories. 1 = all."""
    few = lesson[:: max(len(lesson) // rows, 1)]
    proposed = candidates.act(few.history).slate
    found = (few.slate.unsqueeze(2) == proposed.unsqueeze(1)).any(2)
    return float((found & few.clicked).sum() / few.clicked.sum().clamp(min=1))


# --- values --------------------------------------------------------------------------------------------------------


@dataclass
class Line:
    """value = slope * score + level, and the probability of a click is sigmoid(odds_slope * score + odds)."""

    slope: float
    level: float
    odds_slope: float
    odds: float


@torch.no_grad()
def calibrate(teacher: Scores, lesson: Lesson, batch: int = 4096) -> Line:
    """How the returns of logged pairs follow from the teacher's scores of them.

    The probability of a click is Platt's (1999). The value is the regression line of the returns on the scores, over
    shown items only: monotone, so the order of the teacher is kept, and its mean is that of the returns.

    Raises:
        BadHandOver: returns do not rise with the scores: the teacher knows nothing that a value could be made of.
    """
    parts = [lesson[start : start + batch] for start in range(0, len(lesson), batch)]
    shown = [part.slate != 0 for part in parts]
    score = torch.cat([teacher(p.history, p.slate)[s] for p, s in zip(parts, shown, strict=True)]).double()
    returns = torch.cat([p.returns[s] for p, s in zip(parts, shown, strict=True)]).double()
    clicked = torch.cat([p.clicked[s] for p, s in zip(parts, shown, strict=True)]).double()
    centre, width = score.mean(), score.std().clamp(min=1e-9)
    z = (score - centre) / width
    slope = float((z * (returns - returns.mean())).mean() / (z * z).mean())
    if not slope > 0.0:
        raise BadHandOver(f"logged returns do not rise with the teacher's scores (slope {slope:.3g}): train it longer")
    odds = _platt(z, clicked)
    width_, centre_ = float(width), float(centre)
    return Line(
        slope / width_,
        float(returns.mean()) - slope * centre_ / width_,
        float(odds[1]) / width_,
        float(odds[0]) - float(odds[1]) * centre_ / width_,
    )


def _platt(z: Tensor, clicked: Tensor) -> Tensor:
    """Weights [2] of 1 and z in the log-odds of a click, by Newton's method."""
    features = torch.stack([torch.ones_like(z), z], 1)
    weights = torch.zeros(2, dtype=z.dtype, device=z.device)
    ridge = 1e-3 * torch.eye(2, dtype=z.dtype, device=z.device)
    for _ in range(30):
        p = torch.sigmoid(features @ weights)
        curvature = features.T @ (features * (p * (1 - p)).unsqueeze(1)) + ridge
        weights = weights - torch.linalg.solve(curvature, features.T @ (p - clicked) + ridge @ weights)
    return weights


def regress(
    values: Scores,
    descend: Descend,
    teacher: Scores,
    line: Line,
    lesson: Lesson,
    items: Tensor,
    generator: Generator,
    steps: int = 400,
    batch: int = 128,
    pairs: int = 24,
) -> float:
    """Let `values` become slope * score + level, by gradient steps, for agents whose heads cannot be set to that.

    A step takes `batch` logged histories, and of each the shown items and `pairs` others.

    Returns:
        mean squared error of the last tenth of the steps, in units of the variance of the target.
    """
    errors, spread = [], []
    for _ in range(steps):
        some = _drawn(lesson, batch, generator)
        wide = torch.cat([some.slate, _others(items, len(some), pairs, generator)], dim=1)
        with torch.no_grad():
            target = line.slope * teacher(some.history, wide) + line.level
        error = torch.where(wide != 0, values(some.history, wide) - target, 0.0)
        descend(error.square().mean())
        errors.append(float(error.detach().square().mean()))
        spread.append(float(target[wide != 0].var()))
    last = max(steps // 10, 1)
    return sum(errors[-last:]) / max(sum(spread[-last:]), 1e-12)


@torch.no_grad()
def check_values(
    values: Scores, teacher: Scores, lesson: Lesson, held: Lesson, items: Tensor, rows: int = 512, batch: int = 4096
) -> dict[str, float]:
    """Whether values order items as the teacher does and are as large as what was earned.

    Args:
        values: of the agent.
        teacher: its scores.
        lesson: the whole of it: means of few users differ by more than what is allowed.
        held: the histories on which the order is checked.
        items: [C] ordered.
        rows: histories among these, at most.
        batch: decisions valued at a time.

    Returns:
        `rank_correlation`: Spearman's within a user, mean over users, must be at least .95; `mean_value` of the shown
        items and `mean_return` of them in the log, which must differ by at most 10 %.

    Raises:
        BadHandOver: one of them fails.
    """
    few = held[:: max(len(held) // rows, 1)]
    wide = items.expand(len(few), -1)
    correlation = spearman(teacher(few.history, wide), values(few.history, wide))
    shown = lesson.slate != 0
    parts = [lesson[start : start + batch] for start in range(0, len(lesson), batch)]
    value = float(torch.cat([values(part.history, part.slate) for part in parts])[shown].mean())
    earned = float(lesson.returns[shown].mean())
    found = {"rank_correlation": correlation, "mean_value": value, "mean_return": earned}
    if correlation < 0.95:
        raise BadHandOver(f"values must order items as the teacher does, by at least .95, got {correlation:.3f}")
    if abs(value - earned) > 0.1 * abs(earned):
        raise BadHandOver(
            f"values of shown items must be within 10 % of what was earned, {earned:.4g}, got {value:.4g}"
        )
    return found


def spearman(one: Tensor, other: Tensor) -> float:
    """Mean over the rows of Spearman's rank correlation of [B, C] and [B, C]."""
    ranks = [x.argsort(1).argsort(1).double() for x in (one, other)]
    a, b = (rank - rank.mean(1, keepdim=True) for rank in ranks)
    return float(((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)).clamp(min=1e-12)).mean())


# --- policies ------------------------------------------------------------------------------------------------------


def clone(
    slots: Sequence[Scores],
    descend: Descend,
    teacher: Scores,
    lesson: Lesson,
    items: Tensor,
    generator: Generator,
    temperature: float = 1.0,
    steps: int = 400,
    batch: int = 128,
    pairs: int = 64,
) -> None:
    """Let softmax(logits) become softmax(teacher / temperature) on logged histories, by gradient steps on KL.

    A step takes `batch` histories and `pairs` items for each. `slots` are the logits of a policy: one for all slots, or
    one for each.
    """
    for _ in range(steps):
        some = _drawn(lesson, batch, generator)
        wide = _others(items, len(some), pairs, generator)
        descend(_divergence(slots, teacher, some.history, wide, temperature).mean())


@torch.no_grad()
def check_policy(
    slots: Sequence[Scores], teacher: Scores, lesson: Lesson, items: Tensor, temperature: float = 1.0, rows: int = 512
) -> dict[str, float]:
    """How far the policy is from the teacher on histories it was not taught on.

    Returns:
        `kl`: KL(teacher, agent) over `items`, mean over histories and slots; `kl_uniform`: that of a policy that knows
        nothing. The first must be at most a tenth of the second.

    Raises:
        BadHandOver: it is not.
    """
    few = lesson[:: max(len(lesson) // rows, 1)].history
    wide = items.expand(len(few), -1)
    kl = float(_divergence(slots, teacher, few, wide, temperature).mean())
    uniform = float(_divergence([_nothing], teacher, few, wide, temperature).mean())
    if kl > 0.1 * uniform:
        raise BadHandOver(f"the cloned policy must be within a tenth of uniform's KL of {uniform:.3g}, got {kl:.3g}")
    return {"kl": kl, "kl_uniform": uniform}


def _nothing(history: History, items: Tensor) -> Tensor:
    return torch.zeros(items.shape, device=items.device)


def _divergence(
    slots: Sequence[Scores], teacher: Scores, history: History, items: Tensor, temperature: float
) -> Tensor:
    """KL(teacher, agent) of each row, mean over the slots, [B]."""
    with torch.no_grad():
        theirs = F.log_softmax(teacher(history, items) / temperature, dim=1)
    ours = torch.stack([F.log_softmax(logits(history, items), dim=1) for logits in slots], 1)
    each: Tensor = (theirs.exp().unsqueeze(1) * (theirs.unsqueeze(1) - ours)).sum(2).mean(1)
    return each


# --- activeness ----------------------------------------------------------------------------------------------------


def absences(lesson: Lesson, away_s: float) -> Tensor:
    """Seconds between two decisions of a user where they are more than `away_s`: [A] float64."""
    time, user = lesson.history.time, lesson.history.key
    order = torch.argsort(time, stable=True)
    order = order[torch.argsort(user[order], stable=True)]
    pause = time[order][1:] - time[order][:-1]
    same = user[order][1:] == user[order][:-1]
    return pause[same & (pause > away_s)]


def return_loss(seconds: Tensor, hazard: float) -> float:
    """Mean negative log-likelihood of absences [A] under a constant hazard per second."""
    return float(hazard * seconds.mean() - math.log(hazard))


# --- lessons -------------------------------------------------------------------------------------------------------


def halves(lesson: Lesson) -> tuple[Lesson, Lesson]:
    """Nine tenths of the users to teach, one tenth to check, told apart by their keys.

    Raises:
        BadHandOver: one part is empty.
    """
    held = lesson.history.key % 10 == 0
    if not bool(held.any()) or bool(held.all()):
        raise BadHandOver("the log has too few users to teach some and to check others")
    return lesson[~held], lesson[held]


def _drawn(lesson: Lesson, batch: int, generator: Generator) -> Lesson:
    at = torch.randint(len(lesson), (batch,), generator=generator, device=generator.device)
    return lesson[at.to(lesson.slate.device)]


def _others(items: Tensor, rows: int, pairs: int, generator: Generator) -> Tensor:
    """[rows, pairs] of `items` [C] at random; all of them, where there are no more."""
    if len(items) <= pairs:
        return items.expand(rows, -1)
    at = torch.randint(len(items), (rows, pairs), generator=generator, device=generator.device)
    return items[at.to(items.device)]
