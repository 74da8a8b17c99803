"""`streamrec bench gru4rec`: GRU4Rec trained and evaluated beside its authors' code, in turns, in one process.

    git clone https://github.com/hidasib/GRU4Rec_PyTorch_Official     # measured at d1fc311
    streamrec bench gru4rec --data FOLDER --peer-code GRU4Rec_PyTorch_Official

FOLDER holds tab-separated `SessionId ItemId Time`, train.tsv and test.tsv. Both sides take the settings of the first
experiment (`--only`, of `streamrec/specs/encoders`), those of the authors' parameter files; the other experiments are
ours alone. A turn of training is the authors' loop with all it does in a step (negatives, forward, loss, backward,
`IndexedAdagradM`, the look at the loss) against `streamrec.training.lanes.Lanes.step`; a turn of evaluation their
`batch_eval(..., "conservative")` against `streamrec.evaluation.next_item.evaluate`, which count ties the same way.

Two of their lines do not run with numpy 2 and pandas 3 and are changed while they are read; neither changes a number.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from streamrec.bench import beside, encoders
from streamrec.build import BadSpec, build
from streamrec.evaluation.next_item import evaluate
from streamrec.training.lanes import FusedLanes, Lanes, blocks

EXPERIMENTS = ("yoochoose-gru4rec", "yoochoose-gru4rec-compiled", "yoochoose-gru4rec-fast")

TURNS = 6

CHANGES = {
    "sigma = np.sqrt(6.0 / (shape[0] + shape[1]))": "sigma = np.float32(np.sqrt(6.0 / (shape[0] + shape[1])))",
    "torch.tensor(pop[self.data_iterator.itemidmap.index.values],": (
        "torch.tensor(pop[self.data_iterator.itemidmap.index.values].values,"
    ),
}
"""numpy 2 would make the weights float64, which the GRU refuses; pandas 3 would hand a Series to `torch.tensor`."""


def measure(
    seconds: float, data: Path, peer_code: Path, only: Sequence[str] = (), threads: int = 1, turns: int = TURNS
) -> dict[str, Any]:
    """Train and evaluate in turns of about `seconds`.

    Args:
        seconds: of a turn of training; one of evaluation is a pass over the test sessions.
        data: folder of the data set.
        peer_code: folder of the authors' repository.
        only: experiments, the first one with settings for both sides.
        threads: of torch; with one, rates are per second of processor time, else of wall time.
        turns: that count.

    Returns:
        `training` and `evaluation`, each as `beside.in_turns` says: clicks and predictions per second.

    Raises:
        BadSpec: data or code are not there, or an experiment is not of GRU4Rec with lanes.
    """
    names = list(only) or list(EXPERIMENTS)
    jobs = [_job(name, data) for name in names]
    with beside.threads(threads):
        authors = Authors(peer_code, jobs[0])
        ours = {name: Ours(job) for name, job in zip(names, jobs, strict=True)}
        work = {"peer": authors.train, **{name: mine.train for name, mine in ours.items()}}
        training = beside.in_turns(work, "peer", seconds, turns)
        work = {"peer": authors.evaluate, names[0]: ours[names[0]].evaluate}
        evaluation = beside.in_turns(work, "peer", 0.0, max(turns // 2, 1))
    return {"threads": threads, "training": training, "evaluation": evaluation}


def _job(name: str, data: Path) -> encoders.Job:
    job = beside.job(name, data)
    if not str(job.settings["models"][job.model].get("epoch", {}).get("use", "")).endswith("lanes.epoch"):
        raise BadSpec(f"{name}: expected an experiment of GRU4Rec that is trained in lanes")
    return job


class Ours:
    """A model of ours, its training, and the test sessions."""

    def __init__(self, job: encoders.Job) -> None:
        catalog, self.sequences, self.test = encoders.read(job)
        table = job.settings["models"][job.model]
        self.model = build(table["model"], {"catalog": catalog, "seed": 0, "device": "cpu"}, job.experiment)
        named = {"parameters": self.model.named_parameters(), "net": self.model}
        self.optimiser = build(table["optimiser"], named, job.experiment)
        self.lanes, self.steps = table["epoch"].get("lanes", 32), table["epoch"].get("steps", 1)
        self.kind = FusedLanes if table["epoch"].get("compile") else Lanes
        self.steps_done = self._steps()

    def _steps(self) -> Iterator[int]:
        while True:
            trainer = self.kind(self.model, self.sequences, self.optimiser, self.lanes * self.steps)
            for block in blocks(self.sequences, self.lanes, self.steps):
                trainer.step(block)
                yield len(block.inputs)

    def train(self, seconds: float) -> int:
        return beside.work_for(seconds, self.steps_done)

    def evaluate(self, seconds: float) -> int:
        return int(evaluate(self.model, self.test)["n"])


class Authors:
    """The authors' model, its training, and the test sessions."""

    def __init__(self, code: Path, job: encoders.Job) -> None:
        self.code = beside.load("gru4rec_pytorch", code / "gru4rec_pytorch.py", CHANGES)
        self.evaluation = beside.load("gru4rec_evaluation", code / "evaluation.py", {})
        table = job.settings["models"][job.model]
        self.settings = _translated(table)
        train, self.test = beside.clicks(job, {"SessionId": "int64", "ItemId": str, "Time": "int64"})
        clicks = self.test.groupby("SessionId").size()
        self.predictions = int((clicks - 1).clip(lower=0).sum())
        self.batch = min(512, int((clicks > 1).sum()))  # theirs wants as many sessions as a batch has rows
        with contextlib.redirect_stdout(io.StringIO()):
            self.gru = self.code.GRU4Rec(**self.settings, n_epochs=0, device=torch.device("cpu"))
            self.gru.fit(train, sample_cache_max_size=2_000_000)  # builds everything and trains no epoch
        self.steps_done = self._steps()

    def _steps(self) -> Iterator[int]:
        """The loop of `GRU4Rec.fit`."""
        gru, size = self.gru, self.settings["batch_size"]
        optimiser = self.code.IndexedAdagradM(
            gru.model.parameters(), self.settings["learning_rate"], self.settings["momentum"]
        )
        while True:
            states = [torch.zeros(size, width) for width in self.settings["layers"]]

            def reset(many: int, finished: Any, valid: Any, states: list[torch.Tensor] = states) -> Any:
                return gru._adjust_hidden(many, finished, valid, states)

            for inputs, outputs in gru.data_iterator(enable_neg_samples=True, reset_hook=reset):
                for state in states:
                    state.detach_()
                gru.model.zero_grad()
                scores = gru.model.forward(inputs, states, outputs, training=True)
                loss = gru.loss_function(scores, outputs, len(inputs)) / size
                loss.backward()
                optimiser.step()
                if math.isnan(loss.detach().numpy()):
                    raise ArithmeticError("the loss of the authors' code is no number")
                yield len(inputs)

    def train(self, seconds: float) -> int:
        return beside.work_for(seconds, self.steps_done)

    def evaluate(self, seconds: float) -> int:
        with contextlib.redirect_stdout(io.StringIO()):
            self.evaluation.batch_eval(self.gru, self.test, [20], self.batch, "conservative")
        return self.predictions


def _translated(table: dict[str, Any]) -> dict[str, Any]:
    """An experiment's settings as the authors call them, with our defaults where it says nothing."""
    model, optimiser, encoder = table["model"], table["optimiser"], table["model"]["encoder"]
    loss = model.get("loss", "bpr-max")
    return {
        "layers": [encoder.get("dim", 100)] * encoder.get("layers", 1),
        "loss": loss,
        "batch_size": table["epoch"].get("lanes", 32),
        "dropout_p_embed": encoder.get("dropout_embed", 0.0),
        "dropout_p_hidden": encoder.get("dropout_hidden", 0.0),
        "learning_rate": optimiser.get("learning_rate", 0.05),
        "momentum": optimiser.get("momentum", 0.0),
        "n_sample": model.get("n_sample", 2048),
        "sample_alpha": model.get("sample_alpha", 0.5),
        "bpreg": model.get("bpreg", 1.95),
        "elu_param": model.get("elu_param", 0.5),
        "logq": model.get("logq", 1.0) if loss == "cross-entropy" else 0.0,
        "constrained_embedding": True,
        "embedding": 0,
    }
