"""Users who react: batched worlds that agents train in.

Importing this package registers them with Gymnasium: `gymnasium.make("simulators:Feed-v0")`, and
`gymnasium.make_vec("simulators:Feed-v0", num_envs=4096)` for the native batch. Keywords are those of the faces
(`simulators.vector.SlateVectorEnv`) and of the core (`simulators.feed.Feed`).
"""

from gymnasium.envs.registration import register, registry

if "Feed-v0" not in registry:
    register(
        id="Feed-v0",
        entry_point="simulators.env:SlateEnv",
        vector_entry_point="simulators.vector:SlateVectorEnv",
        kwargs={"core": "simulators.feed:Feed"},
    )
