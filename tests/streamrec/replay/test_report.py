"""What a replay leaves: figures that are JSON, a page that stands alone, sums for comparisons and plans."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from streamrec.build import BadSpec
from streamrec.ope.codes import Refused
from streamrec.replay.compare import compare
from streamrec.replay.drawings import against, bars, forest, strip
from streamrec.replay.page import page
from streamrec.replay.plan import planned
from streamrec.replay.results import results
from streamrec.replay.run import Replay
from streamrec.replay.settings import Settings
from streamrec.replay.store import load, save
from streamrec.replay.tables import print_report
from tests.streamrec.replay.logs import ITEMS, clicks, items_file, saved, slates


def settings(folder: Path, name: str = "log", **more: Any) -> Settings:
    given = {"items": str(folder / "items.csv"), "slate": 1, "history": 6, "ks": [3], "estimators": ["snips", "dr"]}
    return Settings(log=str(folder / f"{name}.parquet"), **(given | more))


def report(asked: Settings, out: Path) -> Path:
    replay = Replay(asked, out)
    assert replay.run()
    save(replay)
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("reports")
    saved(made / "log.parquet", slates(300))
    items_file(made / "items.csv")
    report(settings(made), made / "a")
    report(settings(made, policies=["sharp=baseline:popular@epsilon-greedy:0.1"]), made / "b")
    return made


def figures(folder: Path, name: str = "a") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / name / "report.json").read_text())
    return found


def test_every_quantity_has_all_its_figures(folder: Path) -> None:
    found = figures(folder)
    keys = {"value", "low", "high", "se", "n", "sessions", "ess", "max_w", "kind", "warnings", "refused"}
    rows = [figure for row in found["policies"].values() for figure in row.values()]
    assert len(rows) > 20
    for figure in rows:
        assert set(figure) == keys
        assert figure["value"] is None or math.isfinite(figure["value"])


class Page(HTMLParser):
    """What a page refers to, and whether its tags close."""

    VOID = ("meta", "br", "line", "circle", "rect", "path", "use")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self.outside += [v for k, v in attrs if k in ("src", "href", "xlink:href") and v and not v.startswith("#")]

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_page_stands_alone_and_is_whole(folder: Path) -> None:
    text = (folder / "b" / "report.html").read_text()
    reader = Page()
    reader.feed(text)
    assert reader.open == []
    assert reader.outside == []
    assert "<script" not in text
    assert not re.search(r"https?://(?!www\.w3\.org)", text)
    for heading in ("Read this first", "Values", "Weights", "Overlap with the log", "Calibration", "Lists",
                    "Rows that count nowhere", "What the figures mean", "one_decision", "sharp"):  # fmt: skip
        assert heading in text
    assert figures(folder, "b")["log"]["fingerprint"][:16] in text
    assert text == page(figures(folder, "b"))


def test_names_cannot_break_the_page(folder: Path) -> None:
    found = json.loads(json.dumps(figures(folder)).replace('"vsknn"', '"<b>&"'))
    reader = Page()
    reader.feed(page(found))
    assert reader.open == []


def test_the_table_says_what_the_report_says(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = figures(folder)
    print_report(found)
    said = capsys.readouterr().out
    assert f"{found['policies']['random']['snips']['value']:.4f}" in said
    assert found["log"]["fingerprint"] in said
    assert said.index("logged") < said.index("random") < said.index("vsknn")


def test_a_report_is_read_again_as_it_was(folder: Path) -> None:
    found, asked, values, lists = load(folder / "a")
    assert asked == settings(folder)
    for name, acc in values.items():
        assert acc.result()["logged"].value == found["policies"]["logged"]["logged"]["value"]
        if name != "logged":
            assert acc.result()["dr"].value == found["policies"][name]["dr"]["value"]
    assert lists["popular"].result()["ndcg@3"].value == found["policies"]["popular"]["ndcg@3"]["value"]
    with pytest.raises(BadSpec, match="is no report"):
        load(folder)


def test_the_same_policy_in_two_reports_does_not_differ(folder: Path) -> None:
    found = compare(folder / "a", folder / "b")
    assert {row["policy_a"] for row in found["differences"]} == {"random", "popular", "itemknn", "vsknn", "ease"}
    for row in found["differences"]:
        assert row["a"] == row["b"]
        assert row["difference"]["value"] == 0.0


def test_policies_are_compared_on_the_same_rows(folder: Path) -> None:
    """The paired interval is narrower than one that takes the two values as independent."""
    a, b = figures(folder)["policies"]["popular"], figures(folder, "b")["policies"]["sharp"]
    found = compare(folder / "a", folder / "b", "popular", "sharp")["differences"]
    row = next(row for row in found if row["quantity"] == "snips")
    assert row["difference"]["value"] == pytest.approx(a["snips"]["value"] - b["snips"]["value"])
    assert row["difference"]["se"] < math.hypot(a["snips"]["se"], b["snips"]["se"])
    assert {row["quantity"] for row in found} == {"snips", "dr", "recall@3", "ndcg@3", "mrr@3", "novelty@3"}
    assert all(0 <= row["p"] <= 1 for row in found if row["quantity"].endswith("@3"))
    with pytest.raises(BadSpec, match="no policy 'best'"):
        compare(folder / "a", folder / "b", "best")


def test_other_rows_are_refused(folder: Path, tmp_path: Path) -> None:
    frame = slates(300)
    last = frame.index[frame["kind"] == "click"][-1]
    saved(folder / "other.parquet", frame.drop(index=last))
    report(settings(folder, "other"), tmp_path / "c")
    with pytest.raises(Refused, match="different_rows"):
        compare(folder / "a", tmp_path / "c")


def test_the_same_rows_from_another_format_are_the_same(folder: Path, tmp_path: Path) -> None:
    saved(folder / "log.jsonl", slates(300))
    asked = replace(settings(folder), log=str(folder / "log.jsonl"))
    report(asked, tmp_path / "c")
    assert compare(folder / "a", tmp_path / "c")["fingerprint"] == figures(folder)["log"]["fingerprint"]


# --- plan --------------------------------------------------------------------------------------------------------


def test_rows_needed_are_those_that_make_the_interval_so_wide(folder: Path) -> None:
    row = figures(folder)["policies"]["random"]["snips"]
    width = 0.02
    told = planned(settings(folder), "snips", width)
    needed = row["n"] * (2 * 1.959964 * row["se"] / width) ** 2
    assert told["policies"]["random"]["rows"] == pytest.approx(needed, rel=1e-3)
    assert told["policies"]["logged"]["rows"] > 0
    assert told["rows"] == 300


def test_exploration_is_priced_as_a_log_of_it_would_cost(tmp_path: Path) -> None:
    """A plan from a skewed log for a uniform logger, against the variance in a log that was made by one.

    The uniform policy on a uniform log has weights of 1: the variance of a row is that of its reward.
    """
    saved(tmp_path / "log.parquet", slates(3000, users=1500, seed=4))
    items_file(tmp_path / "items.csv")
    told = planned(settings(tmp_path, estimators=["ips"], metrics=[]), "ips", 0.01)
    row = told["policies"]["random"]
    assert told["explorations"][-1] == 1.0
    liked = 1 / (1 + np.exp(1.0 - _liking(4)))
    mean = float(liked.mean())
    wanted = mean * (1 - mean) * (2 * 1.959964 / 0.01) ** 2
    assert row["mixed"][-1] == pytest.approx(wanted, rel=0.12)
    assert row["rows"] > 1.2 * row["mixed"][-1]


def _liking(seed: int) -> Any:
    draw = np.random.default_rng(seed)
    draw.normal(size=ITEMS)
    return draw.normal(size=ITEMS)


def test_plans_that_make_no_sense_are_refused(folder: Path) -> None:
    with pytest.raises(BadSpec, match="--estimator"):
        planned(settings(folder), "dm", 0.1)
    with pytest.raises(BadSpec, match="--width"):
        planned(settings(folder), "snips", 0.0)


# --- drawings ----------------------------------------------------------------------------------------------------


def test_drawings_of_nothing_are_nothing() -> None:
    assert forest([], None, "x") == bars([], [], [], "x") == strip([], [], "x") == against([], "x") == ""


def test_drawings_hold_what_they_are_given() -> None:
    drawn = forest([("a<b", 1.0, 0.5, 1.5), ("c", 2.0, None, None)], 1.0, "t")
    assert "a&lt;b" in drawn
    assert drawn.count("<circle") == 2
    assert bars([0.5, 1.0, 2.0], [3, 0], [(1.0, "one")], "t").count("<rect") == 1
    assert strip([("p", [0.5, 0.5, 0.0])], ["x", "y", "z"], "t").count("<rect") == 3
    assert against([(0.1, 0.2, 5), (0.3, 0.3, 1)], "t").count("<circle") == 2
    assert "nan" not in forest([("flat", 0.0, 0.0, 0.0)], 0.0, "t")


def test_columns_can_be_mapped(folder: Path, tmp_path: Path) -> None:
    frame = pd.read_parquet(folder / "log.parquet").rename(columns={"propensity": "p", "time": "ms"})
    frame["ms"] *= 1000.0
    frame.to_csv(tmp_path / "other.csv", index=False)
    asked = replace(settings(folder), log=str(tmp_path / "other.csv"), columns={"propensity": "p", "time": "ms/1000"})
    out = report(asked, tmp_path / "out")
    mine = json.loads((out / "report.json").read_text())["policies"]["random"]["dr"]["value"]
    assert mine == pytest.approx(figures(folder)["policies"]["random"]["dr"]["value"], rel=1e-6)


def test_sampled_rankings_are_refused_unless_asked_for(tmp_path: Path) -> None:
    log = saved(tmp_path / "log.parquet", clicks(200))
    for allowed in (False, True):
        settings = Settings(log=log, metrics=["ndcg"], ks=[5], estimators=[], allow_sampled=allowed)
        replay = Replay(settings, tmp_path / str(allowed))
        assert replay.run()
        replay.jury.counts["sampled"] = 7
        told = results(replay)
        figure = told["policies"]["popular"]["ndcg@5"]
        assert (figure["value"] is None) == (not allowed)
        assert bool(told["segments"]) == allowed
        said = told["warnings"].get("sampled_metrics", "") if allowed else str(figure["refused"])
        assert "7 requests brought candidates of their own" in said
