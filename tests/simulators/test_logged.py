"""A user model fitted on a log: what it must say about itself, and whether it ranks policies as the truth does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import pandas as pd
import pytest
import torch
from torch import Tensor

from agents.random import Random
from simulators.core import Core
from simulators.feed import Feed
from simulators.logged import Logged
from simulators.logged_data import divide, load, observe, parts, together
from simulators.logged_fit import Settings, World, fit
from simulators.logged_report import _auc, calibration, kendall, play_policies, policies
from simulators.oracle import Greedy, play, scale
from simulators.world import SimulatorWorld
from streamrec.catalog import Catalog
from streamrec.data.recorder import Recorder
from streamrec.loop import Loop
from streamrec.ports import State
from streamrec.records import Kind
from streamrec.sessions import SessionStore

ITEMS, USERS = 40, 300


def truth(seed: int = 0, users: int = USERS) -> Feed:
    """A feed that is easy to know: many clicks, nothing that drifts."""
    settings: dict[str, Any] = {"base": -2.5, "match": 4.0, "boredom": 0.5, "drift": 0.0, "new_items_per_hour": 0.0}
    core = Feed(users=users, items=ITEMS, topics=6, gap_s=120.0, **settings)
    core.reset(torch.arange(users), torch.arange(users) + 1_000_003 * (seed + 1))
    return core


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a recorder wrote down of random slates shown to these users."""
    path = tmp_path_factory.mktemp("recorded") / "log"
    catalog, sessions = Catalog(ITEMS), SessionStore(users=USERS, slate=5)
    inside = SimulatorWorld(truth(), catalog, sessions, decisions=9000, tick_s=300.0)
    recorder = Recorder(inside, path, catalog, sessions)
    loop = Loop(recorder, sessions, catalog, Random(catalog, 5))
    while loop.step():
        pass
    recorder.close()
    return path


