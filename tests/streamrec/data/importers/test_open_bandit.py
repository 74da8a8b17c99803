from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from streamrec.catalog import Catalog
from streamrec.data.events import read
from streamrec.data.formats import BadLog
from streamrec.data.importers.open_bandit import OpenBandit
from streamrec.data.importers.run import import_data
from streamrec.data.logs import LogWorld
from streamrec.records import Kind
from streamrec.sessions import SessionStore
from tests.streamrec.data.importers.originals import OPEN_BANDIT


@pytest.fixture
def men(tmp_path: Path) -> Path:
    return OPEN_BANDIT.write(tmp_path / "obd")


def shelf(root: Path, men: Path) -> Path:
    """A folder with two policies and two campaigns."""
    text = (men / "bts/men/men.csv").read_text()
    for policy in ("bts", "random"):
        for campaign in ("men", "women"):
            folder = root / policy / campaign
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{campaign}.csv").write_text(text)
            (folder / "item_context.csv").write_text((men / "bts/men/item_context.csv").read_text())
    return root


def test_every_row_is_a_slate_with_one_known_slot(men: Path, tmp_path: Path) -> None:
    import_data(OpenBandit(), men, tmp_path / "out")
    frame = pd.concat(read(tmp_path / "out"), ignore_index=True)
    said = frame[["slate", "kind", "item", "slot", "propensity"]].fillna({"propensity": 0.0}).to_numpy().tolist()
    assert said == [
        ["bts-1", "impression", "0", 1, 0.125],
        ["bts-2", "impression", "0", 0, 0.25],
        ["bts-2", "click", "0", 0, 0.0],
        ["bts-0", "impression", "1", 2, 0.5],
        ["bts-0", "click", "1", 2, 0.0],
    ]
    assert (frame["session"] == frame["slate"]).all()
    assert frame["user"].iloc[0] == frame["user"].iloc[3] != frame["user"].iloc[1]


def test_inverse_propensity_value_of_a_policy_survives_the_import(men: Path, tmp_path: Path) -> None:
    """Uniform over 2 items: (0 * .5/.125 + 1 * .5/.25 + 1 * .5/.5) / 3 = 1, from the rows of the original."""
    import_data(OpenBandit(), men, tmp_path / "out")
    frame = pd.concat(read(tmp_path / "out"))
    shown = frame[frame["kind"] == "impression"].set_index("slate")
    clicked = shown.index.isin(frame.loc[frame["kind"] == "click", "slate"])
    assert np.mean(clicked * 0.5 / shown["propensity"]) == pytest.approx(1.0, abs=1e-12)


def test_the_loop_sees_requests_with_their_propensities(men: Path, tmp_path: Path) -> None:
    import_data(OpenBandit(), men, tmp_path / "out")
    world = LogWorld(tmp_path / "out", Catalog(10), SessionStore(10), slate=3)
    events = world.poll()
    assert events is not None
    asked = events.kind == int(Kind.REQUEST)
    assert (events.shown[asked] > 0).int().tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1]]
    filled = events.shown[asked] > 0
    assert torch.allclose(events.slot_logp[asked][filled].exp(), torch.tensor([0.125, 0.25, 0.5]))
    clicks = events.kind == int(Kind.CLICK)
    assert events.decision[clicks].tolist() == events.decision[asked][1:].tolist()
    assert events.slot[clicks].tolist() == [0, 2]


def test_one_campaign_and_one_policy_unless_said(men: Path, tmp_path: Path) -> None:
    root = shelf(tmp_path / "shelf", men)
    with pytest.raises(BadLog, match="one campaign, found men, women; say which: --set campaign=men"):
        import_data(OpenBandit(), root, tmp_path / "out")
    with pytest.raises(BadLog, match="one policy, found bts, random"):
        import_data(OpenBandit(campaign="men"), root, tmp_path / "out")
    with pytest.raises(BadLog, match=r"expected all\.csv"):
        import_data(OpenBandit(campaign="all"), root, tmp_path / "out")
    assert import_data(OpenBandit(campaign="men", policy="random"), root, tmp_path / "one")["slates"] == 3
    both = import_data(OpenBandit(campaign="men", policy="both"), root, tmp_path / "two")
    assert (both["slates"], both["propensities"], both["tables"]["items.csv"]) == (6, 6, 2)
    assert import_data(OpenBandit(), root / "random" / "men", tmp_path / "three")["slates"] == 3
    slates = pd.concat(read(tmp_path / "three"))["slate"]
    assert slates.str.startswith("random-").all(), "the policy is in the path above"


def test_wrong_words() -> None:
    with pytest.raises(ValueError, match="campaign must be one of"):
        OpenBandit(campaign="kids")
    with pytest.raises(ValueError, match="policy must be"):
        OpenBandit(policy="greedy")
