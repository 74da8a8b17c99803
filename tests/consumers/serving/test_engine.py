"""The service on a real broker: what is asked, clicked, erased, retired, published, damaged and restarted."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from pathlib import Path

import pytest
import torch

from consumers import wire
from consumers.broker import BrokerUnavailable, EmbeddedBroker
from consumers.kafka import KafkaWorld
from consumers.serving import figures
from consumers.serving.engine import Engine
from consumers.serving.follower import Followed
from consumers.serving.types import Ask, BadAsk, ItemInfo, UnknownModel
from streamrec import checkpoint
from streamrec.catalog import Catalog
from streamrec.sessions import SessionStore
from tests.consumers.serving.conftest import Learns, Stage, clicks, published, together, until

pytestmark = pytest.mark.kafka


def told(stage: Stage, at_least: int) -> list[wire.Event]:
    """What stands on the topic."""
    heard: list[wire.Event] = []
    names = {key: value for key, value in stage.spec["world"].items() if key in ("topic", "decisions", "dead_letters")}
    world = KafkaWorld(stage.broker.address, Catalog(500), SessionStore(users=300), 5, follow=True, **names)
    world.on_messages = heard.extend
    deadline = time.monotonic() + 20
    while len(heard) < at_least and time.monotonic() < deadline:
        world.poll(0.1)
    world.close()
    assert len(heard) >= at_least
    return heard


async def filled(stage: Stage, engine: Engine, users: int = 30, items: int = 40) -> Learns:
    """Clicks on the topic, a learner that has learned them, and a first version that serves."""
    await engine.append(clicks(users, items))
    learner = stage.learner()
    learner.read(6 * users)
    learner.publish()
    await until(lambda: engine.registry.serving is not None and engine.follower.counts["events"] >= 6 * users)
    return learner


def ask(user: str = "u1", **more: object) -> Ask:
    return Ask(user, k=5, deadline_ms=5000.0, **more)  # type: ignore[arg-type]


def test_an_answer_comes_from_the_model_and_stands_on_the_log(stage: Stage) -> None:
    async def work() -> None:
        async with stage.engine() as engine:
            first = await engine.recommend(ask())
            assert (first.fallback, first.items) == ("no_model", [])
            assert not engine.health().ready
            await filled(stage, engine)
            answer = await engine.recommend(ask(explain=True))
            assert answer.fallback is None
            assert answer.model == "000000000001"
            assert answer.policy in ("knn", "gru")
            assert -(1 << 53) < answer.decision < 0
            assert len({slot.item for slot in answer.items}) == 5
            assert all(slot.propensity is not None and 0 < slot.propensity <= 1 for slot in answer.items)
            assert answer.explain is not None
            assert answer.explain["read"] == [f"i{n}" for n in range(1, 7)]
            assert engine.health().ready, engine.health()
            assert json.dumps(engine.live())
        record = [event for event in told(stage, 181) if event.kind == "request"]
        assert len(record) == 1, "an empty list is not worth a record"
        assert record[0].decision == answer.decision
        assert record[0].slate == [slot.item for slot in answer.items]
        assert (record[0].policy, record[0].model) == (answer.policy, answer.model)
        told_p = torch.tensor([value for value in record[0].slot_logp if value is not None]).exp().tolist()
        assert told_p == pytest.approx([slot.propensity for slot in answer.items])

    together(work)


def test_a_click_is_visible_at_once_and_pays_the_decision(stage: Stage) -> None:
    async def work() -> None:
        async with stage.engine() as engine:
            await filled(stage, engine)
            answer = await engine.recommend(ask())
            item = answer.items[2].item
            begun = time.monotonic()
            verdict = await engine.append([wire.Event("click", "u1", item=item, decision=answer.decision, id="c1")])
            assert verdict[0].status == "accepted"
            await until(lambda: engine.user("u1").items[-1].item == item)  # type: ignore[union-attr]
            assert time.monotonic() - begun < 2.0
            assert engine.follower.sessions.counts["unknown"] == 0
            await engine.recommend(ask())
            await until(lambda: engine.follower.counts["decisions"] == 1)
            recent = engine.user("u1").recent  # type: ignore[union-attr]
            assert [one.reward for one in recent] == [None, 1.0]
            assert recent[1].items == [slot.item for slot in answer.items]
            assert engine.live()["policies"][answer.policy]["reward"] == 1.0

    together(work)


def test_repeated_posts_are_told_and_change_nothing(stage: Stage) -> None:
    async def work() -> None:
        async with stage.engine() as engine:
            event = wire.Event("click", "u1", item="a", id="once")
            verdicts = await engine.append([event, event])
            verdicts += await engine.append([event])
            assert [v.status for v in verdicts] == ["accepted", "duplicate", "duplicate"]
            long = wire.Event("request", "u1", slate=["x" * 128] * 1000)
            assert [v.status for v in await engine.append([long])] == ["rejected"]
            await filled(stage, engine)
            one, other = await asyncio.gather(engine.recommend(ask(id="r")), engine.recommend(ask(id="r")))
            assert one is other
            assert (await engine.recommend(ask(id="r"))) is one
            assert (await engine.recommend(ask("u2", id="r"))).decision != one.decision
            assert [i.item for i in engine.user("u1").items].count("a") == 1  # type: ignore[union-attr]

    together(work)


def test_candidates_and_excluded_items_are_respected_whoever_asks_beside(stage: Stage) -> None:
    async def work() -> None:
        async with stage.engine() as engine:
            await filled(stage, engine)
            free = await engine.recommend(ask())
            hidden = [slot.item for slot in free.items]
            answers = await asyncio.gather(
                engine.recommend(ask(candidates=["i3", "i4", "nobody"])),
                engine.recommend(ask(exclude=hidden)),
                engine.recommend(ask(candidates=["i5", "i6"], exclude=["i6"])),
                engine.recommend(ask(candidates=["nobody"])),
                engine.recommend(ask()),
            )
            shown = [[slot.item for slot in answer.items] for answer in answers]
            assert sorted(shown[0]) == ["i3", "i4"]
            assert len(shown[1]) == 5
            assert not set(shown[1]) & set(hidden)
            assert shown[2] == ["i5"]
            assert shown[3] == []
            assert len(shown[4]) == 5
            assert {answer.fallback for answer in answers} == {None}
            for bad, path in (
                (Ask("u", k=6), "k"),
                (Ask("", k=1), "user"),
                (Ask("u", k=1, deadline_ms=0.0), "deadline_ms"),
            ):
                with pytest.raises(BadAsk) as error:
                    await engine.recommend(bad)
                assert error.value.path == path

    together(work)


def test_a_missed_deadline_gets_the_popular_list(stage: Stage) -> None:
    async def work() -> None:
        async with stage.engine() as engine:
            await filled(stage, engine)
            await engine.append([wire.Event("click", f"v{n}", item="i7") for n in range(20)])
            await until(lambda: engine.follower.counts["events"] >= 200)
            await asyncio.sleep(1.1)
            answer = await engine.recommend(Ask("u1", k=3, deadline_ms=1e-6, exclude=["i8"]))
            assert (answer.fallback, answer.policy, answer.items[0].item) == ("deadline", "popular", "i7")
            assert engine.live()["counts"]["fallbacks"] == 1

    together(work)


def test_what_is_retired_is_not_in_the_next_answer_and_comes_back(stage: Stage) -> None:
    async def work() -> None:
        async with stage.engine() as engine:
            learner = await filled(stage, engine)
            gone = (await engine.recommend(ask())).items[0].item
            assert await engine.retire(gone)
            assert not await engine.retire("nobody")
            for _ in range(20):
                assert gone not in [slot.item for slot in (await engine.recommend(ask())).items]
            await engine.append([wire.Event("click", "u9", item=gone)])  # a late click does not bring it back
            learner.read(181)
            learner.publish()
            await until(lambda: engine.registry.serving.version.endswith("2"))  # type: ignore[union-attr]
            assert (await engine.recommend(ask(candidates=[gone]))).items == []
            assert [i.retired for i in engine.items(gone) if i.item == gone] == [True]
            await engine.upsert([ItemInfo(gone, category="toys"), ItemInfo("brand new")])
            await until(lambda: engine.items("brand"))
            assert [(i.category, i.retired) for i in engine.items("toys")] == [("toys", False)]
            assert len((await engine.recommend(ask(candidates=[gone, "brand new"]))).items) == 2

    together(work)


def test_an_erased_user_is_nowhere(stage: Stage) -> None:
    async def work() -> None:
        async with stage.engine() as engine:
            await filled(stage, engine)
            await engine.recommend(ask())
            await until(lambda: engine.user("u1").recent)  # type: ignore[union-attr]
            assert await engine.erase("u1")
            assert engine.user("u1") is None
            assert "u1" not in engine.users()
            assert not await engine.erase("nobody")
            await until(lambda: engine.follower.world.lag == 0)
            assert engine.user("u1") is None
        kept = checkpoint.load_newest(stage.run_dir / "serving")
        assert kept is not None
        assert "u1" not in kept[0]["sessions"]["users"]["ids"]
        assert "u1" not in Followed.unpacked(kept[0]["follower"]["shown"]).recent

    together(work)


def test_a_restart_goes_on_where_it_was(stage: Stage) -> None:
    async def work() -> None:
        async with stage.engine() as engine:
            await filled(stage, engine)
            answer = await engine.recommend(ask())
            await until(lambda: engine.follower.counts["requests"] == 1)
            before = engine.user("u1")
            consumed = engine.follower.world.events_consumed
        async with stage.engine() as engine:
            assert engine.restored
            assert engine.user("u1") == before
            assert engine.follower.world.events_consumed == consumed
            assert engine.registry.serving is not None
            click = wire.Event("click", "u1", item=answer.items[0].item, decision=answer.decision)
            await engine.append([click])
            await engine.recommend(ask())
            await until(lambda: engine.follower.counts["decisions"] == 1)
            assert engine.live()["policies"][answer.policy]["reward"] == 1.0

    together(work)


def test_new_weights_take_over_and_the_chosen_version_stays(stage: Stage) -> None:
    async def work() -> None:
        async with stage.engine() as engine:
            learner = await filled(stage, engine)
            await engine.append(clicks(30, 40))
            learner.read(360)
            second = await published(engine, learner)
            assert (await engine.recommend(ask())).model == second
            info = await engine.rollback()
            assert (info.version, info.state) == ("000000000001", "serving")
            assert engine.live()["model"]["pinned"]
            third = learner.publish()
            await until(lambda: any(m.version == third for m in engine.models()))
            await asyncio.sleep(0.3)
            assert (await engine.recommend(ask())).model == "000000000001"
            states = {m.version: m.state for m in engine.models()}
            assert states == {"000000000001": "serving", second: "rolled_back", third: "standby"}
            assert (await engine.promote("latest")).version == third
            assert (await engine.promote(second)).version == second
            with pytest.raises(UnknownModel, match="no version '7'"):
                await engine.promote("7")

    together(work)


def test_a_shadow_answers_and_shows_nothing(stage: Stage) -> None:
    async def work() -> None:
        async with stage.engine() as engine:
            learner = await filled(stage, engine)
            second = await published(engine, learner)
            await engine.shadow("000000000001")
            for user in range(10):
                assert (await engine.recommend(ask(f"u{user}"))).model == second
            await until(lambda: engine.live()["shadow"]["answers"] == 10)
            shadow = engine.live()["shadow"]
            assert shadow["version"] == "000000000001"
            assert 0.3 < shadow["agreement"] <= 1.0, "the same weights but for what exploration drew"
            await engine.shadow(None)
            assert engine.live()["shadow"] is None
            with pytest.raises(UnknownModel):
                await engine.shadow("99")

    together(work)


def test_a_version_that_is_damaged_or_not_finite_or_explodes_never_serves(stage: Stage) -> None:
    async def work() -> None:
        async with stage.engine() as engine:
            learner = await filled(stage, engine)
            good = checkpoint.load(stage.run_dir / "models" / "000000000001")
            gru = good["agent"]["gru"]["model"]
            table = next(name for name, value in gru.items() if name.endswith("items.weight"))

            def published(number: int, factor: float) -> None:
                changed = {**good, "agent": {**good["agent"], "gru": {**good["agent"]["gru"]}}}
                changed["agent"]["gru"]["model"] = {**gru, table: gru[table] * factor}
                checkpoint.save(stage.run_dir / "models", changed, number, keep=8)

            async def rejected(number: int, reason: str) -> None:
                version = f"{number:012d}"
                await until(lambda: any(m.version == version and m.state == "rejected" for m in engine.models()))
                assert reason in next(m.reason for m in engine.models() if m.version == version)
                answer = await engine.recommend(ask())
                assert (answer.model, answer.fallback) == ("000000000001", None)

            published(2, float("nan"))
            await rejected(2, "is not finite")
            published(3, 1e9)
            await rejected(3, "explodes")
            path = checkpoint.save(stage.run_dir / "away", good, 4)
            with (path / "agent.safetensors").open("r+b") as file:
                file.seek(-4, 2)
                file.write(b"\xff\xff\xff\xff")
            path.rename(stage.run_dir / "models" / path.name)
            await rejected(4, "damaged")
            with pytest.raises(UnknownModel, match="cannot serve"):
                await engine.promote("000000000003")
            published(5, 1.0)
            await until(lambda: engine.registry.serving.version.endswith("5"))  # type: ignore[union-attr]
            assert engine.live()["learner"]["rejected"] == 4, "the three, and one of them again by hand"
            learner.loop.agent.agents["gru"].model.load_state_dict(  # type: ignore[attr-defined]
                {**learner.loop.agent.agents["gru"].model.state_dict(), table: gru[table] * float("inf")}  # type: ignore[attr-defined]
            )
            with pytest.raises(AssertionError, match="not finite"):
                learner.publish()

    together(work)


def test_the_guard_goes_back_when_rewards_fall(stage: Stage) -> None:
    async def work() -> None:
        async with stage.engine(guard_decisions=40, retain_s=0.01) as engine:
            learner = await filled(stage, engine)

            async def live(users: range, clicked: bool) -> None:
                closed = engine.follower.counts["decisions"]
                for user in users:
                    answer = await engine.recommend(ask(f"u{user}"))
                    acts = [
                        wire.Event("click" if clicked else "skip", f"u{user}", item=slot.item, decision=answer.decision)
                        for slot in answer.items
                    ]
                    await engine.append(acts)
                await until(lambda: engine.follower.counts["decisions"] == closed + len(users))

            await live(range(45), clicked=True)
            second = await published(engine, learner)
            await live(range(100, 180), clicked=False)
            await until(lambda: engine.registry.serving.version == "000000000001")  # type: ignore[union-attr]
            bad = next(m for m in engine.models() if m.version == second)
            assert bad.state == "rolled_back"
            assert "reward per decision fell to" in bad.reason
            assert engine.registry.pinned
            assert engine.live()["swaps"][-1]["outcome"] == "rolled_back"
            third = learner.publish()
            await until(lambda: any(m.version == third for m in engine.models()))
            await asyncio.sleep(0.3)
            assert engine.registry.serving is not None
            assert engine.registry.serving.version == "000000000001", "later versions come from the same weights"
            for says in (engine.live()["model"]["because"], engine.health().parts["model"].says):
                assert "reward per decision fell to" in says
        async with stage.engine() as engine:
            assert engine.registry.serving is not None
            assert (engine.registry.serving.version, engine.registry.pinned) == ("000000000001", True)
            assert {m.version: m.state for m in engine.models()}[second] == "rolled_back"
            assert "reward per decision fell to" in engine.live()["model"]["because"]
            assert (await engine.promote("latest")).version == third
            assert (engine.registry.pinned, engine.live()["model"]["because"]) == (False, "")

    together(work)


def test_a_model_that_fails_while_it_answers_gives_way(stage: Stage) -> None:
    async def work() -> None:
        async with stage.engine() as engine:
            learner = await filled(stage, engine)
            await published(engine, learner)
            engine.registry.serving.own.available = torch.zeros(1, dtype=torch.bool)  # type: ignore[union-attr]
            engine.registry.serving._available = torch.zeros(0, dtype=torch.bool)  # type: ignore[union-attr]
            answer = await engine.recommend(ask())
            assert answer.fallback == "model_failed"
            assert len(answer.items) == 5
            await until(lambda: engine.registry.serving.version == "000000000001")  # type: ignore[union-attr]
            assert (await engine.recommend(ask())).fallback is None
            assert not engine.registry.pinned

    together(work)


def test_what_cannot_be_read_is_told(stage: Stage) -> None:
    from tests.consumers.kafka_topics import send

    async def work() -> None:
        async with stage.engine() as engine:
            send(
                stage.broker.address, stage.spec["world"]["topic"], [b"{not json", wire.Event("click", "u1", item="a")]
            )
            await until(lambda: engine.user("u1") is not None)
            assert [letter.offset for letter in engine.dead_letters(5)] == [0]
            assert engine.live()["counts"]["dead_letters"] == 1

    together(work)


def test_a_killed_service_reads_again_what_came_after_its_snapshot(stage: Stage) -> None:
    """The engine that is left without an end stands for one that was killed: nothing of it reached the disk since."""

    async def work() -> None:
        async with stage.engine() as engine:
            await filled(stage, engine)
            await engine.shelf.keep(engine.follower.state_dict())
            answer = await engine.recommend(ask())
            await engine.append([wire.Event("click", "u1", item=answer.items[1].item, decision=answer.decision)])
            await engine.append(clicks(10, 40))
            await engine.recommend(ask())
            await until(lambda: engine.follower.counts["decisions"] == 1)
            await until(lambda: engine.follower.world.lag == 0)
            before = {user: engine.user(user) for user in sorted(engine.users(limit=100))}
            assert len(before) == 30
            async with stage.engine() as other:
                await until(lambda: other.follower.world.events_consumed == engine.follower.world.events_consumed)
                assert {user: other.user(user) for user in sorted(other.users(limit=100))} == before
                assert other.live()["policies"] == engine.live()["policies"]
                assert other.live()["counts"]["unknown"] == 0

    together(work)


def test_without_a_broker_answers_go_on_and_appends_are_refused(tmp_path: Path) -> None:
    async def work(stage: Stage) -> None:
        async with stage.engine(ack_s=1.0) as engine:
            await filled(stage, engine)
            stage.broker.stop()
            with pytest.raises(BrokerUnavailable, match="did not take"):
                await engine.append([wire.Event("click", "u1", item="i1", id="again")])
            answer = await engine.recommend(ask())
            assert (answer.fallback, len(answer.items)) == (None, 5)
            assert not engine.health().ready
            assert not engine.health().parts["producer"].ok

    with EmbeddedBroker() as own:
        stage = Stage(own, tmp_path / "run")
        asyncio.run(work(stage))
        stage.close()


def test_a_client_that_does_not_come_back_is_told_of(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    held = threading.Event()

    async def work() -> None:
        async with stage.engine() as engine:
            await until(lambda: engine.health().parts["consumer"].ok)
            monkeypatch.setattr(figures, "STUCK_S", 0.5)
            monkeypatch.setattr(KafkaWorld, "fetch", lambda world, wait_s: held.wait(20.0))
            await until(lambda: not engine.health().parts["consumer"].ok)
            assert "has not come back" in engine.health().parts["consumer"].says
            assert (await engine.recommend(ask())).fallback == "no_model", "answers go on"
            held.set()
            monkeypatch.undo()
            await until(lambda: engine.health().parts["consumer"].ok)

    asyncio.run(work())
