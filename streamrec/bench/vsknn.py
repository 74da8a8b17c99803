"""`streamrec bench vsknn`: V-SKNN beside that of session-rec, in turns, in one process.

    git clone https://github.com/rn5l/session-rec     # measured at 5dcd583
    streamrec bench vsknn --data FOLDER --peer-code session-rec --only yoochoose-vsknn

FOLDER holds tab-separated `SessionId ItemId Time`, train.tsv and test.tsv. Both sides have the settings of the
experiment. session-rec predicts click by click (`predict_next`) the sessions of the test, in a random order; ours ranks
the targets of an eighth of the test sessions as well, other ones in each turn.

One line of theirs does not run with numpy 2 and is changed while it is read (`np.in1d` has become `np.isin`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from streamrec.bench import beside, encoders
from streamrec.build import BadSpec, build
from streamrec.evaluation.next_item import evaluate
from streamrec.models.vsknn import VSKNN

PARTS = 8
"""Of the test sessions, one is ranked in a turn."""


def measure(
    seconds: float, data: Path, peer_code: Path, only: Sequence[str] = (), threads: int = 1, turns: int = 6
) -> dict[str, Any]:
    """Predict in turns of about `seconds`.

    Args:
        seconds: of a turn of session-rec.
        data: folder of the data set.
        peer_code: folder of the repository.
        only: one experiment of a V-SKNN.
        threads: of torch; with one, rates are per second of processor time, else of wall time.
        turns: that count.

    Returns:
        `prediction` as `beside.in_turns` says: predictions per second.

    Raises:
        BadSpec: data or code are not there, or the experiment has no V-SKNN.
    """
    if len(only) > 1:
        raise BadSpec(f"bench vsknn: expected one experiment, got {', '.join(only)}")
    job = beside.job(next(iter(only), "yoochoose-vsknn"), data)
    with beside.threads(threads):
        ours, theirs = Ours(job), SessionRec(peer_code, job)
        work = {"peer": theirs.predict, job.experiment: ours.predict}
        return {"threads": threads, "prediction": beside.in_turns(work, "peer", seconds, turns)}


class Ours:
    """Our model, which has seen the training sessions, and the test sessions."""

    def __init__(self, job: encoders.Job) -> None:
        catalog, train, self.test = encoders.read(job)
        self.model = build(job.settings["models"][job.model]["model"], {"catalog": catalog}, job.experiment)
        if not isinstance(self.model, VSKNN):
            raise BadSpec(f"{job.experiment}: expected a VSKNN, got a {type(self.model).__name__}")
        self.model.append(train.items, train.starts)
        self._turn = 0

    def predict(self, seconds: float) -> int:
        self._turn += 1
        mine = torch.arange(len(self.test)) % PARTS == self._turn % PARTS
        return int(evaluate(self.model, self.test.select(mine))["n"])


class SessionRec:
    """Their model, which has seen the training sessions, and the test sessions."""

    def __init__(self, code: Path, job: encoders.Job) -> None:
        stub = ModuleType("pympler")
        stub.asizeof = None  # type: ignore[attr-defined]  # imported there, and not used
        file = code / "algorithms" / "knn" / "vsknn.py"
        module = beside.load("session_rec_vsknn", file, {"np.in1d(": "np.isin("}, {"pympler": stub})
        given = job.settings["models"][job.model]["model"]
        self.model = module.VMContextKNN(
            given.get("neighbours", 500),
            given.get("sample", 5000),
            weighting=given.get("weighting", "quadratic"),
            weighting_score=given.get("discount", "div"),
            idf_weighting=given.get("idf", 0.0) or False,
        )
        train, known = beside.clicks(job)
        self.model.fit(train)
        self.items = train["ItemId"].unique()
        self.sessions = [(number, clicks["ItemId"].tolist()) for number, clicks in known.groupby("SessionId")]
        self._predicted = self._predictions()

    def _predictions(self) -> Iterator[int]:
        draws = np.random.default_rng(0)
        while True:
            for at in draws.permutation(len(self.sessions)):
                number, items = self.sessions[at]
                for item in items[:-1]:
                    self.model.predict_next(number, item, self.items)
                    yield 1

    def predict(self, seconds: float) -> int:
        return beside.work_for(seconds, self._predicted)
