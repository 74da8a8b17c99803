"""Which parts of which agent a supervised teacher can fill, before the agent learns by itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn

from agents.a2c import A2C
from agents.deers import DEERS
from agents.deers_nets import Recurrent
from agents.dqn import DQN
from agents.drn import DRN
from agents.lird import LIRD
from agents.supervised import Supervised
from streamrec.encoders.gru4rec import GRU4Rec
from streamrec.models.next_item import NextItem
from streamrec.nn.optimiser import Optimiser
from streamrec.nn.values import Dense, Values
from streamrec.ports import Agent
from streamrec.records import History
from streamrec.warmstart import (
    BadHandOver,
    Line,
    Scores,
    Witness,
    absences,
    calibrate,
    candidate_recall,
    check_policy,
    check_values,
    clone,
    copy_items,
    copy_module,
    halves,
    regress,
    return_loss,
    same_lists,
)

Part = str
"""One of "items", "encoder", "candidates", "q", "actor", "activeness"."""

PARTS: dict[type, tuple[Part, ...]] = {
    DQN: ("items", "encoder", "candidates", "q"),
    DEERS: ("items", "encoder", "candidates", "q"),
    A2C: ("items", "encoder", "candidates", "actor"),
    LIRD: ("items", "actor"),
    DRN: ("items", "activeness"),
}
"""What each agent can take over."""

Figures = dict[str, dict[str, float]]


class HandOver:
    """Hands a teacher's knowledge to an agent, in the order of `parts`, and checks each part.

    * "items": the table of item vectors is copied. Nearest neighbours are then the same.
    * "encoder": the weights that make a state of a history are copied. DQN, A2C: the whole encoder, which must be made
      as the teacher's is. DEERS: its GRU over what was taken; the one over skips starts as a copy of it. With DQN the
      head is set so that values are the teacher's scores: its greedy list is the teacher's.
    * "candidates": the agent that proposes candidates sees the log. Its recall of logged clicks is reported.
    * "q": values become the regression of logged returns on the teacher's scores. DQN: exactly, by its head, and items
      that the log never shows lose `pessimism` standard deviations. DEERS: by gradient steps.
    * "actor": softmax of the policy's scores becomes that of the teacher's scores over `temperature`, by gradient
      steps. LIRD: in every slot.
    * "activeness": DRN's hazard becomes one over the mean absence in the log, and its gain what brings the start back
      to itself after that long, as the paper's numbers do for 24 hours. Absences of users who were not counted must be
      likelier so than under the numbers it had.

    The agent's target networks follow. Optimisers start anew and nothing is frozen at first: in one seed of
    `streamrec.bench.warmstart`, a table that moved slowly because it took over the teacher's sums of squares was no
    better.

    Args:
        parts: what to hand over; None = all that the agent can take.
        pessimism: see "q".
        temperature: see "actor".
        steps: gradient steps where any are needed.
        seed: of what is drawn for them.

    Raises:
        ValueError: a setting out of its range.
    """

    def __init__(
        self,
        parts: Sequence[Part] | None = None,
        pessimism: float = 1.0,
        temperature: float = 1.0,
        steps: int = 600,
        seed: int = 0,
    ) -> None:
        known = {part for parts in PARTS.values() for part in parts}
        if parts is not None and (unknown := set(parts) - known):
            raise ValueError(f"parts must be among {sorted(known)}, got {sorted(unknown)}")
        if pessimism < 0 or temperature <= 0 or steps < 1:
            raise ValueError(
                "pessimism must be at least 0, temperature above 0 and steps at least 1, got "
                f"{pessimism}, {temperature} and {steps}"
            )
        self.parts, self.pessimism, self.temperature, self.steps = parts, pessimism, temperature, steps
        self.seed = seed

    def __call__(self, student: Agent, witness: Witness) -> Figures:
        """Hand over to `student` what the teacher of `witness` knows. Returns the figures of the checks, by part.

        Raises:
            BadHandOver: the agent cannot take a part, the two do not fit, or a check failed.
        """
        able = next((parts for kind, parts in PARTS.items() if isinstance(student, kind)), ())
        wanted = able if self.parts is None else tuple(self.parts)
        for part in wanted:
            if part not in able:
                raise BadHandOver(
                    f"{type(student).__name__} cannot take {part!r} from a teacher; it takes {list(able)}"
                )
        visit = _Visit(student, witness, self, Generator(student_device(student)).manual_seed(self.seed))
        found = {part: getattr(visit, f"hand_{part}")() for part in wanted}
        visit.settle()
        return found


def student_device(student: Agent) -> torch.device:
    """Where the weights of an agent live."""
    device: torch.device = getattr(student, "device", torch.device("cpu"))
    return device


class _Visit:
    """One hand-over: what is needed by more than one part of it."""

    def __init__(self, student: Any, witness: Witness, plan: HandOver, generator: Generator) -> None:
        if not isinstance(witness.teacher, Supervised) or not isinstance(witness.teacher.model, NextItem):
            raise BadHandOver("the teacher must be an agents.supervised.Supervised with a model NextItem")
        self.student, self.witness, self.plan, self.generator = student, witness, plan, generator
        self.teacher, self.model = witness.teacher, witness.teacher.model
        self.lesson, self.held = halves(witness.lesson())
        self.catalog = self.teacher.catalog
        rows = torch.nonzero(self.catalog.available[: self.catalog.size]).squeeze(1)
        self.items = rows.to(self.lesson.slate.device)
        shown = torch.bincount(self.lesson.slate.flatten(), minlength=self.catalog.size)
        self.known = self.items[shown[self.items] > 0]  # that the log shows

    @torch.no_grad()
    def scores(self, history: History, items: Tensor) -> Tensor:
        """The teacher's."""
        return self.model.score(history, items)

    # --- the parts -----------------------------------------------------------------------------------------------

    def hand_items(self) -> dict[str, float]:
        return copy_items(self.model.encoder.items.weight, _table(self.student), self.catalog.size)

    def hand_encoder(self) -> dict[str, float]:
        if isinstance(self.student, DEERS):
            return self._hand_gru(self.student)
        net = self.student.online if isinstance(self.student, DQN) else self.student.net
        if net.inputs.encoder is None:
            raise BadHandOver("the agent has no encoder to fill: build it with encoder = {use = ...}")
        theirs, mine = self.model.encoder, net.inputs.encoder
        assert isinstance(theirs, nn.Module)
        assert isinstance(mine, nn.Module)
        copy_module(theirs, mine, "encoder")
        if not isinstance(self.student, DQN):
            return {"copied": 1.0}
        set_line(net, self.model.bias, Line(1.0, 0.0, 1.0, 0.0))
        same = same_lists(self.scores, self._values(), self.held, self.items, self.student.slate)
        if same < 1.0:
            raise BadHandOver(f"greedy lists must be the teacher's, got {same:.1%} that are")
        return {"same_lists": same}

    def _hand_gru(self, student: DEERS) -> dict[str, float]:
        encoder, net = self.model.encoder, student.online
        if not isinstance(encoder, GRU4Rec) or not isinstance(net.taken, Recurrent):
            raise BadHandOver(
                "DEERS takes the GRU of a GRU4Rec: give the teacher that encoder, and leave `recurrent` on"
            )
        layer = encoder.layers[0].state_dict()
        streams = [net.taken, *([net.skipped] if isinstance(net.skipped, Recurrent) else [])]
        for stream in streams:
            shapes = {name: value.shape for name, value in stream.state_dict().items()}
            if len(encoder.layers) != 1 or shapes != {name: value.shape for name, value in layer.items()}:
                raise BadHandOver(
                    f"one GRU layer with hidden = dim = {encoder.dim} is needed at the agent and the teacher"
                )
            stream.load_state_dict(layer)
        few = self.held.history[:64]
        window = few.items[:, -student.length :]
        with torch.no_grad():
            mine = net.taken(window, net.items)
        return {"state_width": float(mine.shape[1]), "finite": float(torch.isfinite(mine).all())}

    def hand_candidates(self) -> dict[str, float]:
        proposes = self.student.candidates
        if proposes is None:
            return {"recall": 1.0}
        memory = self.witness.memory
        numbers = torch.arange(memory.added - len(memory), memory.added, device=memory.device)
        for part in torch.split(numbers, 4096):
            proposes.observe(memory.at(part).first)
        for _ in range(self.plan.steps):
            if not proposes.update():
                break
        return {"recall": candidate_recall(proposes, self.held)}

    def hand_q(self) -> dict[str, float]:
        line = calibrate(self.scores, self.lesson)
        values = self._values()
        found = {"slope": line.slope, "level": line.level}
        if isinstance(self.student, DQN):
            set_line(self.student.online, self.model.bias, line, self._usual())
        else:
            descend = _descend(self.student)
            found["error"] = regress(
                values, descend, self.scores, line, self.lesson, self.items, self.generator, self.plan.steps
            )
        found |= check_values(values, self.scores, self.lesson, self.held, self.known)
        if isinstance(self.student, DQN):
            self._doubt(line)
        return found

    def _values(self) -> Scores:
        """Q(s, i) of the online network; advantages, where there are any, are centred over all items."""
        net, everything = self.student.online, self.items.unsqueeze(0)

        def values(history: History, items: Tensor) -> Tensor:
            if not getattr(net, "dueling", False):
                plain: Tensor = net(history, items)
                return plain
            wide = everything.expand(len(items), -1)
            out: Tensor = net(history, items, among=(wide, torch.ones_like(wide, dtype=torch.bool)))
            return out

        return values

    def _usual(self) -> float:
        """Mean score of all items after the logged histories."""
        few = self.lesson[:: max(len(self.lesson) // 512, 1)].history
        return float(self.scores(few, self.items.expand(len(few), -1)).mean())

    @torch.no_grad()
    def _doubt(self, line: Line) -> None:
        """What the log never shows is worth less than it looks."""
        unknown = torch.ones(self.catalog.size, dtype=torch.bool, device=self.items.device)
        unknown[self.known], unknown[0] = False, False
        few = self.held.history[:256]
        spread = line.slope * float(self.scores(few, self.known.expand(len(few), -1)).std())
        self.student.online.bias[: self.catalog.size][unknown] -= self.plan.pessimism * spread

    def hand_actor(self) -> dict[str, float]:
        slots, heat = _logits_of(self.student), self.plan.temperature
        descend = _descend(self.student)
        clone(slots, descend, self.scores, self.lesson, self.items, self.generator, heat, self.plan.steps)
        return check_policy(slots, self.scores, self.held, self.items, heat)

    def hand_activeness(self) -> dict[str, float]:
        mine = self.student.activeness
        taught, held = (absences(part, mine.away_s) for part in (self.lesson, self.held))
        if not len(taught) or not len(held):
            raise BadHandOver(f"the log has no absences of more than {mine.away_s:g} s to learn from")
        hazard = 1.0 / float(taught.mean())
        found = {"loss": return_loss(held, hazard), "loss_before": return_loss(held, mine.decay), "hazard": hazard}
        if found["loss"] > found["loss_before"]:
            raise BadHandOver(f"absences must be likelier than before, got {found}")
        mine.decay, mine.gain = hazard, mine.start * (1.0 - math.exp(-1.0))
        return found

    # --- afterwards ----------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Target networks become what the online ones are; whoever has none has nothing to do."""
        state = self.student.state_dict()
        if "target" in state and "online" in state:
            online = state["online"]
            target = {name: online[name][: len(value)].clone() for name, value in state["target"].items()}
            self.student.load_state_dict({**state, "target": target})
        if "networks" in state and "later_actor" in state["networks"]:
            networks = dict(state["networks"])
            actor = {name[len("actor.") :]: x for name, x in networks["net"].items() if name.startswith("actor.")}
            networks["later_actor"] = {name: value.clone() for name, value in actor.items()}
            self.student.load_state_dict({**state, "networks": networks})


@torch.no_grad()
def set_line(values: Values, bias: Tensor, line: Line, usual: float = 0.0) -> None:
    """Make `values` exactly slope * (<s, e_i> + b_i) + level, with two hidden units: relu(x) - relu(-x) = x.

    The other units keep their weights and have no say until they are trained. A dueling head has these as advantages,
    and the value of every state is what the line says of the score `usual`.

    Args:
        values: the head; contexts and features are not read at first.
        bias: [N + 1, 1], b of the teacher.
        line: slope and level.
        usual: mean score of what could be shown.

    Raises:
        BadHandOver: the head has fewer than two hidden units, or there is no encoder.
    """
    encoder = values.inputs.encoder
    if encoder is None or len(values.both) < 2:
        raise BadHandOver("a head takes over scores if it has an encoder and at least two hidden units")
    for weight in (values.state, values.item, values.both):
        weight[:2] = 0.0
    values.both[0, : encoder.dim], values.both[1, : encoder.dim] = 1.0, -1.0
    values.shift[:2] = 0.0
    values.out.zero_()
    values.out[0, 0], values.out[0, 1] = line.slope, -line.slope
    if values.fit is not None:
        values.fit[: encoder.dim] = 0.0
        values.fit[: encoder.dim, : encoder.dim] = torch.eye(encoder.dim, device=values.fit.device)
    values.level.fill_(line.level)
    values.bias.copy_(line.slope * bias)
    if values.dueling:
        last = values.worth[2]
        assert isinstance(last, Dense)
        last.weight.zero_()
        last.bias.fill_(line.slope * usual + line.level)


def _table(student: Any) -> Tensor:
    """[N + 1, D], the parameter that holds the item vectors."""
    ends = ("items.weight", "table.weight")
    found: list[Tensor] = [p for name, p in _adagrad(student).parameters.items() if name.endswith(ends)]
    if len(found) != 1:
        raise BadHandOver(f"{type(student).__name__} has {len(found)} tables of item vectors, expected one")
    return found[0]


def _adagrad(student: Any) -> Any:
    optimiser = getattr(student, "optimiser", None)
    if isinstance(optimiser, Optimiser):
        return optimiser.tables
    if isinstance(student, LIRD):
        return student.for_actor.tables
    return student.tables


def _descend(student: Any) -> Any:
    return student.for_actor.descend if isinstance(student, LIRD) else student.optimiser.descend


def _logits_of(student: Any) -> list[Scores]:
    """What the policy draws from, or orders items by: one for all slots, or one per slot."""

    def of_net(history: History, items: Tensor) -> Tensor:
        out: Tensor = student.net.logits(student.net.state(history), items)
        return out

    def of_slot(slot: int) -> Scores:
        def scores(history: History, items: Tensor) -> Tensor:
            weights = student.net.weights(student.net.state(history), student.slate)[:, slot]
            out: Tensor = torch.einsum("bi,bci->bc", weights, student.net.vectors(items)) / student.temperature
            return out

        return scores

    return [of_slot(slot) for slot in range(student.slate)] if isinstance(student, LIRD) else [of_net]
