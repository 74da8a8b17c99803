"""A replay from end to end: against sums by hand, killed and resumed, in every mode."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from agents.popular import Popular
from streamrec.build import BadSpec
from streamrec.ope.codes import Refused
from streamrec.replay.run import Replay
from streamrec.replay.settings import Settings, settings_of
from streamrec.replay.store import check_baselines, load, save
from tests.streamrec.replay.logs import ITEMS, clicks, items_file, saved, slates
from tests.streamrec.replay.test_probabilities import Lister


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("replay")
    saved(made / "one.parquet", slates())
    saved(made / "two.parquet", slates(slots=2, seed=1))
    saved(made / "uniform.parquet", slates(400, uniform=True, seed=2))
    saved(made / "clicks.parquet", clicks())
    items_file(made / "items.csv")
    table = pd.DataFrame({"item": [f"i{at}" for at in range(ITEMS)], "probability": np.arange(1, ITEMS + 1) / 36})
    table.to_csv(made / "table.csv", index=False)
    return made


def asked(folder: Path, name: str, **more: Any) -> Settings:
    given = {"items": str(folder / "items.csv"), "slate": 2, "history": 6, "ks": [3], "update_every": 32} | more
    return Settings(log=str(folder / f"{name}.parquet"), **given)


def figures(settings: Settings, out: Path) -> dict[str, Any]:
    replay = Replay(settings, out)
    assert replay.run()
    return save(replay)


@pytest.fixture(scope="module")
def two(folder: Path) -> dict[str, Any]:
    policies = [f"table:{folder / 'table.csv'}", "baseline:popular@epsilon-greedy:0.2"]
    estimators = ["ips", "snips", "dr", "dm", "matching", "sips", "rips", "cascade_dr", "pdis", "sequential_dr"]
    return figures(asked(folder, "two", policies=policies, estimators=estimators), folder / "out_two")


def frame_of(folder: Path, name: str) -> pd.DataFrame:
    """Shown slots of a log with their rewards."""
    log = pd.read_parquet(folder / f"{name}.parquet")
    shown = log[log["kind"] == "impression"].copy()
    liked = set(zip(*log.loc[log["kind"] == "click", ["slate", "item"]].to_numpy().T, strict=True))
    shown["reward"] = [float((slate, item) in liked) for slate, item in zip(shown["slate"], shown["item"], strict=True)]
    shown["number"] = shown["item"].str[1:].astype(int)
    return shown


def test_values_of_a_table_are_sums_over_the_log(folder: Path, two: dict[str, Any]) -> None:
    """The table p(i) ~ i + 1, drawn without replacement; propensities in the loop are float32 logarithms."""
    shown = frame_of(folder, "two")
    above = shown.groupby("slate")["number"].shift(fill_value=-1)
    target = (shown["number"] + 1) / 36 / (1 - (above + 1) / 36)
    weight = target / shown["propensity"]
    row = two["policies"]["table"]
    assert row["ips"]["value"] == pytest.approx((weight * shown["reward"]).mean(), rel=1e-5)
    assert row["snips"]["value"] == pytest.approx((weight * shown["reward"]).sum() / weight.sum(), rel=1e-5)
    assert row["ips"]["ess"] == pytest.approx(weight.sum() ** 2 / (weight**2).sum(), rel=1e-5)
    product = weight.groupby(shown["slate"], sort=False).prod()
    total = shown["reward"].groupby(shown["slate"], sort=False).sum()
    assert row["sips"]["value"] == pytest.approx((product * total).mean(), rel=1e-5)
    down = weight.groupby(shown["slate"], sort=False).cumprod()
    assert row["rips"]["value"] == pytest.approx((down * shown["reward"]).sum() / shown["slate"].nunique(), rel=1e-5)
    walked = weight.groupby(shown["session"], sort=False).cumprod()
    sessions = shown["session"].nunique()
    assert row["pdis"]["value"] == pytest.approx((walked * shown["reward"]).sum() / sessions, rel=1e-4)


def test_the_logged_policy_is_first_and_its_ips_is_its_mean(folder: Path, two: dict[str, Any]) -> None:
    shown = frame_of(folder, "two")
    assert next(iter(two["policies"])) == "logged"
    logged = two["policies"]["logged"]
    assert logged["logged"]["value"] == logged["ips"]["value"] == logged["snips"]["value"]
    assert logged["logged"]["value"] == pytest.approx(shown["reward"].mean(), rel=1e-12)
    assert logged["sips"]["value"] == logged["logged_slate"]["value"] == pytest.approx(2 * shown["reward"].mean())
    assert logged["logged"]["n"] == len(shown)


def test_uniform_chances_over_what_is_left(folder: Path, two: dict[str, Any]) -> None:
    shown = frame_of(folder, "two")
    weight = 1 / (ITEMS - shown["slot"]) / shown["propensity"]
    assert two["policies"]["random"]["ips"]["value"] == pytest.approx((weight * shown["reward"]).mean(), rel=1e-5)


def test_baselines_are_always_there(two: dict[str, Any]) -> None:
    names = ["logged", "random", "popular", "itemknn", "vsknn", "ease", "table", "popular+epsilon-greedy"]
    assert list(two["policies"]) == names
    assert "epsilon-greedy with epsilon 0.2" in two["about"]["policies"]["popular+epsilon-greedy"]
    check_baselines(two)
    for name in ("logged", "vsknn"):
        fewer = two | {"policies": {n: row for n, row in two["policies"].items() if n != name}}
        with pytest.raises(ValueError, match=name):
            check_baselines(fewer)
    wrong = json.loads(json.dumps(two["policies"]))
    wrong["logged"]["ips"]["value"] += 0.1
    with pytest.raises(ValueError, match="must be equal"):
        check_baselines(two | {"policies": wrong})
    excused = two["about"] | {"left_out": {"ease": "too many items"}}
    without = {name: row for name, row in two["policies"].items() if name != "ease"}
    check_baselines(two | {"policies": without, "about": excused})


def test_values_per_decision_warn_that_they_are(two: dict[str, Any]) -> None:
    assert "one_decision" in two["warnings"]
    codes = two["policies"]["random"]["matching"]["refused"]
    assert list(codes) == ["replay_non_uniform"]
    assert two["policies"]["random"]["matching"]["value"] is None


@pytest.mark.parametrize("mode", ["prequential", "frozen", "rejection"])
def test_killed_and_resumed_the_report_is_the_same_to_the_bit(folder: Path, mode: str, tmp_path: Path) -> None:
    settings = asked(folder, "two", mode=mode, delay_s=60.0, estimators=["snips", "dr", "rips", "pdis"],
                     metrics=["recall", "serendipity"], policies=["baseline:popular@epsilon-greedy"])  # fmt: skip
    whole = Replay(settings, tmp_path / "whole")
    whole.world.world.batch = 128
    assert whole.run()
    save(whole)
    lives = 0
    while True:
        life = Replay(settings, tmp_path / "cut")
        life.world.world.batch = 128
        assert life.resume() == (lives > 0)
        lives += 1
        if not all(life.loop.step() for _ in range(2)):
            break
        life.save()
        life.world.close()
    life.measures.settle()
    save(life)
    assert lives > 2
    for name in ("report.json", "report.html"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()


def test_resuming_with_other_settings_is_refused(folder: Path, tmp_path: Path) -> None:
    settings = asked(folder, "one", estimators=["ips"])
    Replay(settings, tmp_path).save()
    with pytest.raises(BadSpec, match="other delay_s"):
        Replay(replace(settings, delay_s=5.0), tmp_path).resume()


def test_prequential_never_learns_from_what_comes_later(folder: Path, tmp_path: Path) -> None:
    """What a policy has learned when it is asked was closed before the oldest request of the poll."""
    replay = Replay(asked(folder, "clicks", items=""), tmp_path)
    replay.world.world.batch = 16
    agent: Any = replay.loop.agent
    act, checked = agent.act, []

    def watching(history: Any) -> Any:
        decision = act(history)
        checked.append(agent.newest <= float(history.time.min()))
        return decision

    agent.act = watching
    assert replay.run()
    assert len(checked) > 20
    assert all(checked)
    assert agent.newest > float("-inf")


def test_a_click_stream_gives_lists_and_says_why_there_are_no_values(folder: Path, tmp_path: Path) -> None:
    found = figures(asked(folder, "clicks", items=""), tmp_path)
    assert set(found["policies"]["popular"]) == {"recall@3", "ndcg@3", "mrr@3", "coverage@3", "novelty@3"}
    assert found["policies"]["logged"] == {}
    row = {name: found["policies"][name]["recall@3"]["value"] for name in ("random", "itemknn", "ease")}
    assert row["itemknn"] > row["random"]
    assert row["ease"] > row["random"]
    log = pd.read_parquet(folder / "clicks.parquet")
    assert found["dropped"]["first click of its session"] == log["user"].nunique()
    assert found["policies"]["popular"]["recall@3"]["n"] == len(log) - log["user"].nunique()
    with pytest.raises(Refused, match="no_propensity"):
        Replay(asked(folder, "clicks", estimators=["ips"]), tmp_path)


def test_matching_is_there_on_a_uniform_log(folder: Path, tmp_path: Path) -> None:
    found = figures(asked(folder, "uniform", estimators=["matching", "snips"], metrics=[]), tmp_path)
    row = found["policies"]["popular"]
    assert row["matching"]["value"] == pytest.approx(row["snips"]["value"], rel=1e-9)
    assert row["matching"]["refused"] is None


def test_rejection_tells_what_was_lived_through(folder: Path, tmp_path: Path) -> None:
    found = figures(asked(folder, "uniform", mode="rejection", estimators=["ips"], metrics=[]), tmp_path)
    told = found["rejection"]["random"]
    assert told["bound"] == pytest.approx(ITEMS, rel=1e-6)
    assert told["asked"] == 400
    assert told["accepted"] == pytest.approx(400 / ITEMS, abs=25)
    assert found["policies"]["random"]["rejection"]["n"] == told["accepted"]
    greedy = found["rejection"]["popular"]
    assert greedy["beyond"] == 0
    assert greedy["accepted"] == greedy["learned"]


def test_rejection_beyond_the_bound_is_flagged(folder: Path, tmp_path: Path) -> None:
    settings = asked(folder, "one", mode="rejection", bound=2.0, estimators=["ips"], metrics=[])
    found = figures(settings, tmp_path)
    assert found["rejection"]["popular"]["beyond"] > 0
    assert "extreme_weight" in found["policies"]["popular"]["rejection"]["warnings"]


def test_frozen_policies_learn_before_and_are_scored_after(folder: Path, tmp_path: Path) -> None:
    log = pd.read_parquet(folder / "one.parquet")
    start = float(log["time"].median())
    found = figures(asked(folder, "one", mode="frozen", start=start, estimators=["ips"]), tmp_path)
    shown = log[log["kind"] == "impression"]
    begin = shown.groupby("session")["time"].transform("min")
    assert found["log"]["decisions"] == int((begin >= start).sum())
    assert found["dropped"]["outside the window"] == int((begin < start).sum())
    assert found["log"]["learned_until"] == start


def test_what_the_policy_could_not_have_known_is_flagged(folder: Path, tmp_path: Path) -> None:
    """Without a table of items each of them is unknown when it is first shown."""
    found = figures(asked(folder, "one", items="", estimators=["ips"], metrics=[]), tmp_path)
    assert "cold_items" in found["policies"]["random"]["ips"]["warnings"]


def test_slots_without_propensity_are_left_out_and_told(folder: Path, tmp_path: Path) -> None:
    frame = slates(100, slots=2)
    frame.loc[(frame["kind"] == "impression") & (frame["slot"] == 1), "propensity"] = np.nan
    saved(folder / "half.parquet", frame)
    found = figures(asked(folder, "half", estimators=["ips"], metrics=[]), tmp_path)
    assert found["policies"]["logged"]["ips"]["n"] == 100
    assert found["dropped"]["no propensity"] == 100
    assert "100 no propensity" in found["warnings"]["dropped_rows"]


def test_choices_the_log_never_shows_are_a_gap(folder: Path, tmp_path: Path) -> None:
    """A ninth item that nobody ever saw: the uniform policy puts a ninth of its choices there."""
    table = pd.DataFrame({"item": [f"i{at}" for at in range(ITEMS + 1)]})
    table.to_csv(tmp_path / "more.csv", index=False)
    settings = asked(folder, "one", items=str(tmp_path / "more.csv"), estimators=["ips"], metrics=[])
    found = figures(settings, tmp_path / "out")
    assert "11.11%" in found["policies"]["random"]["ips"]["warnings"]["support_gap"]
    assert found["overlap"]["policies"]["random"]["never_shown"] == pytest.approx(1 / 9)


def test_bernstein_takes_the_bound_and_the_range(folder: Path, tmp_path: Path) -> None:
    more = {"estimators": ["ips"], "metrics": [], "interval": "bernstein"}
    settings = asked(folder, "one", reward_range=(0.0, 1.0), bound=500.0, **more)
    row = figures(settings, tmp_path)["policies"]["random"]["ips"]
    assert row["low"] <= row["value"] <= row["high"]
    with pytest.raises(Refused, match="no_range"):
        figures(asked(folder, "one", **more), tmp_path / "without")


def test_until_ends_the_log(folder: Path, tmp_path: Path) -> None:
    log = pd.read_parquet(folder / "one.parquet")
    until = float(log["time"].median())
    found = figures(asked(folder, "one", until=until, estimators=["ips"], metrics=[]), tmp_path)
    assert found["log"]["rows"] == int(((log["kind"] == "impression") & (log["time"] < until)).sum())


def test_a_policy_without_probabilities_has_lists_only(folder: Path, tmp_path: Path) -> None:
    lister = "tests.streamrec.replay.test_probabilities.Lister"
    found = figures(asked(folder, "one", policies=[lister], estimators=["ips"]), tmp_path)
    row = found["policies"]["lister"]
    assert row["ips"]["value"] is None
    assert list(row["ips"]["refused"]) == ["policy_not_probabilistic"]
    assert row["recall@3"]["value"] is not None


def test_agents_of_ones_own_take_part(folder: Path, tmp_path: Path) -> None:
    """A class with the parameters of a run, and a function without any; the first is what a baseline is."""
    made = {"mine": Popular, "lists": lambda: Lister()}
    replay = Replay(asked(folder, "one", estimators=["ips"]), tmp_path, agents=made)
    assert replay.run()
    found = save(replay)
    assert found["policies"]["mine"] == found["policies"]["popular"]
    assert found["policies"]["lists"]["recall@3"]["value"] is not None


def test_rows_of_users_are_independent_only_if_asked_for(folder: Path, tmp_path: Path) -> None:
    units = {}
    for cluster in ("session", "user", "row"):
        settings = asked(folder, "one", cluster=cluster, estimators=["ips"], metrics=[])
        units[cluster] = figures(settings, tmp_path / cluster)["policies"]["random"]["ips"]
    shown = frame_of(folder, "one")
    assert units["user"]["sessions"] == shown["user"].nunique()
    assert units["session"]["sessions"] == shown["session"].nunique()
    assert units["row"]["sessions"] == 240
    assert "dependent_rows" in units["row"]["warnings"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mode": "offline"}, "there is no 'offline'"),
        ({"estimators": ["isp"]}, "did you mean 'ips'"),
        ({"metrics": ["recal"]}, "did you mean 'recall'"),
        ({"estimators": ["pi"]}, "--marginal"),
        ({"estimators": ["sips"], "marginal": True}, "given the slots above"),
        ({"start": 5.0, "until": 5.0}, "before"),
        ({"alpha": 0.0}, "alpha"),
        ({"policies": ["baseline:best"]}, "no such baseline"),
        ({"policies": ["popular=baseline:random@softmax"]}, "two policies are called 'popular'"),
        ({"policies": ["baseline:popular@greedy"]}, "no wrapper 'greedy'"),
        ({"items": "nowhere.csv"}, "there is no file"),
    ],
)
def test_what_makes_no_sense_is_refused(folder: Path, wrong: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(BadSpec, match=message):
        Replay(asked(folder, "one", **wrong), tmp_path)


def test_settings_are_read_again_as_they_were(folder: Path) -> None:
    settings = asked(folder, "one", reward_range=(0.0, 2.0), reward={"click": 2.0})
    assert settings_of(settings.as_json()) == settings


def test_diversity_and_calibration_need_categories(folder: Path, tmp_path: Path) -> None:
    wanted = {"metrics": ["ild", "calibration", "serendipity", "gini", "map"], "estimators": []}
    with pytest.raises(BadSpec, match="categories of items: give --items a table"):
        Replay(asked(folder, "clicks", **wanted), tmp_path / "none")
    table = pd.DataFrame({"item": [f"i{at}" for at in range(ITEMS)], "category": ["a", "b"] * (ITEMS // 2)})
    table.to_csv(tmp_path / "items.csv", index=False)
    told = figures(asked(folder, "clicks", items=str(tmp_path / "items.csv"), **wanted), tmp_path / "out")
    drawn = told["policies"]["random"]
    # Of three out of four and four, all alike with chance 1 / 7, else two of the three pairs differ.
    assert drawn["ild@3"]["low"] < 6 / 7 * 2 / 3 < drawn["ild@3"]["high"]
    assert drawn["calibration@3"]["value"] > 0.0
    assert load(tmp_path / "out")[3]["random"].result(0.05, ITEMS)["ild@3"].value == drawn["ild@3"]["value"]


@pytest.mark.parametrize("wrapper", ["epsilon-greedy:0.1", "softmax:1", "plackett-luce:1"])
def test_wrapped_rankers_begin_with_an_empty_catalogue(folder: Path, tmp_path: Path, wrapper: str) -> None:
    policies = [f"wrapped=baseline:popular@{wrapper}"]
    for name, estimators in (("clicks", []), ("one", ["snips"])):
        told = figures(asked(folder, name, items="", policies=policies, estimators=estimators), tmp_path / name)
        quantity = "recall@3" if name == "clicks" else "snips"
        assert told["policies"]["wrapped"][quantity]["value"] > 0.0
