"""Counts of real copies against what is said about them; the folder is named by STREAMREC_DATA."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from streamrec.data.events import read, validate
from streamrec.data.importers.run import import_data
from streamrec.data.importers.shelf import named

pytestmark = pytest.mark.data

COUNTS = {
    ("coat", "coat"): {"users": 290, "items": 300, "kinds": {"impression": 4640, "rating": 6960 + 4640}},
    ("diginetica", "diginetica/raw"): {"events": 993_483},
    ("globo", "globo"): {"events": 2_988_181, "sessions": 1_048_594, "users": 322_897, "items": 46_033},
    ("mind", "mind_sample"): {"slates": 5000, "users": 4637, "kinds": {"impression": 189_359, "click": 7542}},
    ("movielens", "ml-100k/ml-100k.inter.gz"): {"events": 100_000, "users": 943, "items": 1682},
    ("open-bandit", "obd/bts/men"): {"slates": 10_000, "propensities": 10_000, "items": 34},
    ("tmall", "tmall/events.parquet"): {"items": 40_727},
    ("yoochoose", "yoochoose1_64/events.parquet"): {"events": 557_248},
}


@pytest.mark.parametrize(("name", "folder"), sorted(COUNTS))
def test_counts(name: str, folder: str, tmp_path: Path) -> None:
    about = import_data(named(name)(), Path(os.environ["STREAMREC_DATA"]) / folder, tmp_path / "out")
    wanted = COUNTS[name, folder]
    assert {key: about[key] for key in wanted} == wanted
    assert about["rows_dropped"] == {}
    assert validate(tmp_path / "out")["faults"] == {}


@pytest.mark.parametrize(
    ("campaign", "items", "ips", "snips", "ess"),
    [("all", 80, 0.00236, 0.00233, 340), ("men", 34, 0.00301, 0.00319, 656), ("women", 46, 0.00744, 0.00237, 2)],
)
def test_values_of_the_uniform_policy_from_the_bts_logs(
    campaign: str, items: int, ips: float, snips: float, ess: float, tmp_path: Path
) -> None:
    """The figures of the Open Bandit Pipeline 0.5.7 on its own sample of 10,000 rows a log."""
    folder = Path(os.environ["STREAMREC_DATA"]) / "obd" / "bts" / campaign
    import_data(named("open-bandit")(), folder, tmp_path / "out")
    frame = pd.concat(read(tmp_path / "out"))
    shown = frame[frame["kind"] == "impression"]
    reward = shown["slate"].isin(frame.loc[frame["kind"] == "click", "slate"]).to_numpy(float)
    weight = 1 / items / shown["propensity"].to_numpy()
    assert np.mean(weight * reward) == pytest.approx(ips, abs=6e-6)
    assert weight @ reward / weight.sum() == pytest.approx(snips, abs=6e-6)
    assert weight.sum() ** 2 / (weight @ weight) == pytest.approx(ess, abs=0.6)
