from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from simulators.interest import Interest
from streamrec.bench import agents
from streamrec.bench.arena import Curve, load, null, play, shipped, shorter, swing
from streamrec.bench.claims import parse
from streamrec.build import BadSpec
from streamrec.records import Decision, History, Transition

SMALL = """
about = "a small feed"
decisions = 800
slate = 2
tail = 0.5
foresight_horizon = 8
claims = ["myopic > popular"]
[null]
"world.core.match" = 0.0
"world.core.quality" = 0.0
[world.core]
use = "simulators.feed.Feed"
users = 64
items = 40
topics = 4
new_items_per_hour = 0
boredom = 0
leave = 0
quality = 1.5
[agents.popular]
use = "agents.popular.Popular"
epsilon = 0.2
[agents.worst]
use = "agents.random.Random"
seed = 5
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


@pytest.mark.parametrize("name", shipped())
def test_shipped_arenas_are_whole(name: str) -> None:
    arena = load(name)
    for setting in (arena, null(arena)):
        for claim in setting.get("claims", []):
            parse(claim, {**setting["agents"], "random": 0, "myopic": 0, "oracle": 0})


@pytest.mark.parametrize(
    "text",
    [
        "decisions = 5",
        SMALL.replace("slate", "slates"),
        "days = 3\n" + SMALL,
        "about = ",
        SMALL.replace("decisions = 800", ""),
    ],
)
def test_bad_arenas_are_told(text: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(BadSpec):
        load(str(path))
    with pytest.raises(BadSpec, match="there is no arena"):
        load("nothing")


def test_an_agent_like_another_differs_in_what_it_says(tmp_path: Path) -> None:
    path = tmp_path / "like.toml"
    path.write_text(SMALL + '[agents.still]\nlike = "popular"\nepsilon = 0.0\n')
    agents = load(str(path))["agents"]
    assert agents["still"] == {**agents["popular"], "epsilon": 0.0}
    path.write_text(SMALL + '[agents.still]\nlike = "unpopular"\n')
    with pytest.raises(BadSpec, match="did you mean 'popular'"):
        load(str(path))


def test_null_changes_what_it_names_and_nothing_else(small: Path) -> None:
    arena = load(str(small))
    off = null(arena)
    assert off["world"]["core"]["match"] == 0.0
    assert "match" not in arena["world"]["core"]
    assert off["agents"]["worst"] == arena["agents"]["worst"]


def test_the_seed_decides_a_run_and_the_ends_are_ends(small: Path) -> None:
    arena = load(str(small))
    random, again = play(arena, "random", 1), play(arena, "random", 1)
    assert random.curve == again.curve
    assert random.score == again.score != play(arena, "random", 2).score
    assert len(random.times) == len(random.curve) == 20
    assert play(arena, "oracle", 1, 1.0).score > random.score


def test_runs_are_kept_and_a_cut_off_line_is_made_again(small: Path, tmp_path: Path) -> None:
    out, said = tmp_path / "out", []
    first = agents.run(out, [str(small)], seeds=2, say=said.append)
    made = (out / "runs.jsonl").read_text()
    (out / "runs.jsonl").write_text(made[:-20])
    second = agents.run(out, [str(small)], seeds=2, say=said.append)
    # Ten with the effect on; of the control only the two agents that the claim is about.
    assert said.count("14 runs, 0 of them made before") == 1
    assert said.count("14 runs, 13 of them made before") == 1
    keys = ("agent", "world", "score", "raw", "seeds")
    assert [[row[k] for k in keys] for row in first["results"]] == [[row[k] for k in keys] for row in second["results"]]
    assert first["claims"] == second["claims"]


def test_a_claim_may_be_about_how_much_the_updates_say_changes(small: Path, tmp_path: Path) -> None:
    path = tmp_path / "swing.toml"
    path.write_text(
        small.read_text().replace("myopic > popular", "fast > slow in swing.reward_per_slot")
        + '[agents.fast]\nuse = "agents.linucb.LinUCB"\n[agents.slow]\nlike = "fast"\nalpha = 0.0\n'
    )
    claim = agents.run(tmp_path / "out", [str(path)], seeds=2)["claims"][0]
    spread = {
        name: [play(load(str(path)), name, seed).swing["reward_per_slot"] for seed in (100, 101)]
        for name in ("fast", "slow")
    }
    assert claim["gap"] == pytest.approx(np.mean(spread["fast"]) - np.mean(spread["slow"]))
    path.write_text(path.read_text().replace("swing.reward_per_slot", "swing.loss"))
    with pytest.raises(BadSpec, match=r"swing.loss.*fast says nothing of it.*reward_per_slot"):
        agents.run(tmp_path / "out", [str(path)], seeds=2)


def test_swing_is_the_deviation_over_the_updates_that_speak() -> None:
    assert swing([{"a": 1.0}, {"a": 3.0, "b": 5.0}]) == {"a": 1.0, "b": 0.0}
    assert swing([]) == {}


def test_scores_are_shares_of_the_way(small: Path, tmp_path: Path) -> None:
    results = agents.run(tmp_path / "out", [str(small)], seeds=2)
    scores = {row["agent"]: row["score"] for row in results["results"]}
    assert scores["random"] == pytest.approx(0.0, abs=1e-9)
    assert scores["oracle"] == pytest.approx(1.0)
    assert scores["myopic"] > 0.3
    claim = results["claims"][0]
    assert claim["gap"] > 0
    assert claim["control"]["gap"] < claim["gap"]
    page = Path(results["report"]).read_text()
    assert "<svg" in page
    assert "myopic &gt; popular" in page


def test_short_runs_are_short(small: Path) -> None:
    arena = shorter(load(str(small)), 50)
    assert play(arena, "popular", 0).decisions < 90
    assert torch.get_num_threads() == 1


def test_a_life_counts_whole_in_the_piece_in_which_it_ends() -> None:
    """Two people in turns: nothing is divided by endings that are not those of the rewards."""
    core = Interest(users=2)
    curve = Curve(core, 0.0, {"decisions": 80})
    for step in range(40):
        user = torch.arange(2)
        before, shown = (
            History.of(user=user, items=user.new_zeros(2, 0).int()),
            Decision.of(user, torch.ones(2, 1, dtype=torch.int64)),
        )
        done = torch.tensor([step % 10 == 9, step == 29])
        curve.see(
            Transition(
                history=before,
                shown=shown,
                wanted=shown,
                feedback=torch.zeros(2, 1, dtype=torch.int8),
                rewards=torch.tensor([[1.0], [2.0]]),
                next=before,
                time=torch.full((2,), float(step), dtype=torch.float64),
                done=done,
                sent=torch.zeros(2, dtype=torch.float64),
            )
        )
    assert curve.over
    points = curve.points()
    assert points[:10] == [10.0] * 10, "the first four pieces know no life yet, and stand as the first that does"
    assert points[14] == (10.0 + 60.0) / 2
    assert points[15:] == [35.0] * 4 + [10.0]
    assert curve.tail(0.25) == 10.0
    assert curve.tail(1.0) == (4 * 10.0 + 60.0) / 5
