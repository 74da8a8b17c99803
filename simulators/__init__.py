"""Users who react: batched worlds that agents train in.

Importing this package registers them with Gymnasium: `gymnasium.make("simulators:Feed-v0")`, and
`gymnasium.make_vec("simulators:Feed-v0", num_envs=4096)` for the native batch. Keywords are those of the faces
(`simulators.vector.SlateVectorEnv`) and of the core (`simulators.feed.Feed`, ...).
"""

from gymnasium.envs.registration import register, registry

WORLDS = {
    "Feed-v0": "simulators.feed:Feed",
    "Page-v0": "simulators.page:Page",
    "News-v0": "simulators.news:News",
    "Interest-v0": "simulators.interest:Interest",
    "Logged-v0": "simulators.logged:Logged",
}
"""Gymnasium id -> the core behind it."""

_LIFE = 1000
"""More decisions than a visit of `Interest` can have: its lives end by themselves."""

for _id, _core in WORLDS.items():
    if _id not in registry:
        register(
            id=_id,
            entry_point="simulators.env:SlateEnv",
            vector_entry_point="simulators.vector:SlateVectorEnv",
            kwargs={"core": _core, **({"horizon": _LIFE} if _id == "Interest-v0" else {})},
        )
