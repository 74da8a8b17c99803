"""DRN: dueling double Q-learning for news, with the activeness of users as reward and exploration in weight space."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Generator, Tensor
from torch.func import functional_call

from agents.drn_activeness import DECAY, GAIN, START, Activeness
from agents.drn_features import WINDOWS, ClickCounts, Values
from agents.drn_interleaving import credit, interleave
from streamrec.catalog import Catalog
from streamrec.explore import choose, offered, pick
from streamrec.memory import Replay, Sample
from streamrec.mixing import mix
from streamrec.nn.optimiser import Optimiser
from streamrec.ports import State
from streamrec.records import Decision, History, Transition
from streamrec.sessions import SessionStore

Exploration = Literal["dbgd", "epsilon"]

DUELS = 64
"""Newest duels whose clicks are counted: more than begin between two updates."""

PAIRS = 1 << 18
"""Users times items scored at a time while acting: wide catalogues are ranked some users after the others."""


class DRN:
    """Zheng et al., "DRN: A Deep Reinforcement Learning Framework for News Recommendation", WWW 2018.

    * Q(s, a) = V(user, context) + A(user, context, news, user-news) over four groups of features with windows of an
      hour to a year (`agents.drn_features`).
    * Reward of a shown article: its click + `beta` * how much more active than now its user is after the next return
      (`agents.drn_activeness`), so that an action is paid for bringing the user back soon. Double DQN: the next
      article is chosen by the online network and valued by the target network.
    * Exploration by dueling bandit gradient descent: W~ = W + alpha * U(-1, 1) * W, per weight. The top K of Q and
      those of Q~ are merged by probabilistic interleaving (`agents.drn_interleaving`), with exact propensities.
    * Minor update: every `minor_s` of event time, if the clicks credited to Q~ outnumber those credited to Q,
      W <- W + eta * (W~ - W). Major update: every `major_s` of event time, `minibatches` steps of gradient descent on
      the memory, which holds clicks and activeness.

    A duel is a stretch of `minor_s` of event time with a perturbation of its own, that follows from seed and stretch;
    a request belongs to the duel its time lies in. A duel is decided one stretch after its end, when its clicks are
    in. Both lists travel with the decision as `Decision.shadow`; where a wrapper drops them they are made again at the
    time of the feedback. Only slates that were really shown as wanted count: a log cannot judge W~.

    Ablations of the paper: DN is `gamma=0`; DDQN `beta=0, exploration="epsilon", epsilon=0`; +U adds `beta`; +EG
    `epsilon`; +DBGD `exploration="dbgd"`.

    Departures from the paper: the printed W' = W + eta * W~ would let W grow by 5 % with every win, and is read as a
    step towards W~. Each part of the reward has a Q of its own in one network, and what decides and is bootstrapped
    from is their sum Q_click + beta * Q_active: the same targets, since Bellman's equation is linear in the reward (van
    Seijen et al., NIPS 2017), but the luck of returns, many times that of clicks, does not drown the clicks. Activeness
    is paid as its change since the decision: the paper pays its level, of which no action can change what was there
    before, and in which whether the visit happens to go on would weigh more than the article. Clicks are
    credited by the probabilities with which each list contributes an article and not by the list it came from. An
    action is one article, so each slot of a slate is a sample: its own click, the activeness of its user, and the best
    next article. The best one is looked for among `candidates` random articles of today (or those offered then), with
    today's counts. A visit's end ends the chain (the activeness reward is what reaches beyond). Activeness is an input
    of the user group too, since it is known and returns depend on it. `beta` weighs an activeness of up to 1 against a
    click; the paper's .05 belongs to click rates of .01 per article, so multiply it by how much more your users click.
    Widths, optimisers and memory are not published: ours.

    Args:
        catalog: which items may be shown; their categories, features and birth times.
        sessions: context of requests, number of store rows.
        slate: K, slots of a slate.
        gamma: discount per decision; 0 = DN.
        beta: weight of activeness in the reward; 0 = clicks only.
        double: choose by the online network what the target network values.
        exploration: "dbgd", or "epsilon" for epsilon-greedy per slot.
        epsilon: share of exploration with "epsilon"; 0 = none.
        alpha: size of the perturbation.
        eta: step of a minor update.
        tau: how much interleaving prefers better ranks.
        minor_s: T_D, seconds of event time.
        major_s: T_R, seconds of event time.
        catch_up: major updates that one `update` makes up for at most, when event time has run on.
        minibatches: gradient steps of a major update.
        batch: transitions per gradient step.
        memory: newest transitions kept.
        candidates: articles among which the best next one is looked for.
        away_s: seconds without a request after which the next is a return.
        start: activeness of a new user.
        decay: hazard of the survival process, per second.
        gain: what a return adds to the activeness.
        windows: of the features, seconds.
        dim: width of item vectors.
        hidden: width of the layers.
        learning_rate: of Adam, for the dense weights.
        item_learning_rate: of Adagrad, for the item vectors.
        target_every: gradient steps between copies of the online network into the target network.
        seed: weights, perturbations, interleaving and replay.
        device: where the weights and the memory live.

    Raises:
        ValueError: if a setting is out of its range.
    """

    reads = ("items", "times", "context", "offer")

    def __init__(
        self,
        catalog: Catalog,
        sessions: SessionStore,
        slate: int,
        gamma: float = 0.4,
        beta: float = 0.05,
        double: bool = True,
        exploration: Exploration = "dbgd",
        epsilon: float = 0.0,
        alpha: float = 0.1,
        eta: float = 0.05,
        tau: float = 3.0,
        minor_s: float = 1800.0,
        major_s: float = 3600.0,
        catch_up: int = 4,
        minibatches: int = 4,
        batch: int = 128,
        memory: int = 20_000,
        candidates: int = 16,
        away_s: float = 1800.0,
        start: float = START,
        decay: float = DECAY,
        gain: float = GAIN,
        windows: Sequence[float] = WINDOWS,
        dim: int = 16,
        hidden: int = 64,
        learning_rate: float = 1e-3,
        item_learning_rate: float = 0.05,
        target_every: int = 100,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        _check({k: v for k, v in locals().items() if isinstance(v, int | float)}, exploration, windows)
        self.catalog, self.slate, self.beta, self.double = catalog, slate, beta, double
        self.exploration, self.epsilon, self.alpha, self.eta, self.tau = exploration, epsilon, alpha, eta, tau
        self.minor_s, self.major_s, self.catch_up = minor_s, major_s, catch_up
        self.minibatches, self.batch, self.candidates, self.target_every = minibatches, batch, candidates, target_every
        self.device = torch.device(device)
        start_of = Generator().manual_seed(seed)
        self.online = Values(catalog, sessions, windows, dim, hidden, start_of).to(self.device)
        # The catalogue grows while the run goes on: were it copied too, the target would not see that.
        self.target = copy.deepcopy(self.online, {id(catalog): catalog}).requires_grad_(False)
        self.optimiser = Optimiser(self.online, catalog, learning_rate, item_learning_rate)
        self.counts = ClickCounts(catalog, windows, self.device)
        self.activeness = Activeness(sessions.users.capacity, memory, away_s, start, decay, gain, self.device)
        self.replay = Replay(memory, 1, gamma, self.reads, self.device)
        at = self.device
        self._counted = torch.zeros(memory, slate, len(windows), device=at)  # clicks on what was shown, till then
        self._active = torch.zeros(memory, 2, device=at)  # activeness at the decision and at its close
        self._visit = torch.zeros(memory, dtype=torch.int64, device=at)
        self._duel = torch.full((DUELS,), -1, device=at)  # number of the duel whose clicks stand here: number % DUELS
        self._won = torch.zeros(DUELS, 2, dtype=torch.float64, device=at)  # clicks of Q and of Q~
        self.generator = Generator(device).manual_seed(seed)
        self.noise_seed = seed
        self.now = torch.zeros((), dtype=torch.float64, device=at)  # newest event time seen
        self.duels = self.wins = self.learned = 0
        self.decided = self.trained = -1  # newest stretch of `minor_s` that was decided, of `major_s` that was trained
        self._noise: dict[int, dict[str, Tensor]] = {}  # of the newest duels; follows from the seed
        self._moved: dict[int, dict[str, Tensor]] = {}  # W~ of the newest duels; follows from the noise and W

    # --- deciding ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def act(self, history: History) -> Decision:
        if self.exploration == "dbgd":
            lists = self._lists(history)
            slate, slot_logp = interleave(lists, self.tau, self.generator)
            decision = Decision.of(history.user, slate, slot_logp)
            decision.shadow = lists
            return decision
        items, mask = self._pool(history)
        scores = self._scores(history, items, None).where(mask, -torch.inf)
        index, slot_logp = choose(scores, self.slate, self.epsilon, self.generator)
        return Decision.of(history.user, pick(items, index), slot_logp)

    def _lists(self, history: History) -> Tensor:
        """The top K of Q and of Q~, [B, 2, K] items."""
        items, mask = self._pool(history)
        perturbed = torch.zeros(len(history), mask.shape[1], device=self.device)
        duel = self._stretch(history.time, self.minor_s)
        for number in sorted(set(duel.tolist())):  # one, unless a batch spans the end of a duel
            part = duel == number
            mine = items if len(items) == 1 else items[part]
            perturbed[part] = self._scores(history[part], mine, self._perturbed(number))
        both = [self._scores(history, items, None), perturbed]
        tops = [choose(scores.where(mask, -torch.inf), self.slate, 0.0, self.generator)[0] for scores in both]
        return torch.stack([pick(items, top) for top in tops], 1)

    def _pool(self, history: History) -> tuple[Tensor, Tensor]:
        """What may be shown: [B, C] or [1, C] items and [B, C] bool."""
        given = offered(history, self.catalog.available)
        if given is not None:
            return given
        items = self._available().unsqueeze(0)
        return items, torch.ones(len(history), items.shape[1], dtype=torch.bool, device=self.device)

    def _available(self) -> Tensor:
        return torch.nonzero(self.catalog.available[: self.catalog.size].to(self.device)).squeeze(1)

    def _scores(self, history: History, items: Tensor, weights: dict[str, Tensor] | None) -> Tensor:
        """Q of W, or of other `weights`: [B, C]."""
        counts, level = self.counts.read(items), self.activeness.at(history.user, history.key, history.time)
        rows = max(1, PAIRS // max(items.shape[1], 1))
        out = torch.zeros(len(history), items.shape[1], device=self.device)
        for first in range(0, len(history), rows):
            part = slice(first, first + rows)
            mine, theirs = (items, counts) if len(items) == 1 else (items[part], counts[part])
            given = (history[part], mine, theirs, level[part])
            value, advantage = self.online(*given) if weights is None else functional_call(self.online, weights, given)
            out[part] = self._total(value + advantage)
        return out

    def _total(self, both: Tensor) -> Tensor:
        """Q of clicks + beta * Q of activeness: [..., 2] -> [...]."""
        return both[..., 0] + self.beta * both[..., 1]

    # --- exploration -------------------------------------------------------------------------------------------

    def _stretch(self, time: Tensor, length: float) -> Tensor:
        return torch.div(time, length, rounding_mode="floor").long()

    def _perturbation(self, duel: int) -> dict[str, Tensor]:
        """rand(-1, 1) for every weight, the same whenever it is asked for."""
        if duel not in self._noise:
            if len(self._noise) >= 4:
                self._noise.pop(min(self._noise))
            seed = int(mix(mix(torch.tensor(self.noise_seed)) + duel)) & 0x7FFFFFFFFFFFFFFF
            generator = Generator(self.device).manual_seed(seed)
            self._noise[duel] = {
                name: torch.empty_like(p, requires_grad=False).uniform_(-1.0, 1.0, generator=generator)
                for name, p in self.online.named_parameters()
            }
        return self._noise[duel]

    def _perturbed(self, duel: int) -> dict[str, Tensor]:
        """W~ of a duel: W + alpha * rand(-1, 1) * W."""
        if duel not in self._moved:
            if len(self._moved) >= 4:
                self._moved.pop(min(self._moved))
            noise = self._perturbation(duel)
            self._moved[duel] = {
                name: p.detach() * (1.0 + self.alpha * noise[name]) for name, p in self.online.named_parameters()
            }
        return self._moved[duel]

    @torch.no_grad()
    def _judge(self, transition: Transition) -> None:
        """Count the clicks of each list towards the duel of their request."""
        live = transition[transition.as_wanted()]
        duel = self._stretch(live.history.time, self.minor_s)
        live = live[duel > self.decided]
        if self.exploration != "dbgd" or len(live) == 0:
            return
        carried = live.wanted.shadow
        lists = carried if carried.shape[1] == 2 else self._lists(live.history)
        won = credit(lists, live.shown.slate, live.clicked(), self.tau)
        duel = self._stretch(live.history.time, self.minor_s)
        # A place is taken over by the newest duel that wants it.
        claimed = self._duel.scatter_reduce(0, duel % DUELS, duel, "amax")
        self._won[claimed != self._duel] = 0.0
        self._duel = claimed
        current = self._duel[duel % DUELS] == duel
        self._won.index_add_(0, duel[current] % DUELS, won[current])

    @torch.no_grad()
    def _minor(self) -> dict[str, float]:
        """Decide the duels whose clicks are in."""
        newest = int(self._stretch(self.now, self.minor_s)) - 2
        due = self._duel[(self._duel > self.decided) & (self._duel <= newest)].sort().values.tolist()
        for duel in due:
            mine, theirs = self._won[duel % DUELS].tolist()
            self.duels += mine + theirs > 0
            if theirs > mine:
                self.wins += 1
                self._move(self._perturbation(duel))
        self.decided = max(self.decided, newest)
        return {"wins": self.wins / self.duels} if self.duels else {}

    def _move(self, noise: dict[str, Tensor]) -> None:
        """W <- W + eta * (W~ - W)."""
        for name, p in self.online.named_parameters():
            p.addcmul_(p * noise[name], torch.ones_like(p), value=self.eta * self.alpha)
        self._moved.clear()

    # --- learning ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def observe(self, transition: Transition) -> None:
        """Judge the duels, by what was known when they were fought; note activeness and clicks; remember."""
        if len(transition) == 0:
            return
        self._judge(transition)
        before, after = transition.history, transition.next
        level, visit = self.activeness.request(before.user, before.key, before.time)
        later = self.activeness.at(after.user, after.key, after.time)
        counted = self.counts.read(transition.shown.slate)
        self._store(transition, counted, torch.stack([level, later], 1), visit)
        self.now = torch.maximum(self.now, transition.time.max())
        row, slot = torch.nonzero(transition.clicked() & (transition.shown.slate > 0), as_tuple=True)
        self.counts.add(transition.shown.slate[row, slot], before.time[row], self.now)
        if self.trained < 0:
            self.trained = int(self._stretch(before.time.min(), self.major_s))

    def _store(self, transition: Transition, counted: Tensor, active: Tensor, visit: Tensor) -> None:
        numbers = self.replay.added + torch.arange(len(transition), device=self.device)
        kept = slice(max(len(transition) - self.replay.size, 0), None)
        rows = numbers[kept] % self.replay.size
        self.replay.add(transition)
        self._counted[rows], self._active[rows], self._visit[rows] = counted[kept], active[kept], visit[kept]

    def update(self) -> dict[str, float]:
        """What is due by event time: duels to be decided, then gradient steps."""
        if len(self.replay) == 0:
            return {}
        return self._minor() | self._major()

    def _major(self) -> dict[str, float]:
        due = int(self._stretch(self.now, self.major_s)) - self.trained
        if due <= 0 or len(self.replay) < min(self.batch, self.replay.size):
            return {}
        self.trained += due
        said: dict[str, float] = {}
        for _ in range(min(due, self.catch_up) * self.minibatches):
            said = self._step()
        self._moved.clear()
        return said

    def _step(self) -> dict[str, float]:
        sample = self.replay.sample(self.batch, self.generator)
        rows = sample.number % self.replay.size
        shown = sample.first.shown.slate
        value, advantage = self.online(sample.first.history, shown, self._counted[rows], self._active[rows, 0])
        errors = (value + advantage - self._target(sample, rows))[shown != 0].square().mean(0)
        self.optimiser.descend(errors.sum() if self.beta else errors[0])
        self.learned += 1
        if self.learned % self.target_every == 0:
            self._copy()
        clicks, active = errors.tolist()
        return {"loss": clicks, "active_loss": active, "value": float(self._total((value + advantage).detach()).mean())}

    def _gained(self, rows: Tensor) -> Tensor:
        """How much more active than at the decision the users of the rows of the memory came to be, [B]."""
        gained = self.activeness.led_to(self._visit[rows], self.now) - self._active[rows, 0]
        return gained.nan_to_num(0.0)

    @torch.no_grad()
    def _target(self, sample: Sample, rows: Tensor) -> Tensor:
        """What each shown slot should be worth in clicks and in activeness, [B, K, 2]."""
        clicks = sample.first.rewards
        reward = torch.stack([clicks, self._gained(rows).unsqueeze(1).expand_as(clicks)], 2)
        if self.replay.gamma == 0.0:
            return reward
        items, mask = self._some(sample.next)
        given = (sample.next, items, self.counts.read(items), self._active[rows, 1])
        value = torch.add(*self.target(*given))
        judge = self._total(torch.add(*self.online(*given)) if self.double else value)
        best = judge.where(mask, -torch.inf).argmax(1)
        each = torch.arange(len(best), device=self.device)
        later: Tensor = value[each, best] * mask[each, best].unsqueeze(1)
        target: Tensor = reward + (sample.discount.unsqueeze(1) * later).unsqueeze(1)
        return target

    def _some(self, history: History) -> tuple[Tensor, Tensor]:
        """Articles among which the best next one is looked for: [B, C] and which of them may be shown."""
        given = offered(history, self.catalog.available)
        if given is not None:
            return given
        available = self._available()
        shape = (len(history), self.candidates)
        if len(available) == 0:
            none = torch.zeros(shape, dtype=torch.int64, device=self.device)
            return none, none > 0
        drawn = available[torch.randint(len(available), shape, generator=self.generator, device=self.device)]
        return drawn, drawn > 0

    @torch.no_grad()
    def _copy(self) -> None:
        """Online network -> target network; of the item vectors only the rows in use, the others are equal anyway."""
        used = self.catalog.size
        for name, mine in self.target.named_parameters():
            rows = slice(used if name == "items.weight" else None)
            mine[rows] = self.online.get_parameter(name)[rows]

    # --- state -------------------------------------------------------------------------------------------------

    def state_dict(self) -> State:
        """Weights, optimisers, memory, counts, activeness, duels and randomness, as copies."""
        used, n = self.catalog.size, len(self.replay)
        target = {
            name: p.detach()[: used if name == "items.weight" else None].clone()
            for name, p in self.target.named_parameters()
        }
        return {
            "online": {name: value.clone() for name, value in self.online.state_dict().items()},
            "target": target,
            "optimiser": self.optimiser.state_dict(),
            "counts": self.counts.state_dict(),
            "activeness": self.activeness.state_dict(),
            "replay": self.replay.state_dict(),
            "beside": {"counted": self._counted[:n].clone(), "active": self._active[:n].clone()},
            "visit": self._visit[:n].clone(),
            "duel": {"number": self._duel.clone(), "won": self._won.clone()},
            "generator": self.generator.get_state(),
            "now": self.now.clone(),
            "clocks": {name: getattr(self, name) for name in _CLOCKS},
        }

    @torch.no_grad()
    def load_state_dict(self, state: State) -> None:
        self.online.load_state_dict(state["online"])
        self.target.load_state_dict(state["online"])
        for name, saved in state["target"].items():
            self.target.get_parameter(name)[: len(saved)] = saved.to(self.device)
        self.optimiser.load_state_dict(state["optimiser"])
        self.counts.load_state_dict(state["counts"])
        self.activeness.load_state_dict(state["activeness"])
        self.replay.load_state_dict(state["replay"])
        n = len(state["visit"])
        self._counted[:n], self._active[:n] = state["beside"]["counted"], state["beside"]["active"]
        self._visit[:n] = state["visit"]
        self._duel.copy_(state["duel"]["number"])
        self._won.copy_(state["duel"]["won"])
        self.generator.set_state(state["generator"])
        self.now = state["now"].to(self.device, copy=True)
        for name in _CLOCKS:
            setattr(self, name, state["clocks"][name])
        self._noise.clear()
        self._moved.clear()


_CLOCKS = ("noise_seed", "duels", "wins", "learned", "decided", "trained")


def _check(numbers: dict[str, Any], exploration: str, windows: Sequence[float]) -> None:
    if exploration not in ("dbgd", "epsilon"):
        raise ValueError(f'exploration must be "dbgd" or "epsilon", got {exploration!r}')
    for name in ("gamma", "epsilon", "eta"):
        if not 0 <= numbers[name] <= 1:
            raise ValueError(f"{name} must be between 0 and 1, got {numbers[name]}")
    for name in ("beta", "alpha", "tau"):
        if numbers[name] < 0:
            raise ValueError(f"{name} must not be negative, got {numbers[name]}")
    for name in ("minor_s", "major_s", "learning_rate"):
        if numbers[name] <= 0:
            raise ValueError(f"{name} must be above 0, got {numbers[name]}")
    for name in ("catch_up", "minibatches", "batch", "memory", "candidates", "dim", "hidden", "target_every"):
        if numbers[name] < 1:
            raise ValueError(f"{name} must be at least 1, got {numbers[name]}")
    if not windows or min(windows) <= 0:
        raise ValueError(f"windows must be lengths above 0 in seconds, got {list(windows)}")
