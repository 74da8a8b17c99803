"""DeepPage: a whole page of recommendations at once, by an actor that draws pages and a critic that values them."""

from __future__ import annotations

import copy
from typing import Any, Literal, get_args

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from agents.deeppage_nets import Actor, Critic, Parts, Reading, Sizes, SkipGram, before_pages, build
from streamrec.catalog import Catalog
from streamrec.explore import allowed, offered, pick, without_repeats
from streamrec.memory import Replay, Sample
from streamrec.nn.optimiser import load_moments, moments
from streamrec.ports import State
from streamrec.records import Decision, History, Transition
from streamrec.sessions import SessionStore

Align = Literal["rewarded", "shown"]


class DeepPage:
    """Deep page-wise recommendation (Zhao et al., RecSys 2018): DDPG (Lillicrap et al., ICLR 2016) over pages.

    The actor turns the state of a user (`agents.deeppage_nets.Encoder`) into a proto page, one vector per place. Each
    place takes the recalled item whose vector has the highest cosine with its own, no item twice (`place`). The critic
    learns the value of the pages that were shown; the actor follows the critic's gradient at its proto page. Recalled
    are the nearest neighbours of what the user liked last, which grow with every click. Before anything else
    (`align_first`), and beside the critic's gradient then, the proto page is pulled to pages of the past: without that,
    actor and critic do not speak about the same pages.

    Departures from the paper:

    * Item vectors are the world's `Catalog.features` where it has them, else learned online (`SkipGram`), instead of
      trained once before. Vectors are scaled to length 1, and the critic sees directions only.
    * `align_to = "rewarded"` weights each place of the alignment by its reward, which is cloning of what was liked; the
      paper's pages come from a good recommender, ours at first from a poor one, and the mean of poor pages is no guide.
      "shown" is the paper's.
    * The gradient of the critic is divided by the mean size of its values (Fujimoto & Gu, NeurIPS 2021), so that
      `align` means the same in every world.
    * What stands in for a part that an ablation takes away is not published: without the CNN (-4) a layer reads the
      places of the page side by side; without the second GRU (-6) the state is the first one's.
    * Exploration: the paper has none. Gaussian noise on the proto page, usual for DDPG, leaves propensities without a
      closed form; here each place draws from softmax(cosine / temperature) over the items left, which is exact.
    * The first recurrence reads the positives before the oldest page kept; in the paper these are those before
      the session, which is the same while the session has no more than `pages` pages.
    * Feedback has a value for silence and for every other `Kind` beside the paper's skip, click and purchase.

    Args:
        catalog: which items may be shown, their categories and features.
        sessions: is asked to keep `pages` pages per user.
        slate: K = rows * columns, places of a page.
        columns: of a page; slot k of a slate is the place (k // columns, k % columns).
        pages: P, pages of the running session that are read.
        positives: N, liked items before them that are read.
        dim: D of item vectors, where they are learned.
        categories: rows of the table of categories; higher ones share a row (modulo).
        hidden: H, of both recurrences.
        page: width of a page's vector.
        filters: of the convolutions.
        paper_layout: convolve over h x (w * width) in one channel, as the paper's figure, instead of over the page.
        embedding: off = variant 1, raw vectors and one-hot codes instead of the three embeddings.
        side: off = variant 2, without category and feedback.
        initial: off = variant 3, the recurrence over pages starts at 0.
        cnn: off = variant 4, dense layers over the joined places of a page.
        attention: off = variant 5, the last state of the recurrence over pages.
        realtime: off = variant 6, without the pages of the session.
        deconv: off = variant 7, dense layers from the state to the proto page.
        neighbours: recalled per liked item, by cosine; 0 = every available item is a candidate.
        extra: random candidates beside the recalled ones.
        temperature: of the exploration in the end, in units of cosine; 0 = none.
        temperature_start: of the exploration in the beginning.
        temperature_decay: observed decisions until `temperature` is reached, in a straight line.
        align: weight of the alignment beside the gradient of the critic.
        align_first: gradient steps of alignment alone.
        align_to: see above.
        gamma: discount per page; .95 is the paper's. The critic's targets are values of proto pages that nobody ever
            showed, and in long runs they may run away at .95; .7 held in the arena `deeppage`.
        tau: share of the online networks that the target networks take over at each step.
        batch: transitions per gradient step.
        steps: gradient steps per `update`.
        memory: newest transitions kept for replay.
        actor_rate: learning rate of the actor's Adam.
        critic_rate: learning rate of the critic's Adam.
        vector_rate: learning rate of the item vectors, where they are learned.
        seed: start of the networks, replay and exploration.
        device: where the weights and the memory live.

    Raises:
        ValueError: if a setting is out of its range.
    """

    reads = ("items", "pages", "page_kinds")

    def __init__(
        self,
        catalog: Catalog,
        sessions: SessionStore,
        slate: int,
        columns: int = 1,
        pages: int = 5,
        positives: int = 10,
        dim: int = 50,
        categories: int = 64,
        hidden: int = 128,
        page: int = 128,
        filters: int = 64,
        paper_layout: bool = False,
        embedding: bool = True,
        side: bool = True,
        initial: bool = True,
        cnn: bool = True,
        attention: bool = True,
        realtime: bool = True,
        deconv: bool = True,
        neighbours: int = 30,
        extra: int = 20,
        temperature: float = 0.05,
        temperature_start: float = 0.5,
        temperature_decay: int = 20_000,
        align: float = 1.0,
        align_first: int = 500,
        align_to: Align = "rewarded",
        gamma: float = 0.95,
        tau: float = 0.01,
        batch: int = 64,
        steps: int = 1,
        memory: int = 100_000,
        actor_rate: float = 1e-3,
        critic_rate: float = 1e-3,
        vector_rate: float = 0.05,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        _check({k: v for k, v in locals().items() if k != "self"})
        self.catalog, self.slate, self.pages, self.positives = catalog, slate, pages, positives
        self.neighbours, self.extra = neighbours, extra
        self.temperature, self.temperature_start = temperature, temperature_start
        self.temperature_decay = temperature_decay
        self.align, self.align_first, self.align_to = align, align_first, align_to
        self.tau, self.batch, self.steps, self.gamma = tau, batch, steps, gamma
        self.device = torch.device(device)
        sessions.reserve(pages=pages)
        start = Generator().manual_seed(seed)
        told = catalog.features.shape[1]
        self.learned_vectors = None if told else SkipGram(catalog, dim, 5, 5, vector_rate, start, self.device)
        sizes = Sizes(slate // columns, columns, told or dim, categories, hidden, page, filters, paper_layout)
        parts = Parts(embedding, side, initial, cnn, attention, realtime, deconv)
        self.actor = build(Actor, sizes, parts, start).to(self.device)
        self.critic = build(Critic, sizes, parts, start).to(self.device)
        self.actor_target = copy.deepcopy(self.actor).requires_grad_(False)
        self.critic_target = copy.deepcopy(self.critic).requires_grad_(False)
        self.actor_adam = torch.optim.Adam(self.actor.parameters(), actor_rate)
        self.critic_adam = torch.optim.Adam(self.critic.parameters(), critic_rate)
        self.replay = Replay(memory, 1, gamma, self.reads, self.device)
        self.near = torch.zeros(catalog.capacity + 1, neighbours, dtype=torch.int64, device=self.device)
        self.generator = Generator(device).manual_seed(seed)
        self.observed = 0  # decisions
        self.learned = 0  # gradient steps

    # --- deciding ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def act(self, history: History) -> Decision:
        proto = self.actor(self.read(history))
        items, mask = self._recall(history)
        index, slot_logp = place(proto, self.vectors(items), mask, self.exploration, self.generator)
        return Decision.of(history.user, pick(items, index), slot_logp)

    @property
    def exploration(self) -> float:
        """The temperature now."""
        progress = min(1.0, self.observed / self.temperature_decay) if self.temperature_decay else 1.0
        return self.temperature_start + (self.temperature - self.temperature_start) * progress

    def vectors(self, items: Tensor) -> Tensor:
        """Item vectors of length 1: [...] rows -> [..., D]; 0 for "no item"."""
        if self.learned_vectors is None:
            return F.normalize(self.catalog.features.to(self.device)[items], dim=-1)
        table = self.learned_vectors.item.detach()
        return F.normalize(table[items], dim=-1) * (items > 0).unsqueeze(-1)

    def read(self, history: History) -> Reading:
        """What the networks see of the users."""
        before = before_pages(history, self.positives, self.pages)
        pages, kinds = history.pages[:, -self.pages :].long(), history.page_kinds[:, -self.pages :].long()
        category = self.catalog.category.to(self.device)[pages]
        seen = (pages > 0).any(2)
        return Reading(self.vectors(before), (before > 0).sum(1), self.vectors(pages), category, kinds, seen)

    def _recall(self, history: History) -> tuple[Tensor, Tensor]:
        """Candidates [B, M] or [1, M] int64 and which of them may be placed, each once."""
        given = offered(history, self.catalog.available)
        if given is not None:
            return given
        there = torch.nonzero(self.catalog.available[: self.catalog.size].to(self.device)).squeeze(1)
        there = torch.cat([there, there.new_zeros(1)])  # at least one column, and -1 is 0
        if not self.neighbours:
            return there.unsqueeze(0), (there > 0).unsqueeze(0)
        liked = history.items[:, -self.positives :].long()
        left = torch.full_like(history.user, len(there) - 1)
        more = there[without_repeats(left, self.extra, self.generator)[0]]
        items = torch.cat([self.near[liked].flatten(1), liked, more], dim=1).sort(1).values
        mask = allowed(items, self.catalog.available)
        mask[:, 1:] &= items[:, 1:] != items[:, :-1]
        return items, mask

    # --- learning ----------------------------------------------------------------------------------------------

    def observe(self, transition: Transition) -> None:
        """Remember the transition, and look up the neighbours of what was liked."""
        self.observed += len(transition)
        self.replay.add(transition)
        if self.neighbours:
            newest = transition.next.items[:, -1:].flatten().long()
            self._extend(torch.cat([(transition.shown.slate * transition.clicked()).flatten(), newest]))

    def _extend(self, liked: Tensor) -> None:
        """Write the nearest available items of `liked` [n] (0 = none) into the table of neighbours."""
        items: Tensor = torch.unique(liked)
        there = torch.nonzero(self.catalog.available[: self.catalog.size].to(self.device)).squeeze(1)
        cosine = self.vectors(items) @ self.vectors(there).T
        nearest = cosine.topk(min(self.neighbours, len(there)), dim=1).indices
        self.near[items] = 0
        self.near[items, : nearest.shape[1]] = there[nearest]
        self.near[0] = 0

    def update(self) -> dict[str, float]:
        """`steps` gradient steps, as soon as the memory holds a batch."""
        if len(self.replay) < min(self.batch, self.replay.size):
            return {}
        said: dict[str, float] = {}
        for _ in range(self.steps):
            said |= self._step()
        return said | {"temperature": self.exploration}

    def _step(self) -> dict[str, float]:
        sample = self.replay.sample(self.batch, self.generator)
        said = self._learn_vectors(sample.first)
        reading = self.read(sample.first.history)
        executed = self.vectors(sample.first.shown.slate)
        state = self.critic.encoder(reading)
        said |= self._improve_critic(sample, state, executed)
        said |= self._improve_actor(sample, reading, state.detach(), executed)
        self.learned += 1
        for mine, theirs in ((self.actor_target, self.actor), (self.critic_target, self.critic)):
            follow(mine, theirs, self.tau)
        return said

    def _learn_vectors(self, first: Transition) -> dict[str, float]:
        if self.learned_vectors is None:
            return {}
        liked = (first.shown.slate * first.clicked()).amax(1)  # one of several, the same each time
        return {"vectors": self.learned_vectors.learn(liked, first.history.items, self.generator)}

    def _improve_critic(self, sample: Sample, state: Tensor, executed: Tensor) -> dict[str, float]:
        """One step on (r + gamma Q'(s', proto page of the target actor) - Q(s, page shown))^2."""
        target = self._target(sample)
        value = self.critic(state, executed)
        loss = (value - target).square().mean()
        _descend(loss, self.critic, self.critic_adam)
        return {"critic": float(loss.detach()), "value": float(value.detach().mean())}

    @torch.no_grad()
    def _target(self, sample: Sample) -> Tensor:
        """[B] what the pages shown should be worth."""
        after = self.read(sample.next)
        later = self.critic_target(self.critic_target.encoder(after), self.actor_target(after))
        wanted: Tensor = sample.first.reward + sample.later + sample.discount * later
        return wanted

    def _improve_actor(self, sample: Sample, reading: Reading, state: Tensor, executed: Tensor) -> dict[str, float]:
        """One step of alignment and, once `align_first` is over, of the critic's gradient at the proto page.

        `state` [B, H] is the critic's, without gradient.
        """
        proto = self.actor(reading)
        distance = self.distance(proto, executed, sample.first)
        loss = self.align * distance
        if self.learned >= self.align_first:
            value = self.critic(state, proto)
            loss = loss - value.mean() / value.detach().abs().mean().clamp(min=1e-6)
        _descend(loss, self.actor, self.actor_adam)
        return {"alignment": float(distance.detach())}

    def distance(self, proto: Tensor, executed: Tensor, shown: Transition) -> Tensor:
        """Mean over places of ||proto - page shown||^2, weighted by reward or over all that was shown; a scalar."""
        weight = shown.rewards.clamp(min=0.0) if self.align_to == "rewarded" else torch.ones_like(shown.rewards)
        weight = weight * (shown.shown.slate > 0)
        apart = (proto - executed).square().sum(2)
        return (weight * apart).sum() / weight.sum().clamp(min=1e-6)

    # --- state -------------------------------------------------------------------------------------------------

    def _nets(self) -> dict[str, nn.Module]:
        nets = {"actor": self.actor, "critic": self.critic}
        return {**nets, "actor_target": self.actor_target, "critic_target": self.critic_target}

    def state_dict(self) -> State:
        """Weights, optimisers, item vectors, neighbours, memory and randomness, as copies."""
        nets = {name: {k: v.clone() for k, v in net.state_dict().items()} for name, net in self._nets().items()}
        return {
            **nets,
            "actor_adam": moments(self.actor_adam),
            "critic_adam": moments(self.critic_adam),
            "vectors": {} if self.learned_vectors is None else self.learned_vectors.state_dict(),
            "near": self.near.clone(),
            "replay": self.replay.state_dict(),
            "generator": self.generator.get_state(),
            "counts": {"observed": self.observed, "learned": self.learned},
        }

    def load_state_dict(self, state: State) -> None:
        for name, net in self._nets().items():
            net.load_state_dict(state[name])
        load_moments(self.actor_adam, state["actor_adam"])
        load_moments(self.critic_adam, state["critic_adam"])
        if self.learned_vectors is not None:
            self.learned_vectors.load_state_dict(state["vectors"])
        self.near.copy_(state["near"])
        self.replay.load_state_dict(state["replay"])
        self.generator.set_state(state["generator"])
        self.observed, self.learned = state["counts"]["observed"], state["counts"]["learned"]


def place(
    proto: Tensor, vectors: Tensor, mask: Tensor, temperature: float, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Items for a proto page, place after place (algorithm 1): the highest cosine among the items left.

    Args:
        proto: [B, K, D].
        vectors: [B, M, D] or [1, M, D] of the candidates, of length 1.
        mask: [B, M] or [1, M] bool, which of them may be placed.
        temperature: each place draws from softmax(cosine / temperature) over the items left; 0 = the highest cosine,
            and nothing is drawn.
        generator: on the device of `proto`.

    Returns:
        index [B, K] int64 of the candidates, -1 where none is left, and slot_logp [B, K] float32 given those above.
    """
    logits = (F.normalize(proto, dim=2) @ vectors.transpose(1, 2)).double()  # [B, K, M]
    logits = (logits / temperature if temperature else logits).masked_fill(~mask.unsqueeze(1), -torch.inf)
    taken = torch.zeros_like(logits[:, 0], dtype=torch.bool)
    index, logps = [], []
    for slot in range(proto.shape[1]):
        left = logits[:, slot].masked_fill(taken, -torch.inf)
        noise = torch.zeros_like(left)
        if temperature:
            noise = -noise.exponential_(generator=generator).clamp_(min=1e-300).log()
        best = (left + noise).argmax(1, keepdim=True)
        score = left.gather(1, best)
        empty = score == -torch.inf
        logp = score - left.logsumexp(1, keepdim=True) if temperature else torch.zeros_like(score)
        index.append(best.masked_fill(empty, -1))
        logps.append(logp.masked_fill(empty, 0.0))
        taken = taken.scatter(1, best, True)
    return torch.cat(index, dim=1), torch.cat(logps, dim=1).clamp(max=0.0).float()


@torch.no_grad()
def follow(mine: nn.Module, theirs: nn.Module, tau: float) -> None:
    """Soft update: every weight of `mine` becomes (1 - tau) * its own + tau * that of `theirs`."""
    for own, other in zip(mine.parameters(), theirs.parameters(), strict=True):
        own.lerp_(other, tau)


def _descend(loss: Tensor, net: nn.Module, optimiser: torch.optim.Adam) -> None:
    """A gradient step of `net`; nothing else that `loss` was computed with gets a gradient."""
    parameters = list(net.parameters())
    for parameter, grad in zip(parameters, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True):
        parameter.grad = grad
    optimiser.step()


def _check(settings: dict[str, Any]) -> None:
    zeros = ("neighbours", "extra", "align_first", "align", "temperature", "temperature_start", "temperature_decay")
    ones = ("columns", "pages", "positives", "dim", "categories", "hidden", "page", "filters", "batch", "steps")
    for name, least in {**dict.fromkeys(zeros, 0), **dict.fromkeys(ones, 1)}.items():
        if settings[name] < least:
            raise ValueError(f"{name} must be at least {least}, got {settings[name]}")
    if not 0.0 < settings["tau"] <= 1.0:
        raise ValueError(f"tau must be between 0 and 1, got {settings['tau']}")
    if settings["align_to"] not in get_args(Align):
        raise ValueError(f"align_to must be one of {', '.join(get_args(Align))}, got {settings['align_to']!r}")
    if settings["slate"] % settings["columns"]:
        raise ValueError(f"columns must divide the slate, got columns={settings['columns']} of {settings['slate']}")