@pytest.fixture(scope="module")
def folder(log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fitted") / "world"
    fit(log, out, share=1.0, dim=8, hidden=16, batch=128, epochs=4, source="a test")
    return out


def world(folder: Path, **settings: Any) -> Logged:
    return Logged(folder, **{"users": 200, **settings})


def everybody(core: Core) -> Tensor:
    return torch.arange(core.users)


def same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# --- what the log says --------------------------------------------------------------------------------------------


def small_log() -> pd.DataFrame:
    rows = [
        ("a", "x", "impression", 10.0, "1", 0),
        ("a", "y", "impression", 10.0, "1", 1),
        ("a", "y", "click", 11.0, "1", 1),
        ("a", "y", "purchase", 12.0, "1", 1),
        ("a", "y", "impression", 30.0, "2", 0),
        ("a", "z", "impression", 30.0, "2", 1),
        ("a", "z", "skip", 33.0, "2", 1),
        ("a", "", "leave", 40.0, "", -1),
        ("b", "x", "click", 5.0, "", -1),
        ("b", "x", "impression", 20.0, "3", 0),
        ("a", "x", "impression", 90.0, "4", 0),
    ]
    return pd.DataFrame(rows, columns=["user", "item", "kind", "time", "slate", "slot"])


def test_slates_get_the_strongest_reaction_and_what_came_strictly_before() -> None:
    """Golden values by hand."""
    seen = observe(load(small_log()), like=4.0)
    assert seen.names == ["x", "y", "z"]
    assert seen.user.tolist() == [0, 0, 0, 1]
    assert seen.time.tolist() == [10.0, 30.0, 90.0, 20.0]
    assert seen.item.tolist() == [1, 2, 2, 3, 1, 1]
    kinds = [Kind.IMPRESSION, Kind.PURCHASE, Kind.IMPRESSION, Kind.SKIP, Kind.IMPRESSION, Kind.IMPRESSION]
    assert seen.kind.tolist() == [int(kind) for kind in kinds]
    count = {name: (seen.end[name] - seen.begin[name]).tolist() for name in seen.streams}
    assert count == {"positive": [0, 1, 1, 1], "skipped": [0, 0, 1, 0], "shown": [0, 2, 4, 0]}
    assert seen.left.tolist() == [0.0, 1.0, 0.0, 0.0]
    assert seen.pause[:2].tolist() == [20.0, 60.0]
    assert not seen.organic


def test_a_log_of_ratings_is_slates_of_one() -> None:
    frame = pd.DataFrame(
        {"user": "a", "item": list("xyz"), "kind": "rating", "value": [5.0, 2.0, 4.0], "time": [1.0, 2.0, 3.0]}
    )
    seen = observe(load(frame), like=4.0)
    assert seen.organic
    assert seen.kind.tolist() == [int(Kind.CLICK), int(Kind.SKIP), int(Kind.CLICK)]
    assert seen.size.tolist() == [1, 1, 1]


def test_clicks_alone_cannot_be_fitted() -> None:
    frame = pd.DataFrame({"user": "a", "item": list("xyz"), "kind": "click", "time": [1.0, 2.0, 3.0]})
    with pytest.raises(ValueError, match="shown and not clicked"):
        observe(load(frame), like=4.0)


def test_a_split_by_users_parts_users_and_one_by_time_parts_time(log: Path) -> None:
    frame = load(log)
    mine = divide(frame, "user", 0.5)
    assert not set(frame["user"][mine]) & set(frame["user"][~mine])
    assert 0.4 < mine.mean() < 0.6
    late = divide(frame, "time", 0.3)
    assert frame["time"][late].min() > frame["time"][~late].max()
    assert late.mean() == pytest.approx(0.3, abs=0.01)
    seen = observe(frame, 4.0)
    three = parts(seen, "user")
    users = [set(seen.user[part].tolist()) for part in (three.fit, three.validation, three.test)]
    assert not users[0] & users[1]
    assert not users[0] & users[2]
    assert len(users[0] | users[1] | users[2]) == USERS


def test_pairs_are_users_who_clicked_both() -> None:
    item, user = torch.tensor([1, 2, 1, 3, 2]), torch.tensor([0, 0, 1, 1, 0])
    clicks = torch.tensor([2, 2, 1])
    assert together(item, user, clicks).tolist() == [[2.0, 1.0, 1.0], [1.0, 1.0, 0.0], [1.0, 0.0, 1.0]]


# --- what is measured ---------------------------------------------------------------------------------------------


def test_figures_by_hand() -> None:
    assert kendall([1, 2, 3], [1, 3, 2]) == pytest.approx(1 / 3)
    assert kendall([1, 2, 3], [3, 2, 1]) == -1.0
    assert kendall([1, 1, 2], [1, 2, 3]) == pytest.approx(2 / 6**0.5)
    assert _auc(torch.tensor([0.1, 0.4, 0.4, 0.8]), torch.tensor([False, False, True, True])) == pytest.approx(3.5 / 4)


def test_calibration_is_the_distance_of_said_and_seen() -> None:
    y = (torch.arange(1000) % 4 == 0).long()
    right = torch.tensor([0.75, 0.25]).expand(1000, -1)
    assert calibration(right, y, ["no", "yes"])["yes"] < 0.02
    wrong = torch.tensor([0.5, 0.5]).expand(1000, -1)
    assert calibration(wrong, y, ["no", "yes"])["yes"] == pytest.approx(0.25, abs=0.02)


def test_the_manifest_reports_and_the_model_beats_the_base_rates(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    report = manifest["report"]
    assert set(report["per_class"]) == {"impression", "skip", "click"}
    assert report["log_loss"] < report["log_loss_base"]
    assert report["per_class"]["click"]["auc"] > 0.65
    assert max(report["calibration"].values()) < 0.03
    assert report["agreement"]["method"] == "snips"
    assert report["agreement"]["tau"] > 0.4
    assert report["agreement"]["low"] <= report["agreement"]["tau"] <= report["agreement"]["high"]
    assert report["leaving"]["log_loss"] < report["leaving"]["log_loss_base"]
    assert not any("u1" in str(value) for value in manifest.values())


def test_policies_rank_in_the_fitted_world_as_in_the_true_one(folder: Path, log: Path) -> None:
    seen = observe(load(log), 4.0)
    settings = Settings(share=1.0)
    made = policies(World.of(seen, parts(seen, "user"), settings))
    number = torch.tensor([0, *(int(name[1:]) for name in seen.names)])  # of the fitted world -> of the true one
    back = torch.zeros_like(number)
    back[number] = torch.arange(len(number))

    def there(score: Any) -> Any:
        return lambda past: score(back[past])[:, back[1:] - 1]

    real = play_policies(lambda seed: truth(seed + 5), {name: there(score) for name, score in made.items()}, 10)
    ours = play_policies(lambda seed: world(folder, seed=seed), made, 10)
    assert kendall(list(real.values()), list(ours.values())) >= 0.6
    assert ours["random"] == pytest.approx(real["random"], rel=0.15)


def test_nobody_trains_in_a_world_that_was_not_measured(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    for missing in ("per_class", "calibration", "agreement"):
        report = {name: value for name, value in manifest["report"].items() if name != missing}
        (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "report": report}))
        with pytest.raises(ValueError, match=f"no report of {missing}"):
            Logged(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    Logged(tmp_path, users=2)
    (tmp_path / "items.json").write_text("{}")
    with pytest.raises(ValueError, match="sha256"):
        Logged(tmp_path)
    with pytest.raises(ValueError, match="no fitted world"):
        Logged(tmp_path / "nowhere")


def test_the_rest_of_the_log_is_a_log_of_other_users(log: Path, tmp_path: Path) -> None:
    rest = tmp_path / "rest.parquet"
    manifest = fit(log, tmp_path / "w", share=0.6, dim=2, hidden=2, epochs=1, rest=rest)
    left, frame = pd.read_parquet(rest), load(log)
    assert len(left) == len(frame) - manifest["log"]["of_the_world"]
    assert set(left["user"]) == set(frame["user"][~divide(frame, "user", 0.6)])


@pytest.mark.parametrize("wrong", [{"split": "luck"}, {"share": 0.0}, {"dim": 0}, {"learning_rate": 0.0}])
def test_settings_out_of_range_are_refused(wrong: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        fit(small_log(), tmp_path, **wrong)


# --- the world ----------------------------------------------------------------------------------------------------


def test_it_is_a_core_that_comes_with_the_package() -> None:
    core = Logged(users=4)
    assert isinstance(core, Core)
    assert sum(path.stat().st_size for path in core.path.iterdir()) < 200_000
    env = gymnasium.make("simulators:Logged-v0")
    observation, _ = env.reset(seed=1)
    assert env.observation_space.contains(observation)
    env.close()


def test_worth_is_a_probability_and_clicks_have_it(folder: Path) -> None:
    core = world(folder, users=3000, position=0.0)
    slates = core.sample(everybody(core), 5)
    p = core.worth(everybody(core), slates)
    clicks = core.step(everybody(core), slates).kinds == int(Kind.CLICK)
    z = (clicks.double() - p.double()).sum() / (p * (1 - p)).double().sum().sqrt()
    assert abs(float(z)) < 4
    assert clicks[p > p.median()].double().mean() > 1.5 * clicks[p <= p.median()].double().mean()


def test_the_value_of_all_items_is_that_of_each(folder: Path) -> None:
    core = world(folder)
    items = torch.arange(1, core.capacity + 1).expand(core.users, -1)
    for foresight in (0.0, 0.7):
        torch.testing.assert_close(
            core.worth(everybody(core), foresight=foresight), core.worth(everybody(core), items, foresight)
        )
    assert (core.worth(everybody(core), torch.zeros(core.users, 1, dtype=torch.int64)) == -torch.inf).all()


def test_samples_are_different_items_all_equally_likely(folder: Path) -> None:
    core = world(folder, users=4000)
    drawn = core.sample(everybody(core), 5)
    assert all(len(set(row)) == 5 for row in drawn.tolist())
    count = torch.bincount(drawn.flatten(), minlength=ITEMS + 1)[1:]
    assert float(count.min()) > 0.75 * 4000 * 5 / ITEMS
    assert int(core.sample(everybody(core), ITEMS + 3)[0].gt(0).sum()) == ITEMS


def test_64_users_alone_live_as_64_together(folder: Path) -> None:
    together, ones = world(folder, users=64), [world(folder, users=1) for _ in range(64)]
    users, first = torch.arange(64), torch.tensor([0])
    together.reset(users, users + 9)
    for row, one in enumerate(ones):
        one.reset(first, torch.tensor([row + 9]))
    for step in range(5):
        slates = together.best(users, 0.5) if step % 2 else together.sample(users, together.slate)
        apart = [one.best(first, 0.5) if step % 2 else one.sample(first, one.slate) for one in ones]
        assert torch.equal(slates, torch.cat(apart))
        feedback = together.step(users, slates)
        results = [one.step(first, slate) for one, slate in zip(ones, apart, strict=True)]
        assert torch.equal(feedback.kinds, torch.cat([result.kinds for result in results]))
        assert torch.equal(feedback.think + feedback.gap, torch.cat([result.think + result.gap for result in results]))
    assert torch.equal(together.lately, torch.cat([one.lately for one in ones]))


def test_a_saved_world_goes_on_as_if_never_stopped(folder: Path) -> None:
    one = world(folder)
    users = everybody(one)
    for _ in range(3):
        one.step(users[::2], one.sample(users[::2], one.slate))
    saved = one.state_dict()
    other = one.like()
    other.load_state_dict(saved)
    for core in (one, other):
        for _ in range(3):
            core.step(users, core.best(users))
    assert same(one.state_dict(), other.state_dict())
    assert not same(saved, one.state_dict())
    with pytest.raises(ValueError, match="users and path"):
        other.like(users=7).load_state_dict(saved)


def test_people_are_those_of_the_log_and_reset_brings_others(folder: Path) -> None:
    core = world(folder)
    assert 0 <= int(core.who.min()) <= int(core.who.max()) < len(core.population.liked)
    assert len(core.who.unique()) > 50
    before = core.who.clone()
    core.reset(everybody(core))
    assert not torch.equal(before, core.who)
    core.reset(torch.tensor([0, 1]), torch.tensor([5, 5]))
    assert core.who[0] == core.who[1]
    assert core.key[0] == core.key[1]


def test_every_effect_is_off_at_0(folder: Path) -> None:
    users = torch.arange(500)
    still = world(folder, users=500, dynamics=0.0)
    before = still.worth(users)
    still.step(users, still.best(users))
    assert torch.equal(before, still.worth(users))
    moving = world(folder, users=500)
    moving.step(users, moving.best(users))
    assert not torch.allclose(before, moving.worth(users))
    stay = world(folder, users=500, leave=0.0)
    assert not any(stay.step(users, stay.sample(users, stay.slate)).leave.any() for _ in range(5))
    leave = world(folder, users=500)
    assert any(leave.step(users, leave.sample(users, leave.slate)).leave.any() for _ in range(5))
    flat, steep = (world(folder, users=3000, position=strength) for strength in (0.0, 1.0))
    slots = [core.step(torch.arange(3000), torch.ones(3000, 5).long() * 3).kinds for core in (flat, steep)]
    clicks = [(kinds == int(Kind.CLICK)).double().mean(0) for kinds in slots]
    assert float(clicks[0].max() - clicks[0].min()) < 0.06
    assert float(clicks[1][0]) > 1.5 * float(clicks[1][4])


def test_without_memory_looking_ahead_gains_nothing(folder: Path) -> None:
    still = scale(lambda seed: world(folder, users=32, seed=seed, dynamics=0.0), horizon=5, seeds=(0,))
    assert still["oracle"] == still["myopic"] > still["random"]
    assert still["lookahead_share"] == 0.0


def test_the_shipped_world_is_evidence_for_looking_ahead() -> None:
    """(oracle - myopic) / (oracle - random) of at least .15, measured on people the foresight was not tuned on."""
    users = 256
    chance, now, ahead = (
        float(play(Logged(users=users, seed=3), policy, 40).mean())
        for policy in (lambda core, rows: core.sample(rows, core.slate), Greedy(0.0), Greedy(0.25))
    )
    assert (ahead - now) / (ahead - chance) > 0.15


def test_slates_and_rewards_of_the_wrong_kind_are_refused(folder: Path) -> None:
    core = world(folder)
    with pytest.raises(ValueError, match="expected slates of shape"):
        core.step(everybody(core), torch.ones(core.users, 3, dtype=torch.int64))
    for wrong in ({"users": 0}, {"slate": -1}, {"slate": 41}, {"dynamics": -1.0}, {"rewards": {"rating": 1.0}}):
        with pytest.raises(ValueError, match="logged"):
            world(folder, **wrong)
    paid = world(folder, users=500, rewards={"click": 2.0, "skip": -1.0})
    feedback = paid.step(everybody(paid), paid.sample(everybody(paid), paid.slate))
    clicks = (feedback.kinds == int(Kind.CLICK)).sum(1)
    skips = (feedback.kinds == int(Kind.SKIP)).sum(1)
    assert torch.equal(feedback.reward, (2.0 * clicks - skips).float())
