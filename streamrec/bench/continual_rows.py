"""The rows of `streamrec bench continual`: how a model with weights, one that counts, or a blend takes in a period."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor

from streamrec import checkpoint
from streamrec.bench.continual_table import Runs
from streamrec.build import BadSpec, build
from streamrec.data.sequences import Sequences
from streamrec.evaluation.next_item import evaluate
from streamrec.ports import State

ADAM = {"use": "streamrec.nn.adam.Adam", "learning_rate": 5e-4, "beta2": 0.999}
"""What ADER was trained with."""


def learner_of(row: str, runs: Runs, device: torch.device) -> Counted | Blended | Trained:
    settings = runs.table["rows"][row]
    if "model" not in settings:
        raise BadSpec(f"rows.{row} needs a model")
    if "blend" in settings:
        return Blended(row, runs, device)
    catalog = runs.clicks.catalog(0, device)
    context = {"catalog": catalog, "seed": runs.seed, "device": device}
    model = build(copy.deepcopy(settings["model"]), context, f"rows.{row}.model")
    return Trained(row, runs, model, context) if hasattr(model, "loss") else Counted(runs, model, context)


class Counted:
    """A model that is told of new sequences and has nothing to train, such as neighbours."""

    def __init__(self, runs: Runs, model: Any, context: dict[str, Any]) -> None:
        self.runs, self.model = runs, model
        self.catalog, self.device = context["catalog"], context["device"]

    def learn(self, t: int) -> int:
        self.runs.clicks.grow(self.catalog, t)
        clicks = self.runs.clicks.train(t).to(self.device)
        self.model.append(clicks.items, clicks.starts)
        return 0


class Blended:
    """Other rows as one model: those with weights as they were at the end of each period, the others told again."""

    def __init__(self, row: str, runs: Runs, device: torch.device) -> None:
        self.row, self.runs = row, runs
        settings = runs.table["rows"][row]
        self.names = settings["blend"]
        self.members = {keyword: learner_of(name, runs, device) for keyword, name in self.names.items()}
        context = {keyword: member.model for keyword, member in self.members.items()}
        self.model: Any = build(copy.deepcopy(settings["model"]), context, f"rows.{row}.model")

    def learn(self, t: int) -> int:
        for keyword, member in self.members.items():
            if not isinstance(member, Trained):
                member.learn(t)
                continue
            path = self.runs.weights(self.names[keyword], t)
            if not path.exists():
                raise BadSpec(f"rows.{self.row} is made of {self.names[keyword]}: run that one before it")
            member.recall(path, t)
        return 0


class Trained:
    """A model with weights, and what was remembered of the periods before.

    Departures from the protocol's authors (doublemul/ADER): whole sequences stand for their prefixes where `whole` is
    set; a share of the sequences rather than of the prefixes is kept for validation, and with `refit` learned at its
    end, so that no click goes unlearned; `later` and `average` are ours.
    """

    def __init__(self, row: str, runs: Runs, model: Any, context: dict[str, Any]) -> None:
        self.row, self.runs, self.context = row, runs, context
        self.model, self.catalog, self.device = model, context["catalog"], context["device"]
        settings = runs.table["rows"][row]
        self.everything, self.warm = settings.get("data") == "all", settings.get("warm", True)
        self.training = runs.training(row)
        self.model.to(self.device)
        self.optimiser = self._optimiser()
        self.learning_rate = self.optimiser.learning_rate
        self.schedule: Any = None
        if "schedule" in settings:
            self.schedule = build(copy.deepcopy(settings["schedule"]), context, f"rows.{row}.schedule")
        self.generator = Generator().manual_seed(runs.seed)
        self.learned = -1  # the last period that was learned

    def _optimiser(self) -> Any:
        settings = self.runs.table["rows"][self.row].get("optimiser", ADAM)
        context = {**self.context, "parameters": list(self.model.named_parameters())}
        return build(copy.deepcopy(settings), context, f"rows.{self.row}.optimiser")

    def learn(self, t: int) -> int:
        """Train on period t; nothing if that was done before. Returns the epochs."""
        if t <= self.learned:
            return 0
        self.runs.clicks.grow(self.catalog, t)
        if not self.warm and t:
            self._start_over(t)
        elif t:
            self.optimiser.learning_rate = self.learning_rate * self.training.later
        epochs = self._fit(self.runs.clicks.train(t, self.everything))
        if self.schedule is not None:
            self.schedule.end_period(self.model)
        self.learned = t
        self._save()
        return epochs

    def _start_over(self, t: int) -> None:
        """New weights and draws of their own: such a period is what it is without the ones before it."""
        self.generator.manual_seed(self.runs.seed + t)
        fresh = build(copy.deepcopy(self.runs.table["rows"][self.row]["model"]), self.context, f"rows.{self.row}.model")
        self.model.load_state_dict(fresh.state_dict())
        self.optimiser = self._optimiser()

    # --- training ------------------------------------------------------------------------------------------------

    def _fit(self, clicks: Sequences) -> int:
        """Epochs until the held-out sequences are ranked no better; the best weights stay and learn from those too."""
        if self.schedule is not None:
            history, target = clicks.prefixes(*clicks.clicks(), self.runs.length)
            self.schedule.add(self.model, history.to(self.device), target.to(self.device))
        held = torch.rand(len(clicks), generator=self.generator) < self.training.validation
        train, valid = clicks.select(~held).to(self.device), clicks.select(held)
        best, best_state, waited, epochs = -1.0, self._weights(), 0, 0
        mean: State = {}
        while epochs < self.training.epochs and waited < self.training.patience:
            self._epoch(train)
            epochs += 1
            last = self._weights()
            mean = self._average(mean, last["model"])
            self.model.load_state_dict(mean)
            recall = evaluate(self.model, valid, (20,), self.device, self.runs.length)["recall20"]
            self.model.load_state_dict(last["model"])
            waited = 0 if recall > best else waited + 1
            if recall > best:
                best, best_state = recall, {**last, "model": mean}
        self.model.load_state_dict(best_state["model"])
        self.optimiser.load_state_dict(best_state["optimiser"])
        for _ in range(self.training.refit):
            self._epoch(valid.to(self.device))
        return epochs

    def _weights(self) -> State:
        model = {name: value.clone() for name, value in self.model.state_dict().items()}
        return {"model": model, "optimiser": self.optimiser.state_dict()}

    def _average(self, mean: State, last: State) -> State:
        """The average of the weights after each epoch of a period, the newest weighing most."""
        share = self.training.average
        if not mean or not share:
            return last
        return {
            name: value.lerp(mean[name], share) if value.is_floating_point() else value for name, value in last.items()
        }

    def _epoch(self, clicks: Sequences) -> None:
        for loss, many in self._losses(clicks):
            extra = None if self.schedule is None else self.schedule.penalty(self.model, many)
            self.optimiser.zero_grad()
            torch.autograd.backward(loss if extra is None else loss + extra)
            self.optimiser.step()

    def _losses(self, clicks: Sequences) -> Iterator[tuple[Tensor, int]]:
        """Loss of each step of an epoch, and of how many clicks."""
        length = self.runs.length
        if self.training.whole:
            for rows in _batches(clicks.lengths - 1, self.training.batch, self.generator):
                many = int((clicks.lengths[rows] - 1).sum())
                yield self.model.sequence_loss(clicks.history(rows, length + 1)), many
            return
        rows, ends = clicks.clicks()
        for some in _batches(torch.ones_like(rows), self.training.batch, self.generator):
            yield self.model.loss(*clicks.prefixes(rows[some], ends[some], length)), len(some)

    # --- going on ------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        state = {
            "row": {"learned": self.learned, "generator": self.generator.get_state(), **self._weights()},
            "schedule": {} if self.schedule is None else self.schedule.state_dict(),
        }
        checkpoint.save(self.runs.place(self.row), state, self.learned, keep=1)
        if self.runs.blended(self.row):
            path = self.runs.weights(self.row, self.learned)
            path.parent.mkdir(exist_ok=True)
            save_file({name: value.contiguous() for name, value in self.model.state_dict().items()}, path)

    def resume(self) -> None:
        """Go on from the row's newest checkpoint, where there is one."""
        found = checkpoint.load_newest(self.runs.place(self.row))
        if found is None:
            return
        state = found[0]
        self.learned = state["row"]["learned"]
        self.runs.clicks.grow(self.catalog, self.learned)
        self.generator.set_state(state["row"]["generator"])
        self.model.load_state_dict(state["row"]["model"])
        self.optimiser.load_state_dict(state["row"]["optimiser"])
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])

    def recall(self, path: Path, t: int) -> None:
        """Take the weights of the end of period t."""
        self.runs.clicks.grow(self.catalog, t)
        self.model.load_state_dict(load_file(path))


def _batches(sizes: Tensor, batch: int, generator: Generator) -> Iterator[Tensor]:
    """Shuffled rows in pieces whose `sizes` [M] add up to about `batch`."""
    order = torch.randperm(len(sizes), generator=generator).to(sizes.device)
    piece = torch.div(sizes[order].cumsum(0) - 1, batch, rounding_mode="floor")
    yield from torch.split(order, torch.unique_consecutive(piece, return_counts=True)[1].tolist())
