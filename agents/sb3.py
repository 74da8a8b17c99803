"""Our encoders inside stable-baselines3: a features extractor for worlds of slates.

    from stable_baselines3 import A2C
    env = gymnasium.make("simulators:Feed-v0")
    encoder = partial(GRU4Rec, catalog_of(env.observation_space), dim=32)
    A2C("MultiInputPolicy", env, policy_kwargs=policy_kwargs(encoder)).learn(100_000)

PPO and A2C take slates (`MultiDiscrete`); DQN takes `action_mode="item"`, one candidate at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from streamrec.catalog import Catalog
from streamrec.records import History


class Encoder(Protocol):
    """What is needed of an encoder."""

    dim: int

    def __call__(self, history: History) -> Tensor: ...


class HistoryExtractor(BaseFeaturesExtractor):
    """Observation of a slate world -> what its user is like, and how well each candidate fits.

    The features are the encoding [D] of the history, one score per candidate [C], and the mask [C]. A score is the
    inner product of a vector per item with a linear map of the encoding, divided by the root of the width: a head that
    got C * D vectors side by side instead would have to find the inner product first, for each place in the list anew.

    stable-baselines3 makes several extractors from one set of keywords (policy, target network), which is why
    `encoder` makes one. It also clips gradients in a way that sparse ones do not survive, so they are made dense.

    Args:
        observation_space: flat dictionary as `simulators.vector.SlateVectorEnv` describes it.
        encoder: makes an encoder; its rows are the item numbers of the world (`catalog_of`).
        width: width of the item vectors.

    Raises:
        ValueError: the observation space lacks a part.
    """

    def __init__(self, observation_space: spaces.Dict, encoder: Callable[[], Any], width: int = 16) -> None:
        _check(observation_space)
        candidates = observation_space["candidates"].shape
        assert candidates is not None
        made = encoder()
        super().__init__(observation_space, features_dim=made.dim + 2 * candidates[0])
        self.encoder = made
        for parameter in made.parameters():
            parameter.register_post_accumulate_grad_hook(_densify)
        self.items = nn.Embedding(capacity(observation_space) + 1, width, padding_idx=0)
        self.query = nn.Linear(made.dim, width, bias=False)

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """[B, D + 2 C] float32."""
        encoding: Tensor = self.encoder(history_of(observations))
        vectors = self.items(observations["candidates"].long())  # [B, C, W]
        scores = (vectors @ self.query(encoding).unsqueeze(2)).squeeze(2) / vectors.shape[2] ** 0.5
        return torch.cat([encoding, scores, observations["mask"].float()], 1)


def _densify(parameter: Tensor) -> None:
    if parameter.grad is not None and parameter.grad.is_sparse:
        parameter.grad = parameter.grad.to_dense()


def history_of(observations: dict[str, Tensor]) -> History:
    """The record our encoders read, from a batch of observations; ages become times before a "now" of 0."""
    items = observations["items"].to(torch.int32)
    rows = torch.arange(len(items), device=items.device)
    return History.of(
        user=rows,
        key=torch.zeros_like(rows),
        time=torch.zeros(len(items), dtype=torch.float64, device=items.device),
        items=items,
        kinds=observations["kinds"].to(torch.int8),
        times=-observations["ages"].double(),
        skipped=observations["skipped"].to(torch.int32),
        skip_times=-observations["skip_ages"].double(),
        in_session=observations["visit"].long().squeeze(1),
    )


def capacity(space: spaces.Space[Any]) -> int:
    """The highest item number there can be."""
    items = _check(space)["items"]
    assert isinstance(items, spaces.Box)
    return int(items.high.max())


def catalog_of(space: spaces.Space[Any]) -> Catalog:
    """A catalogue whose rows are the item numbers of the world with this observation space."""
    catalog = Catalog(capacity(space))
    catalog.rows([f"i{number}" for number in range(1, catalog.capacity + 1)])
    return catalog


def policy_kwargs(encoder: Callable[[], Any], width: int = 16, **more: Any) -> dict[str, Any]:
    """`policy_kwargs` of any stable-baselines3 algorithm with `MultiInputPolicy`."""
    kwargs = {"encoder": encoder, "width": width}
    return {"features_extractor_class": HistoryExtractor, "features_extractor_kwargs": kwargs, **more}


def _check(space: spaces.Space[Any]) -> spaces.Dict:
    needed = {"items", "kinds", "ages", "skipped", "skip_ages", "visit", "candidates", "mask"}
    found = set(space.spaces) if isinstance(space, spaces.Dict) else set()
    if needed - found:
        raise ValueError(f"expected a Dict observation with {sorted(needed)}, missing {sorted(needed - found)}")
    assert isinstance(space, spaces.Dict)
    return space
