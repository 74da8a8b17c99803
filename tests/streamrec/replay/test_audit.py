"""What the audit finds in logs that were broken on purpose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from streamrec.data.formats import BadLog
from streamrec.replay.audit import CHUNK, Audit, between_loggers
from tests.streamrec.replay.logs import ITEMS, clicks, saved, slates


def audited(tmp_path: Path, frame: pd.DataFrame, **settings: float) -> Audit:
    return Audit(saved(tmp_path / "log.parquet", frame), **settings).run()


def csv(tmp_path: Path, frame: pd.DataFrame) -> Audit:
    """Of a file that `write` would refuse."""
    frame.to_csv(tmp_path / "log.csv", index=False)
    return Audit(tmp_path / "log.csv").run()


def test_a_good_log_has_nothing_against_it(tmp_path: Path) -> None:
    frame = slates(slots=2)
    audit = audited(tmp_path, frame)
    told = audit.as_json()
    assert told["refused"] == {}
    assert told["rows"] == len(frame)
    assert told["kinds"] == frame["kind"].value_counts().to_dict()
    assert (told["users"], told["items"], told["slates"]) == (frame["user"].nunique(), ITEMS, 240)
    assert told["sessions"] == frame["session"].nunique()
    assert told["order"]["orphans"] == told["order"]["early"] == told["order"]["duplicates"] == 0
    seen = frame["propensity"].dropna()
    assert told["propensities"]["smallest"] == seen.min()
    assert told["propensities"]["mean_inverse"] == pytest.approx((1 / seen).mean())
    assert told["propensities"]["ess_uniform"] == pytest.approx((1 / seen).sum() ** 2 / (1 / seen**2).sum())
    assert audit.rarest == pytest.approx(np.log(seen).groupby(frame.loc[seen.index, "slate"]).sum().min())
    assert told["abilities"]["values"] == "yes"


def test_uniformity_is_a_matter_of_propensities_and_of_what_was_shown(tmp_path: Path) -> None:
    assert audited(tmp_path, slates(400, uniform=True)).uniform
    skewed = audited(tmp_path, slates(400))
    assert not skewed.uniform
    assert "replay_non_uniform" in skewed.abilities()["matching"]
    lying = slates(400)
    lying.loc[lying["kind"] == "impression", "propensity"] = 1 / ITEMS
    liar = audited(tmp_path, lying)
    assert liar.propensities.uniform
    assert not liar.uniform
    assert "not shown equally often" in liar.abilities()["matching"]


def test_chi_square_is_pearsons(tmp_path: Path) -> None:
    """Counts 30, 20, 10 against 20 each: (100 + 0 + 100) / 20 = 10 on 2 degrees of freedom, p = exp(-5)."""
    items = ["a"] * 30 + ["b"] * 20 + ["c"] * 10
    frame = pd.DataFrame({"user": "u", "item": items, "kind": "impression", "time": np.arange(60.0), "slot": 0,
                          "slate": [f"d{at}" for at in range(60)], "propensity": 1 / 3})  # fmt: skip
    statistic, freedom, chance = audited(tmp_path, frame).chi_square(0)
    assert (statistic, freedom) == (10.0, 2)
    assert chance == pytest.approx(np.exp(-5.0), rel=1e-9)


def test_an_empty_log_is_refused(tmp_path: Path) -> None:
    pd.DataFrame({"user": [], "item": [], "kind": [], "time": []}).to_csv(tmp_path / "log.csv", index=False)
    assert [one.code for one in Audit(tmp_path / "log.csv").run().refused] == ["empty_log"]


@pytest.mark.parametrize("wrong", ["0", "1.5", "-0.1", "inf"])
def test_bad_propensities_are_refused(tmp_path: Path, wrong: str) -> None:
    frame = slates(20).astype({"propensity": object})
    frame.loc[frame.index[0], "propensity"] = wrong
    audit = csv(tmp_path, frame)
    assert [one.code for one in audit.refused] == ["bad_propensity"]
    assert audit.examples[0].count("propensity") > 0
    assert audit.abilities()["lists"].startswith("no: bad_propensity")


def test_slots_and_items_twice_are_refused(tmp_path: Path) -> None:
    frame = slates(20, slots=2)
    shown = frame.index[frame["kind"] == "impression"]
    first, second = frame.loc[shown[0]], shown[1]
    same_slot = frame.copy()
    same_slot.loc[second, "slot"] = first["slot"]
    assert {one.code for one in csv(tmp_path, same_slot).refused} == {"duplicate_slot"}
    same_item = frame.copy()
    same_item.loc[second, "item"] = first["item"]
    assert {one.code for one in csv(tmp_path, same_item).refused} == {"duplicate_item"}


def test_other_faults_are_named(tmp_path: Path) -> None:
    frame = clicks(10)
    frame.loc[0, "kind"] = "look"
    audit = csv(tmp_path, frame)
    assert [one.code for one in audit.refused] == ["bad_rows"]
    assert "unknown_kind" in audit.refused[0].message


def test_disorder_is_refused_beyond_what_is_allowed(tmp_path: Path) -> None:
    frame = clicks(50)
    frame.loc[20, "time"] -= 33.0
    assert [one.code for one in audited(tmp_path, frame, late_s=20.0).refused] == ["time_disorder"]
    late = audited(tmp_path, frame)
    assert late.refused == []
    assert late.counts["disorder"] == 1
    assert late.worst_late == pytest.approx(28.0)


def test_ties_duplicates_and_reactions_without_a_cause_are_counted(tmp_path: Path) -> None:
    frame = clicks(100, users=4)
    tied = frame.copy()
    tied["time"] = tied["time"].round(-2)
    assert "timestamp_ties" in {one.code for one in audited(tmp_path, tied).warned}
    twice = pd.concat([frame, frame.iloc[[99]]])
    assert audited(tmp_path, twice).counts["duplicates"] == 1
    shown = slates(30)
    lost = shown.copy()
    lost.loc[lost["kind"] == "click", "slate"] += "x"
    many = int((shown["kind"] == "click").sum())
    assert audited(tmp_path, lost).counts["orphans"] == many
    assert "dropped_rows" in {one.code for one in audited(tmp_path, lost).warned}


def test_sessions_that_a_split_cuts_are_counted(tmp_path: Path) -> None:
    frame = clicks(60, users=3).assign(session="one")
    frame.loc[frame.index % 2 == 0, "session"] = "two"
    assert audited(tmp_path, frame, split=float(frame["time"].iloc[30])).counts["cut"] == 2


def test_deterministic_and_rounded_loggers_are_told(tmp_path: Path) -> None:
    certain = slates(50)
    certain.loc[certain["kind"] == "impression", "propensity"] = 1.0
    assert "deterministic_logger" in {one.code for one in audited(tmp_path, certain).warned}
    rounded = slates(50)
    shown = rounded["kind"] == "impression"
    rounded.loc[shown, "propensity"] = np.round(np.linspace(0.01, 0.6, shown.sum()), 2)
    assert "propensity_rounded" in {one.code for one in audited(tmp_path, rounded).warned}


def test_loggers_are_compared_by_what_they_showed(tmp_path: Path) -> None:
    first, second = slates(100), slates(100, seed=5)
    second = second[second["item"] != "i0"]
    audits = [Audit(saved(tmp_path / f"{at}.parquet", one)).run() for at, one in enumerate((first, second))]
    found = between_loggers(audits)[audits[0].path][audits[1].path]  # type: ignore[index]
    shown = first[first["kind"] == "impression"]["item"]
    theirs = second[second["kind"] == "impression"]["item"]
    assert found["gap"] == pytest.approx((shown == "i0").mean())
    shares = pd.concat([shown.value_counts(normalize=True), theirs.value_counts(normalize=True)], axis=1).fillna(0.0)
    assert found["overlap"] == pytest.approx(shares.min(axis=1).sum())


def test_pieces_are_read_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = slates(120, slots=2)
    whole = audited(tmp_path, frame).as_json()
    monkeypatch.setattr("streamrec.replay.audit.CHUNK", 37)
    pieces = audited(tmp_path, frame).as_json()
    for found in (whole, pieces):
        found["propensities"].pop("mean_inverse")
        found["propensities"].pop("ess_uniform")
        found.pop("overlap")  # sums in another order
    assert pieces == whole
    assert CHUNK > 37


def test_a_log_that_is_none_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadLog, match="expected a log file here"):
        Audit(tmp_path / "nothing.csv").run()
