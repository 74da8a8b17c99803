"""DeepPage: the mapping by hand, who gets which gradient, what each variant takes out, what the state reads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from agents.deeppage import DeepPage, follow, place
from agents.deeppage_nets import Actor, Critic, Parts, Reading, Sizes, before_pages, build
from streamrec.catalog import Catalog
from streamrec.records import Decision, History, Kind, Transition
from streamrec.sessions import SessionStore
from tests.histories import catalog, history

ROWS, COLUMNS, ITEM, P, N = 3, 2, 6, 2, 4
SIZES = Sizes(ROWS, COLUMNS, ITEM, categories=8, hidden=12, page=10, filters=5, paper_layout=False)
VARIANTS = ("embedding", "side", "initial", "cnn", "attention", "realtime", "deconv")


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def reading(n: int = 4) -> Reading:
    draw = generator(7)
    pages = torch.randn(n, P, ROWS * COLUMNS, ITEM, generator=draw)
    return Reading(
        before=torch.randn(n, N, ITEM, generator=draw),
        count=torch.full((n,), N),
        vectors=pages,
        category=torch.randint(1, 8, pages.shape[:3], generator=draw),
        kinds=torch.randint(2, 6, pages.shape[:3], generator=draw),
        seen=torch.ones(n, P, dtype=torch.bool),
    )


def actor(**parts: bool) -> Actor:
    return build(Actor, SIZES, Parts(**parts), generator())


def critic(**parts: bool) -> Critic:
    return build(Critic, SIZES, Parts(**parts), generator())


def with_features(items: int = 30, features: int = ITEM) -> Catalog:
    made = catalog(items)
    made.reserve(features)
    rows = torch.arange(1, items + 1)
    made.describe(rows, category=rows % 5 + 1, features=torch.randn(items, features, generator=generator(3)))
    return made


def agent(of: Catalog | None = None, **settings: Any) -> DeepPage:
    sessions = SessionStore(users=64, length=12, skips=4, slate=ROWS * COLUMNS)
    small = {"columns": COLUMNS, "pages": P, "positives": N, "hidden": 16, "page": 12, "filters": 6, "batch": 32}
    quiet = {"temperature": 0.0, "temperature_start": 0.0, "neighbours": 0, "memory": 2_000}
    return DeepPage(with_features() if of is None else of, sessions, ROWS * COLUMNS, **small | quiet | settings)


def visits(n: int, seed: int = 0, items: int = 30) -> History:
    """Users with six positives before and two pages in the running session."""
    draw = generator(seed)
    pages = torch.rand(n, P, items, generator=draw).topk(ROWS * COLUMNS, dim=2).indices + 1
    kinds = torch.randint(int(Kind.IMPRESSION), int(Kind.PURCHASE) + 1, pages.shape, generator=draw)
    made = history(torch.randint(1, items + 1, (n, 6), generator=draw).tolist(), length=12)
    return replace(made, pages=pages.int(), page_kinds=kinds.to(torch.int8))


def shown(n: int, seed: int = 0, reward: float = 1.0) -> Transition:
    """Random pages; whoever sees item 1 to 5 clicks it."""
    before, draw = visits(n, seed), generator(seed + 100)
    slate = torch.rand(n, 30, generator=draw).topk(ROWS * COLUMNS, dim=1).indices + 1
    hit = slate <= 5
    decision = Decision.of(before.user, slate)
    return Transition(
        history=before,
        shown=decision,
        wanted=decision,
        feedback=torch.where(hit, int(Kind.CLICK), int(Kind.SKIP)).to(torch.int8),
        rewards=hit * reward,
        next=visits(n, seed + 1),
        time=before.time + 5,
        done=torch.rand(n, generator=draw) < 0.2,
        sent=torch.zeros(n, dtype=torch.float64),
    )


# --- from proto pages to items -----------------------------------------------------------------------------------


def test_each_place_takes_the_nearest_item_left_in_the_order_of_the_page() -> None:
    """By hand. Items at 0, 90, 180 and 45 degrees; the places point to 10, 20, 50 and 80 degrees.

    Nearest to 10 is 0; to 20 was 0, left is 45; to 50 was 45, left is 90; to 80 was 90, left is 180.
    """
    degrees = torch.tensor([0.0, 90.0, 180.0, 45.0]).deg2rad()
    items = torch.stack([degrees.cos(), degrees.sin()], dim=1).unsqueeze(0)
    pointed = torch.tensor([10.0, 20.0, 50.0, 80.0]).deg2rad()
    proto = (
        torch.stack([pointed.cos(), pointed.sin()], dim=1).unsqueeze(0) * torch.tensor([3.0, 0.1, 1.0, 7.0])[:, None]
    )
    index, logp = place(proto, items, torch.ones(1, 4, dtype=torch.bool), 0.0, generator())
    assert index.tolist() == [[0, 3, 1, 2]]
    assert not logp.any()
    turned, _ = place(proto.flip(1), items, torch.ones(1, 4, dtype=torch.bool), 0.0, generator())
    assert turned.tolist() == [[1, 3, 0, 2]]


def test_pages_hold_no_item_twice_and_end_empty_when_items_run_out() -> None:
    draw = generator(1)
    proto, items = torch.randn(50, 6, 5, generator=draw), torch.randn(50, 9, 5, generator=draw)
    mask = torch.rand(50, 9, generator=draw) < 0.5
    for temperature in (0.0, 0.3):
        index, logp = place(proto, items, mask, temperature, draw)
        filled = (index >= 0).sum(1)
        assert torch.equal(filled, mask.sum(1).clamp(max=6))
        assert (filled < 6).any()
        assert (index[:, 1:] < 0).logical_or(index[:, :-1] >= 0).all()
        chosen = torch.where(index >= 0, index, -torch.arange(6) - 1)
        assert (chosen.sort(1).values.diff(dim=1) > 0).all()
        assert mask.gather(1, index.clamp(min=0))[index >= 0].all()
        assert not logp[index < 0].any()


def test_exploration_has_the_propensity_it_says() -> None:
    """Frequencies of whole pages of 2 of 3 items against exp(logp); the probabilities of all six add up to 1."""
    proto = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]).expand(20_000, -1, -1)
    items = torch.tensor([[[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]])
    index, logp = place(proto, items, torch.ones(1, 3, dtype=torch.bool), 0.5, generator(2))
    page, first, counts = torch.unique(index[:, 0] * 3 + index[:, 1], return_inverse=True, return_counts=True)
    assert len(page) == 6
    said = torch.zeros(6).index_put((first,), logp.sum(1).exp())
    torch.testing.assert_close(said.sum(), torch.tensor(1.0))
    torch.testing.assert_close(counts / 20_000, said, atol=0.015, rtol=0)
    # By hand: the first place sees cosines 1, .6, 0, so exp(2) / (exp(2) + exp(1.2) + 1) for the first item.
    assert float(logp[index[:, 0] == 0][0, 0].exp()) == pytest.approx(7.389 / (7.389 + 3.320 + 1.0), abs=1e-3)


def test_places_are_those_of_the_proto_page_and_not_a_ranking() -> None:
    """A proto page made of item vectors comes back as just these items, place by place."""
    made = agent()
    items = torch.tensor([[7, 3, 22, 15, 9, 1], [1, 9, 15, 22, 3, 7]])
    every = torch.arange(1, 31).unsqueeze(0)
    index, _ = place(made.vectors(items) * 5.0, made.vectors(every), every > 0, 0.0, generator())
    assert torch.equal(every[0][index], items)


def test_recalled_are_the_neighbours_of_what_was_liked_and_a_few_more() -> None:
    made = agent(neighbours=3, extra=0)
    made.observe(shown(64))
    vectors = made.vectors(torch.arange(31))
    liked = torch.tensor([2, 4])
    nearest = (vectors[liked] @ vectors[1:].T).topk(3, dim=1).indices + 1
    assert torch.equal(made.near[liked], nearest)
    items, mask = made._recall(history([[2, 4]], length=12))
    assert set(items[mask].tolist()) == {2, 4, *nearest.flatten().tolist()}
    assert len(items[mask]) == len(set(items[mask].tolist()))
    wide, some = agent(neighbours=3, extra=8)._recall(history([[2, 4], []], length=12))
    assert some.sum(1).tolist() >= [8, 8]
    assert (wide[some] > 0).all()


# --- gradients ---------------------------------------------------------------------------------------------------


def test_the_critic_learns_from_the_page_shown_and_the_actor_is_moved_at_its_proto_page() -> None:
    made, transition = agent(align_first=0, align=0.0), shown(200)
    made.observe(transition)
    read = made.read(transition.history)
    pages: list[Tensor] = []  # what the critic's convolution was given, call after call
    made.critic.page.register_forward_pre_hook(lambda _, given: pages.append(given[0].detach()))
    before = [p.clone() for p in made.actor.parameters()]
    sample = made.replay.sample(32, generator())
    executed = made.vectors(sample.first.shown.slate)
    seen = made.critic.encoder.embedding.items(executed)
    made._improve_critic(sample, made.critic.encoder(made.read(sample.first.history)), executed)
    torch.testing.assert_close(pages[0], seen.detach())
    state = made.critic.encoder(read).detach()
    executed = made.vectors(transition.shown.slate)
    for p in made.critic.parameters():
        p.grad = None
    kept = [p.clone() for p in made.critic.parameters()]
    proto = made.actor(read)
    made._improve_actor(replace_first(sample, transition), read, state, executed)
    looked_at = made.critic.encoder.embedding.items(torch.nn.functional.normalize(proto, dim=2))
    torch.testing.assert_close(pages[-1], looked_at.detach())
    assert all(p.grad is None for p in made.critic.parameters()), "the policy's step must not move the critic"
    assert all(torch.equal(p, q) for p, q in zip(kept, made.critic.parameters(), strict=True))
    assert any(not torch.equal(p, q) for p, q in zip(before, made.actor.parameters(), strict=True))


def replace_first(sample: Any, transition: Transition) -> Any:
    return replace(sample, first=transition)


def test_the_policy_step_raises_the_value_of_the_proto_page() -> None:
    made, transition = agent(align_first=0, align=0.0, actor_rate=0.01), shown(50)
    made.observe(transition)
    read = made.read(transition.history)
    state, executed = made.critic.encoder(read).detach(), made.vectors(transition.shown.slate)
    sample = replace_first(made.replay.sample(1, generator()), transition)

    def value() -> float:
        return float(made.critic(state, made.actor(read)).detach().mean())

    before = value()
    for _ in range(20):
        made._improve_actor(sample, read, state, executed)
    assert value() > before + 0.002


def test_the_target_by_hand() -> None:
    made, transition = agent(), shown(100)
    made.observe(transition)
    sample = made.replay.sample(50, generator())
    read = made.read(sample.next)
    later = made.critic_target(made.critic_target.encoder(read), made.actor_target(read))
    expected = sample.first.reward + 0.95 * later.detach() * ~sample.first.done
    torch.testing.assert_close(made._target(sample), expected)
    assert sample.first.done.any()


def test_targets_follow_softly() -> None:
    one, other = actor(), actor()
    with torch.no_grad():
        for p in other.parameters():
            p.add_(1.0)
    start = [p.detach().clone() for p in one.parameters()]
    follow(one, other, 0.01)
    for before, after in zip(start, one.parameters(), strict=True):
        torch.testing.assert_close(after.detach(), before + 0.01)


@pytest.mark.parametrize("to", ["rewarded", "shown"])
def test_the_distance_by_hand_and_it_falls(to: str) -> None:
    made, transition = agent(align_to=to, align_first=10_000, actor_rate=3e-3), shown(200)
    executed = made.vectors(transition.shown.slate)
    proto = torch.zeros_like(executed)
    one = transition[:1]
    first = made.distance(proto[:1], executed[:1], one)
    apart = 1.0  # from 0 to a vector of length 1
    assert float(first) == pytest.approx(apart if to == "shown" or one.rewards.any() else 0.0, abs=1e-5)
    made.observe(transition)
    for _ in range(30):
        said = made.update()
    after = float(made.distance(made.actor(made.read(transition.history)), executed, transition).detach())
    assert after < (0.9 if to == "rewarded" else 0.999)
    assert said["alignment"] >= 0


def test_alignment_alone_shows_what_was_clicked() -> None:
    made = agent(align_first=10_000, actor_rate=0.01)
    made.observe(shown(500))
    for _ in range(40):
        made.update()
    slates = made.act(visits(50, seed=9)).slate
    assert float((slates <= 5).double().sum(1).mean()) > 2 * 5 * 6 / 30


# --- parts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", VARIANTS)
def test_a_variant_has_other_weights(part: str) -> None:
    def names(**parts: bool) -> set[tuple[str, tuple[int, ...]]]:
        return {(name, tuple(p.shape)) for name, p in actor(**parts).named_parameters()}

    full, without = names(), names(**{part: False})
    gone = {name.split(".")[-2] for name, _ in full - without} | {name.split(".")[-1] for name, _ in full - without}
    expected = {
        "embedding": "item",
        "side": "feedback",
        "initial": "before",
        "cnn": "second",
        "attention": "attend",
        "realtime": "session",
        "deconv": "grow",
    }
    assert expected[part] in gone
    assert actor(**{part: False})(reading()).shape == (4, ROWS * COLUMNS, ITEM)


def moved(change: Reading, **parts: bool) -> bool:
    """Whether the state of anybody differs between `reading()` and `change`."""
    net = actor(**parts).encoder
    return not torch.equal(net(reading()), net(change))


def test_variants_do_not_read_what_they_leave_out() -> None:
    given = reading()
    feedback = replace(given, kinds=(given.kinds - 1) % 5 + 1, category=given.category % 7 + 1)
    assert moved(feedback)
    assert not moved(feedback, side=False)
    liked = replace(given, before=given.before.flip(1))
    assert moved(liked)
    assert not moved(liked, initial=False)
    seen = replace(given, vectors=given.vectors.flip(1))
    assert moved(seen)
    assert not moved(seen, realtime=False)
    with pytest.raises(ValueError, match="both off"):
        Parts(initial=False, realtime=False)


def test_pages_are_pictures_where_a_place_stands_matters() -> None:
    given = reading()
    shuffled = torch.tensor([4, 0, 3, 5, 1, 2])
    turned = replace(
        given,
        vectors=given.vectors[:, :, shuffled],
        category=given.category[:, :, shuffled],
        kinds=given.kinds[:, :, shuffled],
    )
    assert moved(turned)
    net = critic()
    page = torch.randn(4, ROWS * COLUMNS, ITEM, generator=generator(5))
    state = net.encoder(given)
    assert not torch.allclose(net(state, page), net(state, page[:, shuffled]))
    torch.testing.assert_close(net(state, page), net(state, page * 3.0))


def test_attention_averages_the_states_and_without_it_the_last_one_counts() -> None:
    net = actor().encoder
    with torch.no_grad():
        net.attend.weight.zero_()
    first = replace(reading(), seen=torch.tensor([[True, False]]).expand(4, -1))
    both, one = net(reading()), net(first)
    last = actor(attention=False).encoder(reading())
    torch.testing.assert_close(both, (one + last) / 2)


def test_the_first_recurrence_hands_its_state_over() -> None:
    net = actor(attention=False).encoder
    nothing = replace(reading(), seen=torch.zeros(4, P, dtype=torch.bool))
    state = net(nothing)
    again = replace(reading(), seen=torch.tensor([[False, True]]).expand(4, -1))
    page = net._pages(again)[:, 1]
    torch.testing.assert_close(net(again), net.session(page, state))
    unknown = replace(nothing, count=torch.zeros(4, dtype=torch.int64))
    assert not net(unknown).any()


def test_the_layout_of_the_paper_works_too() -> None:
    wide = replace_sizes(paper_layout=True)
    made = build(Actor, wide, Parts(), generator())
    assert made(reading()).shape == (4, ROWS * COLUMNS, ITEM)
    assert dict(made.named_parameters())["encoder.page.first.weight"].shape[1] == 1


def replace_sizes(**changes: Any) -> Sizes:
    return replace(SIZES, **changes)


# --- reading -----------------------------------------------------------------------------------------------------


def test_read_before_the_pages_is_what_was_liked_before_them() -> None:
    """Six positives; the two newest answer pages, so before the pages there were four. Another has none at all."""
    made = history([[1, 2, 3, 4, 5, 6], [7], []], length=8)
    pages = torch.zeros(3, 3, 2, dtype=torch.int32)
    kinds = torch.zeros(3, 3, 2, dtype=torch.int8)
    pages[0, 1:] = torch.tensor([[5, 9], [10, 6]])
    kinds[0, 1:] = torch.tensor([[Kind.PURCHASE, Kind.SKIP], [Kind.IMPRESSION, Kind.CLICK]])
    made = replace(made, pages=pages, page_kinds=kinds)
    assert before_pages(made, 3, 3).tolist() == [[2, 3, 4], [7, 0, 0], [0, 0, 0]]
    assert before_pages(made, 6, 3).tolist() == [[1, 2, 3, 4, 0, 0], [7, 0, 0, 0, 0, 0], [0] * 6]
    assert before_pages(made, 3, 1).tolist()[0] == [3, 4, 5], "of one page only the newest click is on it"
    assert before_pages(history([[1, 2]], length=8), 3, 5).tolist() == [[1, 2, 0]]


def test_features_are_the_vectors_where_there_are_some_and_else_they_are_learned() -> None:
    told = agent()
    assert told.learned_vectors is None
    torch.testing.assert_close(told.vectors(torch.arange(1, 31)).norm(dim=1), torch.ones(30))
    untold = agent(catalog(30), dim=8)
    assert untold.learned_vectors is not None
    together, others = (torch.tensor(x) for x in ([1, 2, 3], [11, 12, 13]))
    for step in range(300):
        for group in (together, others):
            items = group.roll(step)
            untold.learned_vectors.learn(items, items.roll(1).unsqueeze(1), untold.generator)
    vectors = untold.vectors(torch.arange(31))
    inside, across = vectors[together] @ vectors[together].T, vectors[together] @ vectors[others].T
    assert float((inside.sum() - 3) / 6) > float(across.mean()) + 0.3
    assert not vectors[0].any()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"columns": 4}, "columns must divide the slate"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"temperature": -1.0}, "temperature must be at least 0"),
        ({"tau": 1.5}, "tau must be between 0 and 1"),
        ({"align_to": "liked"}, "align_to must be one of rewarded, shown"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        agent(**settings)
