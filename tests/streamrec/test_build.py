from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from streamrec.build import BadSpec, build

HERE = f"{__name__}.Thing"


@dataclass
class Thing:
    size: int
    seed: int = 0
    parts: list[Thing] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError(f"size must be at least 0, got {self.size}")


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])


def test_inner_tables_first_and_open_parameters_from_the_context() -> None:
    spec = {"use": HERE, "size": 2, "parts": [{"use": HERE, "size": 1, "seed": 9}]}
    assert build(spec, {"seed": 5, "unused": 1}, "agent") == Thing(2, 5, [Thing(1, 9)])


def test_tables_without_use_are_dictionaries_of_built_values() -> None:
    assert build({"a": {"use": HERE, "size": 1}}, {}, "meters") == {"a": Thing(1)}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"use": HERE, "size": 1, "sede": 2}, r"agent: .*Thing takes no 'sede'; did you mean 'seed'\?"),
        ({"use": HERE}, r"agent: .*Thing needs 'size', which the spec does not give"),
        ({"use": HERE, "size": -1}, r"agent: .*Thing: size must be at least 0, got -1"),
        ({"use": "Thing"}, r"agent.use must be a dotted path"),
        ({"use": "streamrec.sesions.SessionStore"}, r"no module 'streamrec.sesions'; did you mean 'sessions'\?"),
        ({"use": "streamrec.sessions.SessionStor"}, r"has no 'SessionStor'; did you mean 'SessionStore'\?"),
        ({"use": "no_such_package.x.Y"}, r"there is no module 'no_such_package'"),
        ({"use": HERE, "size": 1, "parts": [{"use": HERE, "sise": 1}]}, r"agent.parts\[0\]: .*did you mean 'size'\?"),
    ],
)
def test_mistakes_are_named_with_the_fix(spec: dict[str, object], message: str) -> None:
    with pytest.raises(BadSpec, match=message):
        build(spec, {}, "agent")
