"""What the log says of an answer that was limited, and what a learner makes of it; a shadow on live traffic."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from consumers import wire
from consumers.serving.engine import Engine
from consumers.serving.types import Answer, Ask, BadAsk
from streamrec.ports import Agent
from streamrec.records import Transition
from tests.consumers.serving.conftest import Learns, Stage, clicks, published, together, until

pytestmark = pytest.mark.kafka


def ask(user: str = "u1", **more: object) -> Ask:
    return Ask(user, k=3, deadline_ms=5000.0, **more)  # type: ignore[arg-type]


async def filled(stage: Stage, engine: Engine, items: int = 40) -> Learns:
    await engine.append(clicks(30, items))
    learner = stage.learner()
    learner.read(180)
    learner.publish()
    await until(lambda: engine.registry.serving is not None and engine.follower.counts["events"] >= 180)
    return learner


def posted(engine: Engine) -> list[wire.Event]:
    """What the answers put on the log from here on."""
    said: list[wire.Event] = []
    post = engine.journal.post

    def note(event: wire.Event) -> None:
        said.append(event)
        post(event)

    engine.answers._post = note
    return said


def seen(agent: Agent) -> list[Transition]:
    """Transitions that the agent observes from here on."""
    closed: list[Transition] = []
    observe = agent.observe

    def note(transition: Transition) -> None:
        closed.append(transition)
        observe(transition)

    agent.observe = note  # type: ignore[method-assign]
    return closed


async def clicked(engine: Engine, user: str, answer: Answer) -> None:
    """The first item is clicked, the others are passed over: the decision is closed."""
    kinds: list[wire.Name] = ["click", *["skip"] * (len(answer.items) - 1)]  # type: ignore[list-item]
    acts = zip(kinds, answer.items, strict=True)
    await engine.append([wire.Event(kind, user, item=slot.item, decision=answer.decision) for kind, slot in acts])


@pytest.mark.parametrize("room", [0, 1, 8])
def test_the_log_says_what_could_be_shown_and_the_learner_knows_it(stage: Stage, room: int) -> None:
    stage.spec["world"]["candidates"] = room

    async def work() -> None:
        async with stage.engine() as engine:
            learner = await filled(stage, engine)
            closed, said = seen(learner.loop.agent), posted(engine)
            limited = await engine.recommend(ask(candidates=["i3", "i4", "nobody", "i5", "i3", "i6"], exclude=["i6"]))
            free = await engine.recommend(ask("u2"))
            assert (await engine.recommend(ask(candidates=["nobody"]))).items == []
            assert [list(event.candidates) for event in said] == [["i3", "i4", "i5"], []]
            assert b"candidates" not in wire.encode(said[1])
            assert b"context" not in wire.encode(said[1])
            await clicked(engine, "u1", limited)
            await clicked(engine, "u2", free)
            learner.read(180 + 2 + 6)
            catalog = learner.loop.catalog
            offers = {
                frozenset(catalog.ids[row] for row in offer if row)
                for part in closed
                for offer, shown in zip(part.history.offer.tolist(), part.shown.slate.tolist(), strict=True)
                if sum(row > 0 for row in shown) == 3
            }
            known = {frozenset({"i3", "i4", "i5"}), frozenset[str]()}
            assert offers == (known if room >= 3 else {frozenset()})
            assert learner.loop.read()["dead_letters"] == engine.follower.world.dead_letters == 0

    together(work)


def test_candidates_that_do_not_fit_into_a_message_do_not_cost_the_answer(stage: Stage) -> None:
    async def work() -> None:
        async with stage.engine() as engine:
            await filled(stage, engine)
            long = [f"{'界' * 120}{number}" for number in range(200)]
            await engine.append([wire.Event("item", item=item) for item in long])
            await until(lambda: bool((engine.follower.catalog.find(long) > 0).all()))
            said = posted(engine)
            answer = await engine.recommend(ask(candidates=long))
            assert {slot.item for slot in answer.items} <= set(long)
            assert (len(said[0].slate), said[0].candidates) == (3, ())
            await engine.recommend(ask(candidates=long[:100]))
            assert set(said[1].candidates) == set(long[:100])
            await until(lambda: engine.follower.counts["requests"] == 2)
            assert engine.follower.world.dead_letters == 0

    together(work)


def test_an_agent_of_contexts_is_asked_with_what_the_request_says(stage: Stage) -> None:
    stage.spec["world"]["context"] = 2
    stage.spec["agent"] = {"use": "agents.linucb.LinUCB", "epsilon": 0.1}

    async def work() -> None:
        async with stage.engine() as engine:
            learner = await filled(stage, engine)
            closed, said = seen(learner.loop.agent), posted(engine)
            with pytest.raises(BadAsk, match="Expected 2 numbers") as error:
                await engine.recommend(ask(context=[1.0]))
            assert error.value.path == "context"
            answers = await asyncio.gather(
                *(engine.recommend(ask(f"u{at}", context=said)) for at, said in ((1, [1.0, -2.5]), (2, [])))
            )
            assert {answer.fallback for answer in answers} == {None}
            assert sorted(list(event.context) for event in said) == [[], [1.0, -2.5]]
            for at, answer in enumerate(answers, 1):
                await clicked(engine, f"u{at}", answer)
            learner.read(180 + 2 + 6)
            heard = [c for part in closed for c in part.history.context.tolist() if any(c)]
            assert heard == [[1.0, -2.5]]

    together(work)


def test_what_a_shadow_would_have_earned_is_told(stage: Stage) -> None:
    async def work() -> None:
        async with stage.engine() as engine:
            learner = await filled(stage, engine)
            second = await published(engine, learner)
            await engine.shadow("000000000001")
            assert engine.live()["shadow"]["value"] is None
            for user in range(60):
                await clicked(engine, f"u{user % 30}", await engine.recommend(ask(f"u{user % 30}")))

            def value() -> dict[str, Any]:
                said: dict[str, Any] = engine.live()["shadow"]["value"] or {"decisions": 0}
                return said

            await until(lambda: value()["decisions"] == 60)
            assert value()["serving"] == 1.0, "the first slot was always clicked"
            assert value()["reward"] == pytest.approx(1.0)
            assert value()["users"] == 30
            assert value()["ess"] > 30, "the same weights: they want the same"
            assert "1 per decision" in value()["says"]
            metrics = {info.version: info.metrics for info in engine.models()}
            assert metrics["000000000001"]["shadow.decisions"] == 60
            assert "shadow.reward" not in metrics[second]
            await engine.shadow(None)
            assert not any("shadow.reward" in info.metrics for info in engine.models())

    together(work)


def test_a_click_that_comes_before_the_shadow_was_asked_counts(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consumers.serving.answers.ON_THEIR_WAY_S", 2.0)

    async def work() -> None:
        async with stage.engine() as engine:
            learner = await filled(stage, engine)
            await published(engine, learner)
            await engine.shadow("000000000001")
            answers = await asyncio.gather(*(engine.recommend(ask(f"u{user}")) for user in range(30)))
            for user, answer in enumerate(answers):
                await clicked(engine, f"u{user}", answer)
            await until(lambda: (engine.answers.beside.value() or {"decisions": 0})["decisions"] == 30, 60.0)

    together(work)
