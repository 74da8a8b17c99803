"""A log of events as arrays to fit a user model on: what was shown when, what came of it, and what came before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamrec.data.events import read
from streamrec.records import Kind

Split = Literal["user", "time"]

STREAMS = ("positive", "skipped", "shown")
"""What a user remembers, each in the order of time."""

SESSION_GAP_S = 1800.0
"""A longer pause ends a visit where the log does not say when visits end."""

PAIRED = 2000
"""Items that pairs are counted for, the most clicked."""

_POSITIVE = (int(Kind.CLICK), int(Kind.PURCHASE))
_Array = NDArray[Any]


@dataclass
class Stream:
    """Events of all users, ordered by user and then by time, E of them."""

    item: Tensor  # [E] int64, 1..N
    time: Tensor  # [E] float64, seconds since the epoch


@dataclass
class Observed:
    """M slates with R rows, one per item shown; users are numbers, and nothing here says who they are."""

    names: list[str]  # ids of the items 1..N, at the places 0..N - 1
    user: Tensor  # [M] int64
    coin: Tensor  # [M] float64 in [0, 1), a hash of the user's id
    time: Tensor  # [M] float64
    first: Tensor  # [M] int64, the slate's first row; its rows follow each other
    size: Tensor  # [M] int64, its rows
    item: Tensor  # [R] int64
    slot: Tensor  # [R] int64
    kind: Tensor  # [R] int64, a Kind: IMPRESSION, SKIP, CLICK or PURCHASE
    propensity: Tensor  # [R] float64, NaN = unknown
    streams: dict[str, Stream]
    begin: dict[str, Tensor]  # [M] int64 per stream, where the events of the slate's user begin
    end: dict[str, Tensor]  # [M] int64 per stream, where those before the slate end
    left: Tensor  # [M] float32, 1 = the visit ended after the slate, NaN = nobody knows
    pause: Tensor  # [M] float64, seconds to the user's next slate, NaN = there is none
    organic: bool  # nothing was decided: every row is a slate of its own

    def rows(self, slates: Tensor) -> tuple[Tensor, Tensor]:
        """The rows of `slates` [B], and to which place in `slates` each belongs: two of [R']."""
        size = self.size[slates]
        owner = torch.repeat_interleave(torch.arange(len(slates)), size)
        within = torch.arange(len(owner)) - (size.cumsum(0) - size)[owner]
        return self.first[slates][owner] + within, owner

    def positive(self) -> Tensor:
        """[R] bool."""
        return (self.kind == _POSITIVE[0]) | (self.kind == _POSITIVE[1])


@dataclass
class Parts:
    """Slates [.] of the three parts that the world is made of; agents see none of them."""

    fit: Tensor
    validation: Tensor
    test: Tensor


def load(log: Path | str | pd.DataFrame, columns: Mapping[str, str] | None = None) -> pd.DataFrame:
    """The whole log as one frame with the columns of `streamrec.data.events`, users and items as text."""
    frames = [log] if isinstance(log, pd.DataFrame) else list(read(log, columns))
    frame = pd.concat(frames, ignore_index=True)
    for name, none in (("slate", ""), ("slot", -1), ("propensity", np.nan), ("value", 1.0)):
        if name not in frame:
            frame[name] = none
    kinds = frame["kind"].astype(str).str.upper().map({kind.name: int(kind) for kind in Kind})
    return frame.assign(kind=kinds.astype(np.int64))


def divide(frame: pd.DataFrame, split: Split, share: float) -> _Array:
    """[rows] bool: the share of the log that belongs to the world; the rest is for agents.

    "user" takes a share of the users, by a hash of their ids; "time" takes the newest share of the events.
    """
    if split == "user":
        return np.asarray(_hashed(frame["user"]) < share, dtype=bool)
    return np.asarray(frame["time"] >= frame["time"].quantile(1.0 - share), dtype=bool)


def _hashed(users: pd.Series[str], salt: str = "streamrec-world0") -> _Array:
    """[rows] float64 in [0, 1), the same for the same user in every process."""
    hashed = pd.util.hash_array(users.to_numpy(object), hash_key=salt)
    return np.asarray(hashed >> np.uint64(11), dtype=np.float64) / 2.0**53


def observe(frame: pd.DataFrame, like: float) -> Observed:
    """The slates of a frame that `load` made, and what came of them.

    Where anything was decided, what was decided counts, and clicks without a slate are only remembered. A log without
    slates is taken as one in which every skip, click, purchase or rating was a slate of one item. Ratings of at least
    `like` are clicks, others skips. Reactions count as happened with the slate they answer.

    Raises:
        ValueError: there is nothing that was passed over, or nothing that was clicked.
    """
    frame = frame[(frame["item"] != "") | frame["kind"].isin([int(Kind.LEAVE)])].copy()
    rated = frame["kind"] == int(Kind.RATING)
    liked = np.where(frame["value"] >= like, int(Kind.CLICK), int(Kind.SKIP))
    frame["kind"] = np.where(rated, liked, frame["kind"])
    frame["who"] = pd.factorize(frame["user"])[0]
    frame["what"], names = _numbers(frame["item"])
    leaves = frame[frame["kind"] == int(Kind.LEAVE)]
    acts = frame[frame["kind"].isin([int(Kind.IMPRESSION), int(Kind.SKIP), *_POSITIVE]) & (frame["what"] > 0)]
    organic = not bool(((acts["kind"] == int(Kind.IMPRESSION)) & (acts["slate"] != "")).any())
    shown, remembered = _each_alone(acts) if organic else _slates(acts)
    kinds = set(shown["kind"].unique().tolist())
    if not kinds & set(_POSITIVE) or not kinds - set(_POSITIVE):
        raise ValueError(
            "a user model needs items that were clicked and items that were shown and not clicked, got only "
            f"{sorted(Kind(kind).name.lower() for kind in kinds)}; this log can be replayed but not fitted"
        )
    return _arrays(shown, remembered, leaves, names, organic)


def _numbers(items: pd.Series[str]) -> tuple[_Array, list[str]]:
    """[rows] numbers from 1 in the order of the ids' text, 0 for none, and the ids."""
    there = items != ""
    codes, names = pd.factorize(items[there], sort=True)
    numbers = np.zeros(len(items), dtype=np.int64)
    numbers[there.to_numpy()] = codes + 1
    return numbers, [str(name) for name in names]


def _each_alone(acts: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    shown = acts.sort_values(["who", "time"], kind="stable")
    shown = shown.assign(number=np.arange(len(shown)), slot=0)
    return shown, shown[shown["kind"] != int(Kind.IMPRESSION)]


def _slates(acts: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows shown with the strongest reaction to each, and what the user did, decided or not."""
    impressions = acts[(acts["kind"] == int(Kind.IMPRESSION)) & (acts["slate"] != "")]
    shown = impressions.drop_duplicates(["slate", "what"]).copy()
    shown["time"] = shown.groupby("slate", sort=False)["time"].transform("min")
    shown["slot"] = np.where(shown["slot"] >= 0, shown["slot"], shown.groupby("slate", sort=False).cumcount())
    done = acts[acts["kind"] != int(Kind.IMPRESSION)]
    strength = {int(Kind.SKIP): 1, _POSITIVE[0]: 2, _POSITIVE[1]: 3}
    strongest = done.assign(force=done["kind"].map(strength)).sort_values("force", kind="stable")
    reaction = strongest.drop_duplicates(["slate", "what"], keep="last")[["slate", "what", "kind"]]
    shown = shown.drop(columns="kind").merge(reaction[reaction["slate"] != ""], on=["slate", "what"], how="left")
    shown["kind"] = shown["kind"].fillna(int(Kind.IMPRESSION)).astype(np.int64)
    shown = shown.sort_values(["who", "time", "slate", "slot"], kind="stable")
    shown["number"] = (shown["slate"] != shown["slate"].shift()).cumsum() - 1
    answered = shown[shown["kind"] != int(Kind.IMPRESSION)]
    return shown, pd.concat([answered, done[done["slate"] == ""]])


def _arrays(
    shown: pd.DataFrame, remembered: pd.DataFrame, leaves: pd.DataFrame, names: list[str], organic: bool
) -> Observed:
    heads = shown.drop_duplicates("number")
    user, time = heads["who"].to_numpy(), heads["time"].to_numpy(np.float64)
    size = shown.groupby("number", sort=True).size().to_numpy()
    positive = remembered["kind"].isin(_POSITIVE)
    events = {"positive": remembered[positive], "skipped": remembered[~positive], "shown": shown}
    streams, begin, end = {}, {}, {}
    for name, part in events.items():
        part = part.sort_values(["who", "time"], kind="stable")
        who, when = part["who"].to_numpy(), part["time"].to_numpy(np.float64)
        streams[name] = Stream(torch.tensor(part["what"].to_numpy(np.int64)), torch.tensor(when))
        begin[name] = torch.tensor(np.searchsorted(who, user))
        end[name] = torch.tensor(_before(user, time, who, when))
    left, pause = _visits(user, time, leaves)
    return Observed(
        names,
        torch.tensor(user.astype(np.int64)),
        torch.tensor(_hashed(heads["user"], "streamrec-parts0")),
        torch.tensor(time),
        torch.tensor(np.cumsum(size) - size),
        torch.tensor(size.astype(np.int64)),
        torch.tensor(shown["what"].to_numpy(np.int64)),
        torch.tensor(shown["slot"].to_numpy(np.int64)),
        torch.tensor(shown["kind"].to_numpy(np.int64)),
        torch.tensor(shown["propensity"].to_numpy(np.float64)),
        streams,
        begin,
        end,
        torch.tensor(left),
        torch.tensor(pause),
        organic,
    )


def _before(user: _Array, time: _Array, who: _Array, when: _Array) -> _Array:
    """How many of the events (`who`, `when`), ordered, come before each (`user`, `time`): strictly earlier in time."""
    kind = np.concatenate([np.zeros(len(user), np.int8), np.ones(len(who), np.int8)])
    order = np.lexsort((kind, np.concatenate([time, when]), np.concatenate([user, who])))
    counted = np.cumsum(kind[order])
    place = np.empty(len(order), dtype=np.int64)
    place[order] = counted
    return place[: len(user)]


def _visits(user: _Array, time: _Array, leaves: pd.DataFrame) -> tuple[_Array, _Array]:
    """Whether each visit ended after the slate, and seconds to the user's next slate. Slates ordered by user, time."""
    same = np.append(user[1:] == user[:-1], False)
    pause = np.where(same, np.append(time[1:] - time[:-1], np.nan), np.nan)
    if len(leaves) == 0:
        return np.where(same, pause > SESSION_GAP_S, np.nan).astype(np.float32), pause
    leaves = leaves.sort_values(["who", "time"])
    who, when = leaves["who"].to_numpy(), leaves["time"].to_numpy(np.float64)
    number = _before(user, time, who, when)  # leaves before the slate
    following = np.append(number[1:], len(who))
    last_of_user = np.searchsorted(who, user, side="right")
    return (np.where(same, following, last_of_user) > number).astype(np.float32), pause


def parts(observed: Observed, split: Split) -> Parts:
    """70 % to fit, 10 % to calibrate, 20 % to test: of the users by hash, or of the slates by time."""
    edges = torch.tensor([0.7, 0.8], dtype=torch.float64)
    if split == "time":
        place = torch.bucketize(observed.time, torch.tensor(np.quantile(observed.time.numpy(), edges.numpy())))
    else:
        place = torch.bucketize(observed.coin, edges)
    return Parts(*(torch.nonzero(place == number).squeeze(1) for number in range(3)))


def together(item: Tensor, user: Tensor, clicks: Tensor) -> Tensor:
    """Users who clicked both, of the n most clicked items: [n, n]; the diagonal counts those who clicked one.

    Args:
        item: [P] clicked, 1..N.
        user: [P] who clicked.
        clicks: [N] clicks of the items 1..N; the n places are those of `clicks.topk(n)`.
    """
    top = clicks.topk(min(PAIRED, int((clicks > 0).sum()))).indices + 1
    place = torch.full((len(clicks) + 1,), -1)
    place[top] = torch.arange(len(top))
    kept = place[item] >= 0
    total = torch.zeros(len(top), len(top))
    # Some users at a time: a dense matrix of all of them would not fit.
    users, number = torch.unique(user[kept], return_inverse=True)
    for start in range(0, len(users), 4096):
        part = (number >= start) & (number < start + 4096)
        one = torch.zeros(4096, len(top))
        one[number[part] - start, place[item[kept][part]]] = 1.0
        total += one.T @ one
    return total
